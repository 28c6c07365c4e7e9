"""Command track, on a run of one epoch and on films that nobody was trained on."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reidlab import cli
from reidlab.data import mot
from reidlab.data.synthetic.walk import film_people
from reidlab.errors import InputError
from reidlab.gallery.following import embed_boxes
from reidlab.metrics.tracks import count_tracks
from reidlab.run import File, Run
from reidlab.stages import evaluate, report, track, train

FILM = dict(sequences=2, people=3, frames=30, seed=2)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("track")
    overrides = [*small, f"run.root={root}", "run.name=people", "trainer.max_epochs=1", "model=fdmobilenet_x0_25"]
    train.run(Run.compose(overrides))
    return [f"run.root={root}", "run.name=people", "track.resamples=20", "track.gaps=[1,10]"]


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return film_people(tmp_path_factory.mktemp("film") / "film", **FILM)


def test_tracks_figures_and_pictures(trained, film, capsys):
    assert cli.main(["track", str(film), *trained]) == 0
    run = Run.resume(trained)
    table = pd.read_csv(run / File.TRACK_FIGURES, index_col=0)
    assert [*table.index] == ["motion alone", "with appearance", "difference"]
    sequences = mot.read_sequences(film)
    counts = [count_tracks(s.truth, mot.read_boxes(run / File.TRACK / f"{s.name}.txt")) for s in sequences]
    found = (counts[0] + counts[1]).figures()
    assert table.loc["with appearance", "IDF1"].startswith(f"{found['IDF1']:.3f} [")
    assert table.loc["with appearance", "HOTA"].startswith(f"{found['HOTA']:.3f} [")
    again = pd.read_csv(run / File.REENTRY, index_col=0)
    assert [*again.index] == [1, 10] and again["rank-1"].between(0, 1).all()
    assert (again["rank-1_low"] <= again["rank-1"]).all() and (again["rank-1"] <= again["rank-1_high"]).all()
    page = (run / File.REENTRY_PAGE).read_text()
    assert f'class="number">{again.loc[1, "rank-1"]:.3f}<span>' in page and table.loc["difference", "IDF1"] in page
    assert "1 frame (0.1 s)" in page and "scene1-c1, scene2-c1" in page and "not calibrated" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "it asks another file or host for something"
    assert run.reentry_page == [File.REENTRY_PAGE]
    with Image.open(run / File.TRACK / f"{sequences[0].name}.webp") as picture:
        assert picture.n_frames == 15 and picture.size == (640, 360)
    assert "with appearance" in capsys.readouterr().out


def test_boxes_without_a_truth_are_followed_all_the_same(trained, film, tmp_path):
    folder = tmp_path / "street"
    (folder / "det").mkdir(parents=True)
    (folder / "img1").symlink_to(film / "scene1-c1" / "img1")
    (folder / "det" / "det.txt").write_text((film / "scene1-c1" / "det" / "det.txt").read_text())
    run = Run.resume(trained)
    assert track.run(run, folder).empty
    assert len(mot.read_boxes(run / File.TRACK / "street.txt"))
    assert {file.name for file in (run / File.TRACK).glob("*.[tw]*")} == {"street.txt", "street.webp"}


def test_a_detector_that_found_nothing(trained, film, tmp_path):
    folder = tmp_path / "blind"
    shutil.copytree(film / "scene1-c1", folder)
    (folder / "det" / "det.txt").write_text("")
    run = Run.resume(trained)
    assert track.run(run, folder).loc["with appearance", "IDF1"] == "0.000"
    assert mot.read_boxes(run / File.TRACK / "blind.txt").empty


def test_boxes_beyond_the_frame_are_clipped(trained, film, tmp_path):
    folder = tmp_path / "edge"
    (folder / "gt").mkdir(parents=True)
    (folder / "img1").symlink_to(film / "scene1-c1" / "img1")
    (folder / "gt" / "gt.txt").write_text("1,1,-30,-20,60,80\n1,2,900,900,50,50\n2,1,-28,-20,60,80\n")
    assert len(track.run(Run.resume(trained), folder)) == 3


def test_boxes_outside_of_the_frame_are_left_out(trained, film, tmp_path, capsys):
    folder = tmp_path / "out"
    for name, text in (
        ("gt", "1,1,10,20,60,80\n1,2,9000,900,50,50\n"),
        ("det", "1,-1,10,20,60,80\n1,-1,-90,20,50,50\n"),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.txt").write_text(text)
    (folder / "img1").symlink_to(film / "scene1-c1" / "img1")
    run = Run.resume(trained)
    track.run(run, folder)
    assert "out: 1 boxes lie outside of their frames and are left out" in capsys.readouterr().out
    assert mot.read_boxes(run / File.TRACK / "out.txt")["left"].tolist() == [10]
    shot = embed_boxes(mot.read_sequence(folder), lambda frame, boxes: np.ones((len(boxes), 2)))
    assert shot.sequence.truth["visibility"].tolist() == [1, 0]
    assert len(shot.sequence.boxes) == len(shot.boxes) == 1 and len(shot.truth) == 2


def test_figures_of_an_earlier_call_do_not_stay(trained, film, tmp_path):
    run = Run.resume(trained)
    track.run(run, film)
    folder = tmp_path / "later"
    (folder / "det").mkdir(parents=True)
    (folder / "img1").symlink_to(film / "scene1-c1" / "img1")
    (folder / "det" / "det.txt").write_text("1,-1,10,20,60,80\n")
    track.run(run, folder)
    assert not any(run.has(file) for file in (File.TRACK_FIGURES, File.REENTRY, File.REENTRY_ABOUT, File.REENTRY_PAGE))
    assert run.reentry_page == []


def test_a_large_and_long_sequence_has_a_small_and_short_picture(trained, tmp_path):
    folder = tmp_path / "hd"
    (folder / "gt").mkdir(parents=True)
    (folder / "img1").mkdir()
    for number in range(1, 31):
        Image.new("RGB", (1920, 1081), (255 * (number % 2), 0, 0)).save(folder / "img1" / f"{number:06d}.jpg")
    (folder / "gt" / "gt.txt").write_text("1,1,900,500,60,180\n2,1,905,500,60,180\n")
    (folder / "seqinfo.ini").write_text("[Sequence]\nframeRate=25\n")
    run = Run.resume([*trained, "track.picture_frames=5", "track.picture_every=1"])
    track.run(run, folder)
    with Image.open(run / File.TRACK / "hd.webp") as picture:
        assert picture.n_frames == 5 and picture.size == (640, 360)
        picture.load()
        assert picture.info["duration"] == 40


def test_frames_of_odd_numbers_have_a_picture(trained, film, tmp_path):
    folder = tmp_path / "odd"
    (folder / "det").mkdir(parents=True)
    (folder / "img1").mkdir()
    for number in (1, 3, 5):
        shutil.copy(film / "scene1-c1" / "img1" / f"{number:06d}.jpg", folder / "img1")
    (folder / "det" / "det.txt").write_text("1,-1,10,20,60,80\n")
    run = Run.resume([*trained, "track.picture_every=2"])
    track.run(run, folder)
    with Image.open(run / File.TRACK / "odd.webp") as picture:
        assert picture.n_frames == 2


def test_frames_of_several_sizes_have_a_picture_and_all_heads_in_it_are_blurred(trained, film, tmp_path):
    folder, noise = tmp_path / "odd", np.random.default_rng(0)
    for inside in ("gt", "det", "img1"):
        (folder / inside).mkdir(parents=True)
    for number, height in ((1, 200), (2, 160)):
        pixels = noise.integers(0, 256, (height, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "img1" / f"{number:06d}.png")
    (folder / "gt" / "gt.txt").write_text("1,1,10,20,60,120,1\n2,1,10,20,60,120,1\n1,2,100,20,60,120,0\n")
    (folder / "det" / "det.txt").write_text("")
    spread = {}
    for blur in (True, False):
        run = Run.resume([*trained, f"privacy.blur={blur}", "track.picture_every=1"])
        track.run(run, folder)
        with Image.open(run / File.TRACK / "odd.webp") as picture:
            assert picture.n_frames == 2 and picture.size == (200, 200)
            frame = np.asarray(picture.convert("L")).astype(float)
        spread[blur] = [frame[22:38, left : left + 50].std() for left in (15, 105)]
    assert max(spread[True]) < 0.5 * min(spread[False])  # the one nobody has to find is blurred, too


def test_a_video_with_the_boxes_of_several_detectors_is_one_video(trained, film, tmp_path):
    """As in MOT17: figures of two detectors' boxes that are the same are those of one, with the intervals of one."""
    for detector in ("DPM", "SDP"):
        for scene in (1, 2):
            shutil.copytree(film / f"scene{scene}-c1", tmp_path / f"MOT17-0{scene}-{detector}")
    run = Run.resume(trained)
    once = track.run(run, film)
    again = pd.read_csv(run / File.REENTRY, index_col=0)
    twice = track.run(run, tmp_path)
    rates = ["HOTA", "DetA", "AssA", "IDF1", "MOTA"]
    pd.testing.assert_frame_equal(twice[rates], once[rates])
    pd.testing.assert_frame_equal(pd.read_csv(run / File.REENTRY, index_col=0), again)


def test_an_override_is_no_folder(trained, tmp_path):
    small = ["track.film.sequences=1", "track.film.people=2", "track.film.frames=20", f"track.root={tmp_path}"]
    assert cli.main(["track", *small, *trained]) == 0
    assert (tmp_path / "1-2-20-1-0" / "scene1-c1" / "gt" / "gt.txt").is_file()


def test_a_classifier_has_no_tracks(tmp_path):
    with pytest.raises(InputError, match="classifies"):
        track.run(Run.compose(["experiment=flowers_smoke", f"run.root={tmp_path}"]))


def test_the_page_belongs_to_a_checkpoint_and_is_linked(trained, film):
    run = Run.resume(trained)
    track.run(run, film)
    assert run.reentry_page == [File.REENTRY_PAGE]
    report.run(evaluate.run(run))
    pages = [run / file for file in (File.CARD, File.CARD_MARKDOWN, File.EVALUATION_PAGE)]
    assert all(File.REENTRY_PAGE in page.read_text() for page in pages)
    about = run.json_of(File.REENTRY_ABOUT)
    run.write(File.REENTRY_ABOUT, json.dumps(about | {"checkpoint": "another"}))
    assert run.reentry_page == []
    report.run(run)
    assert not any(f'"{File.REENTRY_PAGE}"' in page.read_text() for page in pages)


def test_two_cameras_of_a_scene_are_counted_together_and_each_by_itself(trained, film, tmp_path):
    for number, place in enumerate(sorted(film.glob("scene*")), start=1):
        shutil.copytree(place, tmp_path / "two" / f"hall-c{number}")
    table = track.run(Run.resume(trained), tmp_path / "two")
    ways = ("motion alone", "with appearance", "difference")
    assert [*table.index] == [*ways, *(f"{way}, each camera by itself" for way in ways)]
    run, sequences = Run.resume(trained), mot.read_sequences(tmp_path / "two")
    counts = [count_tracks(s.truth, mot.read_boxes(run / File.TRACK / f"{s.name}.txt")) for s in sequences]
    alone = table.loc["with appearance, each camera by itself"]
    assert alone["IDF1"].startswith(f"{(counts[0] + counts[1]).figures()['IDF1']:.3f} [")
    assert "[" not in table.loc["with appearance", "IDF1"]  # of one scene there is no interval
