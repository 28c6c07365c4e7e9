"""Filmed people: what the truth says is what the pictures show."""

import hashlib

import numpy as np
import pytest

from reidlab.data.mot import read_sequences
from reidlab.data.synthetic import walk
from reidlab.data.synthetic.camera import Camera
from reidlab.data.synthetic.people import draw_people
from reidlab.data.synthetic.walk import OTHERS, film_people
from reidlab.errors import InputError

SMALL = dict(sequences=1, people=4, frames=30, cameras=2, seed=3)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return film_people(tmp_path_factory.mktemp("film") / "film", **SMALL)


def content(root):
    return {p.relative_to(root): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def test_the_same_parameters_give_the_same_bytes(film, tmp_path):
    once, again = (film_people(tmp_path / name, **SMALL | {"frames": 4}) for name in ("once", "again"))
    assert content(once) == content(again) and len(content(once)) > 8
    with pytest.raises(InputError, match="something else"):
        film_people(film, **SMALL | {"seed": 4})


def test_a_film_that_another_process_has_made_meanwhile_is_taken(tmp_path, monkeypatch):
    """Both find nothing, and the slower one finds the other's in its place."""
    few, film = SMALL | {"frames": 2}, walk._film
    mine, theirs = tmp_path / "here" / "film", []

    def late(*given):
        if not theirs:
            theirs.append(True)
            film_people(mine, **few)
            theirs.append(content(mine))
        yield from film(*given)

    monkeypatch.setattr(walk, "_film", late)
    assert film_people(mine, **few) == mine and content(mine) == theirs[1]
    assert [*mine.parent.iterdir()] == [mine]


def test_boxes_hold_people(film):
    """A person's box differs from the same place in frames without anybody there; boxes lie within the frame."""
    for sequence in read_sequences(film):
        images = dict(sequence.frames())
        empty = np.median(np.stack(list(images.values())), axis=0)
        height, width = empty.shape[:2]
        truth = sequence.truth
        assert set(truth["pid"]) <= {1, 2, 3, 4} and len(images) == 30
        assert (truth["left"] >= 0).all() and (truth["left"] + truth["width"] <= width + 0.01).all()
        assert (truth["top"] + truth["height"] <= height + 0.01).all()
        inside, outside = [], []
        for frame, rows in truth.groupby("frame"):
            mask = np.zeros((height, width), bool)
            for _, row in rows.iterrows():
                top, left = int(row["top"]), int(row["left"])
                mask[top : top + int(row["height"]), left : left + int(row["width"])] = True
            changed = np.abs(images[frame] - empty).mean(-1)
            inside.append(changed[mask].mean())
            outside.append(changed[~mask].mean())
        assert np.mean(inside) > 3 * np.mean(outside)


def test_nobody_stands_in_two_places_and_somebody_returns(film, monkeypatch):
    tables = [sequence.truth for sequence in read_sequences(film)]
    assert not any(table.duplicated(["frame", "pid"]).any() for table in tables)
    assert len({*tables[0]["pid"]} & {*tables[1]["pid"]}) >= 2  # by both cameras
    monkeypatch.setattr(Camera, "film", lambda *_: np.zeros((360, 640, 3), np.uint8))  # the truth without its pictures
    long = read_sequences(film_people(film.parent / "long", sequences=1, people=3, frames=90, seed=7))[0].truth
    gaps = long.groupby("pid")["frame"].apply(lambda frames: frames.diff().max())
    assert (gaps > 8).any()


def test_a_film_shows_none_of_the_people_of_its_seed():
    assert not set(draw_people(30, 0)) & set(draw_people(30, OTHERS))
