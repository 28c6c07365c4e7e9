import os
from pathlib import Path

import pytest

from reidlab.data.sources import MARKET1501, CsvSamples, FolderLayout, IdentityFolders, SyntheticPeople
from reidlab.errors import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def rows(samples, *columns):
    return samples.table[list(columns)].to_numpy().tolist()


@pytest.fixture
def market(tmp_path):
    touch(
        tmp_path,
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0007_c123s2_000551_01.JPEG",
        "bounding_box_train/-1_c1s1_000401_00.jpg",
        "bounding_box_train/Thumbs.db",
        "query/0001_c1s1_001051_00.jpg",
        "query/Thumbs.db",
        "bounding_box_test/0001_c2s1_000301_01.png",
        "bounding_box_test/0000_c6s3_077992_00.jpg",
        "bounding_box_test/-1_c6s3_000001_00.jpg",
        "bounding_box_test/-1_c6s3_000002_00.jpg",
        "bounding_box_test/readme.jpg",
        "bounding_box_test/notes.txt",
    )
    return tmp_path


def test_market_layout(market):
    samples = FolderLayout(market, **MARKET1501)()
    assert rows(samples, "path", "pid", "camid", "split") == [
        ["bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1, "train"],
        ["bounding_box_train/0007_c123s2_000551_01.JPEG", 7, 123, "train"],
        ["query/0001_c1s1_001051_00.jpg", 1, 1, "query"],
        ["bounding_box_test/0000_c6s3_077992_00.jpg", 0, 6, "gallery"],
        ["bounding_box_test/0001_c2s1_000301_01.png", 1, 2, "gallery"],
    ]
    assert samples.notes == [
        "train: 1 hidden or system files and folders skipped, e.g. Thumbs.db",
        "query: 1 hidden or system files and folders skipped, e.g. Thumbs.db",
        "gallery: 2 files ignored that aren't named as samples, e.g. notes.txt",
        "train: 1 junk images (negative pid) dropped",
        "gallery: 2 junk images (negative pid) dropped",
        "gallery: 1 distractors (pid 0) kept",
    ]
    assert all(file.is_file() for file in samples.files()) and samples.names == {}


def test_deepsportradar_layout_has_no_cameras_and_keeps_identity_zero(tmp_path):
    touch(tmp_path, "reid_training/0000_0000_0003.jpeg", "reid_training/0001_0012_0000.png")
    touch(tmp_path, "reid_test/query/0436_0101_0000.jpeg", "reid_test/gallery/0436_0101_0007.jpeg")
    splits = {"train": "reid_training", "query": "reid_test/query", "gallery": "reid_test/gallery"}
    samples = FolderLayout(tmp_path, splits, r"(?P<pid>\d+)_\d+_\d+\.", distractors=False)()
    assert rows(samples, "pid", "camid", "split") == [
        [1, 0, "train"],
        [2, 0, "train"],
        [437, 0, "query"],
        [437, 0, "gallery"],
    ]


def test_a_split_of_several_folders(tmp_path):
    touch(tmp_path, "query/1_c1.jpg", "near/1_c2.jpg", "far/1_c3.jpg", "far/0_c3.jpg")
    samples = FolderLayout(tmp_path, {"query": "query", "gallery": ["near", "far"]}, MARKET1501["pattern"])()
    assert samples.split("gallery")["path"].tolist() == ["near/1_c2.jpg", "far/0_c3.jpg", "far/1_c3.jpg"]


def test_a_pattern_reads_folders_too(tmp_path):
    touch(tmp_path, "t/ann/cam3/a.png", "t/bob/cam4/b.png")
    samples = FolderLayout(tmp_path, {"train": "t", "query": None}, r"(?P<pid>\w+)/cam(?P<camid>\d+)/")()
    assert rows(samples, "pid", "camid") == [[1, 3], [2, 4]] and samples.names == {1: "ann", 2: "bob"}


def test_pku_reid(pku_reid):
    splits = {"train": "train", "query": "val/query", "gallery": "val/gallery"}
    samples = FolderLayout(pku_reid, splits, r"(?P<pid>\d+)/(?P<camid>\d+)_\d+\.", distractors=False)()
    counts = samples.table.groupby("split").agg(images=("path", "size"), identities=("pid", "nunique"))
    assert counts.loc[["train", "query", "gallery"]].to_numpy().tolist() == [[992, 62], [28, 12], [181, 12]]
    assert set(samples.table["camid"]) == {1, 2} and samples.notes == []


def test_a_root_that_does_not_exist_is_named_with_what_is_there(tmp_path):
    touch(tmp_path, "Market-1501-v15.09.15/readme.txt")
    with pytest.raises(InputError, match=r"market: data\.root doesn't exist; found Market-1501-v15.09.15/ in"):
        FolderLayout(tmp_path / "market", **MARKET1501)()


def test_the_nearest_folder_that_exists_is_listed(tmp_path):
    touch(tmp_path, "market/query/a.jpg", "market/.hidden")
    with pytest.raises(InputError, match=r"found query/ in \S+market$"):
        FolderLayout(tmp_path / "market" / "crops" / "v1", **MARKET1501)()


def test_a_missing_split_folder_is_named_with_what_is_there(market):
    (market / "query").rename(market / "queries")
    with pytest.raises(
        InputError, match=r"query: the query folder doesn't exist; found bounding_box_test/, .*queries/"
    ):
        FolderLayout(market, **MARKET1501)()


def test_test_images_alone_are_a_data_set(market):
    (market / "bounding_box_train").rename(market / "train")
    samples = FolderLayout(market, **MARKET1501)()
    assert set(samples.table["split"]) == {"query", "gallery"}
    assert any("bounding_box_train doesn't exist; found bounding_box_test/" in note for note in samples.notes)


def test_a_file_in_place_of_a_folder_is_named(market):
    (market / "query").rename(market / "queries")
    (market / "query").touch()
    with pytest.raises(InputError, match="query: the query folder isn't a folder"):
        FolderLayout(market, **MARKET1501)()


@pytest.mark.parametrize("unreadable", ["query", "."])
def test_an_unreadable_folder_is_named(market, monkeypatch, unreadable):
    scandir = os.scandir

    def refuse(path):
        if Path(path).resolve() == (market / "query").resolve():
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"query: can't be read \(Permission denied\)"):
        FolderLayout(market, {"query": unreadable}, ".*(?P<pid>1)")()


def test_a_layout_that_fits_no_file_is_an_input_error(market):
    with pytest.raises(InputError, match=r"no image is named as data\.source\.pattern wants"):
        FolderLayout(market, MARKET1501["splits"], r"person(?P<pid>\d+)")()


@pytest.mark.parametrize(
    ("pattern", "reason"), [(r"(?P<pid>\d+", "not a regular expression"), (r"\d+", "group named pid")]
)
def test_a_wrong_pattern_is_an_input_error(market, pattern, reason):
    with pytest.raises(InputError, match=f"data.source.pattern: .*{reason}"):
        FolderLayout(market, MARKET1501["splits"], pattern)


def test_an_unknown_split_is_an_input_error(market):
    with pytest.raises(InputError, match="'test' isn't one of train"):
        FolderLayout(market, {"test": "query"}, MARKET1501["pattern"])


def test_a_camera_may_be_any_text(tmp_path):
    touch(tmp_path, "train/1_cA.jpg", "train/1_cC.jpg", "train/2_cA.jpg")
    samples = FolderLayout(tmp_path, {"train": "train"}, r"(?P<pid>\d+)_c(?P<camid>\w)")()
    assert samples.table["camid"].tolist() == [1, 2, 1]
    assert samples.notes == ["cameras are numbered 1 to 2: A, C"]


@pytest.fixture
def table(tmp_path):
    """Writes a CSV and all images that it names."""

    def write(text, *missing):
        (tmp_path / "samples.csv").write_text(text)
        for line in text.splitlines()[1:]:
            name = line.split(",")[0].strip().replace("\\", "/")
            if name and name not in missing:
                touch(tmp_path, name)
        return CsvSamples("samples.csv", tmp_path)

    return write


def test_csv_with_all_columns(table):
    source = table("path,pid,camid,split,age\na/1.jpg,12,3,train,7\n b\\2.jpg , 5 ,10, Query,8\n3.jpg,5,,gallery,\n\n")
    samples = source()
    assert rows(samples, "path", "pid", "camid", "split") == [
        ["a/1.jpg", 12, 3, "train"],
        ["b/2.jpg", 5, 10, "query"],
        ["3.jpg", 5, 0, "gallery"],
    ]
    assert all(file.is_file() for file in samples.files())


def test_csv_with_names_and_without_cameras(table):
    samples = table("Path,PID,split\n1.jpg,zoe,train\n2.jpg,ann,test\n3.jpg,ann,test\n4.jpg,bob,val\n5.jpg,bob,val\n")()
    assert rows(samples, "pid", "camid", "split") == [
        [3, 0, "train"],
        [1, 0, "query"],
        [1, 0, "gallery"],
        [2, 0, "val"],
        [2, 0, "val"],
    ]
    assert samples.names == {1: "ann", 2: "bob", 3: "zoe"}


def test_csv_may_have_blanks_before_quotes(table):
    """As Python's csv reads it with skipinitialspace."""
    samples = table('path, pid\n1.jpg, "ann"\n2.jpg,ann\n3.jpg, "bob, jr."\n4.jpg, bob\n')()
    assert [samples.names[pid] for pid in samples.table["pid"]] == ["ann", "ann", "bob, jr.", "bob"]


def test_csv_without_split_is_divided_by_identity(table):
    lines = [f"{pid}_{image}.jpg,{pid},{image % 2}" for pid in range(20) for image in range(4)]
    samples = table("\n".join(["path,pid,camid", *lines]))()
    train, test = (set(samples.split(*splits)["pid"]) for splits in (["train"], ["query", "gallery"]))
    assert len(train) == len(test) == 10 and not train & test
    assert train | test == set(range(1, 21)), "pid 0 is an identity and raised to 1"
    assert len(samples.split("query")) == 20


def test_cameras_counted_from_zero_are_raised_by_one(table):
    samples = table("path,pid,camid\n1.jpg,1,0\n2.jpg,1,1\n3.jpg,2,\n4.jpg,2,0\n")()
    assert samples.table["camid"].tolist() == [1, 2, 0, 1], "0 is kept for the unknown camera"
    assert samples.notes == ["cameras are counted from 0 to 1: each is raised by one"]


def test_csv_with_distractors(table):
    source = table("path,pid,camid,split\n1.jpg,0,1,gallery\n2.jpg,1,1,query\n3.jpg,1,2,gallery\n")
    source.distractors = True
    assert source().table["pid"].tolist() == [0, 1, 1]


def test_csv_distractors_join_the_gallery_that_is_divided_off(table):
    people = [f"{pid}_{image}.jpg,{pid},{image + 1}" for pid in range(1, 9) for image in range(2)]
    nobody = [f"0_{image}.jpg,0,{image + 1}" for image in range(5)]
    for header, split in (("path,pid,camid", ""), ("path,pid,camid,split", ",test")):
        source = table("\n".join([header, *(f"{row}{split}" for row in [*people, *nobody, "x.jpg,-1,1"])]))
        source.distractors = True
        samples = source()
        distractors = samples.table[samples.table["pid"] == 0]
        assert distractors["path"].tolist() == [f"0_{n}.jpg" for n in range(5)]
        assert set(distractors["split"]) == {"gallery"}
        assert samples.split("train", "query", "gallery")["pid"].nunique() == 9
        of = "test: " if split else ""
        assert samples.notes == [f"{of}1 junk images (negative pid) dropped", f"{of}5 distractors (pid 0) kept"]
        assert samples.split("train")["pid"].nunique() == (0 if split else 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,pid\n1.jpg,1\n",
            "column 'path' is missing; found file, pid; name yours by data.source.columns.path=NAME",
        ),
        ("path|pid\n1.jpg|1\n", "column 'path' is missing; found path|pid"),
        ("path,person,split\n1.jpg,1,train\n", "column 'pid' is missing; found path, person, split"),
        ("path,pid\n1.jpg,1\n2.jpg,\n,3\n", "row 3 has no pid; row 4 has no path"),
        ("path,pid,split\n1.jpg,1,train\n2.jpg,1,trian\n", "row 3 has a split other than train, "),
        ("path,pid,split\n1.jpg,1,train\n2.jpg,1,\n", "row 3 has a split other than train, "),
        ("path,pid\n1.jpg,1\n1.jpg,2\n", "row 3 repeats the path of a row above"),
        ('path,pid\n1.jpg,"0\n2.jpg,"0\n', "row 2 has a line break or control character in its pid"),
        ("path,pid\n1.jpg,a\u202eb\n", "row 2 has a line break or control character in its pid"),
        ("path,pid\n1.jpg,1\n./1.jpg,2\n", "row 3 repeats the path of a row above"),
        ("path,pid\n1.jpg,1\na/../1.jpg,2\n", "row 3 repeats the path of a row above"),
        ("path,pid\n1.jpg,1\ngone.jpg,2\n", "row 3 names a file that isn't there"),
        ("path,pid\n" + "1.jpg,\n" * 9, "; and 12 more"),
        ("path,pid\n\n1.jpg,1\n\n2.jpg,\n", "samples.csv: row 5 has no pid"),
        ("path,pid\n", "has no rows"),
        ("", "not a CSV"),
        ('path,pid\n1.jpg,"1\n', "not a CSV"),
    ],
)
def test_csv_rows_that_cannot_be_used_are_named(table, text, message):
    with pytest.raises(InputError) as error:
        table(text, "gone.jpg")()
    assert "samples.csv: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_csv_that_does_not_exist_or_is_no_text(tmp_path):
    touch(tmp_path, "people.csv")
    with pytest.raises(InputError, match=r"samples.csv: can't be read .* found people.csv"):
        CsvSamples("samples.csv", tmp_path)()
    (tmp_path / "people.csv").write_bytes(b"path,pid\n\xff\xfe.jpg,1\n")
    with pytest.raises(InputError, match=r"people.csv: not a CSV in UTF-8"):
        CsvSamples("people.csv", tmp_path)()


def test_csv_of_a_spreadsheet_may_start_with_a_byte_order_mark(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "s.csv").write_bytes("\ufeffpath,pid,split\r\n1.jpg,ä,train\r\n2.jpg,ö,train\r\n".encode())
    assert CsvSamples("s.csv", tmp_path)().names == {1: "ä", 2: "ö"}


def test_identity_folders(tmp_path):
    touch(tmp_path, *(f"{name}/cam{camera}_{n}.jpg" for name in "abcdef" for camera in (1, 12) for n in range(3)))
    touch(tmp_path, "a/readme.txt", "cover.jpg", ".cache/x.jpg", "b/sub/unknown.PNG")
    with pytest.raises(InputError, match=r"test_fraction=0: leaves none of the \d identities to test on; choose more"):
        IdentityFolders(tmp_path, test_fraction=0)()
    samples = IdentityFolders(tmp_path, test_fraction=0.5, camera=r"cam(?P<camid>\d+)")()
    assert samples.names == dict(enumerate("abcdef", start=1))
    assert sorted(samples.table["camid"].unique()) == [0, 1, 12]
    train, test = (set(samples.split(*splits)["pid"]) for splits in (["train"], ["query", "gallery"]))
    assert len(train) == len(test) == 3 and not train & test
    assert samples.notes == [
        "6 folders taken as identities: a, b, c, d, e, f",
        "1 hidden or system files and folders skipped, e.g. .cache",
        "2 files ignored that aren't images in an identity's folder, e.g. a/readme.txt",
        "1 images of an unknown camera, e.g. b/sub/unknown.PNG",
    ]


def test_identity_folders_without_images_are_an_input_error(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(InputError, match=r"no folder in it holds images \(.*\.webp.*\); found a.jpg, b.jpg"):
        IdentityFolders(tmp_path)()


def test_synthetic_people_are_asked_for_by_name_and_read_as_market(market, monkeypatch):
    asked = {}

    def generate_people(root, **options):
        asked.update(options, root=root)
        return market

    monkeypatch.setattr("reidlab.data.synthetic.generate_people", generate_people, raising=False)
    options = {"num_identities": 9, "train_identities": 5, "num_cameras": 4, "images_per_camera": 2, "seed": 3}
    samples = SyntheticPeople(market / "made", size=[64, 32], **options)()
    assert asked == {**options, "root": market / "made" / "9-5-4x2-64x32-3", "size": (64, 32), "progress": True}
    assert samples.root == market and len(samples.table) == 5


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_are_separated_as_the_header_is(separator, tmp_path):
    touch(tmp_path, "a,b.jpg", "2.jpg")
    rows = [("path", "pid", "camid", "split"), ('"a,b.jpg"', "x", "7", "train"), ("2.jpg", "y", "8", "train")]
    (tmp_path / "s.csv").write_text("\r\n".join(separator.join(row) for row in rows), newline="")
    read = CsvSamples("s.csv", tmp_path)()
    assert read.table["path"].tolist() == ["a,b.jpg", "2.jpg"] and read.names == {1: "x", 2: "y"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,pid,pid\n1.jpg,a,b\n", "has two columns 'pid'"),
        ("path,pid, PID\n1.jpg,a,b\n", "has two columns 'pid'"),
        ("# mine\npath,pid\n1.jpg,a\n", "Expected 1 fields in line 2, saw 2"),
        ("path,pid\n1.jpg,a\n2.jpg,a,b\n", "Expected 2 fields in line 3, saw 3"),
        ("path,pid\n\n0.jpg,a\n", "row 3 names a file that isn't there"),
    ],
)
def test_a_table_whose_columns_are_unclear_is_refused_without_a_warning(text, message, tmp_path, recwarn):
    touch(tmp_path, "1.jpg", "2.jpg")
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        CsvSamples("s.csv", tmp_path)()
    assert not recwarn.list


def test_one_identity_cannot_be_divided(tmp_path):
    touch(tmp_path, "anna/1.jpg", "anna/2.jpg")
    with pytest.raises(InputError, match="there is one identity only"):
        IdentityFolders(tmp_path)()
