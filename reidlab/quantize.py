"""Stage `quantize`: int8 files of a run's network, and a table of what each step from the checkpoint to them costs."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch import fx

from reidlab.config import instantiate, run_folder
from reidlab.data import ReidDataModule
from reidlab.embedding import Embeddings, device_of, embed
from reidlab.errors import InputError
from reidlab.export import qdq, tflite
from reidlab.export.activations import onnx_activations, tflite_activations
from reidlab.export.calibration import CalibrationImages, choose_images
from reidlab.export.cost import cost
from reidlab.export.equalize import correct_biases, equalize
from reidlab.export.folding import deployable
from reidlab.export.onnx import to_onnx
from reidlab.export.parity import embed_file, score
from reidlab.export.ranges import OBSERVERS, Range, observe
from reidlab.export.runtime import load
from reidlab.retrieval import TEST
from reidlab.runs import record_metrics, write_atomic
from reidlab.show import print_table
from reidlab.tasks import trained_network

MAIN_ROW = "checkpoint"
FORMATS = ("tflite", "onnx")
OUTPUTS = ("float32", "int8")
SHOWN = ("mAP", "drop", "rank-1", "cosine", "centred", "size_kib")
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
    network, weights = trained_network(cfg)
    if weights is None:
        print(f"{folder.name}: no trained checkpoint and no model.weights; quantising initial weights")
    datamodule = instantiate(cfg.data)
    chosen = choose_images(datamodule.samples.split("train"), options.images, cfg.seed)
    write_atomic(folder / "quantize" / "calibration.csv", chosen.to_csv(index=False))
    images = CalibrationImages(datamodule, chosen)
    reference = embed(network, datamodule, datamodule.samples.split(*TEST), device_of(cfg), MAIN_ROW)

    for method in METHODS if options.method == "auto" else (options.method,):
        graph = deployable(network, cfg.model.mean, cfg.model.std)
        METHODS[method](graph, images, options)
        files, ranges = _make_files(cfg, graph, images)
        with TemporaryDirectory(dir=folder, prefix=".quantize-") as place:
            for name, content in files.items():
                (Path(place) / name).write_bytes(content)
            table = _parity(cfg, reference, datamodule, [Path(place), folder / "export"])
        _print_parity(table, f"{folder.name}, {method}")
        if _beyond(table, options.max_drop).empty:
            break
    write_atomic(folder / "quantize" / "ranges.csv", _ranges_table(ranges, options.observer).to_csv(index=False))
    table["method"] = method
    parity = write_atomic(folder / "quantize" / "parity.csv", table.rename_axis("stage").to_csv())
    record_metrics(folder, {row: figures.dropna().to_dict() for row, figures in table.drop(MAIN_ROW).iterrows()})
    if len(failed := _beyond(table, options.max_drop)):
        raise InputError(
            f"{parity}: {', '.join(f'{row} loses {drop:.1f}' for row, drop in failed.items())} points of mAP, over "
            f"quantize.max_drop={options.max_drop}; no file was delivered; calibrate on more images or raise the bound"
        )
    for name, content in files.items():
        print(write_atomic(folder / "export" / name, content))
    return parity


def _check(options) -> None:
    """InputError for a choice that there isn't."""
    given = [("method", options.method, (*METHODS, "auto")), ("output", options.output, OUTPUTS)]
    given += [("observer", options.observer, OBSERVERS), *(("formats", name, FORMATS) for name in options.formats)]
    for key, value, allowed in given:
        if value not in allowed:
            raise InputError(f"quantize.{key}: there is no {value}; choose from {', '.join(allowed)}")


def _equalized(graph: fx.GraphModule, images: CalibrationImages, options) -> None:
    equalize(graph)
    correct_biases(graph, images, options.per_channel)


METHODS = {"ptq": lambda graph, images, options: None, "equalized": _equalized}  # in the order of their cost


def _make_files(cfg, graph: fx.GraphModule, images: CalibrationImages) -> tuple[dict[str, bytes], dict]:
    """File name -> content of all formats, and format -> ranges."""
    files: dict[str, bytes] = {}
    makers = {"tflite": _make_tflite, "onnx": _make_onnx}
    return files, {name: makers[name](cfg, graph, images, files) for name in cfg.quantize.formats}


def _make_tflite(cfg, graph: fx.GraphModule, images: CalibrationImages, files: dict[str, bytes]) -> dict[str, Range]:
    """Add the float and the int8 .tflite to `files`; returns the ranges of the latter."""
    print("converting to TFLite, which takes up to a minute")
    converted = tflite.convert(graph, cfg.data.size)
    observed = _observe(cfg, tflite_activations(converted, cfg.quantize.threads), images)
    observed[tflite.INPUT] = Range(0.0, 1.0)
    files["model.tflite"] = tflite.float_file(converted, _metadata(cfg))
    files["model_int8.tflite"] = tflite.integer_file(
        converted, observed, _metadata(cfg), cfg.quantize.per_channel, cfg.quantize.output
    )
    return observed


def _make_onnx(cfg, graph: fx.GraphModule, images: CalibrationImages, files: dict[str, bytes]) -> dict[str, Range]:
    """Add the int8 .onnx to `files`; returns its ranges."""
    shape = (2, 3, *cfg.data.size)
    content = to_onnx(graph, torch.zeros(shape), cfg.export, _metadata(cfg))
    observed = _observe(cfg, onnx_activations(content, cfg.quantize.threads), images)
    observed[cfg.export.input_name] = Range(0.0, 1.0)
    files["model_int8.onnx"] = qdq.integer_onnx(
        content, observed, cfg.quantize.symmetric_onnx, cfg.quantize.per_channel
    )
    return observed


def _observe(cfg, activations, images: CalibrationImages) -> dict[str, Range]:
    return observe(activations, images, cfg.quantize.observer, cfg.quantize.percentile)


def _metadata(cfg) -> dict:
    """What a file says of itself; its pixels are RGB in [0, 1], whatever the network's own normalisation."""
    return {
        "model": cfg.model.name,
        "input_size": list(cfg.data.size),
        "color_order": "RGB",
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "distance": cfg.model.distance,
    }


def _ranges_table(ranges: dict[str, dict[str, Range]], observer: str) -> pd.DataFrame:
    rows = [
        (form, name, found.low, found.high, observer)
        for form, of_form in ranges.items()
        for name, found in of_form.items()
    ]
    return pd.DataFrame(rows, columns=["format", "tensor", "low", "high", "observer"])


def _parity(cfg, reference: Embeddings, datamodule: ReidDataModule, places: list[Path]) -> pd.DataFrame:
    """Figures of the checkpoint and of every file that lies in one of the places; `drop` is in points of mAP."""
    protocol = cfg.evaluate.distance, cfg.evaluate.exclude_same_camera
    rows = {MAIN_ROW: score(reference, reference, *protocol)}
    for row, (name, runtime) in ROWS.items():
        file = next((place / name for place in places if (place / name).exists()), None)
        if file is None:
            continue
        embeddings = embed_file(
            load(file, runtime=runtime, threads=cfg.quantize.threads), datamodule, reference.table, row
        )
        figures = score(embeddings, reference, *protocol)
        drop = 100 * (rows[MAIN_ROW]["mAP"] - figures["mAP"])
        rows[row] = {**figures, "drop": drop, **cost(file, runtime, cfg.quantize.threads)}
    return pd.DataFrame(rows).T


def _print_parity(table: pd.DataFrame, title: str) -> None:
    costs = [name for name in table if name.startswith(("ms_", "memory"))]
    print_table(table[[name for name in (*SHOWN, *costs) if name in table]].rename_axis("stage"), title)


def _beyond(table: pd.DataFrame, max_drop: float) -> pd.Series:
    """The drops that are over the bound, by row."""
    drops = table["drop"].drop(MAIN_ROW)
    return drops[~(drops <= max_drop)]
