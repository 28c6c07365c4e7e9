"""The places that the cameras watch: a street, a hall, a park and a yard."""

import cv2
import numpy as np
from numpy.random import Generator

from reidlab.data.synthetic.backdrop import Backdrop, sample
from reidlab.data.synthetic.render import Array, View


def street(view: View, rng: Generator) -> Array:
    """A pavement, a road with parked cars, and a brick front with windows and a shop sign."""
    scene = Backdrop(view, 15.0, rng)
    xs, zs = scene.ground
    scene.lay("slabs")
    scene.lay("asphalt", (zs > 9.5) & (zs < 13.5))
    scene.floor[(zs > 9.35) & (zs < 9.5)] = (0.66, 0.65, 0.62)
    scene.floor[(np.abs(zs - 11.6) < 0.07) & ((xs % 3) < 1.6)] = (0.82, 0.82, 0.78)
    scene.build("brick")
    for left in np.arange(-11, 11, 3.1):
        scene.opening(left + 0.5, 0.9, 1.7, 1.6)
    scene.board(-4.2, 0, 1.1, 2.2, 14.97, scene.bright())
    scene.board(2.2, 2.75, 5.5, 0.7, 14.97, scene.bright())
    for letter in range(9):
        scene.board(2.7 + 0.5 * letter, 2.9, 0.3 * rng.uniform(0.4, 1), 0.4, 14.96, (0.9, 0.88, 0.8))
    for x in (-5.2, 0.4 + rng.uniform(-0.5, 0.5), 5.6):
        scene.car(x, 12.8)
    for x in (-4.0, 4.2):
        scene.pole(x, 9.2, 0.06, 5, (0.3, 0.32, 0.34))
    return scene.light()


def hall(view: View, rng: Generator) -> Array:
    """A shiny tiled floor, columns, and panels with posters."""
    scene = Backdrop(view, 16.0, rng)
    scene.lay("tiles")
    scene.floor[np.abs(scene.ground[0] - 1.4) < 0.16] = (0.30, 0.33, 0.36)
    scene.build("panels")
    for left in np.arange(-9, 9, 2.7):
        tint = scene.bright()
        scene.board(left - 0.06, 0.84, 1.32, 1.72, 15.98, (0.2, 0.21, 0.22))
        scene.board(left, 0.9, 1.2, 1.6, 15.98, tint)
        scene.board(left + 0.15, 1.1, rng.uniform(0.4, 0.9), 0.35, 15.98, 1 - tint)
        scene.board(left + 0.2, 1.75, 0.8, 0.5, 15.98, scene.bright())
    for x in (-5.5, 5.0):
        scene.pole(x, 12, 0.35, 6, (0.6, 0.6, 0.58))
    rows = min(len(scene.front), len(scene.floor))
    reflection = cv2.GaussianBlur(scene.front[::-1][:rows], (0, 0), 4)
    fade = np.linspace(0.4, 0, rows, dtype=np.float32)[:, None, None]
    scene.floor[:rows] += fade * (reflection - scene.floor[:rows])
    return scene.light()


def park(view: View, rng: Generator) -> Array:
    """A gravel path between lawns, with trees, a bench, a lamp, and a hedge under the sky."""
    scene = Backdrop(view, 22.0, rng)
    xs, zs = scene.ground
    scene.lay("gravel")
    scene.lay("grass", np.abs(xs - 0.05 * zs) > 2.6 + 0.3 * sample(scene.texture, xs, zs, 5.0))
    scene.build("hedge")
    xs, ys = scene.wall
    scene.front[ys > 2.6 + 0.8 * sample(scene.texture, xs, 0 * ys, 7.0)] = (0.74, 0.81, 0.88)
    for x, z in ((-6.5, 19), (5.5, 20), (-3.4, 15), (7.5, 14)):
        scene.tree(x + rng.uniform(-0.4, 0.4), z, rng.uniform(2.6, 3.4))
    scene.shade(3.6, 12.5, 0.9, 0.4)
    for height in (0.42, 0.65, 0.82):
        scene.board(2.8, height, 1.7, 0.1, 12.5, (0.46, 0.3, 0.18))
    for x in (2.95, 4.3):
        scene.board(x, 0, 0.07, 0.92, 12.5, (0.18, 0.18, 0.18))
    scene.pole(-3.1, 11.5, 0.05, 4, (0.16, 0.22, 0.18))
    return scene.light()


def yard(view: View, rng: Generator) -> Array:
    """Marked concrete behind a railing, a plastered wall with a shutter and a door, and bins."""
    scene = Backdrop(view, 14.0, rng)
    xs, zs = scene.ground
    scene.lay("concrete")
    scene.floor[(np.abs((xs + zs) % 4 - 0.1) < 0.06) & (zs > 5)] = (0.78, 0.68, 0.22)
    scene.build("plaster")
    scene.front[scene.wall[1] < 1.0] *= (0.62, 0.66, 0.72)
    scene.board(-5.5, 0, 3.4, 2.9, 13.98, (0.36, 0.4, 0.44))
    for line in np.arange(0.2, 2.9, 0.22):
        scene.board(-5.5, line, 3.4, 0.035, 13.98, (0.27, 0.3, 0.34))
    scene.board(1.2, 0, 1.0, 2.1, 13.98, (0.42, 0.2, 0.16))
    scene.opening(3.4, 1.2, 1.6, 1.1)
    for x in (-1.1, -0.2, 6.2):
        tint = 0.8 * scene.bright()
        scene.shade(x, 13.2, 0.5, 0.4)
        scene.board(x - 0.33, 0, 0.66, 0.95, 13.2, tint)
        scene.board(x - 0.37, 0.95, 0.74, 0.1, 13.2, 0.6 * tint)
    for post in np.arange(-8, 9, 1.4):
        scene.board(post, 0, 0.05, 1.0, 11.8, (0.5, 0.52, 0.55))
    for height in (0.5, 0.95):
        scene.board(-8, height, 16, 0.05, 11.8, (0.5, 0.52, 0.55))
    return scene.light()


PLACES = (street, hall, park, yard)
