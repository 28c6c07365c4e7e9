"""A painted background in perspective: a floor, a wall behind it, and the things that stand about."""

from collections.abc import Sequence

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


def noise_texture(rng: Generator, octaves: int = 5) -> Array:
    """Tileable fractal noise in about [-1, 1], (256, 256) float32."""
    total = np.zeros((NOISE_SIZE, NOISE_SIZE), np.float32)
    for octave in range(octaves):
        cells = 8 << octave
        grid = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode="wrap")
        zoomed = cv2.resize(grid, None, fx=NOISE_SIZE / cells, fy=NOISE_SIZE / cells, interpolation=cv2.INTER_CUBIC)
        edge = 2 * NOISE_SIZE // cells
        total += zoomed[edge : edge + NOISE_SIZE, edge : edge + NOISE_SIZE] / 1.6**octave
    return total / (2.2 * total.std())


def sample(texture: Array, x: Array, y: Array, metres: float) -> Array:
    """Look up `texture`, repeated every `metres`, at world coordinates of any equal shape (H, W)."""
    scale = NOISE_SIZE / metres
    columns, rows = (x * scale) % NOISE_SIZE, (y * scale) % NOISE_SIZE
    return cv2.remap(
        texture, columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )


def _cells(x: Array, y: Array, width: float, height: float, joint: float, shifted: bool) -> tuple[Array, Array]:
    """A wall or floor laid in cells: a number in [0, 1) per cell, and where the joints are."""
    row = np.floor(y / height)
    x = x + 0.5 * width * (row % 2) if shifted else x
    column = np.floor(x / width)
    shade = np.modf(np.abs(np.sin(12.9898 * column + 78.233 * row) * 43758.5))[0]
    return shade, (x - column * width < joint) | (y - row * height < joint)


def surface(style: str, x: Array, y: Array, texture: Array) -> Array:
    """sRGB albedo (H, W, 3) of a floor or wall at its own coordinates in metres."""
    styles = {
        "asphalt": ((0.30, 0.30, 0.32), 0.05, None),
        "slabs": ((0.56, 0.54, 0.50), 0.06, (0.6, 0.6, 0.015, False, 0.08)),
        "tiles": ((0.68, 0.66, 0.60), 0.025, (0.9, 0.9, 0.012, False, 0.12)),
        "grass": ((0.26, 0.36, 0.18), 0.13, None),
        "gravel": ((0.58, 0.52, 0.44), 0.10, None),
        "concrete": ((0.50, 0.50, 0.48), 0.06, (2.4, 2.4, 0.02, False, 0.04)),
        "brick": ((0.50, 0.27, 0.21), 0.07, (0.26, 0.09, 0.014, True, 0.2)),
        "panels": ((0.64, 0.66, 0.68), 0.03, (1.3, 0.9, 0.016, False, 0.06)),
        "plaster": ((0.72, 0.66, 0.54), 0.06, None),
        "hedge": ((0.16, 0.27, 0.13), 0.24, None),
    }
    base, rough, laid = styles[style]
    value = 1 + rough * (sample(texture, x, y, 0.9) + 1.4 * sample(texture, x + 3.1, y, 6.0))
    colour = np.asarray(base, np.float32) * value[..., None].astype(np.float32)
    if laid:
        width, height, joint, shifted, spread = laid
        shade, joints = _cells(x, y, width, height, joint, shifted)
        colour *= (1 + spread * (shade - 0.5) * 2)[..., None].astype(np.float32)
        colour[joints] = 0.72 * colour[joints] + (0.06 if style == "brick" else 0)
    return colour


class Backdrop:
    """A view's background while it is painted, sRGB (H, W, 3); the wall stands `depth` metres away.

    `ground` (x, z) and `wall` (x, y) are the world coordinates that every pixel would show, (H, W) each.
    """

    def __init__(self, view: View, depth: float, rng: Generator):
        self.view, self.depth, self.rng = view, depth, rng
        self.texture = noise_texture(rng)
        height, width = view.size
        c, s = np.cos(view.pitch), np.sin(view.pitch)
        down = ((np.arange(height, dtype=np.float32) - height / 2) / np.float32(view.focal))[:, None]
        across = ((np.arange(width, dtype=np.float32) - width / 2) / np.float32(view.focal))[None]
        rise, forward = -down * c - s, c - down * s
        reach = view.height / np.maximum(-rise, 1e-6)
        is_ground = (rise < 0) & (reach * forward < depth)
        reach = np.where(is_ground, reach, 0)
        self.is_ground = np.broadcast_to(is_ground, (height, width))
        self.ground = reach * across, np.broadcast_to(reach * forward, (height, width))
        reach = depth / forward
        self.wall = reach * across, np.broadcast_to(view.height + reach * rise, (height, width))
        self.paint = np.zeros((height, width, 3), np.float32)

    def lay(self, style: str, where: Array | bool = True) -> None:
        """Cover the ground, where asked, with a style of surface."""
        where = self.is_ground & where
        self.paint[where] = surface(style, *self.ground, self.texture)[where]

    def build(self, style: str) -> None:
        """Cover the wall with a style of surface, dark at its foot."""
        foot = 1 - 0.3 * np.exp(-np.maximum(self.wall[1], 0) / 0.25)
        self.paint[~self.is_ground] = (surface(style, *self.wall, self.texture) * foot[..., None])[~self.is_ground]

    def light(self) -> Array:
        """The finished background as light under unit illumination, its colours muted by dust and distance."""
        grey = self.paint.mean(-1, keepdims=True)
        muted = 0.1 + 0.8 * (grey + 0.55 * (self.paint - grey))
        return linear(np.clip(cv2.GaussianBlur(muted, (0, 0), 0.6), 0, 1))

    def polygon(self, points: Sequence[Sequence[float]], colour: Sequence[float]) -> None:
        """Fill the outline through these world points."""
        corners = self.view.project(np.asarray(points, float))[:, :2]
        cv2.fillPoly(self.paint, [np.round(corners * 8).astype(np.int32)], tuple(map(float, colour)), cv2.LINE_AA, 3)

    def board(self, left: float, bottom: float, width: float, height: float, z: float, colour: Sequence[float]) -> None:
        """An upright rectangle that faces the camera."""
        right, top = left + width, bottom + height
        self.polygon([(left, bottom, z), (right, bottom, z), (right, top, z), (left, top, z)], colour)

    def shade(self, x: float, z: float, width: float, depth: float = 0.5) -> None:
        """A soft dark patch under an object."""
        mask = np.zeros(self.view.size, np.float32)
        corners = [(x + u * width, 0, z + v * depth) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        cv2.fillPoly(mask, [self.view.project(np.asarray(corners))[:, :2].astype(np.int32)], 1.0)
        self.paint *= 1 - 0.45 * cv2.GaussianBlur(mask, (0, 0), 7)[..., None]

    def bright(self) -> Array:
        """A random, not too gaudy colour."""
        return 0.5 * self.rng.uniform(0.1, 0.9) + 0.5 * self.rng.uniform(0.1, 0.9, 3)

    def pole(self, x: float, z: float, radius: float, height: float, colour: Sequence[float]) -> None:
        """A round pole or column, lighter on its left."""
        self.shade(x, z, 2 * radius, 0.2)
        for part in range(6):
            left = x - radius + part * radius / 3
            self.board(left, 0, radius / 3 + 0.004, height, z, np.asarray(colour) * (1.15 - 0.13 * part))

    def car(self, x: float, z: float) -> None:
        """A parked car seen from its side."""
        colour = np.array(CAR_PAINTS[self.rng.integers(len(CAR_PAINTS))])
        self.shade(x, z, 2.2, 0.8)
        outline = [-2.1, 0.3, -2.15, 0.75, -1.35, 0.9, -0.75, 1.42, 0.75, 1.42, 1.45, 0.92, 2.1, 0.8, 2.15, 0.3]
        body = np.reshape(outline, (-1, 2))
        glass = [(-1.15, 0.92), (-0.68, 1.35), (0.68, 1.35), (1.2, 0.92)]
        self.polygon([(x + u, v, z) for u, v in body], colour)
        self.polygon([(x + u, v, z) for u, v in glass], (0.16, 0.2, 0.24))
        self.polygon([(x + u, v, z) for u, v in [(-2.12, 0.3), (-2.13, 0.5), (2.13, 0.5), (2.15, 0.3)]], 0.6 * colour)
        self.board(x - 0.04, 0.5, 0.08, 0.9, z, colour)
        for wheel in (-1.35, 1.35):
            turn = np.linspace(0, 2 * np.pi, 20)
            for radius, grey in ((0.34, 0.08), (0.19, 0.55)):
                rim = [(x + wheel + radius * np.cos(p), 0.34 + radius * np.sin(p), z) for p in turn]
                self.polygon(rim, (grey, grey, grey))

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
        """A window or a glazed door in the back wall, with a reflection."""
        z = self.depth - 0.02
        self.board(left - 0.08, bottom - 0.08, width + 0.16, height + 0.16, z, (0.85, 0.84, 0.8))
        self.board(left, bottom, width, height, z, (0.22, 0.27, 0.32))
        tilt = [(left + 0.2 * width, bottom), (left + 0.5 * width, bottom), (left + width, bottom + height)]
        self.polygon([(x, y, z) for x, y in [*tilt, (left + 0.7 * width, bottom + height)]], (0.42, 0.5, 0.56))
        self.board(left + width / 2 - 0.03, bottom, 0.06, height, z, (0.8, 0.79, 0.75))
