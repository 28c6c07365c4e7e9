"""A painted background in perspective: a floor, a wall behind it, and the things that stand about."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from reidlab.data.synthetic.render import Array, View, linear

CAR_PAINTS = (
    (0.78, 0.79, 0.8),
    (0.16, 0.17, 0.19),
    (0.45, 0.1, 0.1),
    (0.14, 0.22, 0.4),
    (0.52, 0.54, 0.55),
    (0.3, 0.33, 0.28),
)
NOISE_SIZE = 256
Color = Sequence[float] | Array


def noise_texture(rng: Generator, octaves: int = 5) -> Array:
    """Tileable fractal noise in about [-1, 1], (256, 256) float32."""
    total: Array = np.zeros((NOISE_SIZE, NOISE_SIZE), np.float32)
    for octave in range(octaves):
        cells = 8 << octave
        grid = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode="wrap")
        zoomed = cv2.resize(grid, None, fx=NOISE_SIZE / cells, fy=NOISE_SIZE / cells, interpolation=cv2.INTER_CUBIC)
        edge = 2 * NOISE_SIZE // cells
        total += zoomed[edge : edge + NOISE_SIZE, edge : edge + NOISE_SIZE] / 1.6**octave
    return total / (2.2 * total.std())


def sample(texture: Array, x: Array, y: Array, meters: float) -> Array:
    """Look up a texture at world coordinates.

    Args:
        texture: square and tileable.
        x: coordinates in meters (H, W).
        y: likewise.
        meters: distance after which the texture repeats.
    """
    columns, rows = (NOISE_SIZE * (u - np.floor(u)) for u in (x / meters, y / meters))
    columns, rows = columns.astype(np.float32), rows.astype(np.float32)
    return cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


class Finish(NamedTuple):
    """The surface of a floor or wall: its albedo (sRGB) and how uneven that is.

    Where it is laid in cells: their width, height and joint in meters, how much their shades differ, and whether every
    other row is shifted.
    """

    albedo: tuple[float, float, float]
    roughness: float
    cell: tuple[float, float] | None = None
    joint: float = 0.0
    spread: float = 0.0
    shifted: bool = False


FINISHES = {
    "asphalt": Finish((0.30, 0.30, 0.32), 0.05),
    "slabs": Finish((0.56, 0.54, 0.50), 0.06, (0.6, 0.6), 0.015, 0.08),
    "tiles": Finish((0.68, 0.66, 0.60), 0.025, (0.9, 0.9), 0.012, 0.12),
    "grass": Finish((0.26, 0.36, 0.18), 0.13),
    "gravel": Finish((0.58, 0.52, 0.44), 0.10),
    "concrete": Finish((0.50, 0.50, 0.48), 0.06, (2.4, 2.4), 0.02, 0.04),
    "brick": Finish((0.50, 0.27, 0.21), 0.07, (0.26, 0.09), 0.014, 0.2, shifted=True),
    "panels": Finish((0.64, 0.66, 0.68), 0.03, (1.3, 0.9), 0.016, 0.06),
    "plaster": Finish((0.72, 0.66, 0.54), 0.06),
    "hedge": Finish((0.16, 0.27, 0.13), 0.24),
}


def surface(name: str, x: Array, y: Array, texture: Array) -> Array:
    """Albedo (H, W, 3) of a floor or wall.

    Args:
        name: of its finish.
        x: its own coordinates in meters (H, W).
        y: likewise.
        texture: of its unevenness.
    """
    finish = FINISHES[name]
    value = 1 + finish.roughness * (sample(texture, x, y, 0.9) + 1.4 * sample(texture, x + 3.1, y, 6.0))
    if finish.cell:
        width, height = finish.cell
        row = np.floor(y / height)
        x = x + 0.5 * width * (row % 2) if finish.shifted else x
        column = np.floor(x / width)
        shade = np.modf(np.abs(np.sin(12.9898 * column + 78.233 * row) * 43758.5))[0]
        value *= 1 + finish.spread * (2 * shade - 1)
        value[(x - column * width < finish.joint) | (y - row * height < finish.joint)] *= 0.75
    return value[..., None] * np.array(finish.albedo, np.float32)


def _grid(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = np.broadcast_arrays(x, y)
    return x.astype(np.float32), y.astype(np.float32)


class Backdrop:
    """A view's background while it is painted, sRGB (H, W, 3).

    `front` is its upper rows, a wall `depth` meters away, and `floor` the rows below, both windows on `paint`; `wall`
    (x, y) and `ground` (x, z) are the world coordinates that their pixels show.
    """

    def __init__(self, view: View, depth: float, rng: Generator):
        self.view, self.depth, self.rng = view, depth, rng
        self.texture = noise_texture(rng)
        height, width = view.size
        c, s = np.cos(view.pitch), np.sin(view.pitch)
        down = ((np.arange(height) + 0.5 - height / 2) / view.focal)[:, None]
        across = ((np.arange(width) + 0.5 - width / 2) / view.focal)[None]
        rise, forward = -down * c - s, c - down * s
        foot = int(np.argmax((rise < 0) & (view.height * forward < -rise * depth)))
        self.paint = np.zeros((height, width, 3), np.float32)
        self.front, self.floor = self.paint[:foot], self.paint[foot:]
        self.wall = _grid(depth / forward[:foot] * across, view.height + depth * (rise / forward)[:foot])
        reach = view.height / -rise[foot:]
        self.ground = _grid(reach * across, reach * forward[foot:])

    def lay(self, style: str, where: Array | slice = slice(None)) -> None:
        """Cover the floor, where asked, with a style of surface."""
        self.floor[where] = surface(style, *self.ground, self.texture)[where]

    def build(self, style: str) -> None:
        """Cover the wall with a style of surface, dark at its foot."""
        foot = 1 - 0.3 * np.exp(-np.maximum(self.wall[1], 0) / 0.25)
        self.front[:] = surface(style, *self.wall, self.texture) * foot[..., None]

    def light(self) -> Array:
        """The finished background as light under unit illumination, its colors muted by dust and distance."""
        gray = self.paint.mean(-1, keepdims=True)
        muted = 0.1 + 0.8 * (gray + 0.55 * (self.paint - gray))
        return linear(np.clip(cv2.GaussianBlur(muted, (0, 0), 0.6), 0, 1))

    def polygon(self, points: Sequence[Sequence[float]] | Array, color: Color) -> None:
        """Fill the outline through these world points."""
        corners = self.view.project(np.asarray(points, float))[:, :2]
        cv2.fillPoly(self.paint, [np.round(corners * 8).astype(np.int32)], tuple(map(float, color)), cv2.LINE_AA, 3)

    def board(self, left: float, bottom: float, width: float, height: float, z: float, color: Color) -> None:
        """Paint an upright rectangle that faces the camera.

        Args:
            left: its x, in meters like all.
            bottom: its y.
            width: to the right.
            height: upwards.
            z: distance from the camera.
            color: sRGB in [0, 1].
        """
        right, top = left + width, bottom + height
        self.polygon([(left, bottom, z), (right, bottom, z), (right, top, z), (left, top, z)], color)

    def shade(self, x: float, z: float, width: float, depth: float = 0.5) -> None:
        """Darken the floor softly under an object.

        Args:
            x: its middle, in meters like all.
            z: distance from the camera.
            width: half of the patch's.
            depth: likewise.
        """
        mask = np.zeros(self.view.size, np.float32)
        corners = [(x + u * width, 0, z + v * depth) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        cv2.fillPoly(mask, [self.view.project(np.asarray(corners))[:, :2].astype(np.int32)], 1.0)
        self.paint *= 1 - 0.45 * cv2.GaussianBlur(mask, (0, 0), 7)[..., None]

    def bright(self) -> Array:
        """A random, not too gaudy color."""
        return 0.5 * self.rng.uniform(0.1, 0.9) + 0.5 * self.rng.uniform(0.1, 0.9, 3)

    def pole(self, x: float, z: float, radius: float, height: float, color: Color) -> None:
        """Paint a round pole or column, lighter on its left.

        Args:
            x: its middle, in meters like all.
            z: distance from the camera.
            radius: of the pole.
            height: upwards.
            color: sRGB in [0, 1].
        """
        self.shade(x, z, 2 * radius, 0.2)
        for part in range(6):
            left = x - radius + part * radius / 3
            self.board(left, 0, radius / 3 + 0.004, height, z, np.asarray(color) * (1.15 - 0.13 * part))

    def car(self, x: float, z: float) -> None:
        """A parked car seen from its side."""
        color = np.array(CAR_PAINTS[self.rng.integers(len(CAR_PAINTS))])
        self.shade(x, z, 2.2, 0.8)
        outline = [-2.1, 0.3, -2.15, 0.75, -1.35, 0.9, -0.75, 1.42, 0.75, 1.42, 1.45, 0.92, 2.1, 0.8, 2.15, 0.3]
        body = np.reshape(outline, (-1, 2))
        glass = [(-1.15, 0.92), (-0.68, 1.35), (0.68, 1.35), (1.2, 0.92)]
        self.polygon([(x + u, v, z) for u, v in body], color)
        self.polygon([(x + u, v, z) for u, v in glass], (0.16, 0.2, 0.24))
        self.polygon([(x + u, v, z) for u, v in [(-2.12, 0.3), (-2.13, 0.5), (2.13, 0.5), (2.15, 0.3)]], 0.6 * color)
        self.board(x - 0.04, 0.5, 0.08, 0.9, z, color)
        for wheel in (-1.35, 1.35):
            turn = np.linspace(0, 2 * np.pi, 20)
            for radius, gray in ((0.34, 0.08), (0.19, 0.55)):
                rim = [(x + wheel + radius * np.cos(p), 0.34 + radius * np.sin(p), z) for p in turn]
                self.polygon(rim, (gray, gray, gray))

    def tree(self, x: float, z: float, height: float) -> None:
        """A tree whose crown begins at `height`."""
        self.shade(x, z, 1.0, 0.8)
        self.pole(x, z, 0.16, height, (0.28, 0.21, 0.15))
        column, row, depth = self.view.project(np.array([x, height, z]))
        rows, columns = np.mgrid[: self.view.size[0], : self.view.size[1]]
        scale = self.view.focal / depth
        u, v = (columns - column) / scale, (rows - row) / scale
        leaf = 1 + 0.5 * sample(self.texture, u, v, 1.1)
        crown = u**2 / 2.6 + v**2 / 1.6 + 0.35 * sample(self.texture, u, v, 2.5) < 1
        self.paint[crown] = (np.array([0.17, 0.28, 0.12]) * leaf[..., None] * (1 - 0.16 * v[..., None]))[crown]

    def opening(self, left: float, bottom: float, width: float, height: float) -> None:
        """Paint a window or a glazed door in the back wall, with a reflection.

        Args:
            left: its x, in meters like all.
            bottom: its y.
            width: to the right.
            height: upwards.
        """
        z = self.depth - 0.02
        self.board(left - 0.08, bottom - 0.08, width + 0.16, height + 0.16, z, (0.85, 0.84, 0.8))
        self.board(left, bottom, width, height, z, (0.22, 0.27, 0.32))
        tilt = [(left + 0.2 * width, bottom), (left + 0.5 * width, bottom), (left + width, bottom + height)]
        self.polygon([(x, y, z) for x, y in [*tilt, (left + 0.7 * width, bottom + height)]], (0.42, 0.5, 0.56))
        self.board(left + width / 2 - 0.03, bottom, 0.06, height, z, (0.8, 0.79, 0.75))
