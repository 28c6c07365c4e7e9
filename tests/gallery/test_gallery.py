"""Galleries against `top_k`, against slow loops, and against the bytes of their files."""

import math
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from made_up import SlowColors, enroll_one_by_one, fake_model, people
from PIL import Image

from reidlab.errors import InputError
from reidlab.gallery import Gallery, Where, store
from reidlab.metrics import top_k


@pytest.fixture
def model():
    return fake_model()


def by_top_k(queries, embeddings, k, distance):
    nobody = [torch.zeros(len(part), dtype=torch.int64) for part in (queries, embeddings)]
    pair = torch.from_numpy(queries), torch.from_numpy(embeddings)
    return top_k(*pair, *nobody, k=k, distance=distance, exclude_same_camera=False)


def same_as_top_k(found, queries, embeddings, distance, apart=1e-6):
    """Equal distances everywhere, and equal rows wherever a distance isn't another row's, too."""
    k = found.position.shape[1]
    expected = by_top_k(queries, embeddings, k, distance)
    n = expected.index.shape[1]
    np.testing.assert_allclose(found.distance[:, :n], expected.distance, atol=1e-7)
    assert (found.position[:, n:] == -1).all()
    for mine, theirs, distances in zip(found.position, expected.index.numpy(), found.distance, strict=True):
        gaps = np.diff(distances[:n], prepend=-np.inf, append=np.inf)
        alone = (gaps[:-1] > apart) & (gaps[1:] > apart)
        alone[-1] &= n == len(embeddings)  # the next one, which isn't listed, may be as near
        assert (mine[:n][alone] == theirs[alone]).all()
        assert len(set(mine[:n])) == n


class Life(RuleBasedStateMachine):
    """A gallery through any order of changes, beside a plain list of rows that is searched by `top_k`."""

    folder: Path

    @initialize(
        precision=st.sampled_from(["float16", "int8"]),
        distance=st.sampled_from(["cosine", "euclidean"]),
        dim=st.integers(2, 9),
    )
    def begin(self, precision, distance, dim):
        self.place = self.folder / str(time.monotonic_ns())
        self.model, self.distance, self.dim, self.rows = fake_model(distance=distance), distance, dim, []
        self.precision = precision
        self.gallery = Gallery.open(self.place, self.model, precision=precision)

    @rule(pids=st.lists(st.sampled_from("abcd"), max_size=12), seed=st.integers(0, 30), named=st.booleans())
    def enroll(self, pids, seed, named):
        draw = np.random.default_rng(seed)  # seeds recur, and with them whole embeddings: ties
        values = draw.integers(-3, 4, (len(pids), self.dim)).astype(np.float32)
        paths = [f"{pid}{draw.integers(3)}" if named else "" for pid in pids]
        self.gallery.enroll_embeddings(values, pids, paths=paths)
        added = [*zip(paths, pids, map(tuple, values), strict=True)]
        added = [row for i, row in enumerate(added) if not row[0] or row[0] not in paths[i + 1 :]]
        self.rows = [row for row in self.rows if not row[0] or row[0] not in paths] + added

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def forget(self, data):
        pid = data.draw(st.sampled_from([row[1] for row in self.rows]))
        assert self.gallery.forget(pid) == sum(row[1] == pid for row in self.rows)
        self.rows = [row for row in self.rows if row[1] != pid]

    @rule()
    def reload(self):
        self.gallery = Gallery.open(self.place, self.model, precision=self.precision)

    @rule()
    def change_from_elsewhere(self):
        Gallery.open(self.place, self.model, precision=self.precision).enroll_embeddings(np.ones((1, self.dim)), ["e"])
        self.rows.append(("", "e", (1.0,) * self.dim))

    @invariant()
    def equals_brute_force(self):
        if not hasattr(self, "gallery"):
            return
        assert len(self.gallery) == len(self.rows)
        table = self.gallery.table()
        assert [*zip(table["path"], table["pid"], strict=True)] == [row[:2] for row in self.rows]
        queries = np.random.default_rng(0).standard_normal((3, self.dim)).astype(np.float32)
        queries[2] = 1
        if not self.rows:
            assert (self.gallery.nearest(queries, 3).position == -1).all()
            return
        values = np.array([row[2] for row in self.rows], np.float32)
        stored = self.gallery.embeddings()
        if self.precision == "float16":  # small integers are stored as they are
            assert np.array_equal(stored, values)
        else:
            assert np.abs(stored - values).max() <= 3 / 127 / 2 + 1e-6
        same_as_top_k(self.gallery.nearest(queries, 5), queries, stored, self.distance)


def test_any_order_of_changes_leaves_what_brute_force_finds(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 16)  # of several files
    monkeypatch.setattr(store, "BLOCK_ROWS", 5)
    Life.folder = tmp_path
    Life.TestCase.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
    Life.TestCase().runTest()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_many_rows_in_many_blocks_equal_top_k(precision, distance, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 700)
    monkeypatch.setattr(store, "BLOCK_ROWS", 256)
    values, pids = people(250, 8, dim=24)
    gallery = Gallery.open(tmp_path, fake_model(distance=distance), precision=precision)
    for start in range(0, len(values), 130):
        gallery.enroll_embeddings(values[start : start + 130], pids[start : start + 130])
    queries = people(250, 1, dim=24)[0]
    same_as_top_k(gallery.nearest(queries, 20), queries, gallery.embeddings(), distance, apart=1e-9)
    assert len(gallery.store.parts) < 8
    assert np.abs(gallery.embeddings() - values).max() < (0.002 if precision == "float16" else 0.02)


def test_a_collapsed_network_finds_the_first_rows(tmp_path, model):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.ones((500, 4)), range(500))
    assert gallery.nearest(np.ones((1, 4)), 5).position.tolist() == [[0, 1, 2, 3, 4]]


# -- identities


def slow_identities(query, values, pids, template):
    """Cosine distance of a query to each identity, by loops."""
    unit = values.astype(float) / np.linalg.norm(values.astype(float), axis=1, keepdims=True)
    query = query / np.linalg.norm(query)
    found = {}
    for pid in dict.fromkeys(pids):
        own = [row for row, other in zip(unit, pids, strict=True) if other == pid]
        if template == "best":
            found[pid] = min(1 - query @ row for row in own)
        elif template == "mean":
            mean = sum(own) / len(own)
            found[pid] = 1 - query @ mean / np.linalg.norm(mean)
        else:
            costs = [sum(np.square(row - other).sum() for other in own) for row in own]
            found[pid] = 1 - query @ own[int(np.argmin(costs))]
    return sorted(found.items(), key=lambda item: item[1])


@pytest.mark.parametrize("template", ["best", "mean", "medoid"])
def test_identities_by_each_template_equal_a_slow_loop(template, tmp_path, model, monkeypatch):
    monkeypatch.setattr(store, "BLOCK_ROWS", 7)
    values, pids = people(9, 6, spread=0.8)
    order = np.random.default_rng(1).permutation(len(values))
    values, pids = values[order], [pids[i] for i in order]
    gallery = Gallery.open(tmp_path, model, template=template)
    gallery.enroll_embeddings(values, pids, camids=[i % 3 for i in range(54)], times=range(54))
    queries = people(9, 1, seed=5)[0]
    for where, rows in ((Where(), range(54)), (Where(["1", 2.0], 10, 50), [i for i in range(10, 50) if i % 3])):
        answers = gallery.identify_embeddings(queries, 4, where)
        for query, answer in zip(queries, answers, strict=True):
            slow = slow_identities(query, gallery.embeddings()[[*rows]], [pids[i] for i in rows], template)
            assert [found.pid for found in answer.candidates] == [pid for pid, _ in slow[:4]]
            np.testing.assert_allclose(
                [found.distance for found in answer.candidates], [d for _, d in slow[:4]], atol=1e-6
            )


def test_a_medoid_is_of_the_images_that_are_compared(tmp_path):
    gallery = Gallery.open(tmp_path, fake_model(distance="euclidean"), template="medoid")
    places = [9, 9, 9, 9, 0, 5, 6]  # the first four are of another camera
    gallery.enroll_embeddings(np.c_[places, np.ones(7)], "a" * 7, camids=[1] * 4 + [2] * 3)
    (answer,) = gallery.identify_embeddings(np.array([[0.0, 1]]), where=Where(["2"]), threshold=9)
    assert answer.distance == 5


def test_one_with_many_images_hides_nobody(tmp_path, model):
    gallery = Gallery.open(tmp_path, model, template="best")
    values = np.concatenate([np.full((300, 2), [1, 0.01]), [[0, 1], [-1, 0]]])
    gallery.enroll_embeddings(values, ["crowd"] * 300 + ["b", "c"])
    (answer,) = gallery.identify_embeddings(np.array([[1, 0]]), k=5)
    assert [found.pid for found in answer.candidates] == ["crowd", "b", "c"]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_a_missing_name_is_nobodys(missing, tmp_path, model):
    gallery = Gallery.open(tmp_path / "g", model)
    with pytest.raises(InputError, match="a pid is missing"):
        gallery.enroll_embeddings(np.ones((1, 2)), [missing])
    gallery.enroll_embeddings(np.ones((3, 2)), [7, 7.0, np.float32(7)], camids=[1, missing, 1.0])
    assert gallery.pids == ["7"] and gallery.table()["camid"].fillna("?").tolist() == ["1", "?", "1"]


def test_an_image_is_one_however_its_path_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "images" / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "images")
    file = tmp_path / "images" / "a.png"
    Image.new("RGB", (4, 8), (9, 8, 7)).save(file)
    monkeypatch.chdir(tmp_path / "images")
    gallery = Gallery.open(tmp_path / "g", SlowColors())
    for spelled in ("a.png", "./a.png", "x/../a.png", file, tmp_path / "link" / "a.png"):
        assert gallery.enroll([spelled], ["ann"]) == 1
    assert gallery.table()["path"].tolist() == [str(file)]


def test_what_cannot_be_asked_or_enrolled_is_one_line(tmp_path, model):
    gallery = Gallery.open(tmp_path / "g", model)
    with pytest.raises(InputError, match=r"times: .*give seconds since 1970"):
        gallery.enroll_embeddings(np.ones((1, 2)), ["a"], times=["yesterday"])
    gallery.enroll_embeddings(np.ones((1, 2)), ["a"])
    for wrong, said in (({"k": 1.5}, "k=1.5"), ({"threshold": math.nan}, "nan"), ({"threshold": -1}, "-1")):
        with pytest.raises(InputError, match=said):
            gallery.identify_embeddings(np.ones((1, 2)), **wrong)


def test_a_file_is_no_gallery(tmp_path, model):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match="is no folder"):
        Gallery.open(tmp_path / "a.png", model)


@pytest.mark.parametrize("name", ["a\u202eb", "\ud800", "a\nb", "\x1b[2J"])
def test_a_name_that_a_terminal_would_obey_is_refused(name, tmp_path, model):
    gallery = Gallery.open(tmp_path / "g", model)
    for about in ({"pids": [name]}, {"pids": ["a"], "camids": [name]}):
        with pytest.raises(InputError, match="isn't printable"):
            gallery.enroll_embeddings(np.ones((1, 2)), **about)


def test_nobody_within_the_threshold_is_nobody(tmp_path, model):
    gallery = Gallery.open(tmp_path, model, template="best")
    gallery.enroll_embeddings(np.eye(2), ["ann", "bob"], paths=["a.jpg", "b.jpg"], camids=["door", None])
    ann, nobody = gallery.identify_embeddings(np.array([[1, 0.1], [-1, -1]]))
    assert ann.pid == "ann" and ann.candidates[0].path == "a.jpg" and ann.candidates[0].camid == "door"
    assert nobody.pid is None and nobody.distance > 1 and "nobody" in str(nobody) and "nearest is" in str(nobody)
    assert gallery.identify_embeddings(np.array([[-1, -1]]), threshold=2)[0].pid in ("ann", "bob")
    with pytest.raises(InputError, match="no calibrated threshold on the cosine distance"):
        Gallery.open(tmp_path, fake_model(threshold=None)).identify_embeddings(np.eye(2))


def test_small_distances_and_thresholds_are_said_with_their_digits(tmp_path, model):
    gallery = Gallery.open(tmp_path, model, template="best")
    gallery.enroll_embeddings(np.eye(2), ["ann", "bob"])
    (answer,) = gallery.identify_embeddings(np.array([[1, 0.01]]), threshold=1.234e-4)
    assert str(answer) == "ann (distance 5e-05, threshold 0.0001234)"


def test_an_empty_gallery_knows_nobody(tmp_path, model):
    (answer,) = Gallery.open(tmp_path, model).identify_embeddings(np.ones((1, 4)))
    assert answer.pid is None and answer.candidates == () and "inf" in str(answer)


@pytest.mark.parametrize("template", ["best", "mean", "medoid"])
def test_where_no_image_is_compared_it_is_nobody(template, tmp_path, model):
    gallery = Gallery.open(tmp_path, model, template=template)
    gallery.enroll_embeddings(np.eye(2), ["a", "b"], camids=[1, 2])
    (answer,) = gallery.identify_embeddings(np.eye(2)[:1], where=Where(cameras=["3"]))
    assert answer.pid is None and answer.candidates == ()
    assert gallery.identify_embeddings(np.eye(2)[:1], where=Where(cameras=["2"]), threshold=2)[0].pid == "b"


def test_forgetting_from_nowhere_makes_no_folder(tmp_path):
    gallery = Gallery.open(tmp_path / "none")
    with pytest.raises(InputError, match="nobody of that name"):
        gallery.forget("a")
    assert gallery.expire() == 0 and not (tmp_path / "none").exists()


def test_expired_images_count_no_more_and_leave_with_the_next_change(tmp_path, model):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(2)[:1], ["old"], times=[time.time() - 100], keep_s=10)
    gallery.enroll_embeddings(np.eye(2)[1:], ["new"], keep_s=1000)
    answer = gallery.identify_embeddings(np.eye(2)[:1])[0]
    assert [found.pid for found in answer.candidates] == ["new"]
    assert gallery.expire() == 0 and gallery.pids == ["new"]  # the second enrollment had deleted it
    assert b"old" not in content(tmp_path)


def test_an_image_enrolled_again_takes_its_place(tmp_path, model):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(2), ["a", "b"], paths=["x.jpg", "y.jpg"])
    gallery.enroll_embeddings(np.eye(2)[::-1], ["c", "a"], paths=["y.jpg", "y.jpg"])
    assert gallery.table()[["path", "pid"]].to_numpy().tolist() == [["x.jpg", "a"], ["y.jpg", "a"]]


# -- forgetting


def content(folder):
    """The bytes of all files."""
    return b"\n".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


def traces(gallery, row):
    """What would give a row away: its texts, its codes, its values."""
    part, offset = next((p, o) for p, o in gallery.store.placed() if row < o + len(p))
    record = part.table.slice(row - offset, 1).to_pylist()[0]
    codes = part.codes[row - offset]
    return [record["path"].encode(), record["pid"].encode(), codes.tobytes(), np.float64(record["norm"]).tobytes()]


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_what_is_forgotten_is_in_no_file(precision, tmp_path, model, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 16)
    gallery = Gallery.open(tmp_path, model, precision=precision)
    values, pids = people(20, 3)
    pids = [f"person-{pid}-of-the-test" for pid in pids]
    for start in range(0, 60, 20):
        paths = [f"images/{pid}/{i}.jpg" for i, pid in enumerate(pids)]
        gallery.enroll_embeddings(values[start : start + 20], pids[start : start + 20], paths=paths[start : start + 20])
    victim = pids[18]  # whose images are in two enrollments
    gone = [trace for row in np.flatnonzero(np.array(pids) == victim) for trace in traces(gallery, row)]
    assert all(trace in content(tmp_path) for trace in gone)
    other = Gallery.open(tmp_path)  # sees it at its next call
    assert other.identify_embeddings(values[18:19], threshold=1)[0].pid == victim
    gallery.identify_embeddings(values[18:19], threshold=1)
    assert gallery._cache
    before = {file.name for file in tmp_path.glob("part-*")}
    assert gallery.forget(victim) == 3
    assert not gallery._cache
    assert not any(trace in content(tmp_path) for trace in gone)
    assert before & {file.name for file in tmp_path.glob("part-*")}, "a file without them needn't be rewritten"
    for template in ("best", "mean", "medoid"):
        other.template = template
        found = other.identify_embeddings(values[18:19], k=30, threshold=1)[0]
        assert victim not in [candidate.pid for candidate in found.candidates]
    assert victim not in gallery.pids and victim not in set(gallery.table()["pid"])
    with pytest.raises(InputError, match=f"{victim}: nobody of that name"):
        gallery.forget(victim)


def test_forgetting_needs_no_model_and_empties_a_gallery(tmp_path, model):
    Gallery.open(tmp_path, model).enroll_embeddings(np.eye(3), "aab")
    gallery = Gallery.open(tmp_path)
    assert gallery.forget("a") == 2 and gallery.forget("b") == 1 and len(gallery) == 0
    Gallery.open(tmp_path, model).enroll_embeddings(np.eye(3)[:2], [7.0, 8.5])
    assert gallery.forget(7.0) == 1 and gallery.pids == ["8.5"] and gallery.forget(8.5) == 1
    assert not [*tmp_path.glob("part-*")]
    Gallery.open(tmp_path, model).enroll_embeddings(np.eye(3), "abc")
    assert gallery.pids == ["a", "b", "c"]


# -- what is refused


def test_another_checkpoint_distance_or_size_is_refused(tmp_path, model):
    Gallery.open(tmp_path, model).enroll_embeddings(np.eye(3), "abc")
    with pytest.raises(InputError, match=f"enrolled with checkpoint {'a' * 16}, not {'b' * 16}; enroll again"):
        Gallery.open(tmp_path, fake_model("b" * 16))
    with pytest.raises(InputError, match="enrolled with distance cosine, not euclidean"):
        Gallery.open(tmp_path, fake_model(distance="euclidean"))
    other = fake_model()
    other.size = (16, 8)
    with pytest.raises(InputError, match=r"enrolled with size \[8, 4\], not \[16, 8\]"):
        Gallery.open(tmp_path, other)


def test_one_that_another_checkpoint_began_meanwhile_is_refused(tmp_path, model):
    mine, theirs = Gallery.open(tmp_path, model), Gallery.open(tmp_path, fake_model("b" * 16))
    theirs.enroll_embeddings(np.eye(3), "abc")
    with pytest.raises(InputError, match="enrolled with checkpoint"):
        mine.enroll_embeddings(np.eye(3), "abc")
    with pytest.raises(InputError, match="enrolled with checkpoint"):
        mine.identify_embeddings(np.eye(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embeddings": np.full((3, 4), np.nan)}, "gallery image .* has length nan"),
        ({"embeddings": np.ones(3)}, r"embeddings \(3,\): expected \(N, D\)"),
        ({"embeddings": np.ones((3, 5))}, "embeddings of 5 numbers: the gallery holds those of 4"),
        ({"pids": ["a"]}, "1 pids for 3 images"),
        ({"pids": ["a", "", "b"]}, "a pid is missing"),
        ({"camids": [1]}, "1 camids for 3 images"),
        ({"times": [1, np.nan, 2]}, "a time isn't a number"),
        ({"times": [1, 1.7e12, 2]}, "1700000000000: give seconds since 1970"),
        ({"keep_s": 0}, "kept for 0 s"),
    ],
)
def test_rows_that_cannot_be_enrolled_are_named(change, message, tmp_path, model):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(4), "abcd")
    with pytest.raises(InputError, match=message):
        gallery.enroll_embeddings(**{"embeddings": np.ones((3, 4)), "pids": ["x", "y", "z"], **change})
    assert gallery.pids == ["a", "b", "c", "d"]


def test_what_cannot_be_opened_is_named(tmp_path, model):
    gallery = Gallery.open(tmp_path, model, precision="int8")
    gallery.enroll_embeddings(np.eye(4), "abcd")
    for options, message in (
        ({"precision": "float16"}, "stores int8, not float16"),
        ({"precision": "int4"}, "choose float16 or int8"),
        ({"template": "worst"}, "choose best, mean or medoid"),
    ):
        with pytest.raises(InputError, match=message):
            Gallery.open(tmp_path, model, **options)
    with pytest.raises(InputError, match="opened without a model"):
        Gallery.open(tmp_path).identify(["a.jpg"])
    with pytest.raises(InputError, match="opened without a model"):
        Gallery.open(tmp_path / "new").enroll_embeddings(np.eye(4), "abcd")
    with pytest.raises(InputError, match=r"embeddings \(4, 3\)"):
        gallery.identify_embeddings(np.ones((4, 3)))
    (part,) = tmp_path.glob("part-*")
    whole = part.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"no arrow"):
        part.write_bytes(damage)
        with pytest.raises(InputError, match=f"{part.name}: damaged"):
            Gallery.open(tmp_path)
    part.unlink()
    with pytest.raises(InputError, match="a file is missing"):
        Gallery.open(tmp_path)
    (tmp_path / "gallery.json").write_text("{")
    with pytest.raises(InputError, match=r"gallery\.json: damaged \(.*put a copy of it back") as damaged:
        Gallery.open(tmp_path)
    assert "delete" not in str(damaged.value)


def test_a_gallery_that_is_gone_is_no_empty_one(tmp_path, model):
    place = tmp_path / "here"
    gallery = Gallery.open(place, model)
    assert gallery.is_usable()
    gallery.enroll_embeddings(np.eye(4), "abcd")
    place.rename(tmp_path / "there")
    assert not gallery.is_usable()
    for use in (lambda: gallery.identify_embeddings(np.eye(4), threshold=0.5),
                lambda: gallery.enroll_embeddings(np.eye(4), "wxyz")):  # fmt: skip
        with pytest.raises(InputError, match="the gallery is gone"):
            use()
    assert not (place / "gallery.json").exists()
    shutil.rmtree(place, ignore_errors=True)  # of the lock
    (tmp_path / "there").rename(place)
    assert gallery.is_usable() and gallery.pids == ["a", "b", "c", "d"]


def test_images_that_are_over_when_enrolled_are_told(tmp_path, model, capsys):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(4), "abcd", times=[0.0, 1.0, time.time(), time.time()], keep_s=60)
    assert "2 of 4 images are over already" in capsys.readouterr().out


def test_a_path_under_another_identity_is_told(tmp_path, model, capsys):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(3), "abb", paths=["1.jpg", "2.jpg", "3.jpg"])
    gallery.enroll_embeddings(np.eye(3), "abb", paths=["1.jpg", "2.jpg", "3.jpg"])
    assert capsys.readouterr().out == ""
    gallery.enroll_embeddings(np.eye(3)[[0, 1, 2, 0]], "bbab", paths=["1.jpg", "2.jpg", "3.jpg", ""])
    assert "2 images of other identities were replaced" in capsys.readouterr().out
    gallery.enroll_embeddings(np.eye(3), "cdd", paths=["9.jpg"] * 3)
    assert "1 images are given under two identities; the last one counts" in capsys.readouterr().out


NFC, NFD = "Jos\u00e9", "Jose\u0301"


def test_names_that_look_alike_are_one(tmp_path, model):
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(4), [NFC, NFD, "ann", " ann "], camids=[NFD, NFC, "x ", None])
    assert gallery.pids == [NFC, "ann"]
    assert gallery.identify_embeddings(np.eye(4)[:1], where=Where([f" {NFD}"]), threshold=9)[0].pid == NFC
    assert gallery.forget(f"{NFD} ") == 2 and gallery.forget("ann ") == 2
    with pytest.raises(InputError, match="a pid is missing"):
        gallery.enroll_embeddings(np.eye(1), [" "])


def test_names_that_an_older_gallery_spells_otherwise_are_found(tmp_path, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("reidlab.gallery.gallery.label_of", lambda name: name)
        pids, camids = [NFC, NFD, "bob ", "ann"], ["1 ", NFD, "2", "2"]
        Gallery.open(tmp_path, model).enroll_embeddings(np.eye(4), pids, camids=camids)
    gallery = Gallery.open(tmp_path, model, template="best")
    assert gallery.table()["pid"].tolist() == pids and gallery.pids == [NFC, "bob", "ann"]
    (answer,) = gallery.identify_embeddings(np.eye(4)[2:3], where=Where(["1", NFC]), threshold=9)
    assert [each.pid for each in answer.candidates] == [NFC]
    assert gallery.forget(NFC) == 2 and gallery.forget("bob") == 1 and gallery.pids == ["ann"]


def test_files_of_others_stay(tmp_path, model):
    names = {"part-1.jpg", "index-a.html", ".part", "notes.txt", ".gallery.json.original"}
    for name in names:
        (tmp_path / name).touch()
    gallery = Gallery.open(tmp_path, model)
    gallery.enroll_embeddings(np.eye(3), "abc")
    gallery.forget("a")
    assert names <= {file.name for file in tmp_path.iterdir()}


# -- processes


class Killed(BaseException):
    pass


@pytest.mark.parametrize("change", ["enroll", "replace", "forget"])
def test_a_change_that_is_cut_off_anywhere_leaves_the_old_gallery_or_the_new(change, tmp_path, model, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 4)
    changes = {
        "enroll": lambda gallery: gallery.enroll_embeddings(np.eye(6), "uvwxyz"),
        "replace": lambda gallery: gallery.enroll_embeddings(np.eye(6)[:2], "yz", paths=["0.jpg", "9.jpg"]),
        "forget": lambda gallery: gallery.forget("b"),
    }
    steps = ("write_atomic", "write_json", "unlink")

    def run(folder, limit):
        """Do the change, killed before its step number `limit`; the rows before, the rows after, whether it ended."""
        gallery = Gallery.open(folder, model)
        gallery.enroll_embeddings(np.eye(6), "abcabc", paths=[f"{i}.jpg" for i in range(6)])
        before, left = gallery.table(), [limit]

        def counted(call):
            def step(*args, **options):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return call(*args, **options)

            return step

        with monkeypatch.context() as patched:
            for name in steps[:2]:
                patched.setattr(store, name, counted(getattr(store, name)))
            patched.setattr(Path, "unlink", counted(Path.unlink))
            try:
                changes[change](gallery)
                ended = True
            except Killed:
                ended = False
        return before, Gallery.open(folder, model).table(), ended

    columns = ["path", "pid"]
    *_, after, ended = run(tmp_path / "whole", 10**6)
    assert ended
    seen = []
    for limit in range(100):
        before, found, ended = run(tmp_path / str(limit), limit)
        is_old, is_new = (found[columns].equals(other[columns]) for other in (before, after))
        assert is_old != is_new
        seen.append(is_new)
        named = {part.name for part in store.Store(tmp_path / str(limit)).parts}
        assert {file.name for file in (tmp_path / str(limit)).glob("*part-*")} == named  # opening swept the rest
        if ended:
            break
    assert seen == sorted(seen) and not seen[0] and len(seen) > 3


@pytest.fixture(scope="module")
def processes():
    """New ones, of which all but the first needn't import what they run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reidlab.gallery"])
    return context


def test_several_processes_lose_nothing(tmp_path, model, processes):
    workers = [processes.Process(target=enroll_one_by_one, args=(tmp_path, name, 12)) for name in "xy"]
    for worker in workers:
        worker.start()
    gallery = Gallery.open(tmp_path, model)
    while any(worker.is_alive() for worker in workers):  # a reader meanwhile
        assert len(gallery.identify_embeddings(np.eye(4), k=1)) == 4
        time.sleep(0.02)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(gallery.pids) == sorted(f"{name}-{number}" for name in "xy" for number in range(12))


@pytest.mark.slow
def test_a_killed_process_leaves_a_whole_gallery_and_no_lock(tmp_path, model, processes):
    for _ in range(4):
        worker = processes.Process(target=enroll_one_by_one, args=(tmp_path, "x", 10**6))
        worker.start()
        before = len(Gallery.open(tmp_path, model))
        while len(Gallery.open(tmp_path, model)) < before + 5:
            time.sleep(0.01)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        gallery = Gallery.open(tmp_path, model)
        count = len(gallery)
        assert count >= before + 5 and np.isfinite(gallery.embeddings()).all()
        assert gallery.enroll_embeddings(np.eye(4)[:1], ["after"]) == 1 and len(gallery) == count + 1
