"""Stage `quantize`: int8 files of a run's network, and a table of what each step from the checkpoint to them costs."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from reidlab import plots
from reidlab.console import log, print_table
from reidlab.data import ImageDataModule, Normalize
from reidlab.errors import InputError
from reidlab.evaluation import VALIDATION, Outputs, Protocol, embed, protocol_of
from reidlab.export.backends import RUNTIMES
from reidlab.export.calibration import ImageBatches, choose_images, unseen_images, validation_images
from reidlab.export.metadata import about
from reidlab.export.parity import PARITY_ROWS, parity_table
from reidlab.export.quantizer import METHODS, QuantizationOptions, Quantized, Quantizer, check_choices
from reidlab.export.runtime import open_model
from reidlab.export.simulate import QATOptions
from reidlab.files import storage_errors, temporary_folder, write_json
from reidlab.plots.saving import save_figure
from reidlab.run import File, Row, Run, provenance
from reidlab.run.contract import MADE_BY_QUANTIZE
from reidlab.threads import with_its_threads

INT8 = {"tflite": File.TFLITE_INT8, "onnx": File.ONNX_INT8}
SET_ASIDE = 0.2  # of the training split, where there is no validation split
LEAST_IDENTITIES = 4  # of these, to tell methods apart
DROP = ["drop", "drop_low", "drop_high"]
SHOWN = ("drop_low", "drop_high", "rank-1", "top-5", "cosine", "centered", "agreement", "threshold", "fpr_of_threshold")


@storage_errors()
@with_its_threads
def run(run: Run) -> Run:
    """Quantize the run's network to .tflite and .onnx in `export/`, by the methods in turn until one keeps the bound.

    The method is chosen on validation images, or on training images set aside where there are none, by the upper end of
    the drop's paired 95 % interval: `quantize/methods.csv`. Its files are then evaluated once on the test split:
    `quantize/parity.csv`, with a row for the checkpoint and for each file and runtime, which reports and decides
    nothing. Calibration images and ranges are listed beside it. Raises InputError where on the validation images the
    main figure drops by more than `quantize.max_drop` points by every method (with `quantize.strict`, where the upper
    end does); then no file is written to `export/`.
    """
    (methods, options), checkpoint = check(run), run.checkpoint
    run.network  # noqa: B018 (raises where its weights don't fit, before anything is written)
    run.keep_config()
    datamodule = run.datamodule()
    protocol = protocol_of(run, datamodule)
    protocol.require_test(datamodule)
    run.require_unlearned(datamodule.samples, datamodule.test, datamodule.validation)
    held = _set_aside(run, datamodule)
    quantizer = _quantizer(run, held.datamodule, protocol, options)
    found, chosen = _choose(run, methods, quantizer, held, protocol)
    _write_ranges(run, found, options.observer)
    if run["quantize.sensitivity"] or "mixed" in run.table_of(File.METHODS)["method"].tolist():
        _write_sensitivity(run, quantizer.costs)
    _hold_bound(run, chosen, protocol.main, held.source)

    reference = embed(run.network, datamodule, datamodule.test, run.device, Row.CHECKPOINT)
    with _stored(run, found.files) as places:
        runtimes, threads = run["quantize.runtimes"], run["quantize.threads"]
        table = parity_table({**places, **_exported(run)}, reference, datamodule, protocol, runtimes, threads)
        run.require_unchanged(checkpoint)
    table = table.join(chosen[DROP].rename(columns=lambda name: f"val_{name}"))
    _print_parity(table, protocol.main, f"{run.name}, {found.method}: test split")
    (run / File.PARITY).unlink(missing_ok=True)  # which other files may have given
    for file, content in found.files.items():
        run.write(file, content)
    rows = {row: figures.dropna().to_dict() for row, figures in table.drop(Row.CHECKPOINT).iterrows()}
    files = {row: run / file for row, file in MADE_BY_QUANTIZE.items() if file in found.files}
    run.record(rows, protocol.record(datamodule), checkpoint, files)
    about_it = {"method": found.method, "chosen_on": held.source, "checkpoint": checkpoint}
    run.write(File.PARITY, table.assign(**about_it).to_csv())
    write_json(run / File.QUANTIZE_MADE_BY, provenance() | {"files": [*found.files]})
    run.note_command("quantize")
    log.info(f"{found.method}: {protocol.main} drops by at most {table['drop'].max():.2f} points on the test split")
    if found.float_steps:
        log.info(f"float in the int8 files: {', '.join(found.float_steps)}")
    for file in found.files:
        log.info(run / file)
    return run


class Held(NamedTuple):
    """The images that the method is chosen on, and a data module whose training split has none of them.

    `source` is validation, or perhaps learned validation, or train where they were training images of the network.
    """

    datamodule: ImageDataModule
    table: pd.DataFrame
    source: str


def _set_aside(run: Run, datamodule: ImageDataModule) -> Held:
    """The validation split; where there is none, a share of the training images, which then don't calibrate."""
    if len(datamodule.validation):
        source = "validation" if len(run.unseen(datamodule)) else "perhaps learned validation"
        return Held(datamodule, datamodule.validation, source)
    least = {} if run.is_classifier else {"val_identities": LEAST_IDENTITIES}
    divided = run.datamodule(val_fraction=SET_ASIDE, **least)
    shared = "" if len(divided.validation) else ", calibration's among them"
    table = validation_images(divided)
    log.info(f"no validation split: the method is chosen on {len(table)} training images, which were learned{shared}")
    return Held(divided, table, "train")


def _choose(
    run: Run, methods: Iterable[str], quantizer: Quantizer, held: Held, protocol: Protocol
) -> tuple[Quantized, pd.DataFrame]:
    """The first method whose drop is surely within the bound, else the best, and its parity on the images set aside.

    The best has the lowest upper end among those whose drop itself is within the bound, and of these among those that
    leave no layer in float, which the C and integer units don't compute.
    """
    reference, bound = (
        embed(run.network, held.datamodule, held.table, run.device, held.source),
        run["quantize.max_drop"],
    )
    attempts: list[tuple[Quantized, pd.DataFrame]] = []
    for method in methods:
        found = quantizer.quantize(method)
        with _stored(run, found.files) as places:
            runtimes = run["quantize.runtimes"]
            table = parity_table(places, reference, held.datamodule, protocol, runtimes, splits=VALIDATION)
        log.info(f"{method}: on the {held.source} images {protocol.main} drops by {_drops(table)}")
        attempts.append((found, table))
        if _upper_end(table) <= bound:
            break
    tried = pd.concat({found.method: table for found, table in attempts}, names=["method"])
    run.write(File.METHODS, tried.assign(chosen_on=held.source, checkpoint=run.checkpoint).to_csv())

    def failings(attempt: tuple[Quantized, pd.DataFrame]) -> tuple[bool, bool, bool, float, float]:
        found, table = attempt
        upper, worst = _upper_end(table), table["drop"].max()
        return upper > bound, worst > bound, bool(found.float_steps), upper, worst

    return min(attempts, key=failings)


def _upper_end(table: pd.DataFrame) -> float:
    """The largest upper end of the drops; inf where one has no interval, as of one identity."""
    return table.drop(Row.CHECKPOINT)["drop_high"].fillna(math.inf).max()


def _hold_bound(run: Run, chosen: pd.DataFrame, main: str, source: str) -> None:
    """InputError where the best drop on the images set aside is over the bound; a warning where it may be."""
    bound, decisive = run["quantize.max_drop"], "drop_high" if run["quantize.strict"] else "drop"
    files = chosen.drop(Row.CHECKPOINT)
    if (files[decisive] <= bound).all():
        if (upper := _upper_end(chosen)) > bound:
            reach = (
                f"its 95 % interval reaches {upper:.2f}"
                if math.isfinite(upper)
                else "of one identity it has no interval"
            )
            log.warning(
                f"not proven: on the {source} images {main} drops by at most {files['drop'].max():.2f} points, but "
                f"{reach}, and quantize.max_drop={bound}; more images narrow it"
            )
        return
    listed = _drops(files[~(files[decisive] <= bound)])
    raise InputError(
        f"{run / File.METHODS}: on the {source} images {main} drops by {listed}, over quantize.max_drop={bound}; no "
        "file was delivered, and the test split not evaluated; calibrate on more images or raise the bound"
    )


def _drops(table: pd.DataFrame) -> str:
    """The drop in each file, with its interval, if there is one."""
    files = table.drop(Row.CHECKPOINT, errors="ignore")[DROP]
    return ", ".join(
        f"{drop:.2f} points {'' if math.isnan(high) else f'[{low:.2f}, {high:.2f}] '}in {row}"
        for row, drop, low, high in files.itertuples()
    )


def check(run: Run) -> tuple[list[str], QuantizationOptions]:
    """The methods to try and the form of the files; InputError for what doesn't exist or can't be evaluated."""
    return _methods(run), _options(run)


def _methods(run: Run) -> list[str]:
    """The methods to try in turn; InputError for one that doesn't exist."""
    method = run["quantize.method"]
    methods = [*METHODS] if method == "auto" else [method] if isinstance(method, str) else method
    if not methods:
        raise InputError(f"quantize.method=[]: name one or more of {', '.join(METHODS)}, or auto")
    check_choices("method", methods, METHODS)
    return methods


def _options(run: Run) -> QuantizationOptions:
    """The form of the files; InputError for a choice that doesn't exist or a format that no runtime evaluates."""
    given = run["quantize"]
    same = ("observer", "percentile", "per_channel", "output", "symmetric_onnx", "mixed_steps")
    options = QuantizationOptions(
        formats=tuple(given["formats"]),
        qat=QATOptions(**given["qat"], seed=run["seed"], accelerator=run.device),
        names=(run["export.input_name"], run["export.output_name"] or run.task.output),
        **{name: given[name] for name in same},
    )
    check_choices("runtimes", given["runtimes"], RUNTIMES)
    for name in options.formats:
        able = [runtime for file, runtime in PARITY_ROWS.values() if file == INT8[name]]
        if not {*able} & {*given["runtimes"]}:
            raise InputError(f"quantize.runtimes: none of them runs the {name} file; add {' or '.join(able)}")
    return options


def _quantizer(run: Run, datamodule: ImageDataModule, protocol: Protocol, options: QuantizationOptions) -> Quantizer:
    """The network with its images: training ones to calibrate and train on, validation ones to measure layers on."""
    chosen = choose_images(datamodule.samples.split("train"), run["quantize.images"], run["seed"])
    run.write(File.CALIBRATION, chosen.to_csv(index=False))
    training = copy.copy(datamodule)
    training.normalize = Normalize([0.0] * 3, [1.0] * 3)  # the network does that itself

    unseen = unseen_images(datamodule, run["quantize.sensitivity_images"])

    def main_figure(found: Tensor) -> float:
        return protocol.evaluate(Outputs(found, unseen), VALIDATION).summary()[protocol.main]

    return Quantizer(
        run.network,
        ImageBatches(datamodule, chosen),
        run["model.mean"],
        run["model.std"],
        options,
        about(run),
        training=training,
        validation=ImageBatches(datamodule, unseen),
        main_figure=main_figure,
    )


@contextmanager
def _stored(run: Run, files: Mapping[File, bytes]) -> Iterator[dict[File, Path]]:
    """Where files lie that aren't in the run folder yet."""
    with temporary_folder(run.folder, File.QUANTIZE) as place:
        places = {file: place / Path(file).name for file in files}
        for file, content in files.items():
            places[file].write_bytes(content)
        yield places


def _exported(run: Run) -> dict[File, Path]:
    """The float ONNX file of the run folder, if it is the checkpoint's."""
    if not run.has(File.ONNX):
        return {}
    if open_model(run / File.ONNX).weights_hash == run.checkpoint:
        return {File.ONNX: run / File.ONNX}
    log.warning(f"{File.ONNX}: left out, made from another checkpoint; run `{run.command('export')}`")
    return {}


def _print_parity(table: pd.DataFrame, main: str, title: str) -> None:
    """Print the figures of the files, and their costs."""
    costs = [name for name in table if name.startswith(("size", "memory", "ms_"))]
    print_table(table[[name for name in (main, "drop", *SHOWN, *costs) if name in table]], title)


def _write_ranges(run: Run, found: Quantized, observer: str) -> None:
    rows = [(name, low, high, observer) for name, (low, high) in found.ranges.items()]
    table = pd.DataFrame(rows, columns=["tensor", "low", "high", "observer"])
    file = run.write(File.RANGES, table.to_csv(index=False))
    save_figure(plots.activation_ranges(table), file.with_suffix(".png"))


def _write_sensitivity(run: Run, costs: pd.DataFrame) -> None:
    file = run.write(File.SENSITIVITY, costs.to_csv())
    save_figure(plots.layer_costs(costs), file.with_suffix(".png"))
