import pandas as pd
import pytest

from reidlab import config
from reidlab.data import CombinedSources, Samples
from reidlab.errors import InputError


def samples(root, name, rows, names=None):
    table = pd.DataFrame(rows, columns=["path", "pid", "camid", "split"])
    return lambda: Samples(table, root / name, [f"note of {name}"], names or {})


@pytest.fixture
def sources(tmp_path):
    first = [("a.jpg", 3, 1, "train"), ("b.jpg", 7, 2, "query"), ("c.jpg", 7, 1, "gallery"), ("d.jpg", 0, 6, "gallery")]
    second = [("x/a.jpg", 3, 1, "train"), ("x/b.jpg", 4, 0, "train"), ("q.jpg", 9, 1, "query")]
    return {"one": samples(tmp_path, "one", first), "two": samples(tmp_path, "two", second, {3: "ann"}), "no": None}


def test_no_identity_and_no_camera_is_shared(tmp_path, sources):
    combined = CombinedSources(tmp_path, sources, tested_on=["one"])()
    assert combined.table.values.tolist() == [
        ["one/a.jpg", 3, 1, "train"],
        ["one/b.jpg", 7, 2, "query"],
        ["one/c.jpg", 7, 1, "gallery"],
        ["one/d.jpg", 0, 6, "gallery"],  # a distractor stays one
        ["two/x/a.jpg", 10, 7, "train"],
        ["two/x/b.jpg", 11, 0, "train"],  # an unknown camera stays unknown
    ]
    assert combined.names == {3: "one 3", 7: "one 7", 10: "two ann", 11: "two 4"}
    assert combined.cameras == {1: "one 1", 2: "one 2", 6: "one 6", 7: "two 1"}
    assert combined.notes == ["one: note of one", "two: note of two"]


def test_a_source_that_is_not_there_cannot_be_tested_on(tmp_path, sources):
    with pytest.raises(InputError, match=r"tested_on: 'three' isn't one of one, two"):
        CombinedSources(tmp_path, sources, tested_on=["three"])


def test_the_yaml_joins_two_folders(market, tmp_path):
    for name in ("market1501", "mtmc"):
        (tmp_path / name).symlink_to(market)
    data = config.instantiate(
        config.compose(["data=market1501_mtmc", f"data.root={tmp_path}", "data.val_identities=2"]).data
    )
    counts = data.samples.table.groupby("split").pid.nunique()
    assert counts["query"] == 6  # of market1501 alone
    assert counts["train"] + counts["val_query"] == 12
    assert all(file.exists() for file in data.samples.files())
