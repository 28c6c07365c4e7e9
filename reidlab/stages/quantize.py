"""Stage `quantize`: int8 files of a run's network, and a table of what each step from the checkpoint to them costs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from reidlab import plots
from reidlab.config import instantiate, keep_config, run_folder
from reidlab.console import print_table
from reidlab.data import ReidDataModule
from reidlab.errors import InputError
from reidlab.evaluation.embeddings import Embeddings, device_of, embed
from reidlab.export import qdq, tflite
from reidlab.export.calibration import CalibrationImages, choose_images
from reidlab.export.cost import cost
from reidlab.export.methods import METHODS, Methods, Recipe
from reidlab.export.onnx import about
from reidlab.export.parity import ClassScore, Score, embed_file, score_of
from reidlab.export.ranges import OBSERVERS
from reidlab.export.runtime import RUNTIMES, open_model
from reidlab.files import provenance, record_metrics, write_atomic, write_json
from reidlab.plots.saving import save_figure
from reidlab.training.tasks import trained_network

MAIN_ROW = "checkpoint"
FORMATS = ("tflite", "onnx")
OUTPUTS = ("float32", "int8")
SHOWN = ("rank-1", "top-5", "cosine", "centred", "agreement", "threshold", "fpr_of_threshold")
ROWS = {  # row of the table -> file and runtime
    "onnx": ("model.onnx", "onnxruntime"),
    "onnx int8": ("model_int8.onnx", "onnxruntime"),
    "onnx int8 openvino": ("model_int8.onnx", "openvino"),
    "tflite": ("model.tflite", "litert"),
    "tflite int8": ("model_int8.tflite", "litert"),
}


def run(cfg) -> Path:
    """Quantise the run's network to int8 .tflite and .onnx in `export/`; returns `quantize/parity.csv`.

    The table has a row for the checkpoint and for each file and runtime, all scored on the test split. Calibration
    images and ranges are listed beside it. Raises InputError where a file loses more than `quantize.max_drop` points
    of mAP; then none is delivered, but the table is.
    """
    options, folder = cfg.quantize, run_folder(cfg)
    _check(options)
    keep_config(cfg)
    network, weights = trained_network(cfg)
    if weights is None:
        print(f"{folder.name}: no trained checkpoint and no model.weights; quantising initial weights")
    datamodule = instantiate(cfg.data)
    chosen = choose_images(datamodule.samples.split("train"), options.images, cfg.seed)
    write_atomic(folder / "quantize" / "calibration.csv", chosen.to_csv(index=False))
    images = CalibrationImages(datamodule, chosen)
    score = score_of(cfg, datamodule)
    reference = embed(network, datamodule, datamodule.samples.split(*datamodule.test_splits), device_of(cfg), MAIN_ROW)
    methods = Methods(cfg, network.cpu(), datamodule, images, score)

    metadata = about(cfg, weights) | {"mean": [0.0] * 3, "std": [1.0] * 3}  # of pixels in [0, 1]: the rest is folded in
    float_files = {}
    if "tflite" in options.formats:
        float_files["model.tflite"] = tflite.float_file(methods.plain.network, metadata)
    tried: list[tuple[str, Recipe, dict[str, bytes], pd.DataFrame]] = []
    for method in _methods(options):
        recipe = getattr(methods, method)()
        files = float_files | _integer_files(cfg, recipe, metadata)
        with TemporaryDirectory(dir=folder, prefix=".quantize-") as place:
            for name, content in files.items():
                (Path(place) / name).write_bytes(content)
            written = {name: Path(place) / name for name in files}
            if (exported := folder / "export" / "model.onnx").exists():
                written[exported.name] = exported
            table = _parity(cfg, score, reference, datamodule, written)
        _print_parity(table, score, f"{folder.name}, {method}")
        tried.append((method, recipe, files, table))
        if _beyond(table, options.max_drop).empty:
            break
    method, recipe, files, table = min(tried, key=lambda attempt: attempt[3]["drop"].max())
    measured = options.sensitivity or "mixed" in (name for name, *_ in tried)
    _report(folder / "quantize", recipe, options.observer, methods.costs if measured else None)
    table["method"] = method
    write_json(folder / "quantize" / "made_by.json", provenance())
    parity = write_atomic(folder / "quantize" / "parity.csv", table.rename_axis("stage").to_csv())
    record_metrics(folder, {row: figures.dropna().to_dict() for row, figures in table.drop(MAIN_ROW).iterrows()})
    if len(failed := _beyond(table, options.max_drop)):
        raise InputError(
            f"{parity}: {', '.join(f'{row} loses {drop:.1f}' for row, drop in failed.items())} points of {score.main}, "
            f"over quantize.max_drop={options.max_drop}; no file was delivered; calibrate on more images or raise the "
            "bound"
        )
    print(f"{method}: no file loses more than {table['drop'].max():.2f} points of {score.main}")
    if recipe.float_steps:
        print(f"float in the int8 files: {', '.join(recipe.float_steps)}")
    for name, content in files.items():
        print(write_atomic(folder / "export" / name, content))
    return parity


def _report(place: Path, recipe: Recipe, observer: str, costs: pd.DataFrame | None) -> None:
    """The ranges, and what each layer costs if that was measured or is asked for."""
    rows = [(name, found.low, found.high, observer) for name, found in recipe.ranges.items()]
    table = pd.DataFrame(rows, columns=["tensor", "low", "high", "observer"])
    write_atomic(place / "ranges.csv", table.to_csv(index=False))
    save_figure(plots.activation_ranges(table), place / "ranges.png")
    if costs is not None:
        write_atomic(place / "sensitivity.csv", costs.to_csv())
        save_figure(plots.layer_costs(costs), place / "sensitivity.png")


def _methods(options) -> list[str]:
    """The methods to try in turn."""
    if options.method == "auto":
        return list(METHODS)
    return [options.method] if isinstance(options.method, str) else list(options.method)


def _check(options) -> None:
    """InputError for a choice that there isn't."""
    if not _methods(options):
        raise InputError(f"quantize.method=[]: name one or more of {', '.join(METHODS)}, or auto")
    given = [*(("method", name, METHODS) for name in _methods(options)), ("output", options.output, OUTPUTS)]
    given += [("observer", options.observer, OBSERVERS), *(("formats", name, FORMATS) for name in options.formats)]
    given += [("runtimes", name, RUNTIMES) for name in options.runtimes]
    for key, value, allowed in given:
        if value not in allowed:
            raise InputError(f"quantize.{key}: there is no {value}; choose from {', '.join(allowed)}")
    for name in options.formats:
        able = [runtime for file, runtime in ROWS.values() if file == f"model_int8.{name}"]
        if not {*able} & {*options.runtimes}:
            raise InputError(f"quantize.runtimes: none of them runs the {name} file; add {' or '.join(able)}")


def _integer_files(cfg, recipe: Recipe, metadata: dict) -> dict[str, bytes]:
    """File name -> content, of all int8 formats."""
    options, files = cfg.quantize, {}
    network, ranges, floats = recipe
    if "tflite" in options.formats:
        files["model_int8.tflite"] = tflite.integer_file(
            network, ranges, metadata, options.per_channel, options.output, floats
        )
    if "onnx" in options.formats:
        names = cfg.export.input_name, cfg.export.output_name
        files["model_int8.onnx"] = qdq.integer_onnx(
            network, ranges, metadata, options.symmetric_onnx, options.per_channel, floats, names
        )
    return files


def _parity(
    cfg, score: Score | ClassScore, reference: Embeddings, datamodule: ReidDataModule, files: dict[str, Path]
) -> pd.DataFrame:
    """Figures of the checkpoint and of every file; `drop` is in points of the main one."""
    rows = {MAIN_ROW: score(reference, reference)}
    for row, (name, runtime) in ROWS.items():
        if name not in files or runtime not in cfg.quantize.runtimes:
            continue
        embedder = open_model(files[name], runtime=runtime, threads=cfg.quantize.threads)
        figures = score(embed_file(embedder, datamodule, reference.table, row), reference)
        drop = 100 * (rows[MAIN_ROW][score.main] - figures[score.main])
        rows[row] = {**figures, "drop": drop, **cost(files[name], runtime, cfg.quantize.threads)}
    return pd.DataFrame(rows).T


def _print_parity(table: pd.DataFrame, score: Score, title: str) -> None:
    """What the forms give, then what they cost."""
    table = table.rename_axis("stage")
    given = [name for name in (score.main, "drop", *SHOWN) if name in table]
    costs = [name for name in table if name.startswith(("size", "memory", "ms_"))]
    print_table(table[given], title)
    if costs:
        print_table(table[costs].drop(MAIN_ROW))


def _beyond(table: pd.DataFrame, max_drop: float) -> pd.Series:
    """The drops that are over the bound, by row."""
    drops = table["drop"].drop(MAIN_ROW)
    return drops[~(drops <= max_drop)]
