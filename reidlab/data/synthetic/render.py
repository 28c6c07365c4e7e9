"""From body parts to pixels: a pinhole view, and a depth-buffered rasteriser of elliptic tubes with their surface paint."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from reidlab.data.synthetic.body import Part

Array = np.ndarray
PROFILE_STEPS = 48


def linear(srgb: Array) -> Array:
    """Display values in [0, 1] to light, with the plain 2.2 power."""
    return np.power(srgb, 2.2, dtype=np.float32)


@dataclass(frozen=True)
class View:
    """A pinhole camera `height` metres above the ground, tilted down by `pitch` radians; `focal`, `size` in pixels.

    World axes: x to the right, y up, z away from the camera, whose foot is the origin.
    """

    height: float
    pitch: float
    focal: float
    size: tuple[int, int] = (720, 1280)

    def project(self, points: Array) -> Array:
        """World points (..., 3) to (column, row, depth in metres), (..., 3)."""
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


class Canvas:
    """What is seen at every pixel of a window: albedo, normal (right, up, towards the camera), depth in metres."""

    def __init__(self, height: int, width: int, wrinkles: Array):
        self.albedo = np.zeros((height, width, 3), np.float32)
        self.normal = np.zeros((height, width, 3), np.float32)
        self.depth = np.full((height, width), np.inf, np.float32)
        self.wrinkles = wrinkles

    def draw(self, figure: Placed, view: View, window: Window) -> None:
        """Draw all parts of a figure, nearer surfaces hiding farther ones."""
        ends = view.project(figure.skeleton()[0])
        ends[..., 0] = (ends[..., 0] - window.left) * window.zoom
        ends[..., 1] = (ends[..., 1] - window.top) * window.zoom
        bearing = np.arctan2(figure.foot[0], figure.foot[1])
        for number, (part, (start, end)) in enumerate(zip(figure.parts, ends, strict=True)):
            self._tube(part, start, end, view.focal * window.zoom, figure.heading + bearing + part.turn, number)

    def _tube(self, part: Part, start: Array, end: Array, focal: float, heading: float, number: int) -> None:
        knots = np.asarray(part.knots)
        steps = np.linspace(0, 1, PROFILE_STEPS)
        across, deep = (np.interp(steps, knots[:, 0], knots[:, i]).astype(np.float32) for i in (1, 2))
        right = np.array([np.cos(heading), np.sin(heading)])
        axis = end[:2] - start[:2]
        length = max(float(np.hypot(*axis)), 1e-3)
        ex, ey = axis / length if length > 1e-2 else (0.0, 1.0)
        side = 1.0 if ey >= 0 else -1.0
        scale = (focal / np.linspace(start[2], end[2], PROFILE_STEPS)).astype(np.float32)
        widths = np.hypot(across * right[0], deep * right[1]) * scale
        reach = float(max((np.maximum(across, deep) * scale).max(), 1.0)) + 1
        x0, y0 = np.floor(np.minimum(start[:2], end[:2]) - reach).astype(int)
        x1, y1 = np.ceil(np.maximum(start[:2], end[:2]) + reach).astype(int) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, self.depth.shape[1]), min(y1, self.depth.shape[0])
        if x0 >= x1 or y0 >= y1:
            return

        dx = np.arange(x0, x1, dtype=np.float32)[None] + np.float32(0.5 - start[0])
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - start[1])
        along = dx * np.float32(ex) + dy * np.float32(ey)
        offset = np.float32(side) * (dx * np.float32(ey) - dy * np.float32(ex))
        inside_along = np.clip(along, 0, length)
        beyond = along - inside_along
        step = (inside_along * np.float32((PROFILE_STEPS - 1) / length)).astype(np.intp)
        width = widths[step]
        if part.round_ends:
            cap = (0.5 * (across + deep) * scale)[step]
            width = width * np.sqrt(np.maximum(1 - np.square(beyond / cap), 0))
        seen = np.abs(offset) < width
        if not part.round_ends:
            seen &= beyond == 0
        rows, columns = np.nonzero(seen)
        if not rows.size:
            return

        step, q = step[rows, columns], (offset[rows, columns] / width[rows, columns])
        h = np.sqrt(np.maximum(1 - q * q, 0))
        a, b = across[step], deep[step]
        norm = np.hypot(a * right[0], b * right[1]).astype(np.float32)
        cos_d, sin_d = a * np.float32(right[0]) / norm, b * np.float32(right[1]) / norm
        lateral, front = q * cos_d - h * sin_d, q * sin_d + h * cos_d
        nearer = -lateral * a * np.float32(right[1]) + front * b * np.float32(right[0])
        t = step.astype(np.float32) / (PROFILE_STEPS - 1)
        depth = np.float32(start[2]) + t * np.float32(end[2] - start[2]) - nearer
        rows, columns = rows + y0, columns + x0
        wins = depth < self.depth[rows, columns]
        rows, columns, step, t, depth = rows[wins], columns[wins], step[wins], t[wins], depth[wins]
        lateral, front, a, b = lateral[wins], front[wins], a[wins], b[wins]
        self.depth[rows, columns] = depth

        n_left, n_front = lateral / a, front / b
        n_right = n_left * np.float32(right[0]) + n_front * np.float32(right[1])
        n_toward = n_front * np.float32(right[0]) - n_left * np.float32(right[1])
        unit = 1 / np.hypot(n_right, n_toward)
        n_right, n_toward = n_right * unit, n_toward * unit
        metres = max(length / float(scale.mean()), 0.03)
        axial = -np.gradient(0.5 * (across + deep), metres / PROFILE_STEPS)[step].clip(-2, 2)
        if part.round_ends:
            axial = axial + (beyond[rows - y0, columns - x0] / cap[rows - y0, columns - x0]).clip(-1, 1)
        if part.folds:
            u = ((lateral + 2 * (front > 0)) * 9 + 17 * number).astype(np.intp) % self.wrinkles.shape[1]
            v = (t * metres * 70 + 5 * number).astype(np.intp) % self.wrinkles.shape[0]
            axial = axial + 3 * part.folds * self.wrinkles[v, u]
        normal = np.stack([side * ey * n_right + axial * ex, side * ex * n_right - axial * ey, n_toward], -1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        self.normal[rows, columns] = normal
        self.albedo[rows, columns] = part.paint(lateral, front, t)

    def light(self, plate: Array, sun: Array, sun_power: float, sky_power: float) -> Array:
        """The window as light (H, W, 3): the figure shaded by sun and sky, over the background `plate` (H, W, 3)."""
        figure = np.isfinite(self.depth)
        mask = figure.astype(np.float32)
        depth = np.where(figure, self.depth, 0)
        kernel = max(3, self.depth.shape[0] // 24)
        around = cv2.blur(depth, (kernel, kernel)) / np.maximum(cv2.blur(mask, (kernel, kernel)), 1e-3)
        crease = 1 - np.clip(2.5 * (depth - around), 0, 0.5)
        sky = sky_power * (0.62 + 0.38 * self.normal[..., 1]) * crease
        direct = sun_power * np.clip(self.normal @ sun.astype(np.float32), 0, None) * (0.4 + 0.6 * crease)
        lit = linear(np.clip(self.albedo, 0, 1)) * (sky + direct)[..., None]
        return np.where(figure[..., None], lit, plate)
