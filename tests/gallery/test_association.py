"""Boxes joined to tracks: by motion, by appearance, and again after a gap; on walks whose right answer is plain."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reidlab.config import CLONE
from reidlab.data import mot
from reidlab.gallery.association import Associator, Motion, Rules
from reidlab.gallery.following import Shot, count_scenes, follow, scenes

A, B, C = np.eye(3)


def walk(steps, rules=None, looks=True):
    """Tracks, as identities, of frames [(left, embedding), ...] with boxes 20 x 40; None for a frame without boxes."""
    associator, given = Associator(rules), []
    for frame, boxes in enumerate(steps, start=1):
        if boxes is not None:
            places = np.array([[left, 10.0, 20, 40] for left, _ in boxes]).reshape(-1, 4)
            embeddings = np.array([look for _, look in boxes]).reshape(-1, 3) if looks else None
            given.append((frame, associator.step(frame, places, np.ones(len(boxes)), embeddings)))
    return [[associator.identity_of(track) for track in tracks] for _, tracks in given]


def test_two_walkers_far_apart():
    steps = [[(2.0 * n, A), (200 - 2.0 * n, B)] for n in range(20)]
    assert walk(steps) == walk(steps, looks=False) == [[1, 2]] * 20


def test_order_of_boxes_does_not_matter():
    steps = [[(2.0 * n, A), (200 - 2.0 * n, B)][:: 1 if n % 2 else -1] for n in range(20)]
    assert [sorted(frame) for frame in walk(steps)] == [[1, 2]] * 20
    assert all(frame == walk(steps)[0][:: 1 if n % 2 == 0 else -1] for n, frame in enumerate(walk(steps)))


def test_appearance_keeps_apart_who_turn_back_when_they_meet():
    """They meet, hide for three frames, and each goes back: motion takes them for having passed."""
    there = [[(4.0 * n, A), (160 - 4.0 * n, B)] for n in range(18)]
    back = [[(64 - 4.0 * n, A), (96 + 4.0 * n, B)] for n in range(15)]
    steps = [*there, None, None, None, *back]
    assert walk(steps)[-1] == [1, 2]
    assert walk(steps, looks=False)[-1] != [1, 2]


def test_who_returns_is_recognized_for_all_boxes_since_the_return():
    gone = [None] * 60
    steps = [*([(5.0 * n, A)] for n in range(12)), *gone, *([(300 - 5.0 * n, A)] for n in range(12))]
    assert walk(steps) == [[1]] * 24
    assert walk(steps, Rules(reentry_distance=None)) == [[1]] * 12 + [[2]] * 12
    assert walk(steps, Rules(memory=40)) == [[1]] * 12 + [[2]] * 12
    assert walk([*steps[:72], *([(300 - 5.0 * n, B)] for n in range(12))]) == [[1]] * 12 + [[2]] * 12


def test_nobody_is_in_two_places():
    """A double of somebody in view is no return."""
    steps = [*([(5.0 * n, A)] for n in range(10)), *([(50 + 5.0 * n, A), (300 - 5.0 * n, A)] for n in range(20))]
    assert walk(steps)[-1] == [1, 2]


def test_of_two_lost_the_nearest_is_it():
    first = [[(5.0 * n, A), (300 - 5.0 * n, B)] for n in range(12)]
    look = (B + 0.3 * A) / np.linalg.norm(B + 0.3 * A)
    steps = [*first, *[None] * 40, *([(5.0 * n, look)] for n in range(12))]
    assert walk(steps)[-1] == [2]


def test_unsure_detections_begin_no_track():
    associator = Associator()
    assert associator.step(1, np.array([[0.0, 0, 10, 20]]), np.array([0.1])) == [0]
    assert associator.step(2, np.zeros((0, 4)), np.zeros(0), np.zeros((0, 3))) == []


def test_the_filter_is_kalmans():
    """Against the textbook's equations with the inverse written out."""
    motion = Motion(np.array([0.0, 0, 20, 40]))
    motion.predict()
    mean, covariance = motion.mean.copy(), motion.covariance.copy()
    select = np.eye(4, 8)
    noise = np.diag(np.square([2.0, 2.0, 0.1, 2.0]))
    measured = np.array([15.0, 22, 0.5, 42])
    innovation = select @ covariance @ select.T + noise
    gain = covariance @ select.T @ np.linalg.inv(innovation)
    off = measured - select @ mean
    box = np.array([measured[0] - 21 / 2, measured[1] - 21, 21, 42])
    assert motion.distances(box[None])[0] == pytest.approx(off @ np.linalg.inv(innovation) @ off)
    motion.update(box)
    np.testing.assert_allclose(motion.mean, mean + gain @ off)
    np.testing.assert_allclose(motion.covariance, (np.eye(8) - gain @ select) @ covariance, atol=1e-9)


def shot(name, people, frames=12):
    """A sequence with somebody in each place."""
    rows = [
        dict(frame=f, pid=pid, left=60.0 * n + f, top=5.0, width=20.0, height=40.0, confidence=1.0)
        for f in range(1, frames + 1)
        for n, (pid, _) in enumerate(people)
    ]
    table = pd.DataFrame(rows).reindex(columns=mot.COLUMNS)
    looks = np.array([look for _ in range(frames) for _, look in people])
    return Shot(mot.Sequence(name, None, 10, table, table.assign(pid=-1)), looks, looks)


def test_a_person_keeps_the_identity_at_the_next_camera():
    shots = [shot("hall-c1", [(7, A), (8, B)]), shot("hall-c2", [(8, B), (9, C)]), shot("yard", [(1, A)])]
    tracks = follow(shots, Rules(), appearance=True)
    ids = {name: table.drop_duplicates("left")["pid"].unique().tolist() for name, table in tracks.items()}
    assert ids == {"hall-c1": [1, 2], "hall-c2": [2, 4], "yard": [1]}
    hall, yard = count_scenes(scenes(shots), tracks)
    assert hall.figures()["IDF1"] == 1 and hall.figures()["switches"] == 0 and yard.figures()["HOTA"] == 1
    alone, _ = count_scenes(scenes(shots), follow(shots, Rules(), appearance=False))
    assert alone.figures()["IDF1"] == pytest.approx(3 / 4)


def test_detections_that_are_all_too_unsure_are_told(capsys):
    unsure = shot("hall", [(7, A)])
    unsure.sequence.boxes["confidence"] = -0.5
    assert follow([unsure], Rules(), appearance=True)["hall"].empty
    told = "hall: no box is followed, since their confidences go from -0.5 to -0.5, and a track begins at track"
    assert told in capsys.readouterr().out
    assert len(follow([unsure], Rules(min_confidence=-1), appearance=True)["hall"]) == 12


def of_one_walker(name, first):
    """A sequence of a person who walks through 20 frames from number `first` on."""
    rows = [[first + n, 1, 10 + 5 * n, 10, 20, 40, 1, 1, 1] for n in range(20)]
    table = pd.DataFrame(rows, columns=mot.COLUMNS)
    looks = np.tile(A, (20, 1))
    return Shot(mot.Sequence(name, Path(name), 10, table, table), looks, looks)


@pytest.mark.parametrize("first", [1, 5_000, 1_800_000_000])
def test_cameras_whose_frames_begin_anywhere_remember_each_other(first):
    tracks = follow([of_one_walker("hall-c1", first), of_one_walker("hall-c2", 3 * first // 4)], Rules(), True)
    assert [table["pid"].tolist() for table in tracks.values()] == [[1] * 20] * 2
    assert tracks["hall-c1"]["frame"].tolist() == [*range(first, first + 20)]


def test_frames_that_are_seconds_take_no_longer():
    associator = Associator()
    for number, frame in enumerate((1, 2_000_000_000)):
        assert associator.step(frame, np.array([[10.0, 10, 20, 40]]), np.ones(1)) == [number + 1]


def test_cameras_of_a_scene_are_one_scene_wherever_they_stand():
    shots = [of_one_walker(name, 1) for name in ("hall-c1", "hall-c1b", "hall-c2")]
    assert [[shot.sequence.name for shot in scene] for scene in scenes(shots)] == [["hall-c1", "hall-c2"], ["hall-c1b"]]
    assert {name: table["pid"].unique().tolist() for name, table in follow(shots, Rules(), True).items()} == {
        shot.sequence.name: [1] for shot in shots
    }


@pytest.mark.slow
def test_the_five_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    """They run as they stand, but film elsewhere; three people or more are followed for 50 frames."""
    text = (CLONE / "README.md").read_text()
    lines = re.search(r"in five lines\n\n```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.chdir(CLONE)
    exec(lines.replace("data/film/readme", str(tmp_path / "film")), {})
    counts = [int(row.split()[-1]) for row in capsys.readouterr().out.splitlines()[2:]]
    assert sum(count >= 50 for count in counts) >= 3 and len([line for line in lines.splitlines() if line]) == 5
