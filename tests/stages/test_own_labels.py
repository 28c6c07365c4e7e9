"""What a run shows and writes names identities, classes and cameras as the user did: as their folders, or the table."""

import re

import cv2
import numpy as np
import pandas as pd
import pytest

from reidlab.evaluation import insight
from reidlab.run import File, Run
from reidlab.stages import data, evaluate, predict, train

PEOPLE = ["1", "2", "3", "7", "10", "11", "11x", "12b", "Zofie Novakova 0077", "20", "21", "22"]
FOLDER = r"(?:people/)?(?P<who>[^/]+)/(?P<camera>door|yard)_\d\.png"
SMALL = ["data.size=[32,16]", "data.num_workers=0", "model=osnet_x0_25", "trainer.max_epochs=1",
         "trainer.accelerator=cpu", "logger=none", "evaluate.resamples=20"]  # fmt: skip


RANDOM = np.random.default_rng(0)


def put(file):
    """An image like no other."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), RANDOM.integers(0, 256, (48, 32, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A run of folders whose names are no numbers, evaluated; one image of a second has the bytes of the first's."""
    root = tmp_path_factory.mktemp("labels")
    for who in PEOPLE:
        for camera in ("door", "yard"):
            for number in range(2):
                put(root / "people" / who / f"{camera}_{number}.png")
    twin, other = root / "people" / "10" / "door_0.png", root / "people" / "2" / "door_0.png"
    twin.write_bytes(other.read_bytes())
    run = Run.compose([
        "data=folders", f"data.root={root}/people", "data.source.camera='(?P<camid>door|yard)'", *SMALL,
        "data.batch_size=8", "data.num_instances=2", "data.val_fraction=0", f"run.root={root}/runs", "run.name=people",
    ])  # fmt: skip
    return root / "people", evaluate.run(train.run(data.run(run)))


def told(paths):
    """Folder and camera as paths tell them."""
    return pd.Series(paths).str.extract(FOLDER)


def assert_own(table, path="path", pid="pid"):
    own = told(table[path].tolist())
    assert table[pid].astype(str).tolist() == own["who"].tolist()
    assert "camid" not in table or table["camid"].tolist() == own["camera"].tolist()


def test_findings_and_the_table_of_samples(people):
    _, run = people
    findings = pd.read_csv(run / File.DATA_FINDINGS)
    (row,) = findings[findings["kind"] == "duplicate of another identity"].itertuples()
    first, other = re.fullmatch(r"pid ([^,]+), \w+; same bytes as (.+ \(pid [^,]+), \w+\)", row.message).groups()
    assert sorted([f"{row.where} (pid {first}", other]) == ["10/door_0.png (pid 10", "2/door_0.png (pid 2"]
    assert_own(pd.read_csv(run / File.DATA_SAMPLES))


def test_tables_and_pictures_of_the_evaluation(people):
    _, run = people
    assert_own(pd.read_csv(run / File.EVALUATE / "checkpoint" / "per_query.csv"))
    retrieved = insight.retrieve(run)
    drawn = insight.confusions(retrieved)
    assert_own(drawn.table, "query")
    assert_own(drawn.table, "found", "mistaken_for")
    captions = {text.get_text() for text in drawn.figure.axes[0].texts}
    assert {f"pid {who}" for who in drawn.table["pid"] if len(who) < 5} <= captions
    assert_own(insight.attention(retrieved, [1, 0]).table)
    places = insight.embedding_map(retrieved)
    assert_own(places.table)
    assert {text.get_text() for text in places.figure.axes[0].texts if len(text.get_text()) < 5} <= {*PEOPLE}
    legend = [text.get_text() for text in places.figure.axes[0].get_legend().get_texts()]
    assert legend == ["camera door", "camera yard"]
    assert insight.camera_pairs(retrieved).table.index.tolist() == ["door", "yard"]
    (ranking,) = retrieved.found.pictured([0], 3, lambda path: np.zeros((4, 4, 3), np.uint8))
    path = retrieved.found.query.table["path"].iloc[0]
    assert ranking.title.startswith(f"pid {told([path])['who'][0]}, AP ")


def test_the_answer_to_who_is_it(people, capsys):
    root, run = people
    again = Run.resume([f"run.root={run.folder.parent}", f"run.name={run.name}"])
    table = pd.read_csv(predict.run(again, root / "2" / "door_1.png"))
    assert_own(table, "found")
    printed = capsys.readouterr().out.split()
    assert {f"{distance:.4g}" for distance in table["distance"][1:]} <= {*printed}, printed


def test_a_table_of_samples_is_a_table_to_read(people):
    root, run = people
    again = Run.compose(["data=csv", f"data.root={root}", f"data.source.file={(run / File.DATA_SAMPLES).absolute()}",
                         "data.val_fraction=0", f"run.root={root.parent}/runs", "run.name=read"])  # fmt: skip
    one, two = (each.datamodule().samples for each in (run, again))
    keys = [s.labeled(s.table).sort_values("path").to_numpy().tolist() for s in (one, two)]
    assert keys[0] == keys[1]


def test_classes_that_are_digits(tmp_path):
    for label in range(10):
        for number in range(8):
            put(tmp_path / "digits" / str(label) / f"{number}.png")
    first = tmp_path / "digits" / "0" / "0.png"
    (tmp_path / "digits" / "9" / "0.png").write_bytes(first.read_bytes())
    run = data.run(Run.compose([
        "data=class_folders", f"data.root={tmp_path}/digits", f"run.root={tmp_path}/runs", "run.name=digits",
    ]))  # fmt: skip
    findings = pd.read_csv(run / File.DATA_FINDINGS)
    (row,) = findings[findings["kind"] == "duplicate of another class"].itertuples()
    assert re.fullmatch(r"class 0, \w+; same bytes as 9/0\.png \(class 9, \w+\)", row.message)
    samples = pd.read_csv(run / File.DATA_SAMPLES)
    assert samples["label"].astype(str).tolist() == samples["path"].str.partition("/")[0].tolist()


def test_people_counted_from_0(tmp_path):
    rows = [("0_0.png", 0, 0, "train"), ("0_1.png", 0, 1, "train"), ("2_0.png", 2, 0, "query"),
            ("2_1.png", 2, 0, "gallery"), ("3_0.png", 3, 0, "query"), ("3_1.png", 3, 1, "gallery")]  # fmt: skip
    for path, *_ in rows:
        put(tmp_path / path)
    (tmp_path / "3_0.png").write_bytes((tmp_path / "2_0.png").read_bytes())
    pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]).to_csv(tmp_path / "samples.csv", index=False)
    run = Run.compose(["data=csv", f"data.root={tmp_path}", f"run.root={tmp_path}/runs", "run.name=zero"])
    found = pd.DataFrame(run.datamodule().validate())["message"].tolist()
    assert "gallery has pid 2 from the query's own camera 0 only" in found
    assert "pid 2, query; same bytes as 3_0.png (pid 3, query)" in found
