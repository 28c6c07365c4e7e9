import numpy as np
import pandas as pd
import pytest

from reidlab.data.labels import number_labels
from reidlab.data.samples import (
    Samples,
    apply_pid_rules,
    set_aside_validation,
    split_by_identity,
    split_query_gallery,
)
from reidlab.errors import InputError


def make_samples(rows, root="."):
    """Rows of (pid, camid, split), named by their position."""
    table = pd.DataFrame(rows, columns=["pid", "camid", "split"])
    return Samples(table.assign(path=[f"{row:04}.jpg" for row in range(len(rows))]), root)


def people(pids, cameras=2, images=3, split="train"):
    return [(pid, camera, split) for pid in pids for camera in range(1, cameras + 1) for _ in range(images)]


def test_table_has_its_columns_types_and_index():
    table = make_samples(people([5], 1, 2)).table.iloc[::-1].assign(extra=1.0)
    samples = Samples(table, ".")
    assert samples.table.columns.tolist() == ["path", "pid", "camid", "split"]
    assert samples.table.index.tolist() == [0, 1]
    assert (samples.table.dtypes[["pid", "camid"]] == np.int64).all()


def test_split_keeps_the_index_and_the_order_asked_for():
    samples = make_samples([(1, 1, "gallery"), (1, 2, "query"), (2, 1, "train"), (2, 2, "query")])
    assert samples.split("query", "gallery").index.tolist() == [1, 3, 0]


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (["0010", "2"], {"0010": 10, "2": 2}),
        (["bob", "ann", "bob"], {"ann": 1, "bob": 2}),
        (["7", "ann"], {"7": 1, "ann": 2}),
        (["1_11", "11_1", "2_5", "25"], {"11_1": 1, "1_11": 2, "25": 3, "2_5": 4}),
        (["01", "1"], {"01": 1, "1": 2}),
        (["+1", "1"], {"+1": 1, "1": 2}),
        (["-1", "1"], {"-1": 1, "1": 2}),
        (["1", "\u0661"], {"1": 1, "\u0661": 2}),
        (["\u00b2", "2"], {"2": 1, "\u00b2": 2}),
        (["1" * 20, "2"], {"1" * 20: 1, "2": 2}),
        (["1" * 15, "2"], {"1" * 15: 111111111111111, "2": 2}),
        (["1.0", "2.0"], {"1.0": 1, "2.0": 2}),
    ],
)
def test_labels_become_numbers(labels, numbers):
    assert number_labels(labels) == numbers


def test_market_rules_drop_junk_and_keep_distractors_in_the_gallery():
    rows = [(-1, 1, "gallery"), (0, 1, "gallery"), (0, 1, "query"), (0, 2, "train"), (-1, 2, "train"), (3, 1, "train")]
    ruled = apply_pid_rules(make_samples(rows), distractors=True)
    assert ruled.table[["pid", "split"]].to_numpy().tolist() == [[0, "gallery"], [3, "train"]]
    assert ruled.notes == [
        "gallery: 1 junk images (negative pid) dropped",
        "train: 1 junk images (negative pid) dropped",
        "query: 1 images of pid 0 (no identity) dropped",
        "train: 1 images of pid 0 (no identity) dropped",
        "gallery: 1 distractors (pid 0) kept",
    ]


def test_without_distractors_zero_is_an_identity():
    samples = make_samples([(0, 1, "train"), (1, 1, "gallery"), (-1, 1, "train")])
    samples.names = {0: "ann"}
    ruled = apply_pid_rules(samples, distractors=False)
    assert ruled.table["pid"].tolist() == [1, 2] and ruled.names == {1: "ann", 2: "1"}
    assert "raised by one" in ruled.notes[-1]
    assert apply_pid_rules(make_samples([(4, 1, "train")]), distractors=False).table["pid"].tolist() == [4]


def queries(rows):
    table = make_samples([(*row, "test") for row in rows]).table
    divided = split_query_gallery(table)
    return divided.index[divided["split"] == "query"].tolist()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1, 1)] * 3 + [(1, 2)] * 2, [0, 3]),  # one of each camera
        ([(1, 1), (1, 2), (1, 2)], [1]),  # a camera's only image stays in the gallery
        ([(1, 1), (1, 2), (1, 3)], [0]),  # one image a camera: still a query
        ([(1, 0)] * 3 + [(2, 0)] * 2, [0, 3]),  # no cameras
        ([(1, 0), (2, 0)], []),  # nothing to find
        ([(0, 1)] * 3 + [(2, 1)] * 2, [3]),  # distractors aren't sought
    ],
)
def test_queries_are_the_first_of_each_identity_and_camera(rows, expected):
    assert queries(rows) == expected


def test_first_means_by_path_not_by_row():
    table = make_samples([(1, 1, "test")] * 4).table
    pd.testing.assert_frame_equal(split_query_gallery(table.iloc[::-1]).sort_index(), split_query_gallery(table))


def test_validation_identities_are_taken_from_training_and_from_nowhere_else():
    samples = make_samples(people(range(1, 21)) + people([30, 31], split="gallery") + people([30], 1, 1, "query"))
    divided = set_aside_validation(samples, 0.25, seed=0).table
    pids = {split: set(rows["pid"]) for split, rows in divided.groupby("split")}
    assert pids["val_query"] == pids["val_gallery"] and len(pids["val_query"]) == 5
    assert len(pids["train"]) == 15 and not pids["train"] & pids["val_query"]
    assert pids["gallery"] == {30, 31}
    assert (divided["split"] == "val_query").sum() == 5 * 2
    assert divided["path"].tolist() == samples.table["path"].tolist()


def test_validation_depends_on_the_seed_and_not_on_the_order_of_rows():
    samples = make_samples(people(range(1, 31)))
    shuffled = Samples(samples.table.sample(frac=1, random_state=0), samples.root)

    def chosen(samples, seed):
        return set(set_aside_validation(samples, 0.2, seed).split("val_query")["path"])

    assert chosen(samples, 0) == chosen(shuffled, 0)
    assert chosen(samples, 0) != chosen(samples, 1)


def test_validation_of_the_data_set_itself_is_kept():
    samples = make_samples([*people([1, 2]), (3, 1, "val_query"), (3, 2, "val_gallery"), (4, 2, "val_gallery")])
    kept = set_aside_validation(samples, 0.5, seed=0)
    pd.testing.assert_frame_equal(kept.table, samples.table)
    assert "val_fraction=0.5 isn't used" in kept.notes[-1]


def test_no_validation_if_not_asked_for():
    samples = make_samples(people([1, 2]))
    assert set_aside_validation(samples, 0, seed=0) is samples


@pytest.mark.parametrize("fraction", [-0.1, 0.9, 1.0, 1.5])
def test_a_fraction_that_leaves_nobody_is_an_input_error(fraction):
    with pytest.raises(InputError, match=r"data\.val_fraction"):
        set_aside_validation(make_samples(people([1, 2, 3])), fraction, seed=0)


def test_split_by_identity_puts_nobody_on_both_sides():
    table = make_samples(people(range(1, 11), split="")).table
    divided = split_by_identity(table, 0.4, seed=0)
    train = set(divided.loc[divided["split"] == "train", "pid"])
    test = set(divided.loc[divided["split"] != "train", "pid"])
    assert len(test) == 4 and train | test == set(range(1, 11)) and not train & test
    assert set(divided["split"]) == {"train", "query", "gallery"}


def test_content_hash_follows_bytes_and_rows_but_not_their_order(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for row in range(4):
            (tmp_path / folder / f"{row:04}.jpg").write_bytes(bytes([row]))
    rows = people([1, 2], 1, 2)
    samples = make_samples(rows, tmp_path / "one")
    original = samples.content_hash()
    assert Samples(samples.table[::-1], tmp_path / "two").content_hash() == original
    assert Samples(samples.table.assign(camid=7), tmp_path / "one").content_hash() != original
    (tmp_path / "two" / "0003.jpg").write_bytes(b"x")
    assert Samples(samples.table, tmp_path / "two").content_hash() != original
    (tmp_path / "two" / "0003.jpg").unlink()
    with pytest.raises(InputError, match=r"0003\.jpg"):
        Samples(samples.table, tmp_path / "two").content_hash()
