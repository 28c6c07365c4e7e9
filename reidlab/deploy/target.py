"""The interface of deployment targets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from reidlab.data import ImageDataModule
from reidlab.errors import InputError
from reidlab.evaluation import RetrievalProtocol
from reidlab.export import qdq
from reidlab.export.flatbuffer import read_metadata
from reidlab.export.onnx import to_onnx
from reidlab.export.runtime import Embedder, open_model
from reidlab.export.wrapping import wrapped
from reidlab.files import file_hash, without_folders
from reidlab.metrics.classification import are_confidences
from reidlab.run import File

Figures = dict[str, dict[str, float]]  # rows of metrics.json
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std of pixels in [0, 1]
PIXELS: Statistics = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # what is fed that is divided by 255 and no more


class Onnx(NamedTuple):
    """The content of an .onnx, and the batch that it takes, 0 for any."""

    content: bytes
    batch: int = 0


@dataclass(frozen=True)
class Deployable:
    """A network to deploy, with its files and its data.

    Args:
        name: of the network, for titles and file names.
        architecture: such as `osnet_x0_25`.
        network: builds the network, with its weights.
        checkpoint: the hash of these weights.
        folder: holds the files.
        command: what to type for a stage such as `quantize`.
        datamodule: of the test images.
        unseen: gives the validation images, none where the network may have learned one.
        mean: of each channel, of pixels in [0, 1].
        std: likewise.
        distance: that embeddings are compared by.
        cosine_threshold: the calibrated cosine distance below which two images show the same identity, if known.
        threshold: likewise, on `distance`.
        protocol: that embeddings are evaluated by; None for a classifier.
        classes: the names of a classifier's classes, in the order of its scores; none of a network that embeds.
    """

    name: str
    architecture: str
    network: Callable[[], nn.Module]
    checkpoint: str
    folder: Path
    command: Callable[[str], str]
    datamodule: ImageDataModule
    unseen: Callable[[], pd.DataFrame]
    mean: Sequence[float]
    std: Sequence[float]
    distance: str
    cosine_threshold: float | None = None
    threshold: float | None = None
    protocol: RetrievalProtocol | None = None
    classes: Sequence[str] = ()

    def has(self, path: str) -> bool:
        """Whether a file is there."""
        return (self.folder / path).is_file()

    def file(self, path: str) -> Path:
        """A file of the folder, or of anywhere by its absolute path.

        Raises InputError where it is absent, or lies in the folder and was made from another checkpoint.
        """
        file, command = self.folder / path, self.command("export" if path == File.ONNX else "quantize")
        if not file.is_file():
            raise InputError(f"{file}: no such model; run `{command}` first")
        known = {}
        if file.is_relative_to(self.folder):
            known = read_metadata(file) if file.suffix.lower() == ".tflite" else open_model(file).metadata
        if known.get("weights_hash") not in (None, self.checkpoint):
            raise InputError(f"{file}: made from another checkpoint; run `{command}` to make it again")
        return file

    def about_scores(self, scores: np.ndarray) -> dict[str, Any]:
        """Facts by which a runner names classes of scores (N, C); empty for a network that embeds.

        Raises InputError where there are more or fewer scores than names.
        """
        if not self.classes:
            return {}
        if len(self.classes) != scores.shape[1]:
            raise InputError(
                f"{self.name}: gives {scores.shape[1]} scores, and there are {len(self.classes)} names of classes; "
                "deploy it with the run, or on the data, that it was trained in"
            )
        return {"classes": [*self.classes], "logits": not are_confidences(torch.from_numpy(scores))}

    def origin_of(self, file: Path, path: str) -> dict[str, str]:
        """What figures of a file, which was given by a path, are recorded with."""
        return {"checkpoint": self.checkpoint, "model": without_folders(path), "model_hash": file_hash(file)}

    @property
    def place(self) -> int | None:
        """Of the output that is wanted, where a file may have several."""
        return None

    def opened(self, file: Path) -> Embedder:
        """A file as a function of images."""
        return open_model(file)

    def onnx_of(self, file: Path) -> Onnx:
        """An .onnx of the folder, which takes pixels / 255."""
        return Onnx(file.read_bytes())

    def onnx(self, names: tuple[str, str], fed: Statistics = PIXELS) -> Onnx:
        """The network as an .onnx of RGB images (B, 3, H, W) that are normalized by `fed`, and no more, before.

        Args:
            names: of input and output.
            fed: mean and std of what is fed; the graph makes up for the difference to the network's own.
        """
        mean, std = map(np.array, fed)
        own = ((np.array(self.mean) - mean) / std).tolist(), (np.array(self.std) / std).tolist()
        network, size = self.network().cpu().eval(), self.datamodule.size
        return Onnx(to_onnx(network, size, self.about(fed), names, mean=own[0], std=own[1]))

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Pixels (B, H, W, 3) uint8 RGB -> (B, D), by the network itself."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            return self.network().cpu().eval()((pixels - mean) / std).embedding.numpy()

    def about(self, fed: Statistics) -> dict:
        """The metadata of an .onnx for images that are normalized by `fed`."""
        mean, std = map(list, fed)
        return {"model": self.architecture, "distance": self.distance, "weights_hash": self.checkpoint,
                "color_order": "RGB", "mean": mean, "std": std}  # fmt: skip


def no_network() -> nn.Module:
    """Stands for the network of a file from elsewhere, which has none."""
    raise InputError("a file has no layers that can be written anew")


@dataclass(frozen=True, kw_only=True)
class DeployableFile(Deployable):
    """A .tflite or .onnx from elsewhere in the network's place; `embedder` runs it."""

    embedder: Embedder

    def has(self, path: str) -> bool:
        """Whether it is of the kind that `path` ends in."""
        return self.embedder.file.suffix.lower() == Path(path).suffix

    def file(self, path: str) -> Path:
        """The file; InputError where it isn't of the kind that `path` ends in."""
        if not self.has(path):
            raise InputError(f"{self.embedder.file}: this target takes a {Path(path).suffix} file; convert it first")
        return self.embedder.file

    @property
    def place(self) -> int:
        """Of the output that `evaluate.output` or its shape chose."""
        return self.embedder.place

    def require_channels_last(self) -> None:
        """InputError where the file takes images (B, 3, H, W), which no camera gives."""
        if self.embedder.channels_first:
            raise InputError(
                f"{self.embedder.file}: takes images (B, 3, H, W), not the rows of RGB pixels that this target gives; "
                "convert it to (B, H, W, 3)"
            )

    def opened(self, file: Path) -> Embedder:
        """The file as a function of images."""
        return self.embedder

    def onnx_of(self, file: Path) -> Onnx:
        """The file, made to take pixels / 255."""
        return self.onnx(qdq.NAMES)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Pixels (B, H, W, 3) uint8 RGB -> (B, D), by the file."""
        return self.embedder(images)

    def onnx(self, names: tuple[str, str], fed: Statistics = PIXELS) -> Onnx:
        """The file with that interface; InputError where it is no .onnx or gives other embeddings then."""
        self.file(File.ONNX)
        return Onnx(*wrapped(self.embedder, self.datamodule.size, self.about(fed), names, *fed))


@dataclass(frozen=True)
class Target(ABC):
    """A device or server to deploy to; its settings are the values of its yaml in `conf/deploy/`.

    `name` is that of the yaml, and of the folder below `deploy/` that the target writes to.
    """

    name: str

    @abstractmethod
    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write all that the device needs into a folder; returns measured figures, most often none."""
