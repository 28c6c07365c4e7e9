"""Pictures of retrieval and their tables, on embeddings made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.evaluation import insight
from reidlab.evaluation.outputs import Outputs
from reidlab.evaluation.retrieval import Retrieval
from reidlab.models import osnet_x0_25


class Data:
    """The part of a data module that pictures need."""

    def read(self, path):
        return np.full((32, 16, 3), 128, np.uint8)

    def loader(self, table):
        yield {"image": torch.zeros(len(table), 3, 32, 16)}

    def preprocess(self, batch):
        return batch


def side(split, rows):
    """Embeddings of (pid, camid, x, y)."""
    table = pd.DataFrame([(f"{split}/{n}.png", p, c, split) for n, (p, c, *_) in enumerate(rows)],
                         columns=["path", "pid", "camid", "split"])  # fmt: skip
    return Outputs(torch.tensor([row[2:] for row in rows], dtype=torch.float32), table)


def retrieved(query, gallery, network=None):
    return insight.Retrieved(
        network, Data(), Retrieval(side("query", query), side("gallery", gallery), "euclidean", True)
    )


GALLERY = [(1, 2, 4, 0), (1, 1, 0, 0), (2, 2, 1, 0), (3, 2, 0, 9)]


def test_confusions_name_the_other_identity_and_the_nearest_match_of_another_camera():
    drawn = insight.confusions(retrieved([(1, 1, 0, 0), (3, 1, 0, 9)], GALLERY))
    row = drawn.table.iloc[0]
    assert len(drawn.table) == 1
    assert (row["pid"], row["mistaken_for"], row["found"], row["match"]) == (1, 2, "gallery/2.png", "gallery/0.png")
    assert (row["distance"], row["match_distance"], row["gap"]) == (1, 4, 3)
    assert len(drawn.figure.axes[0].images) == 3


def test_confusions_keep_the_furthest_miss_of_two_identities_and_the_worst_first():
    query = [(1, 1, 1, 0), (1, 1, 0.5, 0), (3, 1, 4, 0.5)]
    drawn = insight.confusions(retrieved(query, GALLERY))
    assert drawn.table[["pid", "mistaken_for", "query"]].to_numpy().tolist() == [
        [3, 1, "query/2.png"],
        [1, 2, "query/0.png"],
    ]
    assert drawn.table["gap"].is_monotonic_decreasing


def test_a_faultless_run_has_no_confusions():
    drawn = insight.confusions(retrieved([(3, 1, 0, 9)], GALLERY))
    assert drawn.table.empty and "no images" in drawn.figure.texts[0].get_text()


def test_a_threshold_of_some_identities_is_measured_on_the_others():
    rng = np.random.default_rng(3)
    rows = [(pid, camid, *rng.normal(pid, 1.5, 2)) for pid in range(1, 13) for camid in (1, 2) for _ in range(3)]
    query, gallery = rows[::2], rows[1::2]
    drawn = insight.threshold_spread(retrieved(query, gallery), 0.1, counts=(4, 7), repeats=1, seed=5)
    assert drawn.table.index.tolist() == [4]  # 7 are more than half
    pids = np.random.default_rng(5).permutation(np.arange(1, 13))

    def distances(of, same):
        pairs = [(a, b) for a in query for b in gallery if {a[0], b[0]} <= {*of} and (a[0], a[1]) != (b[0], b[1])]
        return np.sort([np.hypot(a[2] - b[2], a[3] - b[3]) for a, b in pairs if (a[0] == b[0]) == same])

    impostors = distances(pids[:4], False)
    row, first_too_many = drawn.table.loc[4], impostors[int(0.1 * len(impostors))]
    assert impostors[int(0.1 * len(impostors)) - 1] <= row["threshold"] < first_too_many
    assert row["FPR"] == pytest.approx((distances(pids[4:], False) <= row["threshold"]).mean(), abs=1e-3)
    assert row["TPR"] == pytest.approx((distances(pids[4:], True) <= row["threshold"]).mean(), abs=1e-3)
    assert row["FPR low"] == row["FPR"] == row["FPR high"]


def test_too_few_identities_for_a_spread_are_said():
    drawn = insight.threshold_spread(retrieved([(1, 1, 0, 0)], GALLERY), 0.1)
    assert drawn.table.empty and "too few identities" in drawn.figure.texts[0].get_text()


def test_camera_pairs_rank_one_camera_in_another():
    rng = np.random.default_rng(0)
    rows = [(pid, camid, *rng.normal(pid, 1.5, 2)) for pid in range(1, 7) for camid in (1, 2, 3) for _ in range(2)]
    drawn = insight.camera_pairs(retrieved(rows[::2], rows[1::2]))
    for a in (1, 2, 3):
        for b in (1, 2, 3):
            precisions = []
            for pid, camid, x, y in rows[::2]:
                others = sorted(((x - u) ** 2 + (y - v) ** 2, p == pid) for p, c, u, v in rows[1::2] if c == b)
                hits = [n for n, (_, match) in enumerate(others, 1) if match]
                if camid == a != b:
                    precisions.append(np.mean([(n + 1) / place for n, place in enumerate(hits)]))
            expected = np.mean(precisions) if precisions else np.nan
            assert drawn.table.loc[a, b] == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_map_shows_the_identities_with_most_images_and_is_reproducible():
    rng = np.random.default_rng(0)
    rows = [(pid, n % 2 + 1, *rng.normal(9 * pid, 1, 2)) for pid in range(1, 5) for n in range(6 if pid < 4 else 2)]
    found = retrieved(rows[::3], [*rows[1::3], *rows[2::3], (0, 1, 0, 0), (-1, 1, 0, 0)])
    first, second = (insight.embedding_map(found, num_identities=3, max_images=5) for _ in range(2))
    assert first.table.groupby("pid").size().to_dict() == {1: 5, 2: 5, 3: 5}
    pd.testing.assert_frame_equal(first.table, second.table)


def test_attention_is_the_norm_of_the_feature_maps():
    network = osnet_x0_25(num_classes=0).eval()
    drawn = insight.attention(retrieved([(1, 1, 0, 0), (3, 1, 0, 9)], GALLERY, network), [1, 0])
    assert drawn.table["path"].tolist() == ["query/1.png", "query/0.png"]
    assert len(drawn.figure.axes[0].images) == 4


def test_the_largest_drops_are_drawn_before_and_after():
    query = [(1, 1, 0, 0), (2, 1, 1, 0)]
    before = retrieved(query, GALLERY)
    after = retrieved([(1, 1, 0, 0), (2, 1, 9, 9)], GALLERY).found
    assert insight.precision_drops(before.found, before.found).tolist() == [0, 0]
    drawn = insight.largest_drops(before, after, "int8.tflite", count=1)
    row = drawn.table.iloc[0]
    assert row["pid"] == 2 and row["drop"] == row["AP_float"] - row["AP_file"] > 0
    titles = [text.get_text() for text in drawn.figure.axes[0].texts]
    assert any(t.startswith("float: pid 2") for t in titles) and any(t.startswith("int8.tflite: pid 2") for t in titles)
