"""Linux boards: a zip with the int8 models, a runner that needs neither torch nor reidlab, and its own test."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reidlab.console import log
from reidlab.data.images import ORIENTATION, decode, read_batch, resize
from reidlab.deploy.target import Deployable, Figures, Target
from reidlab.errors import InputError
from reidlab.export.runtime import open_model
from reidlab.files import write_atomic

SOURCES = Path(__file__).parent / "edge"


@dataclass(frozen=True)
class EdgeLinux(Target):
    """A zip that a Linux board runs.

    Args:
        name: of the target.
        models: path of the .tflite and of the .onnx; one that is absent is left out.
        images: how many test images come along, with their embeddings.
        threads: of the board's CPU.
    """

    models: Mapping[str, str]
    images: int
    threads: int

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write `<network>_edge_linux.zip`: models, `reid.py`, `test_reid.py`, and embeddings to test against."""
        present = {kind: path for kind, path in self.models.items() if given.has(path)}
        files = {kind: given.file(path) for kind, path in (present or self.models).items()}
        samples, table = given.datamodule.samples, given.datamodule.test.head(self.images)
        size = given.datamodule.size
        images = read_batch([samples.root / path for path in table["path"]], size)
        embedders = {kind: open_model(file) for kind, file in files.items()}
        if any(embedder.output.dtype != np.float32 for embedder in embedders.values()):
            raise InputError("the runner takes float embeddings: run `reidlab quantize quantize.output=float32`")
        card = {
            "size": size,
            "distance": given.distance,
            "threads": self.threads,
            "model": given.architecture,
        }
        arrays = io.BytesIO()
        saved: dict[str, Any] = {f"model.{kind}": embedder(images) for kind, embedder in embedders.items()}
        saved |= {"images": images, **photographs(images[0])}
        np.savez_compressed(arrays, **saved)
        content = {source.name: source.read_bytes() for source in sorted(SOURCES.glob("*.py"))}
        content |= {f"model.{kind}": file.read_bytes() for kind, file in files.items()}
        content |= {"card.json": json.dumps(card).encode(), "desk.npz": arrays.getvalue()}
        bundle = write_atomic(out / f"{given.name}_{self.name}.zip", zipped(content))
        log.info(f"{bundle}  {bundle.stat().st_size / 1024:.0f} KiB; on the board: python test_reid.py")
        return {}


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
