"""Figures of tracks: worked by hand, and as the TrackEval package computes them."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from reidlab.data import mot
from reidlab.gallery.following import Shot, count_scenes
from reidlab.metrics.tracks import count_tracks, overlaps, track_intervals, without_distractors


def table(*rows):
    """Boxes 10 x 20 from (frame, pid, left)."""
    return pd.DataFrame(
        [dict(frame=f, pid=p, left=left, top=0, width=10, height=20) for f, p, left in rows],
        columns=["frame", "pid", "left", "top", "width", "height"],
    )


def test_overlaps_by_hand():
    found = overlaps(np.array([[0, 0, 10, 10], [0, 0, 2, 2]]), np.array([[5, 0, 10, 10], [20, 0, 5, 5]]))
    np.testing.assert_allclose(found, [[50 / 150, 0], [0, 0]])


def test_perfect_tracks():
    truth = table(*((f, p, 30 * p) for f in range(1, 6) for p in (1, 2)))
    figures = count_tracks(truth, truth.assign(pid=truth["pid"] + 7)).figures()
    assert figures == {"HOTA": 1, "DetA": 1, "AssA": 1, "IDF1": 1, "MOTA": 1, "switches": 0}


def test_a_track_that_changes_its_identity_once():
    """4 frames of a person, found as 1 in two of them and as 2 in the others: each track agrees with half."""
    truth = table(*((f, 1, 0) for f in range(1, 5)))
    found = table((1, 1, 0), (2, 1, 0), (3, 2, 0), (4, 2, 0))
    figures = count_tracks(truth, found).figures()
    assert figures["switches"] == 1 and figures["MOTA"] == 1 - 1 / 4
    assert figures["IDF1"] == 2 * 2 / (4 + 4)
    assert figures["DetA"] == 1 and figures["AssA"] == pytest.approx(2 / 4)
    assert figures["HOTA"] == pytest.approx(0.5**0.5)


def test_missed_and_wrong_boxes():
    truth = table((1, 1, 0), (2, 1, 0), (3, 1, 0))
    figures = count_tracks(truth, table((1, 5, 0), (2, 5, 100))).figures()
    assert figures["MOTA"] == pytest.approx(1 - (2 + 1) / 3) and figures["IDF1"] == 2 * 1 / (3 + 2)
    assert figures["DetA"] == pytest.approx(1 / (3 + 2 - 1)) and figures["AssA"] == pytest.approx(1 / (3 + 2 - 1))


def test_boxes_on_distractors_are_neither_right_nor_wrong():
    """A person at 0, a distractor at 4 (overlap 6/14), one at 100 alone, and at 200 a car that doesn't count."""
    rows = table((1, 1, 0), (1, 2, 4), (1, 3, 100), (1, 4, 200)).assign(distractor=[False, True, True, False])
    found = table((1, 9, 0), (1, 8, 101), (1, 7, 106), (1, 6, 200), (2, 5, 100))
    kept = without_distractors(found, rows)
    assert kept["pid"].tolist() == [9, 7, 6, 5]  # 106 isn't matched: 4/16; there is nothing in frame 2
    assert without_distractors(found.iloc[:0], rows).empty and len(without_distractors(found, rows.iloc[:0])) == 5
    figures = count_tracks(rows.iloc[:1], kept).figures()
    assert figures["MOTA"] == 1 - 3 / 1 and figures["IDF1"] == 2 * 1 / (1 + 4)


def test_a_person_competes_with_a_distractor_for_a_box():
    rows = table((1, 1, 0), (1, 2, 1)).assign(distractor=[False, True])
    assert len(without_distractors(table((1, 9, 0)), rows)) == 1 and without_distractors(table((1, 9, 1)), rows).empty


@pytest.mark.parametrize(("truth", "found"), [(table(), table((1, 1, 0))), (table((1, 1, 0)), table())])
def test_nothing_to_find_and_nothing_found(truth, found):
    figures = count_tracks(truth, found).figures()
    assert figures["HOTA"] == 0 and figures["IDF1"] == 0 and figures["MOTA"] == (0 if len(truth) else -0.0 + 1 - 1)


def test_the_interval_of_equal_sequences_is_a_point_and_of_others_holds_the_figure():
    truth = table(*((f, 1, 0) for f in range(1, 5)))
    good, bad = count_tracks(truth, truth), count_tracks(truth, table((1, 1, 0)))
    assert track_intervals([good, good])["HOTA"] == (1, 1)
    low, high = track_intervals([good, bad, good, bad])["IDF1"]
    assert low < (good + bad).figures()["IDF1"] < high


def drawn(seed, frames=40, people=6):
    """Walkers, some boxes missed, moved or made up, and identities that are swapped now and then."""
    rng = np.random.default_rng(seed)
    truth, found, names = [], [], np.arange(people)
    for frame in range(1, frames + 1):
        if rng.random() < 0.15:
            names = rng.permutation(names)
        for person in range(people):
            if rng.random() < 0.1 or frame % 13 == 0:
                continue
            left = 12.0 * person + frame * (person - 2.5) * 0.4
            truth.append((frame, person + 1, left))
            if rng.random() < 0.85:
                found.append((frame, int(names[person]) + 1, left + rng.normal(0, 2)))
        if rng.random() < 0.2:
            found.append((frame, 50 + frame, rng.uniform(0, 100)))
    return table(*truth), table(*found)


TRACKEVAL = """
import sys, json, numpy as np
sys.path.insert(0, sys.argv[1])
import trackeval
data = json.load(open(sys.argv[2]))
data = {k: [np.array(v) for v in data[k]] if isinstance(data[k], list) else data[k] for k in data}
for name in ("gt_ids", "tracker_ids"):
    data[name] = [v.astype(int) for v in data[name]]
data["similarity_scores"] = [v.reshape(len(g), len(t)) for v, g, t in
                             zip(data["similarity_scores"], data["gt_ids"], data["tracker_ids"])]
m = trackeval.metrics
out = {}
hota = m.HOTA().eval_sequence(data)
out |= {k: float(np.mean(hota[k])) for k in ("HOTA", "DetA", "AssA")}
quiet = {"PRINT_CONFIG": False}
clear, identity = m.CLEAR(quiet).eval_sequence(data), m.Identity(quiet).eval_sequence(data)
out |= {"MOTA": float(clear["MOTA"]), "switches": float(clear["IDSW"]), "IDF1": float(identity["IDF1"])}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def trackeval(tmp_path_factory):
    """A folder with the package, which wants another build of OpenCV than reidlab."""
    folder = tmp_path_factory.mktemp("trackeval")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    made = subprocess.run([*command, "trackeval==1.3.0", "tabulate", "pycocotools"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no package index to install trackeval from: {made.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_as_trackeval(trackeval, tmp_path, seed):
    truth, found = drawn(seed)
    frames = sorted({*truth["frame"], *found["frame"]})
    ids = {name: {p: i for i, p in enumerate(t["pid"].unique())} for name, t in (("gt", truth), ("tracker", found))}
    data = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for frame in frames:
        sides = [side[side["frame"] == frame] for side in (truth, found)]
        data["gt_ids"].append([ids["gt"][p] for p in sides[0]["pid"]])
        data["tracker_ids"].append([ids["tracker"][p] for p in sides[1]["pid"]])
        box = [side[["left", "top", "width", "height"]].to_numpy(float) for side in sides]
        data["similarity_scores"].append(overlaps(*box).tolist())
    data |= {"num_gt_ids": len(ids["gt"]), "num_tracker_ids": len(ids["tracker"]), "num_timesteps": len(frames)}
    data |= {"num_gt_dets": len(truth), "num_tracker_dets": len(found)}
    (tmp_path / "data.json").write_text(json.dumps(data))
    command = [sys.executable, "-c", TRACKEVAL, str(trackeval), str(tmp_path / "data.json")]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    theirs = json.loads(made.stdout.splitlines()[-1])
    assert count_tracks(truth, found).figures() == pytest.approx(theirs, abs=1e-9)


BENCHMARK = """
import sys, json, numpy as np
for name, kind in (("float", float), ("int", int), ("bool", bool)):
    np.__dict__.get(name) or setattr(np, name, kind)
sys.path.insert(0, sys.argv[1])
import trackeval
quiet = {"PRINT_CONFIG": False}
data = trackeval.datasets.MotChallenge2DBox({
    "GT_FOLDER": sys.argv[2] + "/gt", "TRACKERS_FOLDER": sys.argv[2] + "/found", "BENCHMARK": sys.argv[3], **quiet,
    "SKIP_SPLIT_FOL": True, "SEQ_INFO": {sys.argv[3] + "-01": 40}, "TRACKERS_TO_EVAL": ["ours"]})
clean = data.get_preprocessed_seq_data(data.get_raw_seq_data("ours", sys.argv[3] + "-01"), "pedestrian")
m = trackeval.metrics
hota = m.HOTA().eval_sequence(clean)
clear, identity = m.CLEAR(quiet).eval_sequence(clean), m.Identity(quiet).eval_sequence(clean)
print(json.dumps({**{k: float(np.mean(hota[k])) for k in ("HOTA", "DetA", "AssA")}, "MOTA": float(clear["MOTA"]),
                  "switches": float(clear["IDSW"]), "IDF1": float(identity["IDF1"]),
                  "boxes": [clean["num_gt_dets"], clean["num_tracker_dets"]]}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["MOT15", "MOT17", "MOT20"])
@pytest.mark.parametrize("seed", range(3))
def test_files_as_trackeval_reads_them(trackeval, tmp_path, seed, benchmark):
    """Truths with other classes, rows that don't count, and boxes on distractors, through both tools from the files."""
    truth, found = drawn(seed)
    rng, name = np.random.default_rng(seed), f"{benchmark}-01"
    classes = rng.permutation([1, 1, 6, 7, 12, 13])
    told = truth.assign(**{
        "confidence": (rng.random(len(truth)) < 0.8).astype(int),
        "class": classes[truth["pid"] - 1] if benchmark != "MOT15" else -1,
        "visibility": rng.random(len(truth)).round(2) if benchmark != "MOT15" else -1,
    })  # fmt: skip
    if benchmark == "MOT15":
        told["z"] = -1
    (tmp_path / "gt" / name / "gt").mkdir(parents=True)
    (tmp_path / "gt" / name / "img1").mkdir()
    for number in range(1, 41):
        (tmp_path / "gt" / name / "img1" / f"{number:06d}.jpg").touch()
    told.to_csv(tmp_path / "gt" / name / "gt" / "gt.txt", header=False, index=False)
    mot.write_boxes(tmp_path / "found" / "ours" / "data" / f"{name}.txt", found.drop_duplicates(["frame", "pid"]))
    command = [sys.executable, "-c", BENCHMARK, str(trackeval), str(tmp_path), benchmark]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    theirs = json.loads(made.stdout.splitlines()[-1])
    shot = Shot(mot.read_sequence(tmp_path / "gt" / name), np.zeros((0, 1)), np.zeros((0, 1)))
    tracks = {name: mot.read_boxes(tmp_path / "found" / "ours" / "data" / f"{name}.txt")}
    (counts,) = count_scenes([[shot]], tracks)
    assert [counts.true, counts.found] == theirs.pop("boxes")
    assert (counts.found < len(tracks[name])) == (benchmark != "MOT15")
    assert counts.figures() == pytest.approx(theirs, abs=1e-9)
