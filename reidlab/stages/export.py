"""Stage `export`: the trained network as ONNX and as a Keras model, each checked against the checkpoint."""

from collections.abc import Callable
from typing import Any

from reidlab.console import log
from reidlab.export.keras import keras_file, rescaling
from reidlab.export.metadata import about
from reidlab.export.onnx import CHECKED_BATCHES, export
from reidlab.files import storage_errors, write_json
from reidlab.run import File, Run, provenance


@storage_errors()
def run(run: Run) -> Run:
    """Export the run's network in each of `export.formats`; see `reidlab.export.onnx.export` for its errors."""
    run.network  # noqa: B018 (raises where its weights don't fit, before anything is written)
    run.keep_config()
    metadata = about(run)
    for name in run["export.formats"]:
        FORMATS[name](run, metadata)
    run.note_command("export")
    return run


def _onnx(run: Run, metadata: dict[str, Any]) -> None:
    options = run.config.export
    names = options.input_name, options.output_name or run.task.output
    content, difference = export(run.network, run["data.size"], metadata, names, options.opset, options.tolerance)
    run.require_unchanged(metadata["weights_hash"])
    file = run.write(File.ONNX, content)
    _record(run, File.ONNX_ABOUT, metadata, content, difference)
    log.info(
        f"{file}  {len(content) / 1024:.0f} KiB, within {difference:.1e} of the checkpoint at batch {CHECKED_BATCHES}"
    )


def _keras(run: Run, metadata: dict[str, Any]) -> None:
    content, difference = keras_file(run.network, run["data.size"], run["model.name"], run["export.tolerance"])
    run.require_unchanged(metadata["weights_hash"])
    file = run.write(File.KERAS, content)
    scaled = rescaling(run["model.mean"], run["model.std"])
    _record(run, File.KERAS_ABOUT, {**metadata, "rescaling": scaled}, content, difference)
    log.info(
        f"{file}  {len(content) / 1024:.0f} KiB, within {difference:.1e} of the checkpoint; in ST's services "
        f"model.model_path, with preprocessing.rescaling: {scaled}"
    )


def _record(run: Run, place: File, metadata: dict[str, Any], content: bytes, difference: float) -> None:
    write_json(run / place, {**metadata, "bytes": len(content), "largest_difference": difference, **provenance()})


FORMATS: dict[str, Callable[[Run, dict[str, Any]], None]] = {"onnx": _onnx, "keras": _keras}
