"""Facts on a run that several sections of a card show."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from reidlab.export.runtime import open_model
from reidlab.files import file_hash
from reidlab.run import INITIAL, File, Result, Row, Run

OTHER_FILE = "another int8 file"
NOT_RECORDED = "not recorded in this folder, as of a released network"
MODELS = (".onnx", ".tflite")
EMULATED = f"{Row.EMULATED} "  # and the core
EMULATED_UNITS = {
    "ram_kib": ("ram_bytes", 1024),
    "flash_kib": ("flash_bytes", 1024),
    "million_instructions": ("instructions", 1e6),
}


class Form(NamedTuple):
    """A form of the network that is evaluated: its name, its file, and the stage that evaluates it."""

    name: str
    file: str
    stage: str


FORMS: dict[str, Form] = {
    Row.CHECKPOINT: Form("checkpoint", File.BEST, "evaluate"),
    Row.ONNX: Form("ONNX", File.ONNX, "quantize"),
    Row.ONNX_INT8: Form("int8 ONNX, ONNX Runtime", File.ONNX_INT8, "quantize"),
    Row.ONNX_INT8_OPENVINO: Form("int8 ONNX, OpenVINO", File.ONNX_INT8, "quantize"),
    Row.TFLITE: Form("TFLite", File.TFLITE, "quantize"),
    Row.TFLITE_INT8: Form("int8 TFLite", File.TFLITE_INT8, "quantize"),
}


def form(row: str) -> Form:
    """The form of the network that a row of `metrics.json` is of."""
    if row.startswith(EMULATED):
        core = row.removeprefix(EMULATED).replace("m", "Cortex-M") or "Cortex-M"
        return Form(f"C, emulated {core}", File.FIRMWARE, "deploy deploy=c")
    return FORMS.get(row, Form(row, File.BEST, "evaluate"))


def results_of(run: Run) -> dict[str, Result]:
    """The results that a card shows; of a run about a file, none of initial weights or of a file that it replaced."""
    file, results = run.foreign_file, run.results
    if file is None:
        return results
    replaced = file.is_file() and run.subject in results and results[run.subject].file not in (None, file_hash(file))
    return {
        row: result
        for row, result in results.items()
        if result.checkpoint != INITIAL and not (replaced and row == run.subject)
    }


def tested_on(run: Run) -> str:
    """The name of the data set that the figures are of."""
    scored = results_of(run).get(run.subject)
    return (scored and scored.data) or run["data.name"]


def is_tested_elsewhere(run: Run) -> bool:
    """Whether a trained network's figures are of another data set than it learned, or of one that nobody recorded."""
    if not (run.is_trained or training(run)):
        return False
    then = run.as_trained
    if then is None or then["data.name"] != tested_on(run):
        return True
    learned, tested = then["data.source"] or {}, run["data.source"] or {}
    return any(learned[key] != tested[key] for key in learned.keys() & tested.keys())


def trained_and_tested(run: Run) -> str:
    """The names of the data sets, in words."""
    if not is_tested_elsewhere(run):
        return f"on {tested_on(run)}"
    then = run.as_trained
    return (f"trained on {then['data.name']}, " if then else "") + f"tested on {tested_on(run)}"


def emulated(run: Run) -> dict[str, dict[str, float]]:
    """Row -> figures of the C on each emulated core; those of `EMULATED_UNITS` in their units as well."""
    rows = {row: result.figures for row, result in results_of(run).items() if row.startswith(EMULATED)}
    return {
        row: figures | {name: figures[key] / unit for name, (key, unit) in EMULATED_UNITS.items() if key in figures}
        for row, figures in rows.items()
    }


def image_size(run: Run) -> str:
    """Height x width of the input."""
    return "x".join(map(str, run.rules_of(run.subject)["size"] if run.foreign_file else run["data.size"]))


def made_from(run: Run, file: str) -> str | None:
    """The hash of the checkpoint that a file of the run was made from; None where it doesn't say.

    `OTHER_FILE` for what was made from an int8 file that is no longer there.
    """
    path = run / file
    if path.suffix in MODELS:
        return open_model(path).weights_hash
    if path.suffix == ".csv":
        content: Mapping[str, Any] = next(iter(run.table_of(file).head(1).to_dict("records")), {})
    else:
        content = run.json_of(file if path.suffix == ".json" else File.FIRMWARE)
    model, digest = content.get("model"), content.get("model_hash")
    if digest and model == File.TFLITE_INT8 and run.has(model) and file_hash(run / model) != digest:
        return OTHER_FILE
    return content.get("checkpoint", content.get("weights_hash"))


def c_header(run: Run) -> str:
    """The header of the C, which is called by the prefix that it was exported with."""
    sources = sorted((run / File.DEPLOY_C / "src").glob("*_model.c"))
    return str(Path(File.C_HEADER).with_name(f"{sources[0].name.removesuffix('_model.c')}.h" if sources else "reid.h"))


def c_constants(run: Run) -> dict[str, str]:
    """The numbers in the header of the C, by their names without the prefix."""
    header = Path(c_header(run))
    return dict(re.findall(rf"#define {header.stem.upper()}_(\w+) (\d+)", (run / str(header)).read_text()))


def processor(machine: Mapping[str, Any]) -> str:
    """The processor and the cores of a machine that a provenance names."""
    return f"{machine.get('cpu') or machine.get('processor')}, {machine.get('cores')} cores"


def is_present(run: Run, file: str) -> bool:
    """Whether the run has a file of what it is about, and not one that another checkpoint made, or another file."""
    return run.has(file) and not run.foreign_file and made_from(run, file) in (None, run.checkpoint)


def is_initial(run: Run) -> bool:
    """Whether the card is about weights that nobody trained."""
    return not (run.weights or run.foreign_file or training(run))


def training(run: Run) -> dict[str, Any]:
    """The record of the training of the present checkpoint; empty where this run didn't train it."""
    return run.training if is_present(run, File.TRAINING) else {}
