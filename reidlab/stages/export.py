"""Stage `export`: the trained network as ONNX, checked against the checkpoint."""

from reidlab.console import log
from reidlab.export.metadata import about
from reidlab.export.onnx import CHECKED_BATCHES, export
from reidlab.files import storage_errors, write_json
from reidlab.run import File, Run, provenance


@storage_errors()
def run(run: Run) -> Run:
    """Export the run's network to `export/model.onnx`; see `reidlab.export.onnx.export` for its errors."""
    run.keep_config()
    options = run.config.export
    names = options.input_name, options.output_name
    metadata = about(run)
    content, difference = export(run.network, run["data.size"], metadata, names, options.opset, options.tolerance)
    run.require_unchanged(metadata["weights_hash"])
    file = run.write(File.ONNX, content)
    write_json(
        run / File.ONNX_ABOUT,
        {**metadata, "bytes": len(content), "largest_difference": difference, **provenance()},
    )
    log.info(
        f"{file}  {len(content) / 1024:.0f} KiB, within {difference:.1e} of the checkpoint at batch {CHECKED_BATCHES}"
    )
    return run
