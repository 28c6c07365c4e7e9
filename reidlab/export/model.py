"""A trained network as a function of images, whatever form it has: run folder, checkpoint, ONNX or TFLite."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from reidlab.console import log, percent, significant
from reidlab.data import Normalize
from reidlab.data.images import read_image, resize
from reidlab.errors import InputError
from reidlab.export.hub import WEIGHTS, download, hub_name, is_published, read_about
from reidlab.export.metadata import VERDICT
from reidlab.export.runtime import Embedder, open_model
from reidlab.files import CHECKPOINTS, EXPORTED, file_hash, is_checkpoint
from reidlab.metrics.classification import as_confidences
from reidlab.models import Checkpoint, head_settings, read_checkpoint, recognize
from reidlab.models.keras_files import is_keras
from reidlab.run import Run, is_run

Image = str | Path | np.ndarray
BATCH = 32
DEFAULT_SIZE = (256, 128)  # of files that take images of any size and don't say which


class Verdict(NamedTuple):
    """Whether two images show the same identity, with their distance and the threshold that decides."""

    same: bool
    distance: float
    threshold: float
    interval: tuple[float, float] | None  # 95 %, of the threshold
    measure: str  # euclidean or cosine
    similarity: float  # cosine
    tpr: float | None = None  # of the threshold, on the test pairs
    fpr: float | None = None

    def __bool__(self) -> bool:
        return self.same

    def __str__(self) -> str:
        ends = f" [{', '.join(map(significant, self.interval))}]" if self.interval else ""
        unsure = self.interval and self.interval[0] <= self.distance <= self.interval[1]
        rates = (
            ""
            if self.tpr is None or self.fpr is None
            else (
                f"; this threshold accepts {percent(self.tpr)} of the test pairs of one identity, "
                f"{percent(self.fpr, 2)} of others"
            )
        )
        return (
            f"distance {significant(self.distance)} (cosine similarity {self.similarity:.3f}), "
            f"threshold {significant(self.threshold)}{ends}: {'the same' if self.same else 'different'}"
            f"{', but within the interval of the threshold' if unsure else ''}{rates}"
        )


class Model:
    """Images -> embeddings (N, D) float32, or class confidences (N, C).

    An image is a file, or pixels (H, W, 3) uint8 RGB, of any size; see `load` for where models come from.

    Args:
        embed: pixels (B, *size, 3) uint8 RGB -> (B, D).
        size: height and width that images are resized to.
        name: for messages.
        about: `weights_hash` of the checkpoint, `distance` that embeddings are compared by, the calibrated `threshold`
            with its interval, `classes`.
    """

    def __init__(
        self, embed: Callable[[np.ndarray], np.ndarray], size: Sequence[int], name: str, about: Mapping[str, Any]
    ) -> None:
        height, width = size
        self.embed, self.size, self.name = embed, (height, width), name
        self.checkpoint = about.get("weights_hash")
        self.distance, self.classes = about.get("distance"), list(about.get("classes", []))
        self.verdict = {key: about[key] for key in VERDICT if key in about}

    def __repr__(self) -> str:
        return f"Model({self.name!r}, size={self.size})"

    @classmethod
    def of(cls, run: Run, file: Path | None = None, about: Mapping[str, Any] | None = None) -> "Model":
        """The network of a run, with the weights of `file` where that isn't the run's own checkpoint.

        `about` says what is known of the network, in the place of the run's folder.
        """
        network = run.network if file is None else run.network_with(file)[0]
        network, normalize = network.to(run.device), Normalize(run["model.mean"], run["model.std"]).to(run.device)

        @torch.inference_mode()
        def embed(pixels: np.ndarray) -> np.ndarray:
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(run.device)
            return network(normalize(images)).embedding.float().cpu().numpy()

        distance = run["model.distance"]
        weights = run.checkpoint if file is None else file_hash(file)
        known = {"weights_hash": weights, "distance": distance, "classes": run.classes}
        if file is None and run.threshold(distance) is not None:
            known |= run.verification
        return cls(embed, run["data.size"], run.name, known if about is None else about)

    @classmethod
    def of_file(cls, embedder: Embedder) -> "Model":
        """An exported file; what it doesn't say of itself is assumed, and logged."""
        for assumption in embedder.assumed:
            log.info(f"{embedder.file.name}: assumed {assumption}")
        size = embedder.size_for(DEFAULT_SIZE)
        if min(embedder.size) < 1:
            log.info(f"{embedder.file.name}: assumed images of {size}, since it takes any")
        about = {"weights_hash": file_hash(embedder.file)} | embedder.metadata
        return cls(embedder, size, embedder.file.name, about)

    def __call__(self, images: Iterable[Image]) -> np.ndarray:
        """Embed any number of images, in their order."""
        if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        pixels = [self._pixels(image) for image in images]
        if not pixels:
            raise InputError("no images: give files, or arrays (H, W, 3) of uint8 RGB")
        batches = [np.stack(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
        outputs = np.concatenate([self.embed(batch) for batch in batches])
        return as_confidences(torch.from_numpy(outputs)).numpy() if self.classes else outputs

    def crops(self, frame: Image, boxes: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
        """Embed boxes (N, 4) of a frame, each left, top, right, bottom in pixels; they are clipped to the frame."""
        image = frame if isinstance(frame, np.ndarray) else read_image(Path(frame))
        parts = cut(image, boxes)
        return self(parts) if parts else self([np.zeros((*self.size, 3), np.uint8)])[:0]

    def same(self, first: Image, second: Image) -> Verdict:
        """Decide whether two images show the same identity; InputError without a calibrated threshold."""
        if self.classes:
            raise InputError(f"{self.name}: classifies images; to compare two takes a network that embeds them")
        if self.distance is None or "threshold" not in self.verdict:
            raise InputError(
                f"{self.name}: no calibrated threshold on its {self.distance or 'unknown'} distance; "
                "run `reidlab evaluate` on its run first, and export it after that"
            )
        a, b = self([first, second]).astype(np.float64)
        similarity = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))
        distance = 1 - similarity if self.distance == "cosine" else float(np.linalg.norm(a - b))
        low, high = self.verdict.get("threshold_low"), self.verdict.get("threshold_high")
        threshold = self.verdict["threshold"]
        interval = None if low is None or high is None else (low, high)
        rates = self.verdict.get("test_tpr"), self.verdict.get("test_fpr")
        return Verdict(distance <= threshold, distance, threshold, interval, self.distance, similarity, *rates)

    def _pixels(self, image: Image) -> np.ndarray:
        """An image at the model's size."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise InputError(f"an image is {image.dtype} {image.shape}; give uint8 (H, W, 3) in the order RGB")
            return resize(np.ascontiguousarray(image), self.size)
        return read_image(Path(image), self.size)


def cut(image: np.ndarray, boxes: Sequence[Sequence[float]] | np.ndarray) -> list[np.ndarray]:
    """The parts of an image in boxes (N, 4), each left, top, right, bottom in pixels; they are clipped to the image."""
    height, width = image.shape[:2]
    given = np.asarray(boxes, float)
    if given.size == 0:
        return []
    if given.ndim != 2 or given.shape[1] != 4 or not np.isfinite(given).all():
        raise InputError(f"boxes {given.shape}: give finite numbers (N, 4): left, top, right, bottom in pixels")
    parts = []
    for number, (left, top, right, bottom) in enumerate(given):
        x1, x2 = (int(np.clip(round(x), 0, width)) for x in (left, right))
        y1, y2 = (int(np.clip(round(y), 0, height)) for y in (top, bottom))
        if x2 <= x1 or y2 <= y1:
            raise InputError(
                f"box {number} ({left:g}, {top:g}, {right:g}, {bottom:g}) is empty in a frame of {width} x "
                f"{height}; give left, top, right, bottom in pixels"
            )
        parts.append(image[y1:y2, x1:x2])
    return parts


def load(source: str | Path) -> Model:
    """A trained network as a function of images.

    `source` is a run folder, or the name of a run; a checkpoint (one in a run folder has that run's settings, of others
    the architecture is recognized by its tensors); a .tflite or .onnx file; or what `reidlab publish` made, a folder or
    `hf:USER/NAME`. Raises InputError for anything else.
    """
    name = hub_name(str(source))
    path = download(name) if name else Path(source)
    if name or is_published(path):
        return Model.of(Run.stored(path), path / WEIGHTS, read_about(path))
    if path.suffix.lower() in EXPORTED:
        return Model.of_file(open_model(path))
    if is_checkpoint(path):
        folder = path.resolve().parent.parent
        if is_run(folder):
            run = Run(folder)
            return Model.of(run, None if run.weights and run.weights.resolve() == path.resolve() else path)
        checkpoint = read_checkpoint(path)
        architecture = recognize(checkpoint.weights)
        if architecture is None:
            raise InputError(
                f"{path}: its architecture isn't recognized; use `reidlab evaluate model=NAME model.weights=FILE`"
            )
        settings = [f"model={architecture}", *_settings_of(checkpoint)]
        log.info(f"{path.name}: taken for {' '.join(settings)}, with its default size; see conf/model")
        return Model.of(Run.compose(settings), path)
    if path.is_file():
        keras = f"; evaluate it by model=NAME model.weights={path}, and load that run" if is_keras(path) else ""
        raise InputError(
            f"{path}: has none of the endings that are taken: {', '.join(EXPORTED)}, or a checkpoint's, "
            f"{', '.join(CHECKPOINTS)}{keras}"
        )
    return Model.of(Run(source))


def _settings_of(checkpoint: Checkpoint) -> list[str]:
    """Overrides of a model's settings by what a checkpoint from elsewhere tells of its head and its images."""
    told: list[tuple[str, object]] = [
        (f"network.{key}", value) for key, value in head_settings(checkpoint.weights).items()
    ]
    told += [(key, [*value]) for key, value in (("mean", checkpoint.mean), ("std", checkpoint.std)) if value]
    told += [("network.stem_ceil_mode", "true")] if checkpoint.is_fastreid else []
    return [f"model.{key}={'null' if value is None else value}" for key, value in told]
