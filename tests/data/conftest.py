from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reidlab.data import ReidDataModule, Samples

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


@pytest.fixture
def people(tmp_path, write_image):
    """Ten training identities (pids 10, 20, ... 100) and two to test, four images each."""
    rows = []
    for pid in [*range(10, 110, 10), 7, 8]:
        for image in range(4):
            split = "train" if pid > 8 else ("query" if image == 0 else "gallery")
            rows.append((f"{pid}_{image}.png", pid, image % 2 + 1, split))
            write_image(tmp_path / rows[-1][0], size=(20, 10))
    return Samples(pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]), tmp_path)


@pytest.fixture
def make(people):
    def build(**options):
        defaults = {"batch_size": 8, "num_instances": 2, "val_fraction": 0.2, "num_workers": 0, "eval_batch_size": 3}
        return ReidDataModule(lambda: people, (24, 12), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), **(defaults | options))

    return build


@pytest.fixture
def flowers(tmp_path, write_image):
    """Twenty images of each of three classes, in folders named by them."""
    for label in ("rose", "class10", "class2"):
        for number in range(20):
            write_image(tmp_path / label / f"{number}.png", size=(40, 36))
    return tmp_path
