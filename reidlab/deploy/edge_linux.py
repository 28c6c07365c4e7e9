"""Linux boards: a zip with the int8 models, a runner that needs neither torch nor reidlab, and its own test."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reidlab.console import log
from reidlab.data.images import ORIENTATION, decode, resize
from reidlab.deploy.nvidia import as_fed
from reidlab.deploy.target import Deployable, Figures, Target
from reidlab.deploy.thresholds import file_thresholds
from reidlab.deploy.vector import test_images
from reidlab.errors import InputError
from reidlab.export.runtime import Embedder
from reidlab.export.wrapping import run_onnx
from reidlab.files import write_atomic

SOURCES = Path(__file__).parent / "edge"


@dataclass(frozen=True)
class EdgeLinux(Target):
    """A zip that a Linux board runs.

    Args:
        name: of the target.
        models: path of the .tflite and of the .onnx; one that is absent is left out.
        images: how many test images come along, with what the models give of them.
        threads: of the board's CPU.
    """

    models: Mapping[str, str]
    images: int
    threads: int

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write `<network>_edge_linux.zip`: models, `reid.py`, `test_reid.py`, and outputs to test against."""
        present = {kind: path for kind, path in self.models.items() if given.has(path)} or self.models
        files = {kind: given.file(path) for kind, path in present.items()}
        size, images = given.datamodule.size, test_images(given.datamodule, self.images)
        card: dict[str, Any] = {
            "size": size,
            "distance": given.distance,
            "threshold": {
                f"model.{kind}": file_thresholds(file, given).get(given.distance) for kind, file in files.items()
            },
            "threads": self.threads,
            "model": given.architecture,
        }
        content: dict[str, bytes] = {}
        saved: dict[str, Any] = {"images": images, **photographs(images[0])}
        if "tflite" in files:
            embedder = given.opened(files["tflite"])
            saved["model.tflite"] = embedder(images)
            content["pixels.npy"], told = input_of(embedder, size)
            card |= told
            content["model.tflite"] = files["tflite"].read_bytes()
        if "onnx" in files:
            content["model.onnx"], batch = given.onnx_of(files["onnx"])
            if batch > 1:
                raise InputError(f"{files['onnx']}: takes {batch} images at a time; export it with a batch of 1")
            saved["model.onnx"] = np.concatenate([run_onnx(content["model.onnx"], as_fed(x[None])) for x in images])
        card |= given.about_scores(next(saved[f"model.{kind}"] for kind in files))
        arrays = io.BytesIO()
        np.savez_compressed(arrays, **saved)
        content |= {source.name: source.read_bytes() for source in sorted(SOURCES.glob("*.py"))}
        content |= {"card.json": json.dumps(card).encode(), "desk.npz": arrays.getvalue()}
        bundle = write_atomic(out / f"{given.name}_{self.name}.zip", zipped(content))
        log.info(f"{bundle}  {bundle.stat().st_size / 1024:.0f} KiB; on the board: python test_reid.py")
        return {}


def input_of(embedder: Embedder, size: Sequence[int]) -> tuple[bytes, dict]:
    """A .npy of the input value (256, 3) of every pixel value by channel, and what else the runner has to know."""
    grays = np.arange(256, dtype=np.uint8)[:, None, None, None]
    values = embedder.prepare(np.tile(grays, (1, 1, 1, 3)))  # (256, 1, 1, 3) or (256, 3, 1, 1)
    table, content = values.reshape(256, 3), io.BytesIO()
    np.save(content, table)
    shape = [3, *size] if embedder.channels_first else [*size, 3]
    order = [2, 1, 0] if embedder.color_order == "BGR" else [0, 1, 2]
    told = {"input": [max(embedder.input.shape[0], 1), *shape], "order": order, "output": embedder.place}
    return content.getvalue(), told


def photographs(image: np.ndarray) -> dict[str, np.ndarray]:
    """An image (H, W, 3) as files of two odd sizes that lie on a side, and the pixels that reading them gives."""
    (height, width), made = image.shape[:2], {}
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned clockwise by 90 degrees
    for name, size in (("large", (3 * height + 1, 2 * width + 1)), ("small", (height // 2 + 1, width // 3 + 1))):
        content = io.BytesIO()
        Image.fromarray(np.rot90(resize(image, size))).save(content, "PNG", exif=exif)
        made[f"{name}.png"] = np.frombuffer(content.getvalue(), np.uint8)
        made[name] = resize(decode(content.getvalue(), name), (height, width))
    return made


def zipped(content: Mapping[str, bytes]) -> bytes:
    """Zip files by name; equal content gives equal bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in content.items():
            bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return made.getvalue()
