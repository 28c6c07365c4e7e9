"""Re-entry, by hand and by a loop over single people."""

import numpy as np
import pytest

from reidlab.evaluation.reentry import reentry


def looks(*angles):
    return np.array([[np.cos(angle), np.sin(angle)] for angle in angles])


def test_by_hand():
    """a and b are there, then a, b and c; b has turned so far that a looks more like it."""
    frames, pids = np.array([1, 1, 3, 3, 3]), np.array([1, 2, 1, 2, 3])
    found = reentry(frames, pids, looks(0, 1, 0.1, 0.3, 3), [2], threshold=1 - np.cos(0.2)).loc[2]
    assert found["known"] == 2 and found["unknown"] == 1 and found["remembered"] == 2
    assert found["rank-1"] == 0.5 and found["MRR"] == (1 + 1 / 2) / 2
    assert found["missed"] == 0.5 and found["mistaken"] == 0
    generous = reentry(frames, pids, looks(0, 1, 0.1, 0.3, 3), [2], threshold=2).loc[2]
    assert generous["missed"] == 0.5 and generous["mistaken"] == 1


def test_equal_embeddings_are_no_recognition():
    found = reentry(np.array([1, 1, 2]), np.array([1, 2, 1]), np.ones((3, 2)), [1], threshold=0.5).loc[1]
    assert found["rank-1"] == 0 and found["MRR"] == 0.5 and found["missed"] == 1


def test_a_gap_that_no_two_frames_have():
    found = reentry(np.array([1, 2]), np.array([1, 1]), np.ones((2, 2)), [7], threshold=0.5).loc[7]
    assert found["known"] == 0 and np.isnan(found["rank-1"])


def test_intervals_draw_people_with_all_their_boxes():
    """Two people, one always recognized, one never: a draw of two has rank-1 0, 1/2 or 1, each in a quarter or more."""
    frames, pids = np.repeat(np.arange(1, 41), 2), np.tile([1, 2], 40)
    turns = np.where(pids == 2, np.where(frames % 2, 0.0, 0.2), 0.1)  # 2 is where 1 isn't, on either side of it
    found = reentry(frames, pids, looks(*turns), [1], threshold=2).loc[1]
    assert found["rank-1"] == 0.5 and (found["rank-1_low"], found["rank-1_high"]) == (0, 1)
    assert np.isnan(found[["mistaken", "mistaken_low", "mistaken_high"]].astype(float)).all()
    alone = reentry(np.array([1, 2]), np.array([1, 1]), np.ones((2, 2)), [1], threshold=2).loc[1]
    assert alone["rank-1"] == 1 and np.isnan(alone["rank-1_low"])


@pytest.mark.parametrize("gap", [1, 4])
def test_as_a_loop_over_people(gap):
    rng = np.random.default_rng(gap)
    boxes = [(frame, pid) for frame in range(1, 30) for pid in range(1, 8) if rng.random() < 0.6]
    frames, pids = (np.array(column) for column in zip(*boxes, strict=True))
    embeddings = rng.normal(size=(len(boxes), 5)) + 2 * rng.normal(size=(8, 5))[pids]
    found = reentry(frames, pids, embeddings, [gap], threshold=0.3).loc[gap]
    where = {box: vector / np.linalg.norm(vector) for box, vector in zip(boxes, embeddings, strict=True)}
    ranks, missed, mistaken = [], [], []
    for frame, pid in boxes:
        others = {p: 1 - v @ where[frame, pid] for (f, p), v in where.items() if f == frame - gap}
        if not others:
            continue
        order = sorted(others, key=others.get)
        if pid in others:
            ranks.append(order.index(pid) + 1)
            missed.append(not (order[0] == pid and others[pid] <= 0.3))
        else:
            mistaken.append(others[order[0]] <= 0.3)
    assert found["known"] == len(ranks) and found["unknown"] == len(mistaken)
    assert found["MRR"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert found["rank-1"] == np.mean(np.array(ranks) == 1)
    assert found["missed"] == np.mean(missed) and found["mistaken"] == np.mean(mistaken)
