"""A camera's sensor and electronics: colors, contrast, blur and noise."""

import cv2
import numpy as np
from numpy.random import Generator

from reidlab.data.synthetic.render import Array


class Sensor:
    """One camera's color processing; no two cameras agree on it, which is what color baselines stumble over.

    `cast` (3,) is white balance and exposure, `hue` a turn in radians, `quality` that of its JPEG encoder.
    """

    def __init__(self, rng: Generator):
        balance = rng.normal(0, 0.1, 3)
        self.cast = np.exp(balance - balance.mean() + rng.normal(0, 0.12))
        self.gamma = rng.uniform(0.9, 1.12)
        self.saturation = rng.uniform(0.75, 1.15)
        self.hue = rng.normal(0, 0.07)
        self.haze = rng.uniform(0, 0.03)
        self.blur = rng.uniform(0.2, 0.75)
        self.noise = rng.uniform(0.006, 0.022)
        self.quality = int(rng.integers(62, 90))

    def develop(self, light: Array, tint: Array, rng: Generator) -> Array:
        """Light (H, W, 3) to 8-bit pixels: white balance, hue, saturation, exposure, curve, blur, noise."""
        light = light * (self.cast * tint * np.exp(rng.normal(0, 0.03, 3))).astype(np.float32)
        gray = light.mean(-1, keepdims=True)
        light = gray + self.saturation * (light - gray)
        c, s, third = np.cos(self.hue), np.sin(self.hue), 1 / 3
        cross = np.sqrt(third) * s * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
        turn = c * np.eye(3) + (1 - c) * third + cross
        light = light @ turn.T.astype(np.float32)
        light = light * np.float32(np.exp(rng.normal(0, 0.08)))
        image = np.power(np.clip(light, 0, None), np.float32(self.gamma / 2.2))
        image = image * (1 - self.haze) + self.haze
        image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)
        image = cv2.GaussianBlur(image, (0, 0), self.blur * rng.uniform(0.7, 1.5) * image.shape[0] / 128)
        if rng.random() < 0.15:
            length = int(rng.integers(3, 6))
            image = cv2.blur(image, (length, 1))
        image = image + rng.normal(0, self.noise, image.shape) * np.array([1.1, 0.8, 1.2])
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
