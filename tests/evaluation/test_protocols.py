"""How an exported form's embeddings are compared with those of the checkpoint."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.data import Samples, set_aside_validation
from reidlab.data.samples import VALIDATION_SPLITS, spare_identities
from reidlab.evaluation import TEST, VALIDATION, Outputs, RetrievalProtocol
from reidlab.evaluation.threshold import Threshold


def outputs(values, pids, splits):
    """Embeddings (N, D) of images by one camera."""
    table = pd.DataFrame({"path": [f"{row}.jpg" for row in range(len(pids))], "pid": pids, "camid": 0, "split": splits})
    return Outputs(torch.tensor(values, dtype=torch.float32), table)


@pytest.mark.parametrize("apart", [True, False])
def test_centered_is_the_cosine_without_each_sides_gallery_mean(apart):
    """Validation without cameras is one split, each image of which is on both sides."""
    random = np.random.default_rng(0)
    before = random.normal(size=(12, 4)) + 50
    after = before + random.normal(size=(12, 4))
    splits = ["query", "gallery"] * 6 if apart else ["val"] * 12
    pids = np.repeat([1, 2, 3], 4)
    gallery = np.array(splits) != "query"
    a, b = (side - side[gallery].mean(0) for side in (after, before))
    expected = ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    given = outputs(after, pids, splits), outputs(before, pids, splits)
    found = RetrievalProtocol(exclude_same_camera=False).compare(*given, TEST if apart else VALIDATION)
    assert found["centered"] == pytest.approx(expected, abs=1e-4) and found["cosine"] > 0.999


def test_images_of_one_identity_have_neither_threshold_nor_interval(capsys):
    values = np.random.default_rng(1).normal(size=(6, 4))
    one = outputs(values, [7] * 6, ["query", "gallery"] * 3)
    found = RetrievalProtocol(exclude_same_camera=False).compare(one, one)
    assert found["mAP"] == 1 and found["drop"] == 0
    assert all(math.isnan(found[name]) for name in ("drop_low", "drop_high", "threshold", "fpr_of_threshold"))
    assert "no threshold is compared" in capsys.readouterr().out


@pytest.mark.parametrize("identities", [20, 60, 184, 400])
@pytest.mark.parametrize("cameras", [1, 2])
def test_identities_are_advised_where_they_can_be_set_aside(identities, cameras, tmp_path):
    """The advice, taken, gives so many; where none is given, it would have given none."""
    pids = np.repeat(np.arange(1, identities + 1), 4)
    camids = np.tile(np.arange(4) % cameras, identities)
    table = pd.DataFrame({"path": [f"{n}.png" for n in range(len(pids))], "pid": pids, "camid": camids})
    source, by_camera = Samples(table.assign(split="train"), tmp_path), cameras > 1
    samples = set_aside_validation(source, 0.1, 0, exclude_same_camera=by_camera)
    random = np.random.default_rng(0).normal(size=(24, 4))
    found = RetrievalProtocol(exclude_same_camera=False).evaluate(
        outputs(random, [*range(6)] * 4, ["val"] * 24), VALIDATION
    )
    verification = found.verify(1e-3, 0, 0)
    (line, *_) = Threshold("cosine", verification, "validation", verification).warnings(
        by_camera, spare_identities(samples, by_camera)
    )
    wanted = 46 if not by_camera else 33  # 46 * 45 / 2 pairs are the fewest of 1,000 and more, and 33 * 32 in order
    aside = set_aside_validation(source, 0.1, 0, wanted, by_camera).split(*VALIDATION_SPLITS)["pid"].nunique()
    assert (f"; choose a higher one, or set {wanted} identities aside (data.val_identities={wanted})" in line) == (
        aside >= wanted
    )
    assert line.endswith("choose a higher one") or aside


def test_a_validation_split_of_its_own_is_not_enlarged(tmp_path):
    table = pd.DataFrame(
        {"path": [f"{n}.png" for n in range(800)], "pid": np.repeat(np.arange(200), 4) + 1, "camid": 0}
    )
    source = Samples(table.assign(split=["val"] * 40 + ["train"] * 760), tmp_path)
    assert spare_identities(set_aside_validation(source, 0.1, 0, 50), True) == 0
