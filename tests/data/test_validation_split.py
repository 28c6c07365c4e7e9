"""The side that chooses the best epoch: who is on it, and when there is none."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.data import ReidDataModule, Samples, set_aside_validation
from reidlab.data.samples import uncertainty, with_match
from reidlab.data.validate import unmatched
from reidlab.errors import InputError
from reidlab.evaluation import VALIDATION, Outputs, RetrievalProtocol
from reidlab.metrics import rank
from reidlab.training.metrics import ReidMetric


def samples_of(rows):
    """Of rows (pid, camid, split)."""
    table = pd.DataFrame(rows, columns=["pid", "camid", "split"])
    return Samples(table.assign(path=[f"{row:04}.jpg" for row in range(len(rows))]), Path())


def images(pids, cameras=(0,), count=3, split="train"):
    return [(pid, camera, split) for pid in pids for camera in cameras for _ in range(count)]


def module_of(rows, **options):
    samples = samples_of(rows)
    return ReidDataModule(lambda: samples, (24, 12), (0.5,) * 3, (0.5,) * 3, num_workers=0, **options)


@pytest.mark.parametrize(
    ("people", "shots", "fraction", "least", "digest"),
    [
        (100, 6, 0.12, 10, "0637d79418f77288caf49a2806c81acd3638bff2d5e4e660c697c385394dfef7"),
        (26, 3, 0.15, 4, "9185f9e1df63f36ae197a23fe8db64d1ab0b121ff60267a6366291bc20cc0c15"),
    ],
    ids=["demo", "smoke"],
)
def test_the_split_of_demo_and_smoke_is_the_one_of_their_kept_figures(people, shots, fraction, least, digest):
    rows = [
        (f"bounding_box_train/{pid:04d}_c{camera}s1_{pid * shots + shot:06d}_01.jpg", pid, camera, "train")
        for pid in range(1, people + 1)
        for camera in range(1, 5)
        for shot in range(shots)
    ]
    table = pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]).sort_values("path")
    divided = set_aside_validation(Samples(table, Path()), fraction, 0, least).table
    text = "\n".join("\t".join(map(str, row)) for row in divided.itertuples(index=False))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def brute_force(queries, gallery, exclude):
    """Which queries have another image of theirs in the gallery, by looking at every pair."""
    return [
        any(
            one.Index != other.Index and one.pid == other.pid
            and not (exclude and one.camid != 0 and one.camid == other.camid)
            for other in gallery.itertuples()
        )
        and one.pid > 0
        for one in queries.itertuples()
    ]  # fmt: skip


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_match_is_another_image_under_the_rule(exclude, overlap):
    draw = np.random.default_rng(0)
    rows = [(int(draw.integers(0, 12)), int(draw.integers(0, 3)), "val") for _ in range(40)]
    table = samples_of(rows).table
    queries, gallery = (table, table) if overlap else (table[:15], table[15:])
    assert with_match(queries, gallery, exclude).tolist() == brute_force(queries, gallery, exclude)
    assert not with_match(queries, gallery[:0], exclude).any() and len(with_match(queries[:0], gallery, exclude)) == 0


def test_without_cameras_every_image_is_a_query():
    rows = images(range(1, 61), count=5)
    divided = set_aside_validation(samples_of(rows), 0.2, 0, least=10).table
    assert set(divided["split"]) == {"train", "val"}
    assert (divided["split"] == "val").sum() == 12 * 5 and divided.loc[divided["split"] == "val", "pid"].nunique() == 12


def test_a_small_fraction_is_raised_as_long_as_a_quarter_allows():
    found = {}
    for people in (20, 28, 39, 40, 100):
        divided = set_aside_validation(samples_of(images(range(1, people + 1))), 0.1, 0, least=10)
        found[people] = divided.table.loc[divided.table["split"] == "val", "pid"].nunique()
        assert divided.notes[-1].startswith("no validation: data.val_fraction=0.1 of") == (found[people] == 0)
    assert found == {20: 0, 28: 0, 39: 0, 40: 10, 100: 10}
    asked = set_aside_validation(samples_of(images(range(1, 21))), 0.5, 0, least=10)
    assert (asked.table["split"] == "val").sum() == 30, "a fraction that is asked for is no matter of a quarter"


def test_the_note_tells_how_uncertain_the_figure_is():
    notes = set_aside_validation(samples_of(images(range(1, 101))), 0.1, 0, least=10).notes
    assert notes == ["validation: 10 of 100 training identities, 30 queries; val/mAP is uncertain by about ±0.11"]
    draws = np.random.default_rng(0).normal(0.7, 0.17, (4000, 10)).mean(1)  # a training's mAP over ten identities
    low, high = np.percentile(draws, [2.5, 97.5])
    assert uncertainty(10) == pytest.approx((high - low) / 2, rel=0.05)


@pytest.mark.parametrize(("fraction", "seed"), [(0.1, 0), (0.3, 3)])
def test_only_who_can_be_queried_is_set_aside(fraction, seed):
    one_image = [(pid, 0, "train") for pid in range(1, 31)]
    one_camera = images(range(31, 61), cameras=(2,))
    fine = images(range(61, 101), cameras=(1, 2))
    divided = set_aside_validation(samples_of(one_image + one_camera + fine), fraction, seed, least=10).table
    chosen = set(divided.loc[divided["split"] != "train", "pid"])
    assert len(chosen) == round(fraction * 100) and min(chosen) > 60
    queries = divided[divided["split"] == "val_query"]
    assert brute_force(queries, divided[divided["split"] == "val_gallery"], True) == [True] * len(queries)


@pytest.mark.parametrize(
    ("rows", "exclude"),
    [
        (images(range(1, 101), cameras=(1,)), True),  # one camera
        (images(range(1, 101), count=1), False),  # one image each
        (images(range(1, 101), count=1), True),
        (images(range(1, 7), cameras=(1, 2)), True),  # few people
        (images([1], cameras=(1, 2)), True),
    ],
)
def test_where_nobody_can_be_spared_nothing_is_validated(rows, exclude):
    divided = set_aside_validation(samples_of(rows), 0.1, 0, 10, exclude)
    assert set(divided.table["split"]) == {"train"}
    note = divided.notes[-1]
    assert note.startswith("no validation: ") and note.endswith("; the last epoch is the result")
    camera = rows == images(range(1, 101), cameras=(1,))
    assert ("data.exclude_same_camera=true" in note) >= camera


@pytest.mark.parametrize("side", ["val_query", "val_gallery", "val"])
def test_one_side_of_a_validation_of_its_own_is_divided(side):
    rows = images([1, 2]) + images([3, 4], split=side)
    assert set(set_aside_validation(samples_of(rows), 0.5, 0, 10).table["split"]) == {"train", "val"}
    rows = images([1, 2], (1, 2)) + images([3, 4], (1, 2), split=side)
    assert set(set_aside_validation(samples_of(rows), 0.5, 0, 10).table["split"]) == {
        "train",
        "val_query",
        "val_gallery",
    }


def test_a_validation_of_its_own_without_a_match_is_left_out():
    rows = [*images([1, 2], (1, 2)), (3, 1, "val_query"), (3, 1, "val_gallery"), (4, 1, "val_gallery")]
    left = set_aside_validation(samples_of(rows), 0.1, 0, 10)
    assert set(left.table["split"]) == {"train"} and "data.exclude_same_camera=true" in left.notes[-1]
    assert "val_query" in set(set_aside_validation(samples_of(rows), 0.1, 0, 10, False).table["split"])


def average_precision(values, pids, camids, exclude):
    """Of each image among all others, by sorting them."""
    found = []
    for one, (value, pid, camid) in enumerate(zip(values, pids, camids, strict=True)):
        rest = [
            (float(np.linalg.norm(value - values[other])), pids[other] == pid)
            for other in range(len(values))
            if other != one and not (exclude and pids[other] == pid and camid != 0 and camids[other] == camid)
        ]
        hits = [match for _, match in sorted(rest)]
        ranks = [place for place, match in enumerate(hits, start=1) if match]
        if ranks:
            found.append(np.mean([number / place for number, place in enumerate(ranks, start=1)]))
    return np.mean(found)


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("cameras", [1, 3])
def test_each_image_is_ranked_among_all_others_but_itself(exclude, cameras):
    draw = np.random.default_rng(1)
    pids, camids = draw.integers(1, 6, 30), draw.integers(0, cameras, 30)
    values = draw.normal(size=(30, 4)).astype(np.float32)
    expected = average_precision(values, pids.tolist(), camids.tolist(), exclude)
    metric = ReidMetric(exclude_same_camera=exclude)
    for start in (0, 10, 20):
        rows = slice(start, start + 12 if start < 20 else 30)  # some come twice, as from a distributed sampler
        index = np.arange(30)[rows]
        metric.update(torch.tensor(values[rows]), pids[rows], camids[rows], np.ones(len(index)), index)
    assert metric.compute()["mAP"] == pytest.approx(expected)
    table = pd.DataFrame({"path": [f"{n}.jpg" for n in range(30)], "pid": pids, "camid": camids, "split": "val"})
    table.index += 100
    found = RetrievalProtocol("euclidean", exclude).evaluate(Outputs(torch.tensor(values), table), VALIDATION)
    assert found.summary()["mAP"] == pytest.approx(expected)
    nearest = found.nearest([0, 1], 30)
    assert not (nearest.index == torch.tensor([[0], [1]])).any(), "an image isn't compared with itself"
    verified = found.verify(0.1, resamples=0, seed=0)
    pairs = sum(
        one != other and pids[one] == pids[other] and not (exclude and 0 != camids[one] == camids[other])
        for one in range(30)
        for other in range(30)
    )
    assert verified.positives[-1] == pairs
    two = {frozenset((one, other)) for one in pids for other in pids if one != other}
    assert verified.num_identity_pairs == len(two)


def test_the_data_module_validates_and_calibrates_on_it():
    module = module_of(images(range(1, 41), count=4) + images([50], split="query") + images([50, 51], split="gallery"),
                       val_identities=10, exclude_same_camera=False)  # fmt: skip
    assert set(module.validation["split"]) == {"val"} and len(module.validation) == 40
    loader = module.val_dataloader()
    assert loader.dataset.columns["is_query"].all() and len(module.classes) == 30
    part = module.subset(module.validation, 10)
    assert len(part) == 8 and part["pid"].nunique() == 2
    assert module.notes[-1].startswith("validation: 10 of 40")


def test_a_test_split_that_cannot_be_ranked_is_noted_with_the_key():
    rows = images(range(1, 41), (1,)) + images([50], (1,), split="query") + images([50, 51], (1,), split="gallery")
    note = module_of(rows).notes[-1]
    assert note.startswith("the test split can't be ranked: ") and "set data.exclude_same_camera=false" in note
    assert not any("ranked" in note for note in module_of(rows, exclude_same_camera=False).notes)
    assert "no images in the split query" in module_of(images([1, 2]) + images([3], split="gallery")).notes[-1]
    assert "no identity is in both" in unmatched(
        samples_of([(1, 1, "query"), (1, 2, "query"), (2, 1, "gallery")]).table, exclude_same_camera=True
    )


@pytest.mark.parametrize(("queries", "gallery", "side"), [(0, 3, "query"), (3, 0, "gallery"), (0, 0, "query")])
def test_an_empty_side_is_an_input_error(queries, gallery, side):
    with pytest.raises(InputError, match=f"the {side} side has no images"):
        rank(torch.ones(queries, 2), torch.ones(gallery, 2), [1] * queries, [1] * gallery)


def test_a_validation_gallery_of_one_identity_chooses_nothing():
    rows = [*images((1, 2, 3)), *images((4,), count=1, split="val_query"), *images((4,), split="val_gallery")]
    divided = set_aside_validation(samples_of(rows), 0.1, 0, 1, exclude_same_camera=False)
    assert set(divided.table["split"]) == {"train"}
    assert divided.notes[-1].startswith("no validation: the data set's own validation gallery holds one identity only")
