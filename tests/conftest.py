"""What the tests of the stages share: a data set of flat-coloured crops that a network learns in seconds."""

import gc
import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import cv2
import numpy as np
import pytest
import torch

torch.set_num_threads(1)
os.fsync = lambda descriptor: None  # no test cuts the power, and each of many small files would wait for the disk
gc.disable()  # until all tests are imported, of which nothing becomes garbage
gc.set_threshold(10_000)


def pytest_collection_finish():
    """Leave what was imported out of each later search for garbage, which took a tenth of the suite's time."""
    gc.freeze()
    gc.enable()


def draw_market(root, identities=12, cameras=2, images=3, seed=0):
    """Market-1501 folders of crops whose colour tells the identity: half of the identities for training."""
    random = np.random.default_rng(seed)
    colors = random.integers(40, 216, (identities, 2, 3))
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
    for pid in range(1, identities + 1):
        for camera in range(1, cameras + 1):
            for number in range(1, images + 1):
                light = random.integers(-60, 61, 3)
                image = np.repeat(colors[pid - 1] + light, 16, axis=0)[:, None] + random.integers(-30, 31, (32, 16, 3))
                folder = (
                    "bounding_box_train" if pid <= identities // 2 else "query" if number == 1 else "bounding_box_test"
                )
                file = root / folder / f"{pid:04d}_c{camera}s1_{number:06d}_01.jpg"
                cv2.imwrite(str(file), image.clip(0, 255).astype(np.uint8))
    return root


@pytest.fixture(scope="session")
def market(tmp_path_factory):
    return draw_market(tmp_path_factory.mktemp("data") / "market")


@pytest.fixture(scope="session")
def small(market):
    """Overrides that make any stage take seconds on that data set."""
    return [
        "data=market1501",
        f"data.root={market}",
        "data.size=[32,16]",
        "data.batch_size=8",
        "data.num_instances=2",
        "data.num_workers=0",
        "data.val_fraction=0.34",
        "data.val_identities=2",
        "trainer.max_epochs=3",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "evaluate.resamples=50",
        "evaluate.pictured_queries=1",
        "logger=none",
    ]
