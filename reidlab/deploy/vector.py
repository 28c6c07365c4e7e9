"""The test vector of a bundle: one image at the model's size, and the output that is expected of it."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from reidlab.data import ImageDataModule
from reidlab.errors import InputError

IMAGE, EXPECTED = "test_vector/image.png", "test_vector/expected.json"


def vector_files(image: np.ndarray, outputs: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a test vector by name.

    Args:
        image: (H, W, 3) uint8 RGB.
        outputs: the embedding or scores of it (D,), by the form of the network that gives them.
        about: what else the script that compares has to know.
    """
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    expected = {form: [float(f"{value:.7g}") for value in output.tolist()] for form, output in outputs.items()}
    return {IMAGE: content.getvalue(), EXPECTED: json.dumps({**about, "expected": expected}).encode()}


def test_images(datamodule: ImageDataModule, count: int) -> np.ndarray:
    """The first test images at the model's size, (N, H, W, 3) uint8 RGB; InputError where there is none."""
    if datamodule.test.empty:
        raise InputError(
            f"{datamodule.samples.root}: holds no test image, and this target's files come with one; give data with a "
            "test split (data.test_fraction, data.source.*)"
        )
    return np.stack([datamodule.read(path) for path in datamodule.test["path"].head(count)])
