"""Labels of people and cameras as users write them."""

import pytest

from reidlab.data.labels import MISSING
from reidlab.data.sources import MARKET1501, CsvSamples, FolderLayout, IdentityFolders, IdentityLists
from reidlab.errors import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read_csv(root, *rows, distractors=False):
    """The samples of rows "pid" or "pid,camid", one image each, all for training but the last two of a pid."""
    lines = [f"{number}.jpg,{row},gallery" for number, row in enumerate(rows)]
    touch(root, *(line.split(",")[0] for line in lines))
    header = "path,pid,camid,split" if "," in rows[0] else "path,pid,split"
    (root / "samples.csv").write_text("\n".join([header, *lines]))
    return CsvSamples("samples.csv", root, distractors=distractors)()


def people(samples):
    """Which images show one person, whatever it is called."""
    return sorted(samples.table.groupby("pid")["path"].apply(lambda paths: " ".join(sorted(paths))))


@pytest.mark.parametrize(
    "labels", [["1_11", "11_1", "2_5", "25"], ["01", "1"], ["+1", "1"], ["1", "١"], ["1e3", "1000"]]
)
def test_folders_of_two_names_are_two_people(tmp_path, labels):
    touch(tmp_path, *(f"{label}/{number}.jpg" for label in labels for number in range(2)))
    samples = IdentityFolders(tmp_path)()
    assert sorted(samples.names.values()) == sorted(labels) and samples.table["pid"].nunique() == len(labels)
    for path, pid in zip(samples.table["path"], samples.table["pid"], strict=True):
        assert samples.names[pid] == path.split("/")[0]


def test_labels_that_would_be_one_number_are_noted(tmp_path):
    note = "identities are numbered 1 to 3 in the order of their labels, since 01 and 1 would be one number"
    assert note in read_csv(tmp_path, "1", "01", "2").notes
    assert read_csv(tmp_path, "0001", "2").notes == []


def test_a_program_s_floats_are_junk_distractors_and_unknown_cameras_as_well(tmp_path):
    """pandas writes 0 and -1 so where a column had an empty cell once."""
    samples = read_csv(tmp_path, "3.0,1.0", "4.0,-1.0", "4.0,2.0", "0.0,1.0", "-1.0,1.0", distractors=True)
    assert people(samples) == ["0.jpg", "1.jpg 2.jpg", "3.jpg"]
    assert samples.table["pid"].tolist()[3] == 0 and samples.table["camid"].tolist() == [1, 0, 2, 1]
    assert "gallery: 1 junk images (negative pid) dropped" in samples.notes


def test_a_program_s_floats_are_the_numbers_that_they_stand_for(tmp_path):
    samples = read_csv(tmp_path, "7,1", "7.0,1.0", "9.00,-1", "0.0,2.0")
    assert people(samples) == ["0.jpg 1.jpg", "2.jpg", "3.jpg"]
    assert samples.labeled(samples.table)["pid"].astype(str).tolist() == ["7", "7", "9", "0"]
    assert samples.table["camid"].tolist() == [1, 1, 0, 2]
    versions = read_csv(tmp_path / "text", "v1,1.0", "v1.0,1", "1,x", "1.0,x")
    assert len(people(versions)) == 4 and versions.table["camid"].nunique() == 3


def test_people_who_may_be_one_are_noted(tmp_path):
    told = "'Anna' and 'anna' are two identities; if they are one, give them one spelling"
    assert told in read_csv(tmp_path, "Anna", "bob", "anna").notes
    assert (
        "'A' and 'a' are two cameras; if they are one, give them one spelling" in read_csv(tmp_path, "1,A", "2,a").notes
    )


def test_a_byte_order_mark_is_none_of_a_list(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff1.jpg 5\n2.jpg 6\n", encoding="utf-8")
    table = IdentityLists(tmp_path, {"train": "a.txt"}, r"(?P<path>.+) (?P<pid>\d+)")().table
    assert table["path"].tolist() == ["1.jpg", "2.jpg"]


def test_a_number_of_20_digits_is_a_label(tmp_path):
    samples = read_csv(tmp_path, "9" * 20, "9" * 19 + "8")
    assert samples.table["pid"].tolist() == [2, 1] and samples.names[2] == "9" * 20


@pytest.mark.parametrize("others", [["3", "4"], ["anna", "bob"]])
def test_junk_and_distractors_are_that_whatever_the_others_look_like(tmp_path, others):
    samples = read_csv(tmp_path, *others, "-1", "0000", "0", distractors=True)
    assert people(samples) == ["0.jpg", "1.jpg", "3.jpg 4.jpg"]
    assert samples.table.loc[samples.table["pid"] == 0, "path"].tolist() == ["3.jpg", "4.jpg"]
    assert "gallery: 1 junk images (negative pid) dropped" in samples.notes
    without = read_csv(tmp_path, *others, "-1", "0")
    assert people(without) == ["0.jpg", "1.jpg", "3.jpg"] and (without.table["pid"] > 0).all()


@pytest.mark.parametrize("distractors", [True, False])
def test_junk_distractors_and_unknown_cameras_are_that_in_every_scene(tmp_path, distractors):
    touch(
        tmp_path, *(f"g/{scene}/{name}.jpg" for scene in ("s1", "s2") for name in ("-1_c1", "0000_c1", "7_c1", "8_c-1"))
    )
    pattern = r"(?P<scene>s\d)/(?P<pid>-?\d+)_c(?P<camid>-?\d+)"
    samples = FolderLayout(tmp_path, {"gallery": "g"}, pattern, distractors=distractors)()
    table = samples.table.set_index("path")
    alone = [f"g/{scene}/{pid}.jpg" for pid in ("7_c1", "8_c-1") for scene in ("s1", "s2")]
    zeros = ["g/s1/0000_c1.jpg", "g/s2/0000_c1.jpg"]
    assert sorted(table.index) == sorted(alone + zeros) and table.loc[alone, "pid"].nunique() == 4
    assert table.loc[zeros, "pid"].nunique() == (1 if distractors else 2)
    assert (table.loc[zeros, "pid"] == 0).all() == distractors and (table.loc[alone, "pid"] > 0).all()
    assert table.loc[alone[2:], "camid"].tolist() == [0, 0] and table.loc[alone[:2], "camid"].nunique() == 2
    assert "gallery: 2 junk images (negative pid) dropped" in samples.notes


def test_junk_of_identities_that_are_numbered_apart_is_dropped(tmp_path):
    (tmp_path / "train.txt").write_text("a.jpg 1\nb.jpg -1\n")
    (tmp_path / "test.txt").write_text("c.jpg 1\nd.jpg 1\n")
    lists = {"train": "train.txt", "test": "test.txt"}
    samples = IdentityLists(tmp_path, lists, r"(?P<path>\S+) (?P<pid>-?\d+)", numbered_apart=True)()
    assert people(samples) == ["a.jpg", "c.jpg d.jpg"]


def test_a_folder_named_minus_one_is_somebody(tmp_path):
    touch(tmp_path, "-1/a.jpg", "-1/b.jpg", "2/a.jpg", "2/b.jpg")
    assert IdentityFolders(tmp_path)().names == {1: "-1", 2: "2"}


@pytest.mark.parametrize("missing", sorted(MISSING))
def test_a_missing_label_is_nobody(tmp_path, missing):
    with pytest.raises(InputError, match=r"samples\.csv: row 3 has no pid; row 5 has no pid$"):
        read_csv(tmp_path, "anna", missing, "bob", missing)
    if missing:
        touch(tmp_path / "folders", f"{missing}/1.jpg", "anna/1.jpg")
        with pytest.raises(InputError, match=rf"{missing}/1\.jpg: no identity"):
            IdentityFolders(tmp_path / "folders")()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["1", "2", "1"], [1, 2, 1]),
        (["1.0", "2.0", "1.0"], [1, 2, 1]),
        (["cam2", "cam1", "cam2"], [2, 1, 2]),
        (["b", "a", ""], [2, 1, 0]),
        (["0", "0", "0"], [0, 0, 0]),
        (["0", "1", "nan"], [1, 2, 0]),
        (["-1", "3", "None"], [0, 3, 0]),
        (["01", "1", "1"], [1, 2, 2]),
        (["9" * 20, "1", "1"], [2, 1, 1]),
    ],
)
def test_cameras_are_numbered_as_people_are(tmp_path, written, expected):
    assert read_csv(tmp_path, *(f"7,{camera}" for camera in written)).table["camid"].tolist() == expected


def test_the_names_of_market1501_stay_numbers(tmp_path):
    names = {"bounding_box_train": ["0002_c1s1_000451_03"], "query": ["1501_c6s3_001051_00"],
             "bounding_box_test": ["0000_c1s1_000151_01", "-1_c1s1_000401_03", "1501_c3s3_001051_00"]}  # fmt: skip
    touch(tmp_path, *(f"{folder}/{name}.jpg" for folder, inside in names.items() for name in inside))
    table = FolderLayout(tmp_path, **MARKET1501)().table
    assert table[["pid", "camid"]].to_numpy().tolist() == [[2, 1], [1501, 6], [0, 1], [1501, 3]]
