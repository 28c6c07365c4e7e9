"""From body parts to pixels: a pinhole view, and a depth-buffered rasterizer of elliptic tubes and their paint."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from reidlab.data.synthetic.body import Part

Array = np.ndarray
STEPS = 48


def linear(srgb: Array) -> Array:
    """Display values in [0, 1] to light, with the plain 2.2 power."""
    return np.power(srgb, 2.2, dtype=np.float32)


@dataclass(frozen=True)
class View:
    """A pinhole camera `height` meters above the ground, tilted down by `pitch` radians; `focal`, `size` in pixels.

    World axes: x to the right, y up, z away from the camera, whose foot is the origin.
    """

    height: float
    pitch: float
    focal: float
    size: tuple[int, int] = (540, 960)

    def project(self, points: Array) -> Array:
        """World points (..., 3) to (column, row, depth in meters), (..., 3)."""
        x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        c, s = np.cos(self.pitch), np.sin(self.pitch)
        up, depth = (y - self.height) * c + z * s, z * c - (y - self.height) * s
        depth = np.maximum(depth, 0.1)
        column = self.size[1] / 2 + self.focal * x / depth
        return np.stack([column, self.size[0] / 2 - self.focal * up / depth, depth], -1)


@dataclass(frozen=True)
class Window:
    """The crop of a view that is drawn: its top-left corner and the drawn pixels per pixel of the view."""

    left: float
    top: float
    zoom: float


@dataclass(frozen=True)
class Placed:
    """Parts standing at `foot` (x, z) in the world and facing `heading` (0: the camera, pi/2: the right edge)."""

    parts: Sequence[Part]
    foot: tuple[float, float]
    heading: float

    def world(self, points: Array) -> Array:
        """Body frame (left, up, front) to world, (..., 3)."""
        left, up, front = np.moveaxis(np.asarray(points), -1, 0)
        c, s = np.cos(self.heading), np.sin(self.heading)
        return np.stack([self.foot[0] + left * c + front * s, up, self.foot[1] + left * s - front * c], -1)

    def skeleton(self) -> tuple[Array, Array]:
        """World ends (P, 2, 3) and largest radii (P,) of the parts."""
        ends = self.world(np.array([[part.start, part.end] for part in self.parts]))
        return ends, np.array([max(max(a, b) for _, a, b in part.knots) for part in self.parts])


class Cover(NamedTuple):
    """The pixels that a tube covers, as positions among the candidates (`chosen`).

    `step` is along its profile, `q` across it from -1 to 1 (right), and `beyond` how far out on a round end, from -1
    to 1.
    """

    chosen: Array
    step: Array
    q: Array
    beyond: Array


class Surface(NamedTuple):
    """Points on tubes, (N,) each: depth in meters and the coordinates that a `Paint` gets, with the profile's step."""

    depth: Array
    lateral: Array
    front: Array
    t: Array
    step: Array
    beyond: Array


class Tubes:
    """The parts of some figures as seen through a window, tabulated for drawing all their pixels together."""

    def __init__(self, figures: Sequence[Placed], view: View, window: Window):
        self.parts = [part for figure in figures for part in figure.parts]
        ends = view.project(np.concatenate([figure.skeleton()[0] for figure in figures]))
        ends[..., :2] = (ends[..., :2] - (window.left, window.top)) * window.zoom
        self.start, self.end = ends[:, 0].astype(np.float32), ends[:, 1].astype(np.float32)
        axis = self.end[:, :2] - self.start[:, :2]
        self.length = np.maximum(np.hypot(*axis.T), 1e-2)
        self.axis = axis / self.length[:, None]
        self.axis[self.length <= 1e-2] = (0, 1)
        self.side = np.where(self.axis[:, 1] >= 0, 1, -1).astype(np.float32)

        facing = [figure.heading + np.arctan2(*figure.foot) for figure in figures for _ in figure.parts]
        angle = np.array(facing) + [part.turn for part in self.parts]
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        grid = np.linspace(0, 1, STEPS)
        knots = [np.array(part.knots).T for part in self.parts]
        self.across, self.deep = (
            np.array([np.interp(grid, k[0], k[i]) for k in knots], np.float32) for i in (1, 2)
        )  # (P, STEPS)
        depths = self.start[:, 2:] + grid * (self.end[:, 2:] - self.start[:, 2:])
        self.scale = (view.focal * window.zoom / depths).astype(np.float32)
        self.norm = np.hypot(self.across * self.cos[:, None], self.deep * self.sin[:, None])
        self.width = self.norm * self.scale
        self.round = np.array([part.round_ends for part in self.parts])
        self.cap = 0.5 * (self.across + self.deep) * self.scale
        self.meters = np.maximum(self.length / self.scale.mean(1), 0.03)
        self.slope = np.gradient(0.5 * (self.across + self.deep), axis=1) * (STEPS / self.meters)[:, None]

    def pixels(self, height: int, width: int) -> tuple[Array, Array, Array]:
        """The tube, column and row of every pixel in some tube's bounding box; a pixel comes once per tube."""
        reach = (np.maximum(self.across, self.deep) * self.scale).max(1)[:, None] + 1
        low = np.floor(np.minimum(self.start[:, :2], self.end[:, :2]) - reach).astype(np.int32).clip(0)
        high = (
            np.ceil(np.maximum(self.start[:, :2], self.end[:, :2]) + reach).astype(np.int32).clip(max=(width, height))
        )
        spans = np.maximum(high - low, 0)
        counts = spans.prod(1)
        tube = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        within = np.arange(len(tube), dtype=np.int32) - np.repeat(counts.cumsum() - counts, counts).astype(np.int32)
        row, column = np.divmod(within, spans[tube, 0])
        return tube, column + low[tube, 0], row + low[tube, 1]

    def cover(self, tube: Array, x: Array, y: Array) -> Cover:
        """Find the candidate pixels that their tube covers, and their places across and along it."""
        dx = x.astype(np.float32) + (0.5 - self.start[:, 0])[tube]
        dy = y.astype(np.float32) + (0.5 - self.start[:, 1])[tube]
        ex, ey = self.axis[:, 0][tube], self.axis[:, 1][tube]
        along, length = dx * ex + dy * ey, self.length[tube]
        offset = dx * ey - dy * ex
        inside = np.minimum(np.maximum(along, 0), length)
        step = (inside * ((STEPS - 1) / self.length).astype(np.float32)[tube]).astype(np.int32)
        cell = tube * STEPS + step
        index = np.flatnonzero(np.abs(offset) < self.width.ravel()[cell])
        tube, cell = tube[index], cell[index]
        beyond = (along - inside)[index] / self.cap.ravel()[cell]
        half = self.width.ravel()[cell] * np.sqrt(np.maximum(1 - beyond * beyond, 0))
        offset = offset[index] * self.side[tube]
        kept = np.flatnonzero((np.abs(offset) < half) & (self.round[tube] | (beyond == 0)))
        return Cover(index[kept], step[index[kept]], offset[kept] / half[kept], beyond[kept])

    def surface(self, tube: Array, seen: Cover) -> Surface:
        """The visible point of an elliptic section: x = a cos(angle), y = b sin(angle), nearest to the camera."""
        cell = tube * STEPS + seen.step
        a, b, norm = self.across.ravel()[cell], self.deep.ravel()[cell], self.norm.ravel()[cell]
        cos, sin = self.cos[tube], self.sin[tube]
        h = np.sqrt(1 - seen.q * seen.q)
        cos_d, sin_d = a * cos / norm, b * sin / norm
        lateral, front = seen.q * cos_d - h * sin_d, seen.q * sin_d + h * cos_d
        t = seen.step.astype(np.float32) / (STEPS - 1)
        nearer = front * b * cos - lateral * a * sin
        depth = self.start[:, 2][tube] + t * (self.end - self.start)[:, 2][tube] - nearer
        return Surface(depth, lateral, front, t, seen.step, seen.beyond)

    def normals(self, tube: Array, surface: Surface, wrinkles: Array) -> Array:
        """Unit normals (N, 3) to the right, up, and towards the camera, with folds in the cloth."""
        cell = tube * STEPS + surface.step
        left, front = surface.lateral / self.across.ravel()[cell], surface.front / self.deep.ravel()[cell]
        cos, sin = self.cos[tube], self.sin[tube]
        right, toward = left * cos + front * sin, front * cos - left * sin
        unit = 1 / np.hypot(right, toward)
        right, toward = right * unit, toward * unit
        folds = np.array([3 * part.folds for part in self.parts], np.float32)[tube]
        u = ((surface.lateral + 2 * (surface.front > 0)) * 9 + 17 * tube).astype(np.int32) % wrinkles.shape[1]
        v = (surface.t * self.meters[tube] * 70 + 5 * tube).astype(np.int32) % wrinkles.shape[0]
        axial = -self.slope.ravel()[cell].clip(-2, 2) + surface.beyond + folds * wrinkles[v, u]
        (ex, ey), side = self.axis[tube].T, self.side[tube]
        normal = np.stack([side * ey * right + axial * ex, side * ex * right - axial * ey, toward], -1)
        return normal / np.sqrt(np.square(normal).sum(-1, keepdims=True))


class Canvas:
    """The surface at every pixel of a window: albedo as light, normal (right, up, towards the camera), depth in m.

    `wrinkles` (N, N) is the noise that folds cloth.
    """

    def __init__(self, height: int, width: int, wrinkles: Array):
        self.albedo = np.zeros((height * width, 3), np.float32)
        self.normal = np.zeros((height * width, 3), np.float32)
        self.depth = np.full(height * width, np.inf, np.float32)
        self.shape = height, width
        self.wrinkles = wrinkles

    def draw(self, figures: Sequence[Placed], view: View, window: Window) -> None:
        """Draw all parts of all figures at once, nearer surfaces hiding farther ones."""
        tubes = Tubes(figures, view, window)
        tube, x, y = tubes.pixels(*self.shape)
        seen = tubes.cover(tube, x, y)
        tube, pixel = tube[seen.chosen], (y * self.shape[1] + x)[seen.chosen].astype(np.intp)
        surface = tubes.surface(tube, seen)
        np.minimum.at(self.depth, pixel, surface.depth)
        front_most = np.flatnonzero(surface.depth == self.depth[pixel])
        tube, pixel = tube[front_most], pixel[front_most]
        surface = Surface(*(values[front_most] for values in surface))
        self.normal[pixel] = tubes.normals(tube, surface, self.wrinkles)
        ends = np.searchsorted(tube, np.arange(len(tubes.parts) + 1))
        albedo = np.empty((len(tube), 3), np.float32)
        for part, first, last in zip(tubes.parts, ends[:-1], ends[1:], strict=True):
            if first < last:
                span = slice(first, last)
                albedo[span] = part.paint(surface.lateral[span], surface.front[span], surface.t[span])
        self.albedo[pixel] = linear(np.clip(albedo, 0, 1))

    def light(self, plate: Array, sun: Array, sun_power: float, sky_power: float) -> Array:
        """The window as light (H, W, 3): the figures shaded by sun and sky, over the background.

        Args:
            plate: the background (H, W, 3).
            sun: its direction (right, up, towards the camera).
            sun_power: of its light.
            sky_power: of the light from above.
        """
        figure = np.isfinite(self.depth).reshape(self.shape)
        mask = figure.astype(np.float32)
        depth = np.where(figure, self.depth.reshape(self.shape), 0)
        kernel = (max(3, self.shape[0] // 24),) * 2
        around = cv2.blur(depth, kernel) / np.maximum(cv2.blur(mask, kernel), 1e-3)
        crease = (1 - np.clip(2.5 * (depth - around), 0, 0.5))[figure]
        drawn = figure.ravel()
        normal = self.normal[drawn]
        sky = sky_power * (0.62 + 0.38 * normal[:, 1]) * crease
        direct = sun_power * np.clip(normal @ sun.astype(np.float32), 0, None) * (0.4 + 0.6 * crease)
        lit = plate.copy()
        lit[figure] = self.albedo[drawn] * (sky + direct)[:, None]
        return lit
