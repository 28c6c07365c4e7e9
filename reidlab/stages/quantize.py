"""Stage `quantize`: int8 files of a run's network, and a table of what each step from the checkpoint to them costs."""

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from torch import Tensor

from reidlab import plots
from reidlab.console import log, print_table
from reidlab.data import ImageDataModule, Normalize
from reidlab.errors import InputError
from reidlab.evaluation import VALIDATION, Outputs, Protocol, embed, protocol_of
from reidlab.export.calibration import ImageBatches, choose_images, unseen_images
from reidlab.export.finetune import QATOptions
from reidlab.export.metadata import about
from reidlab.export.parity import PARITY_ROWS, parity_table
from reidlab.export.quantizer import METHODS, QuantizationOptions, Quantized, Quantizer, check_choices
from reidlab.export.runtime import RUNTIMES, open_model
from reidlab.files import write_json
from reidlab.plots.saving import save_figure
from reidlab.run import File, Row, Run, provenance

INT8 = {"tflite": File.TFLITE_INT8, "onnx": File.ONNX_INT8}
SHOWN = ("rank-1", "top-5", "cosine", "centered", "agreement", "threshold", "fpr_of_threshold")


def run(run: Run) -> Run:
    """Quantize the run's network to .tflite and .onnx in `export/`, by the methods in turn until one keeps the bound.

    `quantize/parity.csv` has a row for the checkpoint and for each file and runtime, all evaluated on the test split;
    calibration images and ranges are listed beside it. Raises InputError where the main figure of a file drops by more
    than `quantize.max_drop` points by every method; then no file is written to `export/`.
    """
    methods, options, bound = _methods(run), _options(run), run["quantize.max_drop"]
    run.keep_config()
    datamodule = run.datamodule()
    protocol = protocol_of(run, datamodule)
    quantizer = _quantizer(run, datamodule, protocol, options)
    reference = embed(run.network, datamodule, datamodule.test, run.device, Row.CHECKPOINT)
    attempts: list[tuple[Quantized, pd.DataFrame]] = []
    for method in methods:
        found = quantizer.quantize(method)
        table = _parity(run, found.files, reference, datamodule, protocol)
        _print_parity(table, protocol.main, f"{run.name}, {method}")
        attempts.append((found, table))
        if (table["drop"].drop(Row.CHECKPOINT) <= bound).all():
            break
    found, table = min(attempts, key=lambda attempt: attempt[1]["drop"].max())
    _write_ranges(run, found, options.observer)
    if run["quantize.sensitivity"] or "mixed" in (attempt.method for attempt, _ in attempts):
        _write_sensitivity(run, quantizer.costs)
    drops = table["drop"].drop(Row.CHECKPOINT)
    rows = {row: figures.dropna().to_dict() for row, figures in table.drop(Row.CHECKPOINT).iterrows()}
    run.record(rows, protocol.record(datamodule), run.checkpoint)
    run.write(File.PARITY, table.assign(method=found.method, checkpoint=run.checkpoint).to_csv())
    write_json(run / File.QUANTIZE_MADE_BY, provenance())
    if len(failed := drops[~(drops <= bound)]):
        listed = ", ".join(f"{drop:.1f} points in {row}" for row, drop in failed.items())
        raise InputError(
            f"{run / File.PARITY}: {protocol.main} drops by {listed}, over quantize.max_drop={bound}; no file was "
            "delivered; calibrate on more images or raise the bound"
        )
    log.info(f"{found.method}: {protocol.main} drops by at most {drops.max():.2f} points")
    if found.float_steps:
        log.info(f"float in the int8 files: {', '.join(found.float_steps)}")
    for file, content in found.files.items():
        log.info(run.write(file, content))
    return run


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
        names=(run["export.input_name"], run["export.output_name"]),
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

    @cache
    def unseen() -> pd.DataFrame:
        return unseen_images(datamodule, run["quantize.sensitivity_images"])

    def validation() -> Iterator[np.ndarray]:
        yield from ImageBatches(datamodule, unseen())

    def main_figure(found: Tensor) -> float:
        return protocol.evaluate(Outputs(found, unseen()), VALIDATION).summary()[protocol.main]

    return Quantizer(
        run.network,
        ImageBatches(datamodule, chosen),
        run["model.mean"],
        run["model.std"],
        options,
        about(run),
        training=training,
        validation=validation(),
        main_figure=main_figure,
    )


def _parity(
    run: Run, files: Mapping[File, bytes], reference: Outputs, datamodule: ImageDataModule, protocol: Protocol
) -> pd.DataFrame:
    """The parity of files that aren't in the run folder yet, and of the ONNX file there if it is the checkpoint's."""
    with TemporaryDirectory(dir=run.folder, prefix=".quantize-") as place:
        places = {file: Path(place) / Path(file).name for file in files}
        for file, content in files.items():
            places[file].write_bytes(content)
        if run.has(File.ONNX):
            if open_model(run / File.ONNX).weights_hash == run.checkpoint:
                places[File.ONNX] = run / File.ONNX
            else:
                log.warning(f"{File.ONNX}: left out, made from another checkpoint; run `{run.command('export')}`")
        runtimes, threads = run["quantize.runtimes"], run["quantize.threads"]
        return parity_table(places, reference, datamodule, protocol, runtimes, threads)


def _print_parity(table: pd.DataFrame, main: str, title: str) -> None:
    """Print the figures of the files, then their costs."""
    print_table(table[[name for name in (main, "drop", *SHOWN) if name in table]], title)
    if costs := [name for name in table if name.startswith(("size", "memory", "ms_"))]:
        print_table(table[costs].drop(Row.CHECKPOINT))


def _write_ranges(run: Run, found: Quantized, observer: str) -> None:
    rows = [(name, low, high, observer) for name, (low, high) in found.ranges.items()]
    table = pd.DataFrame(rows, columns=["tensor", "low", "high", "observer"])
    file = run.write(File.RANGES, table.to_csv(index=False))
    save_figure(plots.activation_ranges(table), file.with_suffix(".png"))


def _write_sensitivity(run: Run, costs: pd.DataFrame) -> None:
    file = run.write(File.SENSITIVITY, costs.to_csv())
    save_figure(plots.layer_costs(costs), file.with_suffix(".png"))
