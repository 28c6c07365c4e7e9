"""Commands enroll, identify and forget, on a run of one epoch."""

import re
import shutil

import numpy as np
import onnx
import pandas as pd
import pytest

import reidlab
from reidlab import cli
from reidlab.config import CLONE
from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.gallery import Candidate, Gallery, Identification
from reidlab.run import File, Run
from reidlab.stages import enroll, export, forget, identify, train

PATTERN = r"gallery.pattern=(?P<pid>\d+)_c(?P<camid>\d+)s(?P<time>\d+)"  # as a shell hands it on


@pytest.fixture(scope="module")
def trained(market, small, tmp_path_factory):
    """The overrides of a run with a threshold, and its test set."""
    root = tmp_path_factory.mktemp("gallery")
    overrides = [*small, f"run.root={root}", "run.name=people", "trainer.max_epochs=1", "model=fdmobilenet_x0_25"]
    run = train.run(Run.compose(overrides))
    verdict = {"threshold": 5.0, "distance": run["model.distance"], "checkpoint": run.checkpoint}
    write_json(run / File.VERIFICATION, verdict)
    return [f"run.root={root}", "run.name=people"], market


@pytest.fixture
def people(trained):
    yield trained
    shutil.rmtree(Run.resume(trained[0]) / File.GALLERY, ignore_errors=True)


def test_a_camera_of_minus_one_is_unknown(people, tmp_path):
    overrides, market = people
    shutil.copy(min((market / "query").glob("*.jpg")), tmp_path / "7_c-1.jpg")
    gallery = enroll.run(Run.resume([*overrides, r"gallery.pattern='(?P<pid>\d+)_c(?P<camid>-?\d+)'"]), tmp_path)
    assert gallery.table()["pid"].tolist() == ["7"] and not gallery.table()["camid"].fillna("").any()


def test_markets_junk_and_distractors_are_no_person(people, tmp_path, capsys):
    overrides, market = people
    for name in ("0007_c1s1_000151_01.jpg", "0000_c2s1_000151_01.jpg", "-1_c3s1_000151_01.jpg"):
        shutil.copy(min((market / "query").glob("*.jpg")), tmp_path / name)
    place = f"gallery.folder={tmp_path / 'gallery'}"
    (of_market,) = re.findall(r"`(gallery\.pattern='.*?')`", (CLONE / "docs" / "gallery.md").read_text())
    assert enroll.run(Run.resume([*overrides, place, of_market]), tmp_path).pids == ["0007"]
    capsys.readouterr()
    signed = r"gallery.pattern='(?P<pid>-?\d+)_c(?P<camid>\d)'"
    assert enroll.run(Run.resume([*overrides, place, signed]), tmp_path).pids == ["0000", "0007"]
    assert "1 images left out whose identity is a negative number, nobody's, e.g. -1_c3s1" in capsys.readouterr().out
    for name in ("0007_c1s1_000151_01.jpg", "0000_c2s1_000151_01.jpg"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match="nobody to enroll"):
        enroll.run(Run.resume([*overrides, place, signed]), tmp_path)


def test_enrolled_identified_forgotten(people, capsys):
    overrides, market = people
    assert cli.main(["enroll", str(market / "bounding_box_test"), PATTERN, *overrides]) == 0
    files = sorted((market / "bounding_box_test").glob("*.jpg"))
    gallery = Gallery.open(Run.resume(overrides) / File.GALLERY)
    table = gallery.table()
    assert table["path"].tolist() == [file.as_posix() for file in files]
    assert table["pid"].tolist() == [file.name[:4] for file in files] and set(table["camid"]) == {"1", "2"}
    assert set(table["time"]) == {1.0} and set(table["checkpoint"]) == {Run.resume(overrides).checkpoint}
    model = reidlab.load(Run.resume(overrides).folder)
    np.testing.assert_allclose(gallery.embeddings(), model(files), rtol=1e-3, atol=1e-3)
    query = min((market / "query").glob("*.jpg"))
    assert cli.main(["identify", str(query), "gallery.k=2", "gallery.template=best", *overrides]) == 0
    said = capsys.readouterr().out
    distances = np.linalg.norm(model([query]).astype(float) - gallery.embeddings(), axis=1)
    best = table.assign(distance=distances).groupby("pid")["distance"].min().sort_values()
    words = [word.strip(",") for word in said.split()]
    numbers = [float(word) for word in words if re.fullmatch(r"\d[\d.e-]*", word)]
    for pid, distance in best.head(2).items():
        assert pid in words and min(abs(number - distance) for number in numbers) <= max(1e-3 * distance, 1e-6)
    assert cli.main(["forget", best.index[0], *overrides]) == 0
    assert f"{(table['pid'] == best.index[0]).sum()} images of {best.index[0]} deleted" in capsys.readouterr().out
    (answer,) = identify.run(Run.resume([*overrides, "gallery.k=50", "gallery.template=best"]), query).values()
    assert [found.pid for found in answer.candidates] == best.index[1:].tolist()


def test_folders_of_identities_by_cameras_times_and_templates(people, tmp_path):
    overrides, market = people
    for file in (market / "bounding_box_test").glob("*.jpg"):
        (tmp_path / f"mr {file.name[:4]}").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / f"mr {file.name[:4]}")
    (tmp_path / "stray.jpg").write_bytes(file.read_bytes())
    gallery = enroll.run(Run.resume([*overrides, "gallery.precision=int8"]), tmp_path)
    assert gallery.pids == sorted(
        f"mr {file.name[:4]}" for file in {f.name[:4]: f for f in tmp_path.rglob("0*")}.values()
    )
    query = min((market / "query").glob("*.jpg"))
    found = {
        given: identify.run(Run.resume([*overrides, *given.split()]), query)[query.name]
        for given in (
            "gallery.template=mean",
            "gallery.template=medoid gallery.threshold=0",
            "gallery.until=2020-01-01",
        )
    }
    mean, strict, early = found.values()
    assert mean.pid in gallery.pids and mean.candidates[0].path is None
    assert strict.pid is None and strict.candidates[0].path and early.candidates == ()
    with pytest.raises(InputError, match=r"gallery.since=soon: no date"):
        identify.run(Run.resume([*overrides, "gallery.since=soon"]), query)


def test_images_of_one_name_in_two_folders_are_two(people, tmp_path, monkeypatch):
    """Wherever the command is given, and embedded before or not; the same images again take the place of themselves."""
    overrides, market = people
    files = sorted((market / "query").glob("*.jpg"))[:2]
    for day, file in zip(("mon", "tue"), files, strict=True):
        (tmp_path / day / "ann").mkdir(parents=True)
        shutil.copy(file, tmp_path / day / "ann" / "0.jpg")
    monkeypatch.chdir(tmp_path)
    given = [*overrides, f"gallery.folder={tmp_path / 'gallery'}"]
    for place in ("mon", "tue", str(tmp_path / "mon")):
        assert cli.main(["enroll", place, *given]) == 0
    for day in ("mon", "tue"):
        out = tmp_path / f"x_{day}"
        assert cli.main(["predict", day, f"predict.out={out}", "predict.pattern=(?P<pid>[^/]+)/", *overrides]) == 0
        assert cli.main(["enroll", str(out), *given]) == 0
    table = Gallery.open(tmp_path / "gallery").table()
    assert sorted(table["path"]) == [(tmp_path / day / "ann" / "0.jpg").as_posix() for day in ("mon", "tue")]


def test_an_exported_file_of_the_same_checkpoint_asks_the_same_gallery(people):
    overrides, market = people
    run = Run.resume(overrides)
    export.run(run)
    enroll.run(Run.resume([*overrides, PATTERN]), market / "bounding_box_test")
    by_run, by_file = (
        identify.run(Run.resume([*overrides, *given]), market / "query")
        for given in ([], [f"gallery.model={run / File.ONNX}"])
    )
    assert {path: answer.pid for path, answer in by_run.items()} == {p: answer.pid for p, answer in by_file.items()}


def test_the_gallery_of_another_checkpoint_is_refused_but_can_be_forgotten_from(people, small, tmp_path, capsys):
    overrides, market = people
    enroll.run(Run.resume([*overrides, PATTERN]), market / "bounding_box_test")
    folder = Run.resume(overrides) / File.GALLERY
    train.run(Run.compose([*small, f"run.root={tmp_path}", "run.name=other", "seed=3", "trainer.max_epochs=1"]))
    others = [f"run.root={tmp_path}", "run.name=other", f"gallery.folder={folder}"]
    for command in (["enroll", str(market / "bounding_box_test"), PATTERN], ["identify", str(market / "query")]):
        assert cli.main([*command, *others]) == 2
        assert "enrolled with checkpoint" in capsys.readouterr().err
    pid = Gallery.open(folder).pids[0]
    assert forget.run(Run.resume(others), pid) > 0


def test_what_cannot_be_enrolled_is_named(people, tmp_path):
    overrides, market = people
    for given, message in (
        ([], "no path fits gallery.pattern"),
        (["gallery.pattern='(?P<name>.+)'"], "gallery.pattern: has no group named pid"),
        (["gallery.pattern='('"], "gallery.pattern: not a regular expression"),
    ):
        with pytest.raises(InputError, match=message):
            enroll.run(Run.resume([*overrides, *given]), market / "query")
    day = tmp_path / "ann"
    day.mkdir()
    for name in ("2026-01-31", "17"):
        shutil.copy(min((market / "query").glob("*.jpg")), day / f"{name}.jpg")
    place = f"gallery.folder={tmp_path / 'timed'}"
    with pytest.raises(InputError, match=r"ann/2026-01-31\.jpg: its time '2026-01-31' is no number of seconds"):
        enroll.run(Run.resume([*overrides, place, r"gallery.pattern='(?P<pid>\w+)/(?P<time>[\d-]+)'"]), tmp_path)
    gallery = enroll.run(Run.resume([*overrides, place, r"gallery.pattern='(?P<pid>\w+)/(?P<time>\d\d\.)?'"]), tmp_path)
    assert sorted(gallery.table()["time"] > 1e9) == [False, True]  # a path without one is of now
    with pytest.raises(InputError, match="nobody: nobody of that name"):
        forget.run(Run.resume(overrides), "nobody")


def test_nothing_to_compare_with_is_said(people, tmp_path, capsys):
    overrides, market = people
    query = str(min((market / "query").glob("*.jpg")))
    assert cli.main(["identify", query, f"gallery.folder={tmp_path / 'new'}", *overrides]) == 2
    assert "new: no gallery; `reidlab enroll DIR` begins one" in capsys.readouterr().err
    assert cli.main(["enroll", str(market / "bounding_box_test"), PATTERN, *overrides]) == 0
    assert cli.main(["identify", query, "gallery.cameras=[door]", *overrides]) == 0
    assert "no enrolled image fits gallery.cameras=['door']" in capsys.readouterr().out


def test_a_servers_url_is_no_folder(people, capsys):
    overrides, market = people
    query = str(min((market / "query").glob("*.jpg")))
    for command in (["identify", query], ["enroll", str(market / "query"), PATTERN], ["forget", "0001"]):
        assert cli.main([*command, "gallery.folder=redis://host:1/people", *overrides]) == 2
        assert "redis://host:1/people: a gallery on a server is qdrant://HOST:6333/NAME" in capsys.readouterr().err


def test_a_classifier_has_no_gallery(tmp_path):
    run = Run.compose(["data=shapes", f"run.root={tmp_path}", "model=fdmobilenet_x0_25"])
    with pytest.raises(InputError, match="classifies images"):
        enroll.open_gallery(run)


def test_the_pages_example_runs(people, tmp_path, monkeypatch):
    """The five lines of docs/gallery.md, with this run's folder and images."""
    overrides, market = people
    text = (reidlab.config.CLONE / "docs" / "gallery.md").read_text()
    block = text.split("```python\n")[1].split("```")[0]
    files = sorted((market / "bounding_box_test").glob("*.jpg"))[:3]
    for name, file in zip(("ann/1.jpg", "ann/2.jpg", "bob/1.jpg", "door.jpg"), [*files, files[0]], strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(block.replace("runs/demo", str(Run.resume(overrides).folder)), names)
    assert names["gallery"].pids == ["bob"] and isinstance(names["gallery"].table(), pd.DataFrame)


def test_the_distance_of_a_file_that_says_none_is_assumed_aloud(people, capsys, tmp_path):
    overrides, market = people
    run = export.run(Run.resume(overrides))
    model = onnx.load(run / File.ONNX)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    given = [*overrides, f"gallery.model={tmp_path}/bare.onnx", f"gallery.folder={tmp_path}/gallery"]
    assert cli.main(["enroll", str(market / "query"), PATTERN, *given]) == 0
    said = capsys.readouterr().out
    assert f"assumed: the {run['model.distance']} distance, which bare.onnx doesn't say" in said
    assert Gallery.open(tmp_path / "gallery").distance == run["model.distance"]


def test_near_and_far_are_told_apart_in_print(people, tmp_path, monkeypatch, capsys):
    """Distances of 0.01042 with a threshold of 0.01036 would both be 0.010."""
    overrides, market = people
    query = min((market / "query").glob("*.jpg"))
    answer = Identification((Candidate("ann", 0.01042),), 0.01036)
    monkeypatch.setattr(Gallery, "identify", lambda *args: [answer])
    enroll.run(Run.resume([*overrides, PATTERN, f"gallery.folder={tmp_path}/new"]), market / "query")
    identify.run(Run.resume([*overrides, f"gallery.folder={tmp_path}/new"]), query)
    assert capsys.readouterr().out.split()[-5:] == ["nobody", "0.01042", "0.01036", "ann", "0.01042"]
