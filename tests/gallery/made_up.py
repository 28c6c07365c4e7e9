"""What the tests of galleries share: a model without a network, and people in its space."""

import os
import time
from types import SimpleNamespace

import cv2
import numpy as np

from reidlab.data import read_image
from reidlab.gallery import Gallery


def fake_model(checkpoint="a" * 16, distance="cosine", threshold=0.3):
    """What a gallery wants of a model that it gives no images to."""
    verdict = {} if threshold is None else {"threshold": threshold}
    return SimpleNamespace(name="fake", checkpoint=checkpoint, size=(8, 4), distance=distance, verdict=verdict)


def people(identities, images, dim=16, seed=0, spread=0.3):
    """Embeddings (identities * images, D) around a center for each identity, and their pids."""
    draw = np.random.default_rng(seed)
    centers = draw.standard_normal((identities, 1, dim))
    found = centers + spread * draw.standard_normal((identities, images, dim))
    return found.reshape(-1, dim).astype(np.float32), np.repeat([f"p{i}" for i in range(identities)], images).tolist()


def enroll_one_by_one(folder, name, count):
    """What a process does to a gallery that others change, too."""
    gallery = Gallery.open(folder, fake_model())
    for number in range(count):
        gallery.enroll_embeddings(np.eye(4)[number % 4][None], [f"{name}-{number}"])


class SlowColors:
    """A model without a network: mean colors of the quarters of an image; it writes down what it embeds.

    Args:
        log: a file that gets a line of process and number of images for each call.
        pause_s: of each image.
        checkpoint: its hash.
    """

    name, size, distance, verdict = "colors", (8, 4), "euclidean", {}

    def __init__(self, log=None, pause_s=0.0, checkpoint="c" * 16):
        self.log, self.pause_s, self.checkpoint = log, pause_s, checkpoint

    def __call__(self, images):
        pixels = [image if isinstance(image, np.ndarray) else read_image(image, self.size) for image in images]
        images = np.stack(pixels).astype(np.float32)
        if self.log:
            for _ in images:
                time.sleep(self.pause_s)
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {len(images)}\n")
        return images.reshape(len(images), 2, 4, 2, 2, 3).mean((2, 4)).reshape(len(images), -1)


def images_in(folder, count, size=(9, 7)):
    """A folder of PNGs of random pixels in the folders of three identities."""
    draw = np.random.default_rng(0)
    for number in range(count):
        file = folder / f"p{number % 3}" / f"{number:04d}_c{number % 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), draw.integers(0, 256, (*size, 3)).astype(np.uint8))
    return folder
