"""Where the people walk: one painted place per camera, in perspective, with walls, floor, and street furniture."""

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
KINDS = ("street", "hall", "park", "yard")
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


def _surface(style: str, x: Array, y: Array, texture: Array) -> Array:
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


class Place:
    """The painted background of one camera: `plate` (H, W, 3) is light under unit illumination."""

    def __init__(self, kind: str, view: View, rng: Generator):
        self.view, self.rng = view, rng
        self.texture = noise_texture(rng)
        self.depth = {"street": 15.0, "hall": 16.0, "park": 22.0, "yard": 14.0}[kind]
        floor, wall = {
            "street": ("slabs", "brick"),
            "hall": ("tiles", "panels"),
            "park": ("gravel", "hedge"),
            "yard": ("concrete", "plaster"),
        }[kind]
        self.paint = np.zeros((*view.size, 3), np.float32)
        self._rays()
        self._ground(kind, floor)
        self._back(kind, wall)
        getattr(self, f"_{kind}")()
        self.plate = linear(np.clip(cv2.GaussianBlur(self.paint, (0, 0), 0.8), 0, 1))

    def _rays(self) -> None:
        height, width = self.view.size
        c, s = np.cos(self.view.pitch), np.sin(self.view.pitch)
        down = ((np.arange(height) - height / 2) / self.view.focal)[:, None]
        rise, forward = -down * c - s, c - down * s
        with np.errstate(divide="ignore"):
            reach = np.where(rise < 0, -self.view.height / np.minimum(rise, -1e-6), np.inf)
        across = ((np.arange(width) - width / 2) / self.view.focal)[None]
        self.is_ground = np.broadcast_to(reach * forward < self.depth, (height, width))
        reach = np.where(reach * forward < self.depth, reach, 0)
        self.ground_x, self.ground_z = reach * across, np.broadcast_to(reach * forward, (height, width))
        reach = self.depth / forward
        self.wall_x, self.wall_y = reach * across, np.broadcast_to(self.view.height + reach * rise, (height, width))

    def _ground(self, kind: str, style: str) -> None:
        x, z = self.ground_x, self.ground_z
        colour = _surface(style, x, z, self.texture)
        if kind == "street":
            road = (z > 9.5) & (z < 13.5)
            colour[road] = _surface("asphalt", x, z, self.texture)[road]
            colour[(z > 9.35) & (z < 9.5)] = (0.66, 0.65, 0.62)
            colour[(np.abs(z - 11.6) < 0.07) & ((x % 3) < 1.6)] = (0.82, 0.82, 0.78)
        elif kind == "park":
            lawn = np.abs(x - 0.05 * z) > 2.6 + 0.3 * sample(self.texture, x, z, 5.0)
            colour[lawn] = _surface("grass", x, z, self.texture)[lawn]
        elif kind == "yard":
            colour[(np.abs((x + z) % 4 - 0.1) < 0.06) & (z > 5)] = (0.78, 0.68, 0.22)
        elif kind == "hall":
            colour[np.abs(x - 1.4) < 0.16] = (0.30, 0.33, 0.36)
        self.paint[self.is_ground] = colour[self.is_ground]

    def _back(self, kind: str, style: str) -> None:
        colour = _surface(style, self.wall_x, self.wall_y, self.texture)
        if kind == "park":
            sky = self.wall_y > 2.6 + 0.8 * sample(self.texture, self.wall_x, 0 * self.wall_y, 7.0)
            colour[sky] = (0.74, 0.81, 0.88)
        if kind == "yard":
            colour[self.wall_y < 1.0] *= (0.62, 0.66, 0.72)
        foot = 1 - 0.3 * np.exp(-np.maximum(self.wall_y, 0) / 0.25)
        self.paint[~self.is_ground] = (colour * foot[..., None])[~self.is_ground]

    def _polygon(self, points: list[tuple[float, float, float]], colour: tuple[float, ...] | Array) -> None:
        corners = self.view.project(np.asarray(points, float))[:, :2]
        cv2.fillPoly(self.paint, [np.round(corners * 8).astype(np.int32)], tuple(map(float, colour)), cv2.LINE_AA, 3)

    def _board(self, left: float, bottom: float, width: float, height: float, z: float, colour) -> None:
        """An upright rectangle that faces the camera."""
        right, top = left + width, bottom + height
        self._polygon([(left, bottom, z), (right, bottom, z), (right, top, z), (left, top, z)], colour)

    def _shade(self, x: float, z: float, width: float, depth: float = 0.5) -> None:
        """A soft dark patch under an object."""
        mask = np.zeros(self.view.size, np.float32)
        corners = [
            (x - width, 0, z - depth),
            (x + width, 0, z - depth),
            (x + width, 0, z + depth),
            (x - width, 0, z + depth),
        ]
        cv2.fillPoly(mask, [self.view.project(np.asarray(corners))[:, :2].astype(np.int32)], 1.0)
        self.paint *= 1 - 0.45 * cv2.GaussianBlur(mask, (0, 0), 7)[..., None]

    def _bright(self) -> Array:
        return 0.5 * self.rng.uniform(0.1, 0.9) + 0.5 * self.rng.uniform(0.1, 0.9, 3)

    def _pole(self, x: float, z: float, radius: float, height: float, colour: tuple[float, float, float]) -> None:
        self._shade(x, z, 2 * radius, 0.2)
        for part in range(6):
            left = x - radius + part * radius / 3
            self._board(left, 0, radius / 3 + 0.004, height, z, np.asarray(colour) * (1.15 - 0.13 * part))

    def _car(self, x: float, z: float) -> None:
        colour = np.array(CAR_PAINTS[self.rng.integers(len(CAR_PAINTS))])
        self._shade(x, z, 2.2, 0.8)
        body = [
            (-2.1, 0.3),
            (-2.15, 0.75),
            (-1.35, 0.9),
            (-0.75, 1.42),
            (0.75, 1.42),
            (1.45, 0.92),
            (2.1, 0.8),
            (2.15, 0.3),
        ]
        glass = [(-1.15, 0.92), (-0.68, 1.35), (0.68, 1.35), (1.2, 0.92)]
        self._polygon([(x + u, v, z) for u, v in body], colour)
        self._polygon([(x + u, v, z) for u, v in glass], (0.16, 0.2, 0.24))
        self._polygon([(x + u, v, z) for u, v in [(-2.12, 0.3), (-2.13, 0.5), (2.13, 0.5), (2.15, 0.3)]], 0.6 * colour)
        self._board(x - 0.04, 0.5, 0.08, 0.9, z, colour)
        for wheel in (-1.35, 1.35):
            turn = np.linspace(0, 2 * np.pi, 20)
            self._polygon(
                [(x + wheel + 0.34 * np.cos(p), 0.34 + 0.34 * np.sin(p), z) for p in turn], (0.08, 0.08, 0.09)
            )
            self._polygon(
                [(x + wheel + 0.19 * np.cos(p), 0.34 + 0.19 * np.sin(p), z) for p in turn], (0.55, 0.56, 0.58)
            )

    def _tree(self, x: float, z: float, height: float) -> None:
        self._shade(x, z, 1.0, 0.8)
        self._pole(x, z, 0.16, height, (0.28, 0.21, 0.15))
        column, row, depth = self.view.project(np.array([x, height, z]))
        rows, columns = np.mgrid[: self.view.size[0], : self.view.size[1]]
        scale = self.view.focal / depth
        u, v = (columns - column) / scale, (rows - row) / scale
        leaf = 1 + 0.5 * sample(self.texture, u, v, 1.1)
        crown = u**2 / 2.6 + v**2 / 1.6 + 0.35 * sample(self.texture, u, v, 2.5) < 1
        self.paint[crown] = (np.array([0.17, 0.28, 0.12]) * leaf[..., None] * (1 - 0.16 * v[..., None]))[crown]

    def _opening(self, left: float, bottom: float, width: float, height: float) -> None:
        """A window or a glazed door in the back wall, with a reflection."""
        z = self.depth - 0.02
        self._board(left - 0.08, bottom - 0.08, width + 0.16, height + 0.16, z, (0.85, 0.84, 0.8))
        self._board(left, bottom, width, height, z, (0.22, 0.27, 0.32))
        tilt = [(left + 0.2 * width, bottom), (left + 0.5 * width, bottom), (left + width, bottom + height)]
        self._polygon([(x, y, z) for x, y in [*tilt, (left + 0.7 * width, bottom + height)]], (0.42, 0.5, 0.56))
        self._board(left + width / 2 - 0.03, bottom, 0.06, height, z, (0.8, 0.79, 0.75))

    def _street(self) -> None:
        for left in np.arange(-11, 11, 3.1):
            self._opening(left + 0.5, 0.9, 1.7, 1.6)
        self._board(-4.2, 0, 1.1, 2.2, self.depth - 0.03, self._bright())
        self._board(2.2, 2.75, 5.5, 0.7, self.depth - 0.03, self._bright())
        for letter in range(9):
            self._board(
                2.7 + 0.5 * letter, 2.9, 0.3 * self.rng.uniform(0.4, 1), 0.4, self.depth - 0.04, (0.9, 0.88, 0.8)
            )
        for x in (-5.2, 0.4 + self.rng.uniform(-0.5, 0.5), 5.6):
            self._car(x, 12.8)
        for x in (-4.0, 4.2):
            self._pole(x, 9.2, 0.06, 5, (0.3, 0.32, 0.34))

    def _hall(self) -> None:
        for left in np.arange(-9, 9, 2.7):
            z, tint = self.depth - 0.02, self._bright()
            self._board(left - 0.06, 0.84, 1.32, 1.72, z, (0.2, 0.21, 0.22))
            self._board(left, 0.9, 1.2, 1.6, z, tint)
            self._board(left + 0.15, 1.1, self.rng.uniform(0.4, 0.9), 0.35, z, 1 - tint)
            self._board(left + 0.2, 1.75, 0.8, 0.5, z, self._bright())
        for x in (-5.5, 5.0):
            self._pole(x, 12, 0.35, 6, (0.6, 0.6, 0.58))
        edge = int(np.argmax(self.is_ground[:, 0]))
        rows = min(edge, self.view.size[0] - edge)
        reflection = cv2.GaussianBlur(self.paint[edge - rows : edge][::-1], (0, 0), 5)
        fade = np.linspace(0.4, 0, rows)[:, None, None]
        self.paint[edge : edge + rows] = (1 - fade) * self.paint[edge : edge + rows] + fade * reflection

    def _park(self) -> None:
        for x, z in ((-6.5, 19), (5.5, 20), (-3.4, 15), (7.5, 14)):
            self._tree(x + self.rng.uniform(-0.4, 0.4), z, self.rng.uniform(2.6, 3.4))
        self._shade(3.6, 12.5, 0.9, 0.4)
        for height in (0.42, 0.65, 0.82):
            self._board(2.8, height, 1.7, 0.1, 12.5, (0.46, 0.3, 0.18))
        for x in (2.95, 4.3):
            self._board(x, 0, 0.07, 0.92, 12.5, (0.18, 0.18, 0.18))
        self._pole(-3.1, 11.5, 0.05, 4, (0.16, 0.22, 0.18))

    def _yard(self) -> None:
        z = self.depth - 0.02
        self._board(-5.5, 0, 3.4, 2.9, z, (0.36, 0.4, 0.44))
        for line in np.arange(0.2, 2.9, 0.22):
            self._board(-5.5, line, 3.4, 0.035, z, (0.27, 0.3, 0.34))
        self._board(1.2, 0, 1.0, 2.1, z, (0.42, 0.2, 0.16))
        self._opening(3.4, 1.2, 1.6, 1.1)
        for x in (-1.1, -0.2, 6.2):
            tint = self._bright() * 0.8
            self._shade(x, 13.2, 0.5, 0.4)
            self._board(x - 0.33, 0, 0.66, 0.95, 13.2, tint)
            self._board(x - 0.37, 0.95, 0.74, 0.1, 13.2, 0.6 * tint)
        for x in np.arange(-8, 9, 1.4):
            self._board(x, 0, 0.05, 1.0, 11.8, (0.5, 0.52, 0.55))
        for height in (0.5, 0.95):
            self._board(-8, height, 16, 0.05, 11.8, (0.5, 0.52, 0.55))
