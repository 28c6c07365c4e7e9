"""What another network's training holds of the samples that a network is chosen or reported on."""

import pandas as pd
import pytest

from reidlab.data.overlap import seen_in_training
from reidlab.data.samples import Samples


def samples(root, rows):
    """Samples of (path, pid, split, bytes), written to a folder."""
    root.mkdir(exist_ok=True)
    for path, _, _, content in rows:
        (root / path).write_bytes(content)
    table = pd.DataFrame(
        [(path, pid, 0, split) for path, pid, split, _ in rows], columns=["path", "pid", "camid", "split"]
    )
    return Samples(table, root)


OWN = [
    ("a.png", 1, "train", b"aaa"),
    ("b.png", 2, "val_query", b"bbb"),
    ("c.png", 2, "val_gallery", b"ccc"),
    ("d.png", 3, "query", b"dd"),
    ("e.png", 0, "gallery", b"eee"),
]


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ([("x.png", 9, "train", b"bbb")], ["b.png"]),  # a copy under another name
        ([("x.png", 9, "train", b"bbx"), ("y.png", 2, "query", b"ccc")], []),  # other bytes; not of their training
        ([("x.png", 2, "train", b"xxx")], []),  # another folder's identity 2 is somebody else
        ([("x.png", 9, "train", b"eee"), ("y.png", 8, "train", b"dd")], ["d.png", "e.png"]),
    ],
)
def test_images_are_known_by_their_bytes(tmp_path, theirs, expected):
    found = seen_in_training(samples(tmp_path / "theirs", theirs), samples(tmp_path / "own", OWN), *HELD)
    assert sorted(found["path"]) == expected


HELD = ("val_query", "val_gallery", "query", "gallery")


def test_in_one_folder_identities_are_known_but_no_distractors(tmp_path):
    own = samples(tmp_path / "own", OWN)
    theirs = samples(tmp_path / "own", [("x.png", 2, "train", b"other"), ("y.png", 0, "train", b"nobody")])
    assert sorted(seen_in_training(theirs, own, *HELD)["path"]) == ["b.png", "c.png"]
    assert seen_in_training(theirs, own, "query").empty


def test_classes_are_in_all_splits_and_only_their_images_count(tmp_path):
    own = samples(
        tmp_path / "own", [("a.png", 1, "train", b"a"), ("b.png", 1, "val", b"b"), ("c.png", 1, "test", b"c")]
    )
    theirs = samples(tmp_path / "own", [("a.png", 1, "train", b"a"), ("c.png", 1, "train", b"c")])
    assert seen_in_training(theirs, own, "val", "test")["path"].tolist() == ["c.png"]
