"""The interface of deployment targets."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from reidlab.data import ImageDataModule
from reidlab.errors import InputError
from reidlab.evaluation import RetrievalProtocol
from reidlab.export.flatbuffer import read_metadata
from reidlab.export.runtime import open_model
from reidlab.run import File

Figures = dict[str, dict[str, float]]  # rows of metrics.json


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
        mean: of each channel, of pixels in [0, 1].
        std: likewise.
        distance: that embeddings are compared by.
        cosine_threshold: the calibrated cosine distance below which two images show the same identity, if known.
        protocol: that embeddings are evaluated by; None for a classifier.
    """

    name: str
    architecture: str
    network: Callable[[], nn.Module]
    checkpoint: str
    folder: Path
    command: Callable[[str], str]
    datamodule: ImageDataModule
    mean: Sequence[float]
    std: Sequence[float]
    distance: str
    cosine_threshold: float | None = None
    protocol: RetrievalProtocol | None = None

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
            known = read_metadata(file) if file.suffix == ".tflite" else open_model(file).metadata
        if known.get("weights_hash") not in (None, self.checkpoint):
            raise InputError(f"{file}: made from another checkpoint; run `{command}` to make it again")
        return file


@dataclass(frozen=True)
class Target(ABC):
    """A device or server to deploy to; its settings are the values of its yaml in `conf/deploy/`.

    `name` is that of the yaml, and of the folder below `deploy/` that the target writes to.
    """

    name: str

    @abstractmethod
    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write all that the device needs into a folder; returns measured figures, most often none."""
