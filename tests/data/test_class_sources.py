"""Where images of classes come from."""

import pytest

from reidlab.config import compose, instantiate
from reidlab.data import ClassCsv, ClassFolders, ClassLists
from reidlab.errors import InputError


def splits_of(samples):
    return dict(zip(samples.table["path"], samples.table["split"], strict=True))


def test_folders_are_classes_in_natural_order(flowers, write_image):
    write_image(flowers / "stray.png")
    (flowers / "rose" / "notes.txt").write_text("hybrid")
    write_image(flowers / "rose" / "more" / "deep.JPG")
    samples = ClassFolders(flowers)()
    assert samples.names == {1: "class2", 2: "class10", 3: "rose"}
    assert len(samples.table) == 61 and set(samples.table["split"]) == {"train"}
    assert samples.table.set_index("path").loc["rose/more/deep.JPG", "pid"] == 3
    assert samples.notes == ["2 files ignored that aren't images in a class's folder, e.g. rose/notes.txt"]


def test_folders_of_splits(flowers, write_image):
    for split in ("learn", "check"):
        for label in "ab":
            write_image(flowers / split / label / "1.png")
    samples = ClassFolders(flowers, {"train": "learn", "test": "check", "val": None})()
    assert splits_of(samples) == {
        "learn/a/1.png": "train", "learn/b/1.png": "train", "check/a/1.png": "test", "check/b/1.png": "test"
    }  # fmt: skip


def test_a_split_of_several_folders_or_lists(tmp_path, write_image):
    for file in ("a/rose/1.png", "b/rose/1.png", "b/tulip/2.png", "t/rose/3.png"):
        write_image(tmp_path / file)
    overrides = ["data=class_folders", f"data.root={tmp_path}", "data.source.splits={train: [a, b], test: t}"]
    samples = instantiate(compose(overrides).data.source)()
    assert samples.names == {1: "rose", 2: "tulip"} and splits_of(samples) == {
        "a/rose/1.png": "train", "b/rose/1.png": "train", "b/tulip/2.png": "train", "t/rose/3.png": "test"
    }  # fmt: skip
    for name, text in {"train.txt": "rose/1\n", "val.txt": "tulip/2\n", "test.txt": "rose/3\n"}.items():
        (tmp_path / "meta").mkdir(exist_ok=True)
        (tmp_path / "meta" / name).write_text(text)
    overrides = ["data=food101", f"data.root={tmp_path}", "data.source.lists.train=[meta/train.txt,meta/val.txt]"]
    assert splits_of(instantiate(compose(overrides).data.source)()) == {
        "images/rose/1.jpg": "train", "images/tulip/2.jpg": "train", "images/rose/3.jpg": "test"
    }  # fmt: skip


def test_an_image_is_in_one_split_once(tmp_path, write_image):
    for file in ("rose/1.png", "tulip/1.png", "test/rose/2.png", "test/tulip/2.png"):
        write_image(tmp_path / file)
    overrides = ["data=class_folders", f"data.root={tmp_path}", "data.source.splits.test=test"]
    told = r"data\.source\.splits: test/rose/2\.png is in test and in train; give places that share no image"
    with pytest.raises(InputError, match=told):
        instantiate(compose(overrides).data.source)()
    with pytest.raises(InputError, match=r"rose/1\.png is in train twice"):
        ClassFolders(tmp_path, {"train": [".", "test/.."]})()
    (tmp_path / "a.txt").write_text("rose/1\ntulip/1\n")
    (tmp_path / "b.txt").write_text("rose/2\nrose//1\n")
    with pytest.raises(InputError, match=r"data\.source\.lists: images/rose/1\.jpg is in test and in train"):
        ClassLists(tmp_path, {"train": "a.txt", "test": "b.txt"})()


def test_layout_of_tiny_imagenet(tmp_path, write_image):
    for file in ("train/n01/images/n01_0.JPEG", "train/n02/images/n02_0.JPEG", "test/images/test_0.JPEG"):
        write_image(tmp_path / file)
    (tmp_path / "train/n01/n01_boxes.txt").write_text("n01_0.JPEG 0 0 9 9")
    samples = instantiate(compose(["data=tiny_imagenet", f"data.root={tmp_path}"]).data.source)()
    assert samples.names == {1: "n01", 2: "n02"}
    assert splits_of(samples) == {"train/n01/images/n01_0.JPEG": "train", "train/n02/images/n02_0.JPEG": "train"}


def test_lists_of_food101(flowers):
    (flowers / "meta").mkdir()
    (flowers / "meta/train.txt").write_text("apple_pie/1\nsushi/2\n\n")
    (flowers / "meta/test.txt").write_text("sushi/3\n")
    lists = {"train": "meta/train.txt", "test": "meta/test.txt"}
    samples = ClassLists(flowers, lists)()
    assert splits_of(samples) == {
        "images/apple_pie/1.jpg": "train", "images/sushi/2.jpg": "train", "images/sushi/3.jpg": "test"
    }  # fmt: skip
    (flowers / "meta/test.txt").write_text("sushi/3\nsushi\n")
    with pytest.raises(InputError, match=r"test.txt: line 2 is 'sushi'; write class/image"):
        ClassLists(flowers, lists)()


def test_a_byte_order_mark_is_none_of_a_class(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffrose/1\nrose/2\ntulip/3\n", encoding="utf-8")
    samples = ClassLists(tmp_path, {"train": "a.txt"})()
    assert samples.names == {1: "rose", 2: "tulip"} and "images/rose/1.jpg" in splits_of(samples)


def test_classes_that_may_be_one_are_noted(flowers):
    assert ClassFolders(flowers)().notes == []
    (flowers / "class2").rename(flowers / "Rose")
    (flowers / "class10").rename(flowers / "e\u0301t\u00e9")
    (flowers / "table.csv").write_text("path,label\nRose/1.png,\u00e9t\u00e9\nrose/1.png,e\u0301te\u0301\n")
    assert "'Rose' and 'rose' are two classes; if they are one, give them one spelling" in ClassFolders(flowers)().notes
    assert ClassCsv("table.csv", flowers)().notes == [
        r"'e\u0301te\u0301' and '\xe9t\xe9' are two classes; if they are one, give them one spelling"
    ]


def test_a_class_whose_name_no_run_could_keep_is_named(flowers):
    (flowers / "class2").rename(flowers / "a tab\tb")
    assert "a tab\tb" in ClassFolders(flowers)().names.values()
    (flowers / "rose").rename(flowers / "ro\x07se")
    with pytest.raises(InputError, match=r"the class 'ro\\x07se' has a control character in its name; rename it"):
        ClassFolders(flowers)()


def test_a_table(flowers):
    rows = "Path, LABEL ,note\nrose/1.png, rose,x\nrose/2.png,rose,\nclass2\\3.png,weed,\n"
    (flowers / "table.csv").write_text(rows)
    samples = ClassCsv("table.csv", flowers)()
    assert samples.names == {1: "rose", 2: "weed"}
    assert splits_of(samples) == {"rose/1.png": "train", "rose/2.png": "train", "class2/3.png": "train"}
    (flowers / "table.csv").write_text("path,label,split\nrose/1.png,a,Train\nrose/2.png,b,test\nrose/3.png,b,val\n")
    assert list(splits_of(ClassCsv("table.csv", flowers)()).values()) == ["train", "test", "val"]
    (flowers / "table.csv").write_text("path,label,split\nrose/1.png,,train\nrose/9x.png,b,query\n")
    with pytest.raises(InputError, match=r"row 2 has no label; row 3 has a split other than train, val, test; row 3 n"):
        ClassCsv("table.csv", flowers)()
    (flowers / "table.csv").write_text("path,label\nrose/1.png,1\nrose/2.png,1.0\nrose/3.png,2.0\n")
    assert ClassCsv("table.csv", flowers)().names == {1: "1", 2: "2"}
    (flowers / "table.csv").write_text("path,pid\nrose/1.png,a\n")
    with pytest.raises(InputError, match=r"column 'label' is missing; found path, pid"):
        ClassCsv("table.csv", flowers)()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda root: ClassFolders(root / "none"), r"data\.root doesn't exist; found class10/, class2/, rose/"),
        (lambda root: ClassFolders(root / "rose"), r"no folder in it holds images"),
        (lambda root: ClassFolders(root, {"train": ".", "query": "q"}), r"'query' isn't one of train, val, test"),
        (lambda root: ClassFolders(root, {"test": "."}), r"name where the split 'train' is"),
        (lambda root: ClassLists(root, {"train": "meta/train.txt"}), r"meta/train.txt: can't be read"),
    ],
)
def test_what_is_wrong_with_a_source_is_named(source, message, flowers):
    with pytest.raises(InputError, match=message):
        source(flowers)()
