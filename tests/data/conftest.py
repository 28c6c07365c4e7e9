from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PKU_REID = Path(__file__).parents[3] / "shared/data/pku_reid"


@pytest.fixture
def write_image():
    """Writes an image of random pixels, different at every call, and its folders."""
    rng = np.random.default_rng(0)

    def write(file, size=(64, 32), **options):
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, **options)
        return file

    return write


@pytest.fixture
def pku_reid():
    if not PKU_REID.is_dir():
        pytest.skip(f"no PKU-Reid crops at {PKU_REID}")
    return PKU_REID
