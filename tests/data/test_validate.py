import pandas as pd
import pytest

from reidlab.data.samples import Samples
from reidlab.data.sources import FolderLayout
from reidlab.data.validate import Finding, inspect_files, summary, validate


@pytest.fixture
def people(tmp_path, write_image):
    """A sound data set: identities 1 and 2 to train on, 3 and 4 to test, two cameras with two images each."""
    rows = []
    for pid in (1, 2, 3, 4):
        for camid in (1, 2):
            for image in range(2):
                split = "train" if pid < 3 else ("gallery" if image else "query")
                rows.append((f"{split}/{pid}_{camid}_{image}.png", pid, camid, split))
                write_image(tmp_path / rows[-1][0])
    return Samples(pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]), tmp_path)


def found(samples, **options):
    return [(one.level, one.kind, one.where) for one in validate(samples, progress=False, **options)]


def changed(samples, path, **values):
    table = samples.table.copy()
    table.loc[table["path"] == path, list(values)] = list(values.values())
    return Samples(table, samples.root)


def test_a_sound_data_set_has_no_findings(people):
    assert found(people) == []


@pytest.mark.parametrize("kept", [0, 30, 0.5, 0.98])
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_truncated_image(people, write_image, kept, extension):
    path = "query/3_1_0.png"
    raw = write_image(people.root / f"x.{extension}").read_bytes()
    (people.root / path).write_bytes(raw[: int(kept if kept > 1 else kept * len(raw))])
    (finding,) = validate(people, progress=False)
    assert finding[:3] == ("error", "unreadable image", path) and finding.message.startswith("not a readable image")


def test_file_that_is_gone(people):
    (people.root / "query/3_1_0.png").unlink()
    assert found(people) == [("error", "unreadable image", "query/3_1_0.png")]


def test_query_without_any_match(people):
    lonely = changed(people, "query/3_1_0.png", pid=9)
    assert found(lonely) == [
        ("warning", "query without a match", "query/3_1_0.png"),
        ("warning", "identity with one image", "pid 9"),
    ]


def test_query_whose_matches_share_its_camera(people):
    table = people.table[people.table["path"] != "gallery/3_2_1.png"]
    samples = Samples(table, people.root)
    assert found(samples) == [("warning", "query without a match", "query/3_1_0.png")]
    assert found(samples, exclude_same_camera=False) == []


def test_validation_queries_are_checked_against_their_own_gallery(people):
    table = people.table.replace({"split": {"query": "val_query", "gallery": "val_gallery"}})
    rest = pd.DataFrame({"path": "train/1_1_0.png", "pid": [7, 7], "camid": [1, 2], "split": ["query", "gallery"]})
    samples = Samples(pd.concat([table, rest]), people.root)
    assert [one for one in found(samples) if one[1] == "query without a match"] == []
    table = table[table["path"] != "gallery/4_1_1.png"]
    assert ("warning", "query without a match", "query/4_2_0.png") in found(Samples(table, people.root))


def test_identity_in_train_and_test(people):
    finding, *_ = validate(changed(people, "train/1_1_0.png", pid=3), progress=False)
    assert finding == Finding(
        "error", "identity in train and test", "pid 3", "is in train (train/1_1_0.png) and in test (query/3_1_0.png)"
    )


def test_distractors_are_nobody(people):
    assert found(changed(people, "gallery/4_1_1.png", pid=0)) == [
        ("warning", "query without a match", "query/4_2_0.png")
    ]


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        ("train/1_2_1.png", "duplicate within a split"),
        ("gallery/3_1_1.png", "duplicate of another identity"),
    ],
)
def test_duplicates(people, copy, kind):
    (people.root / copy).write_bytes((people.root / "train/1_1_0.png").read_bytes())
    (finding,) = validate(people, progress=False)
    assert finding[:3] == ("warning", kind, "train/1_1_0.png") and copy in finding.message


def test_duplicates_across_splits(people):
    for name in ("gallery/3_1_1.png", "gallery/3_2_1.png"):
        (people.root / name).write_bytes((people.root / "query/3_1_0.png").read_bytes())
    (finding,) = validate(people, progress=False)
    assert finding.kind == "duplicate across splits"
    assert finding.message == (
        "pid 3, query; same bytes as gallery/3_1_1.png (pid 3, gallery), gallery/3_2_1.png (pid 3, gallery)"
    )


def test_empty_splits(people):
    train = Samples(people.table[people.table["split"] == "train"], people.root)
    assert found(train) == [("error", "empty split", "query"), ("error", "empty split", "gallery")]
    half = changed(people, "query/3_1_0.png", split="val_query")
    assert ("error", "empty split", "val_gallery") in found(half)


def test_small_image(people, write_image):
    write_image(people.root / "train/1_1_0.png", size=(31, 40))
    write_image(people.root / "train/1_1_1.png", size=(32, 16))
    (finding,) = validate(people, progress=False)
    assert finding == Finding("warning", "small image", "train/1_1_0.png", "40 x 31 pixels, less than 16 x 32")


def test_identity_with_one_image_counts_query_and_gallery_together(people):
    table = people.table[~people.table["path"].isin(["train/1_1_0.png", "train/1_1_1.png", "train/1_2_0.png"])]
    assert found(Samples(table, people.root)) == [("warning", "identity with one image", "pid 1")]


def test_errors_come_first_and_files_can_be_inspected_once(people, write_image):
    write_image(people.root / "query/3_1_0.png", size=(8, 8))
    (people.root / "train/1_1_0.png").write_bytes(b"")
    files = inspect_files(people, progress=False)
    assert files.columns.tolist() == ["height", "width", "digest", "problem", "looks"]
    assert files.loc[1].tolist()[:2] == [64, 32] and (files["problem"] != "").sum() == 1
    for path in people.root.rglob("*.png"):
        path.unlink()
    assert [one.level for one in validate(people, files=files)] == ["error", "warning"]


def test_summary_counts_as_papers_do(people):
    samples = changed(people, "gallery/4_1_1.png", pid=0)
    samples = changed(samples, "gallery/3_1_1.png", camid=0)
    assert summary(samples).T.to_dict("list") == {
        "train": [2, 8, 2, 0],
        "query": [2, 4, 2, 0],
        "gallery": [2, 4, 2, 1],
        "all": [4, 16, 2, 1],
    }
    assert summary(samples).columns.tolist() == ["identities", "images", "cameras", "distractors"]


def test_pku_reid_holds_duplicates(pku_reid):
    splits = {"train": "train", "query": "val/query", "gallery": "val/gallery"}
    samples = FolderLayout(pku_reid, splits, r"(?P<pid>\d+)/(?P<camid>\d+)_\d+\.", distractors=False)()
    findings = validate(samples, progress=False)
    contents = {}
    for file in samples.files():
        contents.setdefault(file.read_bytes(), []).append(file)
    repeated = [files for files in contents.values() if len(files) > 1]
    assert len(repeated) == len(findings) == 18
    assert {one.kind for one in findings} == {"duplicate across splits", "duplicate within a split"}
