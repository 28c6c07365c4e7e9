"""A surveillance camera: its place, light, lens and colors, and the crops of a detector."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.random import Generator

from reidlab.data.synthetic.backdrop import CAR_PAINTS, noise_texture
from reidlab.data.synthetic.body import assemble, draw_pose
from reidlab.data.synthetic.people import Person
from reidlab.data.synthetic.places import PLACES, hall
from reidlab.data.synthetic.render import Array, Canvas, Placed, View, Window, linear
from reidlab.data.synthetic.sensor import Sensor

DRAWN_HEIGHT = 192
HOURS = 3
MAIN_HEADINGS = (0.3, 2.8, 1.45, -0.9, -2.3, -1.6)


class Daylight:
    """The light of one place at one time of day: `sun` is a direction (right, up, towards the camera).

    `tint` is the light's color (3,); the powers are relative to the exposure of the background.
    """

    def __init__(self, indoors: bool, rng: Generator):
        azimuth = rng.uniform(-np.pi, np.pi)
        elevation = rng.uniform(1.1, 1.4) if indoors else rng.uniform(0.55, 1.1)
        around = np.cos(elevation)
        self.sun = np.array([around * np.sin(azimuth), np.sin(elevation), around * np.cos(azimuth)])
        self.sun_power = rng.uniform(0.15, 0.3) if indoors else rng.uniform(0.15, 0.8)
        self.sky_power = rng.uniform(0.8, 1.0) if indoors else rng.uniform(0.55, 0.9)
        self.tint = np.exp(rng.normal(0, 0.04, 3) + rng.normal(0, 0.08))


class Camera:
    """Camera `number` (from 1) of the data set `seed`; `photograph` gives one detection of a person."""

    def __init__(self, number: int, seed: int):
        rng = np.random.default_rng([seed, 2, number])
        place = PLACES[(number - 1) % len(PLACES)]
        self.view = View(rng.uniform(2.5, 3.8), rng.uniform(0.16, 0.22), rng.uniform(720, 840))
        self.wrinkles = noise_texture(rng, 3)
        self.plate = place(self.view, rng)
        self.main_heading = MAIN_HEADINGS[(number - 1) % len(MAIN_HEADINGS)] + rng.normal(0, 0.15)
        self.hours = [Daylight(place is hall, rng) for _ in range(HOURS)]
        self.sensor = Sensor(rng)
        self.occluder = ("car", "pole", "bush", "rail")[(number - 1) % 4]

    def photograph(
        self, person: Person, crowd: Sequence[Person], size: tuple[int, int], rng: Generator, missed: float = 0.0
    ) -> tuple[Array, int]:
        """A crop of a person, (H, W, 3) uint8 RGB, and its hour (from 0).

        Args:
            person: in the middle.
            crowd: the people that may pass by.
            size: height and width of the crop, within a tenth.
            rng: random numbers.
            missed: share of the box by which the crop is shifted, as by a bad detection.
        """
        hour = int(rng.integers(HOURS))
        day = self.hours[hour]
        finer = np.clip(DRAWN_HEIGHT / size[0], 1.25, 2)
        height, width = (round(finer * side) for side in size)
        depth = rng.uniform(5.6, 9.0)
        foot = (rng.uniform(-0.36, 0.36) * depth, depth)
        subject = self._place(person, foot, rng)
        window = self._detect(subject, height, width, rng, missed)
        figures = [subject]
        if rng.random() < 0.2:
            beside = foot[0] + rng.choice([-1, 1]) * rng.uniform(0.5, 0.85)
            figures.append(
                self._place(crowd[int(rng.integers(len(crowd)))], (beside, depth - rng.uniform(0.3, 0.9)), rng)
            )
        if rng.random() < 0.35:
            beside = foot[0] * 1.15 + rng.uniform(-1.0, 1.0)
            figures.append(
                self._place(crowd[int(rng.integers(len(crowd)))], (beside, depth + rng.uniform(1.2, 4)), rng)
            )

        canvas = Canvas(height, width, self.wrinkles)
        canvas.draw(figures, self.view, window)
        plate = self._background(window, height, width) * (day.sky_power * 0.85 + day.sun_power * 0.75)
        for figure in figures:
            plate *= self._shadow(figure, window, day, height, width)
        light = canvas.light(plate, day.sun, day.sun_power, day.sky_power)
        if rng.random() < 0.22:
            self._occlude(light, rng, day)
        light = cv2.resize(light, size[::-1], interpolation=cv2.INTER_AREA)
        return self.sensor.develop(light, day.tint, rng), hour

    def film(self, figures: Sequence[Placed], hour: int, zoom: float, rng: Generator) -> Array:
        """The whole view with some figures in it, (H, W, 3) uint8 RGB, `zoom` pixels for each of the view's."""
        day, window = self.hours[hour], Window(0, 0, zoom)
        height, width = (round(zoom * side) for side in self.view.size)
        canvas = Canvas(height, width, self.wrinkles)
        plate = self._background(window, height, width) * (day.sky_power * 0.85 + day.sun_power * 0.75)
        if figures:
            canvas.draw(figures, self.view, window)
        for figure in figures:
            plate *= self._shadow(figure, window, day, height, width)
        return self.sensor.develop(canvas.light(plate, day.sun, day.sun_power, day.sky_power), day.tint, rng)

    def extent(self, figure: Placed) -> tuple[Array, Array]:
        """The least and the greatest column and row of a figure in the view, (2,) each."""
        ends, radii = figure.skeleton()
        projected = self.view.project(ends)
        reach = (self.view.focal * radii[:, None] / projected[..., 2])[..., None]
        return (projected[..., :2] - 0.8 * reach).min((0, 1)), (projected[..., :2] + 0.8 * reach).max((0, 1))

    def _place(self, person: Person, foot: tuple[float, float], rng: Generator) -> Placed:
        heading = self.main_heading + rng.normal(0, 0.4) + (np.pi if rng.random() < 0.25 else 0)
        pose = draw_pose(rng, heading, person.bag, person.bag_on_left)
        return Placed(assemble(person, pose), foot, heading)

    def _detect(self, figure: Placed, height: int, width: int, rng: Generator, missed: float) -> Window:
        low, high = self.extent(figure)
        center, tall = (low + high) / 2, float(high[1] - low[1])
        if rng.random() < 0.12:
            cut = rng.uniform(0.1, 0.28) * tall
            center[1], tall = center[1] - cut / 2, tall - cut
        tall *= 1.05 * np.exp(rng.normal(0, 0.05))
        wide = max(tall * width / height, 0.0)
        center += rng.normal(0, 0.035, 2) * (wide, tall) + missed * rng.choice([-1, 1], 2) * (wide, 0.6 * tall)
        return Window(center[0] - wide / 2, center[1] - tall / 2, height / tall)

    def _background(self, window: Window, height: int, width: int) -> Array:
        step = 1 / window.zoom
        matrix = np.array([[step, 0, window.left], [0, step, window.top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(self.plate, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)

    def _shadow(self, figure: Placed, window: Window, day: Daylight, height: int, width: int) -> Array:
        """The share of light that a figure leaves on the background, (H, W, 1)."""
        ends, radii = figure.skeleton()
        toward = day.sun * (1, 1, -1)
        cast = ends - toward * (ends[..., 1:2] / toward[1])
        mask = np.zeros((height // 2, width // 2), np.float32)
        pixels = self.view.project(cast)
        for (start, end), radius in zip(pixels, radii, strict=True):
            points = ((np.array([start[:2], end[:2]]) - (window.left, window.top)) * window.zoom / 2).astype(int)
            thick = max(1, int(self.view.focal / start[2] * radius * window.zoom * 0.8))
            cv2.line(mask, tuple(map(int, points[0])), tuple(map(int, points[1])), 1.0, thick)
        strength = 0.75 * day.sun_power / (day.sun_power + day.sky_power)
        contact = np.zeros_like(mask)
        column, row, depth = self.view.project(np.array([figure.foot[0], 0, figure.foot[1]]))
        center = (np.array([column - window.left, row - window.top]) * window.zoom / 2).astype(int)
        span = self.view.focal / depth * window.zoom / 2
        cv2.ellipse(contact, tuple(map(int, center)), (int(0.34 * span), int(0.12 * span)), 0, 0, 360, 0.5, -1)
        mask = cv2.blur(mask, (3, 3)) * strength
        dim = 1 - np.maximum(mask, cv2.blur(contact, (max(3, int(0.2 * span)),) * 2))
        return cv2.resize(dim, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]

    def _occlude(self, light: Array, rng: Generator, day: Daylight) -> None:
        """Draw something that stands between the camera and the person, in place."""
        height, width = light.shape[:2]
        power = 0.6 * day.sky_power + 0.6 * day.sun_power
        if self.occluder == "pole":
            half = rng.uniform(0.06, 0.13) * width
            middle = rng.uniform(0.1, 0.9) * width
            left, right = int(max(0, middle - half)), int(min(width, middle + half))
            round_ = np.sqrt(np.clip(1 - ((np.arange(left, right) - middle) / half) ** 2, 0.02, 1)).astype(np.float32)
            light[:, left:right] = power * np.array([0.36, 0.36, 0.34], np.float32) * round_[None, :, None]
        elif self.occluder == "car":
            color = linear(np.array(CAR_PAINTS[rng.integers(len(CAR_PAINTS))])) * np.float32(power)
            edge = rng.uniform(0.66, 0.86) * height
            tilt = rng.uniform(-0.12, 0.12) * height
            line = edge + tilt * (np.arange(width) / width - 0.5)
            below = np.arange(height)[:, None] - line[None]
            shade = (0.65 + 0.5 * np.exp(-below / (0.03 * height)) - 0.35 * below / height).astype(np.float32)
            light[below > 0] = (shade[..., None] * color)[below > 0]
        elif self.occluder == "bush":
            top, side = rng.uniform(0.68, 0.88) * height, len(self.wrinkles)
            rows, columns = np.arange(height)[:, None] % side, (np.arange(width) + rng.integers(side)) % side
            leaves = self.wrinkles[rows, columns]
            below = np.arange(height)[:, None] - top - 0.07 * height * leaves > 0
            green = np.array([0.03, 0.075, 0.022], np.float32) * power
            light[below] = ((1.2 + 0.7 * np.roll(leaves, 5, 0))[..., None] * green)[below]
        else:
            top, gap = rng.uniform(0.5, 0.7) * height, 0.13 * height
            steel = np.array([0.3, 0.31, 0.33], np.float32) * power
            for bar in range(3):
                y = int(top + bar * gap)
                light[y : y + max(2, height // 64)] = steel * (1 - 0.15 * bar)
            post = int(rng.uniform(0, 1) * width)
            light[int(top) :, post : post + max(3, width // 24)] = 0.8 * steel
