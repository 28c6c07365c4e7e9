"""What the tests of the stages share: a data set of flat-coloured crops that a network learns in seconds."""

import gc
import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's, which spin while the other worker computes

import cv2
import numpy as np
import pytest
import torch

sys.modules["rfc3987_syntax"] = None  # a second to import, and no schema here asks whether a text is an IRI
if "PYTEST_XDIST_WORKER" in os.environ and importlib.util.find_spec("wandb"):
    import wandb  # noqa: F401  while few modules are loaded: its settings search them all, ten seconds of it later on

torch.set_num_threads(1)
os.fsync = lambda descriptor: None  # no test cuts the power, and each of many small files would wait for the disk
connect = sqlite3.connect
gc.disable()  # until all tests are imported, of which nothing becomes garbage
gc.set_threshold(50_000)


def connect_without_sync(*args, **options):
    """A connection to SQLite that doesn't wait for the disk either: a gallery in Qdrant's files has one a change."""
    connection = connect(*args, **options)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


sqlite3.connect = connect_without_sync


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


@pytest.fixture(scope="session")
def warm():
    """What stands for `python` before `-c` and `-m` and has torch and other packages imported: see `warm.py`."""
    if sys.platform != "linux":  # elsewhere a process that has imported them may not be forked
        yield [sys.executable]
        return
    alone = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket is short
        file, place = Path(__file__).with_name("warm.py"), Path(folder, "socket")
        server = subprocess.Popen([sys.executable, file, place], env=os.environ | alone)
        while not place.exists():
            assert server.poll() is None
            time.sleep(0.05)
        yield [sys.executable, "-S", str(file), str(place)]
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def warm_kernels(warm, tmp_path_factory):
    """The JUPYTER_PATH by which a notebook's kernel is such a process."""
    place = tmp_path_factory.mktemp("jupyter")
    kernel = place / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [*warm, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    return place
