"""Synthetic people: what is written where, the same every time, and hard for the right reasons."""

import errno
import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from reidlab.data.synthetic import draw_people, generate_people
from reidlab.data.synthetic.body import Part, Pose, assemble
from reidlab.data.synthetic.camera import Camera
from reidlab.data.synthetic.people import BAGS, CLOTH, MIN_DIFFERENCES, NUM_TOPS, SKIN, Garment, visible_traits
from reidlab.data.synthetic.render import Canvas, Placed, View, Window
from reidlab.data.synthetic.sensor import Sensor
from reidlab.errors import InputError

TINY = {
    "num_identities": 5,
    "train_identities": 2,
    "num_cameras": 2,
    "images_per_camera": 2,
    "size": (48, 24),
    "seed": 3,
    "progress": False,
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return generate_people(tmp_path_factory.mktemp("synthetic") / "people", **TINY)


@pytest.fixture(scope="module")
def cameras() -> list[Camera]:
    return [Camera(1, seed=3), Camera(2, seed=3)]


def digest(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_writes_the_layout_of_market1501(tiny):
    names = {folder: sorted(p.name for p in (tiny / folder).iterdir()) for folder in ("bounding_box_train", "query")}
    gallery = sorted(p.name for p in (tiny / "bounding_box_test").iterdir())
    pattern = re.compile(r"(-1|\d{4})_c[12]s[123]_\d{6}_01\.jpg")
    assert all(pattern.fullmatch(name) for name in [*names["bounding_box_train"], *names["query"], *gallery])
    assert Counter(name[:7] for name in names["bounding_box_train"]) == dict.fromkeys(
        ["0001_c1", "0001_c2", "0002_c1", "0002_c2"], 2
    )
    tested = [f"{pid:04d}_c{camera}" for pid in (3, 4, 5) for camera in (1, 2)]
    assert [name[:7] for name in names["query"]] == tested
    assert [name[:7] for name in gallery if name[:4] not in ("0000", "-1_c")] == tested
    assert Counter(name.split("_")[0] for name in gallery)["0000"] == 4
    assert Counter(name.split("_")[0] for name in gallery)["-1"] == 4


def test_crops_are_of_the_size_asked_within_a_tenth(tiny):
    for path in tiny.rglob("*.jpg"):
        height, width, channels = cv2.imread(str(path)).shape
        assert abs(height - 48) <= 5 and abs(width - 24) <= 3 and channels == 3


def test_attributes_name_every_identity_once(tiny):
    table = pd.read_csv(tiny / "people.csv")
    assert table["pid"].tolist() == [1, 2, 3, 4, 5]
    assert table["split"].tolist() == ["train"] * 2 + ["test"] * 3
    assert set(table["top_color"]) <= set(CLOTH) and set(table["bag"].fillna("none")) <= set(BAGS)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_nothing(tiny, tmp_path, monkeypatch, threads):
    monkeypatch.setattr("reidlab.data.synthetic.dataset.os.cpu_count", lambda: threads)
    monkeypatch.setattr("reidlab.data.synthetic.dataset.BATCH", 5)
    assert digest(generate_people(tmp_path / "people", **TINY)) == digest(tiny)


def test_is_made_once(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert generate_people(tiny, **TINY) == tiny
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before


def test_another_seed_gives_other_people_and_pictures(cameras):
    ours, theirs = draw_people(20, seed=3), draw_people(20, seed=4)
    assert not set(ours) & set(theirs)
    pictures = [
        cameras[0].photograph(ours[0], ours, (48, 24), np.random.default_rng([seed, 1]))[0] for seed in (3, 3, 4)
    ]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_a_picture_does_not_depend_on_those_taken_before(cameras):
    people = draw_people(3, seed=3)
    shots = [(person, number) for person in people for number in range(2)]

    def take(order):
        return {
            shot: cameras[1].photograph(shot[0], people, (48, 24), np.random.default_rng(shot[1])) for shot in order
        }

    first, second = take(shots), take(shots[::-1])
    assert all(np.array_equal(first[shot][0], second[shot][0]) for shot in shots)


def test_more_people_begin_with_the_same_ones():
    assert draw_people(40, seed=0)[:10] == draw_people(10, seed=0)


def test_people_share_their_clothes_but_not_their_looks():
    people = draw_people(100, seed=0)
    tops = Counter(person.top for person in people)
    assert len(tops) <= NUM_TOPS and max(tops.values()) >= 3
    alone = [person for person in people if tops[person.top] == 1]
    assert len(alone) < 10
    for one, other in combinations(map(visible_traits, people), 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) >= MIN_DIFFERENCES


def test_colors_shift_between_cameras_more_than_within():
    card = np.full((32, 16, 3), 0.2, np.float32)
    shades = []
    for number in range(6):
        sensor = Sensor(np.random.default_rng(number))
        photos = [sensor.develop(card, np.ones(3), np.random.default_rng(shot)) for shot in range(6)]
        shades.append([photo.mean((0, 1)) for photo in photos])
    chroma = np.array(shades) / np.array(shades).sum(-1, keepdims=True)
    between, within = chroma.mean(1).std(0), chroma.std(1).mean(0)
    assert (between > 1.5 * within).all()


def heading_pose(heading: float) -> Pose:
    return Pose(heading, phase=0.0, stride=0.1, lean=0.0, left_arm=(0, 0.2), right_arm=(0, 0.2), head_turn=0.0)


def albedo(person, heading: float) -> np.ndarray:
    """Light reflected by a person at the image's center, (256, 128, 3), black where nobody is."""
    view = View(height=1.0, pitch=0.0, focal=1000)
    canvas = Canvas(256, 128, np.zeros((4, 4), np.float32))
    placed = Placed(assemble(person, heading_pose(heading)), (0.0, 8.0), heading)
    canvas.draw([placed], view, Window(480 - 64, 270 - 128, 1.0))
    return canvas.albedo.reshape(256, 128, 3)


def count(image: np.ndarray, color: tuple[int, int, int]) -> int:
    light = (np.array(color) / 255) ** 2.2
    return int((np.abs(image - light) < 0.01).all(-1).sum())


@pytest.mark.parametrize(("heading", "front"), [(0.0, True), (np.pi, False)])
def test_face_and_logo_are_on_the_front_and_the_backpack_on_the_back(heading, front):
    person = next(p for p in draw_people(80, seed=0) if p.bag == "backpack" and p.hair == "short" and not p.beard)
    garment = Garment("tshirt", "white", "plain", "pink", "disc")
    person = type(person)(**{**vars(person), "top": garment, "bag_color": "blue"})
    seen = albedo(person, heading)
    assert (count(seen, CLOTH["pink"]) > 30) == front
    assert (count(seen, CLOTH["blue"]) > 600) == (not front)
    bare = type(person)(**{**vars(person), "hair": "bald", "bag": "none", "skin": 0})
    haired = type(person)(**{**vars(bare), "hair": "short"})
    kept = count(albedo(haired, heading)[:90], SKIN[0]) / count(albedo(bare, heading)[:90], SKIN[0])
    assert (kept > 0.5) == front


def test_a_tube_is_as_wide_and_as_near_as_geometry_says():
    view = View(height=1.0, pitch=0.0, focal=1000)
    white = np.ones(3, np.float32)
    tube = Part(
        np.array([0.0, 1.4, 0.0]),
        np.array([0.0, 0.6, 0.0]),
        ((0.0, 0.2, 0.1), (1.0, 0.2, 0.1)),
        lambda lateral, front, t: white,
        round_ends=False,
    )
    for heading, across, deep in ((0.0, 0.2, 0.1), (np.pi / 2, 0.1, 0.2)):
        canvas = Canvas(200, 100, np.zeros((4, 4), np.float32))
        canvas.draw([Placed([tube], (0.0, 5.0), heading)], view, Window(480 - 50, 270 - 100, 1.0))
        depth = canvas.depth.reshape(200, 100)
        row = np.isfinite(depth[100])
        assert row.sum() == pytest.approx(2 * across * 1000 / 5, abs=2)
        assert np.isfinite(depth[:, 50]).sum() == pytest.approx(0.8 * 1000 / 5, abs=2)
        assert depth[100, 50] == pytest.approx(5 - deep, abs=1e-3)
        normal = canvas.normal.reshape(200, 100, 3)[100]
        assert normal[50] == pytest.approx([0, 0, 1], abs=0.1)
        assert normal[np.flatnonzero(row)[0], 0] < -0.8 and normal[np.flatnonzero(row)[-1], 0] > 0.8


def test_a_nearer_figure_hides_a_farther_one():
    view = View(height=1.0, pitch=0.0, focal=1000)
    knots = ((0.0, 0.2, 0.2), (1.0, 0.2, 0.2))
    near, far = (
        Placed([Part(np.array([0, 1.4, 0.0]), np.array([0, 0.6, 0.0]), knots, paint)], (0.0, depth), 0.0)
        for depth, paint in ((4.0, lambda *_: np.array([1, 0, 0.0])), (6.0, lambda *_: np.array([0, 1, 0.0])))
    )
    for order in ([near, far], [far, near]):
        canvas = Canvas(100, 50, np.zeros((4, 4), np.float32))
        canvas.draw(order, view, Window(480 - 25, 270 - 50, 1.0))
        assert canvas.albedo.reshape(100, 50, 3)[50, 25].tolist() == [1, 0, 0]


def test_a_view_projects_like_a_pinhole():
    view = View(height=3.0, pitch=0.3, focal=800, size=(540, 960))
    on_axis = [0.0, 3.0 - 7 * np.sin(0.3), 7 * np.cos(0.3)]
    assert view.project(on_axis) == pytest.approx([480, 270, 7])
    beside = view.project(np.array([[1.0, *on_axis[1:]]]))
    assert beside[0, :2] == pytest.approx([480 + 800 / 7, 270])


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"num_identities": 3}, "num_identities=3"),
        ({"num_identities": 20_000}, "num_identities=20000"),
        ({"num_identities": "many"}, "num_identities=many"),
        ({"train_identities": 4}, "train_identities=4"),
        ({"num_cameras": 1}, "num_cameras=1"),
        ({"num_cameras": 10}, "num_cameras=10"),
        ({"images_per_camera": 1}, "images_per_camera=1"),
        ({"images_per_camera": 2.5}, "images_per_camera=2.5"),
        ({"size": (48,)}, "size"),
        ({"size": (8, 24)}, "height"),
        ({"size": (48, 4)}, "width"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_wrong_parameter_is_named(tmp_path, change, culprit):
    with pytest.raises(InputError, match=culprit):
        generate_people(tmp_path / "people", **{**TINY, **change})
    assert not any(tmp_path.iterdir())


def test_another_data_set_in_the_folder_is_refused_and_kept(tiny):
    before = digest(tiny)
    with pytest.raises(InputError, match=r"seed=3 \(asked for 4\)"):
        generate_people(tiny, **{**TINY, "seed": 4})
    assert digest(tiny) == before


def test_foreign_files_are_refused_and_kept(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"beach")
    with pytest.raises(InputError, match="aren't synthetic people"):
        generate_people(tmp_path, **TINY)
    assert digest(tmp_path) == {"holiday.jpg": b"beach"}


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_manifest_is_reported(tmp_path, text):
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(InputError, match=r"synthetic\.json: can't be read"):
        generate_people(tmp_path, **TINY)


def test_the_manifest_holds_the_parameters(tiny):
    manifest = json.loads((tiny / "synthetic.json").read_text())
    asked = {name: value for name, value in TINY.items() if name != "progress"}
    assert {name: manifest[name] for name in asked} == asked | {"size": [48, 24]}
    assert isinstance(manifest["version"], int)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    def fail(*_args):
        raise failure

    monkeypatch.setattr("reidlab.data.synthetic.dataset._take", fail)
    expected = InputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(failure, OSError) else None):
        generate_people(tmp_path / "people", **TINY)
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    monkeypatch.setattr("reidlab.data.synthetic.dataset._write", lambda *_: None)
    assert [path.name for path in generate_people(tmp_path, **TINY).iterdir()] == ["synthetic.json"]


def test_a_root_that_cannot_be_a_folder_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file"):
            generate_people(root, **TINY)
