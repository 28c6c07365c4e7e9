"""How an exported form's embeddings are compared with those of the checkpoint."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.evaluation import TEST, VALIDATION, Outputs, RetrievalProtocol


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
