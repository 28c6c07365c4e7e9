"""Drawn shapes, a data set of classes that needs no download and is learned in a minute."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from reidlab.data.class_sources import ClassFolders
from reidlab.data.samples import Samples
from reidlab.errors import InputError, StorageError
from reidlab.files import temporary_folder

SUBPIXEL = 4  # bits of a coordinate's fraction


class DrawnShapes:
    """Shapes of random color, place and rotation on noisy backgrounds; only the outline depends on the class.

    Drawn on the first call into a folder of `root` that is named by size, number and seed, and read from there
    afterwards; the same options give the same bytes.

    Args:
        root: of those folders.
        images_per_class: at least 4.
        size: height and width in pixels.
        seed: of the drawing.
    """

    def __init__(self, root: str | Path, images_per_class: int = 60, size: Sequence[int] = (80, 80), seed: int = 0):
        height, width = size
        self.root, self.images_per_class, self.size, self.seed = Path(root), images_per_class, (height, width), seed
        if images_per_class < 4 or min(self.size) < 16:
            raise InputError("data.source: draw at least 4 images_per_class of a size of at least [16, 16]")

    @property
    def drawn_in(self) -> Path:
        """The folder that they are drawn in."""
        height, width = self.size
        return self.root / f"{height}x{width}-{self.images_per_class}-{self.seed}"

    def __call__(self) -> Samples:
        """Draw the shapes unless they are there, and read them."""
        place = self.drawn_in
        try:
            if not place.is_dir():
                self._draw(place)
        except StorageError:
            if not place.is_dir():  # else another process has drawn it meanwhile
                raise
        samples = ClassFolders(place)()
        return Samples(samples.table, place, ["drawn shapes, no photographs"], samples.names)

    def _draw(self, place: Path) -> None:
        with temporary_folder(self.root, place.name) as unfinished:
            for number, (name, outline) in enumerate(OUTLINES.items()):
                random = np.random.default_rng([self.seed, number])
                (unfinished / name).mkdir()
                for image in range(self.images_per_class):
                    picture = draw(outline, self.size, random)
                    encoded = cv2.imencode(".png", picture[..., ::-1])[1]
                    (unfinished / name / f"{image:04d}.png").write_bytes(encoded.tobytes())
            unfinished.rename(place)


def draw(outline: Callable[[], np.ndarray], size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """One picture (H, W, 3) uint8 RGB of a shape, given by the points (n, 2) of its outline in [-1, 1]."""
    height, width = size
    background = random.uniform(40, 215, (2, 2, 3)).astype(np.float32)
    picture = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
    color = random.uniform(0, 255, 3)
    while np.abs(color - background.mean((0, 1))).max() < 70:
        color = random.uniform(0, 255, 3)
    angle, radius = random.uniform(0, 2 * np.pi), random.uniform(0.24, 0.42) * min(size)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = random.uniform(radius, np.array([width, height]) - radius)
    points = ((outline() * radius) @ turn.T + middle) * 2**SUBPIXEL
    cv2.fillPoly(picture, [points.round().astype(np.int32)], color.tolist(), cv2.LINE_AA, SUBPIXEL)
    return (picture + random.normal(0, 9, picture.shape)).clip(0, 255).astype(np.uint8)


def polygon(corners: int) -> np.ndarray:
    """A regular polygon."""
    angles = np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def star() -> np.ndarray:
    """A star of five points."""
    return polygon(10) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]


def cross() -> np.ndarray:
    """A cross of two bars."""
    quarter = np.array([[0.3, 1.0], [0.3, 0.3], [1.0, 0.3]])
    return np.concatenate([quarter @ np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])


OUTLINES: dict[str, Callable[[], np.ndarray]] = {
    "circle": lambda: polygon(40),
    "cross": cross,
    "square": lambda: polygon(4),
    "star": star,
    "triangle": lambda: polygon(3),
}
