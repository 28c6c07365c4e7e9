"""Published layouts, by the names that they were published with, and folders and tables that are nearly right."""

import pytest

from reidlab import config
from reidlab.data import ClassFolders, CsvSamples, IdentityFolders, SyntheticPeople
from reidlab.errors import InputError


def build(name, root, files, *overrides):
    """The samples of a data set of conf/data; `files` are names, or lists of lines that a file holds."""
    for file in files:
        file, text = file if isinstance(file, tuple) else (file, "")
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    source = config.instantiate(config.compose([f"data={name}", f"data.root={root}", *overrides]).data.source)
    return source()


def shown(samples):
    return {
        (path, samples.names.get(pid, str(pid)), camid, split)
        for path, pid, camid, split in samples.table.itertuples(index=False)
    }


@pytest.mark.parametrize(
    ("name", "train", "query", "gallery", "people"),
    [
        ("dukemtmc", "0001_c2_f0046182.jpg", "0005_c2_f0046985.jpg", "0005_c5_f0051781.jpg", ("1", "5", 2, 2, 5)),
        ("cuhk03_np", "0003_c1_1.png", "0002_c1_21.png", "0002_c2_6.png", ("3", "2", 1, 1, 2)),
    ],
)
def test_layouts_like_market1501(tmp_path, name, train, query, gallery, people):
    names = [f"bounding_box_train/{train}", f"query/{query}", f"bounding_box_test/{gallery}"]
    seen, sought, *cameras = people
    splits = zip(names, (seen, sought, sought), cameras, ("train", "query", "gallery"), strict=True)
    assert shown(build(name, tmp_path, names)) == set(splits)


def test_msmt17_counts_the_people_of_its_test_anew(tmp_path):
    train, query, gallery = (f"0000/0000_{shot}_0303morning_0015_0.jpg" for shot in ("000_01", "001_02", "002_14"))
    files = [f"train/{train}", f"test/{query}", f"test/{gallery}", ("list_train.txt", f"{train} 0\n"),
             ("list_query.txt", f"{query} 0\n"), ("list_gallery.txt", f"{gallery} 0\n\n")]  # fmt: skip
    samples = build("msmt17", tmp_path, files)
    assert shown(samples) == {
        (f"train/{train}", "train/0000", 1, "train"),
        (f"test/{query}", "test/0000", 2, "query"),
        (f"test/{gallery}", "test/0000", 14, "gallery"),
    }
    second = "data.source.images={train: mask_train_v2, query: mask_test_v2, gallery: mask_test_v2}"
    assert build("msmt17", tmp_path, files, second).table["path"].str.startswith("mask_").all()
    (tmp_path / "list_query.txt").write_text("what is this\n")
    with pytest.raises(InputError, match=r"list_query\.txt: line 1 is 'what is this'"):
        build("msmt17", tmp_path, [])
    (tmp_path / "list_query.txt").unlink()
    with pytest.raises(InputError, match=r"list_query\.txt"):
        build("msmt17", tmp_path, [])


def test_veri776(tmp_path):
    files = ["image_train/0001_c001_00016450_0.jpg", "image_query/0002_c002_00030600_0.jpg",
             "image_test/0002_c003_00030600_1.jpg", "name_train.txt"]  # fmt: skip
    assert shown(build("veri776", tmp_path, files)) == {
        (files[0], "1", 1, "train"),
        (files[1], "2", 2, "query"),
        (files[2], "2", 3, "gallery"),
    }


def test_vehicleid_has_one_random_image_a_vehicle_in_its_gallery(tmp_path):
    tested = [f"{vehicle * 100 + image:07d} {vehicle}" for vehicle in (17, 25, 33) for image in range(4)]
    lists = [("train_test_split/train_list.txt", "0000001 6980\n0000002 6980\n"),
             ("train_test_split/test_list_800.txt", "\n".join(tested))]  # fmt: skip
    samples = build("vehicleid", tmp_path, lists)
    test = samples.table[samples.table["split"] != "train"]
    assert samples.split("train")["path"].tolist() == ["image/0000001.jpg", "image/0000002.jpg"]
    assert samples.split("train")["pid"].tolist() == [6980, 6980] and not samples.table["camid"].any()
    assert test.groupby(["pid", "split"]).size().to_dict() == {
        (pid, split): count for pid in (17, 25, 33) for split, count in (("gallery", 1), ("query", 3))
    }
    untrained = build("vehicleid", tmp_path, lists, "data.source.lists.train=null")
    assert len(untrained.table) == 12 and set(untrained.table["split"]) == {"query", "gallery"}
    again, other = (build("vehicleid", tmp_path, lists, f"data.source.seed={seed}") for seed in (0, 1))
    assert again.table.equals(samples.table) and not other.table.equals(samples.table)


def test_lpw_counts_people_and_cameras_anew_in_each_scene(tmp_path):
    files = ["scen2/view1/1/000001.jpg", "scen3/view1/1/000001.jpg", "scen1/view2/1/000003.jpg",
             "scen1/view1/1/000002.jpg", "scen1/view3/1/000009.jpg"]  # fmt: skip
    samples = build("lpw", tmp_path, files)
    assert {row[:2] + row[3:] for row in shown(samples)} == {
        (files[0], "scen2/1", "train"),
        (files[1], "scen3/1", "train"),
        (files[2], "scen1/1", "query"),
        (files[3], "scen1/1", "gallery"),
        (files[4], "scen1/1", "gallery"),
    }
    assert samples.table["camid"].nunique() == 5


def fill(root, *folders):
    for folder in folders:
        for image in range(3):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"{image}.jpg").touch()


def test_split_folders_given_as_identities_are_named_with_the_way_out(tmp_path):
    fill(tmp_path, "train/anna", "train/bob", "val/carl", "test/dora")
    with pytest.raises(InputError, match=r"test, train, val would be taken as identities; .* add 'data\.source\.splits="
                       r"\{test: test, train: train, val: val\}'"):  # fmt: skip
        build("folders", tmp_path, [])
    with pytest.raises(InputError, match="test, train, val would be taken as classes"):
        ClassFolders(tmp_path)()
    samples = build("folders", tmp_path, [], "data.source.splits={test: test, train: train, val: val}")
    assert samples.notes[0] == "4 folders taken as identities: anna, bob, carl, dora"
    assert samples.table.groupby("split")["pid"].apply(lambda pids: {samples.names[pid] for pid in pids}).to_dict() == {
        "train": {"anna", "bob"}, "val": {"carl"}, "query": {"dora"}, "gallery": {"dora"}
    }  # fmt: skip
    fill(tmp_path, "emil")
    assert IdentityFolders(tmp_path)().notes[0] == "4 folders taken as identities: emil, test, train, val"


def test_a_split_of_several_folders_of_identities(tmp_path):
    fill(tmp_path, "a/anna", "b/anna", "b/bob", "t/carl")
    samples = build("folders", tmp_path, [], "data.source.splits={train: [a, b], test: t}")
    assert samples.split("train").groupby("pid").size().to_dict() == {1: 6, 2: 3}
    assert set(samples.table["split"]) == {"train", "query", "gallery"} and samples.names[3] == "carl"


def test_an_image_of_a_person_is_in_one_split_once(tmp_path):
    fill(tmp_path / "folders", "anna", "bob", "test/carl")
    with pytest.raises(
        InputError, match=r"data\.source\.splits: test/carl/0\.jpg is in test and in train; give places"
    ):
        build("folders", tmp_path / "folders", [], "data.source.splits={train: ., test: test}")
    splits = "data.source.splits={train: ., query: q, gallery: q/../q}"
    with pytest.raises(InputError, match=r"q/2_c2\.jpg is in gallery and in query"):
        build("market1501", tmp_path / "layout", ["1_c1.jpg", "q/2_c2.jpg"], splits)
    lists = [("train_test_split/train_list.txt", "1 1\n"), ("train_test_split/test_list_800.txt", "2 5\n3 5\n./2 6\n")]
    with pytest.raises(InputError, match=r"data\.source\.lists: image/2\.jpg is in test twice"):
        build("vehicleid", tmp_path / "lists", lists, r"data.source.pattern='(?P<path>\S+)\s+(?P<pid>\d+)$'")
    inside = "data.source.splits={train: ., query: query, gallery: gallery}"
    files = ["1_c1.jpg", "query/2_c1.jpg", "gallery/2_c2.jpg"]
    assert {row[3] for row in shown(build("market1501", tmp_path / "inside", files, inside))} == {
        "train", "query", "gallery"
    }  # fmt: skip


def test_people_with_one_image_are_divided_apart(tmp_path):
    fill(tmp_path, *(f"several{number}" for number in range(10)))
    for number in range(30):
        (tmp_path / f"one{number}").mkdir()
        (tmp_path / f"one{number}" / "0.jpg").touch()
    table = IdentityFolders(tmp_path, test_fraction=0.5)().table
    tested = table[table["split"] != "train"]
    assert (tested["split"] == "query").sum() == 5 and tested["pid"].nunique() == 20


def test_columns_of_other_names_are_mapped(tmp_path):
    fill(tmp_path, "a", "b")
    rows = "\n".join(f"{who}/{image}.jpg,{who},c{image % 2},test" for who in "ab" for image in range(3))
    (tmp_path / "samples.csv").write_text(f"Filename,Identity,Cam,subset\n{rows}\n")
    with pytest.raises(InputError, match=r"column 'path' is missing; found Filename, Identity, Cam, subset; name yours "
                       r"by data\.source\.columns\.path=NAME"):  # fmt: skip
        build("csv", tmp_path, [])
    keys = {"path": "filename", "pid": "IDENTITY", "camid": "Cam", "split": "subset"}
    mapped = [f"data.source.columns.{name}={own}" for name, own in keys.items()]
    samples = build("csv", tmp_path, [], *mapped)
    assert samples.names == {1: "a", 2: "b"} and set(samples.table["split"]) == {"query", "gallery"}
    assert samples.table["camid"].tolist() == [1, 2, 1] * 2
    with pytest.raises(InputError, match=r"column 'camera' is missing; .*data\.source\.columns\.camid=NAME"):
        build("csv", tmp_path, [], *mapped[:2], "data.source.columns.camid=camera")
    with pytest.raises(InputError, match="'who' isn't one of path, pid, camid, split"):
        CsvSamples("samples.csv", tmp_path, columns={"who": "Identity"})


TINY = {"num_cameras": 2, "images_per_camera": 2, "size": [48, 24], "progress": False}


def test_drawn_people_of_different_parameters_share_a_root(tmp_path):
    one, two = ({"num_identities": count, "train_identities": 2, **TINY} for count in (4, 5))
    first, second = SyntheticPeople(tmp_path, **one)(), SyntheticPeople(tmp_path, **two)()
    assert first.root == tmp_path / "4-2-2x2-48x24-0" and second.root == tmp_path / "5-2-2x2-48x24-0"
    assert SyntheticPeople(tmp_path, **one)().table.equals(first.table)


def test_people_drawn_into_the_root_itself_are_read_where_they_fit(tmp_path):
    from reidlab.data.synthetic import generate_people

    one, two = ({"num_identities": count, "train_identities": 2, **TINY} for count in (4, 5))
    generate_people(tmp_path / "old", **one)
    assert SyntheticPeople(tmp_path / "old", **one)().root == tmp_path / "old"
    assert SyntheticPeople(tmp_path / "old", **two)().root == tmp_path / "old" / "5-2-2x2-48x24-0"
    fill(tmp_path / "mine", "anna")
    with pytest.raises(InputError, match="holds files that aren't synthetic people"):
        SyntheticPeople(tmp_path / "mine", **one)()
