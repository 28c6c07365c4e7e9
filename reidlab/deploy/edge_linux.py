"""Stage `deploy` with `deploy=edge_linux`: a zip that a Linux board runs, with its model, runner and own test."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from reidlab.config import instantiate, run_folder
from reidlab.data.images import read_batch
from reidlab.errors import InputError
from reidlab.export.runtime import open_model
from reidlab.files import write_atomic

SOURCES = Path(__file__).parent / "edge"
MODELS = {"tflite": "model.tflite", "onnx": "model.onnx"}


def run(cfg) -> Path:
    """Write `deploy/<run>_edge_linux.zip`: int8 models, `reid.py`, `test_reid.py`, and embeddings to test against."""
    options, folder = cfg.deploy, run_folder(cfg)
    files = {name: folder / file for name, file in options.models.items() if (folder / file).is_file()}
    if not files:
        raise InputError(f"{folder / 'export'}: no int8 model; run `reidlab quantize` first, or set deploy.models")
    datamodule = instantiate(cfg.data)
    table = datamodule.samples.split(*datamodule.test_splits).head(options.images)
    root = datamodule.samples.root
    images = read_batch([root / path for path in table["path"]], tuple(datamodule.size))
    card = {"size": list(cfg.data.size), "distance": cfg.model.distance, "threads": options.threads}
    embedders = {name: open_model(file) for name, file in files.items()}
    if any(embedder.output.dtype != np.float32 for embedder in embedders.values()):
        raise InputError("the runner wants float embeddings: `reidlab quantize quantize.output=float32`")
    desk = {MODELS[name]: embedder(images) for name, embedder in embedders.items()}
    arrays = io.BytesIO()
    np.savez_compressed(arrays, images=images, **desk)
    content = {source.name: source.read_bytes() for source in sorted(SOURCES.glob("*.py"))}
    content |= {MODELS[name]: file.read_bytes() for name, file in files.items()}
    content |= {"card.json": json.dumps(card | {"model": cfg.model.name}).encode(), "desk.npz": arrays.getvalue()}
    bundle = write_atomic(folder / "deploy" / f"{folder.name}_edge_linux.zip", zipped(content))
    print(f"{bundle}  {bundle.stat().st_size / 1024:.0f} KiB; on the board: python test_reid.py")
    return bundle


def zipped(content: dict[str, bytes]) -> bytes:
    """A zip of files by name, the same for the same content."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in content.items():
            bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()
