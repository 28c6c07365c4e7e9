"""Folders of embeddings against a plain loop over the images, whoever makes them and however often it is stopped."""

import json
import os
import re
import shutil
import tarfile
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import SlowColors, images_in

import reidlab
from reidlab.config import CLONE
from reidlab.data import read_image
from reidlab.errors import InputError
from reidlab.gallery import Gallery, extraction
from reidlab.gallery.extraction import MANIFEST, REFUSED, decoded, enroll_extracted, extract

PATTERN = re.compile(r"(?P<pid>p\d)/.*_c(?P<camid>\d)")


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def table_of(folder):
    return pq.read_table(folder)


def by_hand(folder):
    """Paths and embeddings of a folder's images, one at a time."""
    files = sorted(folder.rglob("*.png"))
    rows = [SlowColors()([read_image(file, SlowColors.size)])[0] for file in files]
    return [file.relative_to(folder).as_posix() for file in files], np.stack(rows)


def test_what_a_process_left_that_was_killed_meanwhile_is_swept(tmp_path):
    left = tmp_path / "out" / ".part-00001.parquet.ab12cd34.reidlab"
    left.parent.mkdir()
    images = images_in(tmp_path / "in", 6)
    extract(images, left.parent, partial(SlowColors, left), shard_images=3)  # which writes there as it embeds
    assert not left.exists() and len([*left.parent.glob("part-*")]) == 2


@pytest.mark.parametrize(("precision", "error"), [("float32", 0), ("float16", 2**-11), ("int8", 1 / 254)])
@pytest.mark.parametrize("shard_images", [1, 7, 1000])
def test_a_folder_as_a_loop_embeds_it(precision, error, shard_images, tmp_path):
    images = images_in(tmp_path / "in", 30)
    found = extract(
        images, tmp_path / "out", SlowColors, precision=precision, shard_images=shard_images, pattern=PATTERN
    )
    paths, expected = by_hand(images)
    table = table_of(found.folder)
    assert (found.images, found.refused) == (30, 0) and table["path"].to_pylist() == paths
    assert table["pid"].to_pylist() == [path[:2] for path in paths]
    assert table["camid"].to_pylist() == [path[-5] for path in paths]
    assert (np.abs(decoded(table) - expected) <= error * np.abs(expected).max(1, keepdims=True)).all()
    assert len([*found.folder.glob("part-*")]) == -(-30 // shard_images)
    assert len(pd.read_parquet(found.folder)) == 30  # other files are no data to other readers


def test_the_same_command_again_changes_nothing(tmp_path):
    images, log = images_in(tmp_path / "in", 20), tmp_path / "log"
    extract(images, tmp_path / "out", partial(SlowColors, log), shard_images=6)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / ".part-00001.parquet.abcdefgh.reidlab").write_bytes(b"half")  # which a kill left
    log.unlink()
    extract(images, tmp_path / "out", partial(SlowColors, log), shard_images=6)
    assert contents(tmp_path / "out") == before
    assert log.read_text().split() == [str(os.getpid()), "1"]  # the image that tells the embeddings' length


def test_a_file_that_is_missing_is_made_again(tmp_path):
    images = images_in(tmp_path / "in", 20)
    extract(images, tmp_path / "out", SlowColors, shard_images=6)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "part-00002.parquet").unlink()
    with pytest.raises(InputError, match="unfinished, 3 of 4 files"):
        enroll_extracted(Gallery.open(tmp_path / "gallery", SlowColors()), tmp_path / "out")
    extract(images, tmp_path / "out", SlowColors, shard_images=6)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"make_model": partial(SlowColors, checkpoint="d" * 16)}, f"checkpoint {'c' * 16}, not {'d' * 16}"),
        ({"shard_images": 5}, "shard_images 6, not 5"),
        ({"precision": "int8"}, "precision float16, not int8"),
        ({"threads": 2}, "threads 1, not 2"),
        ({"about": {"mean": [0.5]}}, r"mean None, not \[0.5\]"),
        ({"pattern": PATTERN}, "holds embeddings by pattern None, not "),
    ],
)
def test_another_model_or_choice_is_refused(change, message, tmp_path):
    images, given = images_in(tmp_path / "in", 8), {"make_model": SlowColors, "shard_images": 6}
    extract(images, tmp_path / "out", **given)
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        extract(images, tmp_path / "out", **(given | change))
    assert contents(tmp_path / "out") == before


def test_another_source_is_refused(tmp_path):
    images = images_in(tmp_path / "in", 8)
    extract(images, tmp_path / "out", SlowColors)
    (images / "p9.png").write_bytes((images / "p0" / "0000_c0.png").read_bytes())
    with pytest.raises(InputError, match=r"other images or labels than .* \(8 images or boxes then, 9 now\)"):
        extract(images, tmp_path / "out", SlowColors)
    (tmp_path / "else").mkdir()
    shutil.copy(tmp_path / "out" / "part-00000.parquet", tmp_path / "else")
    with pytest.raises(InputError, match="holds other files"):
        extract(images, tmp_path / "else", SlowColors)
    with pytest.raises(InputError, match="holds no image"):
        extract(tmp_path / "else", tmp_path / "more", SlowColors)


def test_a_folder_of_other_files_is_refused_and_none_of_them_deleted(tmp_path):
    images, place = images_in(tmp_path / "in", 2), tmp_path / "out" / "_notes.txt"
    place.parent.mkdir(parents=True)
    place.write_text("mine")
    with pytest.raises(InputError, match=r"holds other files, such as _notes\.txt"):
        extract(images, tmp_path / "out", SlowColors)
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == [place]


def test_hidden_files_and_a_systems_stay_where_they_are(tmp_path):
    names = (".env.template", ".bashrc.20240101", ".vimrc.original/a", ".gitkeep", ".DS_Store", "lost+found/x")
    for name in names:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text("mine")
    assert extract(images_in(tmp_path / "in", 2), tmp_path / "out", SlowColors).images == 2
    assert all((tmp_path / "out" / name).read_text() == "mine" for name in names)


def test_what_cant_be_read_is_named_once_and_stops_nothing(tmp_path):
    """An empty file, half an image, a bomb, a tar that is cut off, and whole images between them."""
    images = images_in(tmp_path / "in", 20)
    (images / "p0" / "0000_a.png").write_bytes(b"")
    whole = (images / "p0" / "0000_c0.png").read_bytes()
    (images / "p0" / "0000_b.png").write_bytes(whole[:90])
    large = bytearray(whole)
    large[16:24] = (10**6).to_bytes(4, "big") * 2
    (images / "p1" / "bomb.png").write_bytes(large)
    with tarfile.open(images / "x.tar", "w") as tar:
        for file in sorted((images / "p2").iterdir()):
            tar.add(file, file.name)
    (images / "x.tar").write_bytes((images / "x.tar").read_bytes()[:-11_000])
    found = extract(images, tmp_path / "out", SlowColors, shard_images=4)
    bad = pd.read_csv(found.folder / REFUSED).set_index("path")["reason"]
    assert found.refused == len(bad) and set(bad.index) >= {"p0/0000_a.png", "p0/0000_b.png", "p1/bomb.png", "x.tar"}
    assert "it is empty" in bad["p0/0000_a.png"] and "million" in bad["p1/bomb.png"] and "cut off" in bad["x.tar"]
    assert not bad.str.contains(str(tmp_path)).any()
    table = table_of(found.folder)
    held = table["path"].to_pylist()
    assert len(set(held)) == len(held) == found.images and not {*held} & {*bad.index}
    paths, expected = by_hand_without(images, bad.index)
    rows = [held.index(path) for path in paths]
    np.testing.assert_allclose(decoded(table)[rows], expected, rtol=1e-3, atol=0.2)
    assert json.loads((found.folder / MANIFEST).read_text())["images"] == found.images + found.refused


def by_hand_without(folder, bad):
    good = [file for file in sorted(folder.rglob("*.png")) if file.relative_to(folder).as_posix() not in bad]
    rows = [SlowColors()([read_image(file, SlowColors.size)])[0] for file in good]
    return [file.relative_to(folder).as_posix() for file in good], np.stack(rows)


class Broken(SlowColors):
    """Its embeddings of dark images aren't numbers."""

    def __call__(self, images):
        images = [*images]
        values = super().__call__(images)
        values[[len(images) > 1 and image.mean() < 127 for image in images]] = np.nan
        return values


def test_embeddings_that_are_no_numbers_are_refused(tmp_path):
    images = images_in(tmp_path / "in", 40)
    found = extract(images, tmp_path / "out", Broken)
    assert found.refused and found.images + found.refused == 40
    assert np.isfinite(decoded(table_of(found.folder))).all()


def test_nothing_but_unreadable_images(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    found = extract(tmp_path / "in", tmp_path / "out", SlowColors)
    assert (found.images, found.refused) == (0, 1) and len(table_of(found.folder)) == 0
    (tmp_path / "b.tar").write_bytes(b"none")
    with pytest.raises(InputError, match=r"b\.tar: damaged or cut off"):
        extract(tmp_path / "b.tar", tmp_path / "more", SlowColors)


def test_a_folder_becomes_a_gallery_as_its_images_do(tmp_path):
    images = images_in(tmp_path / "in", 20)
    extract(images, tmp_path / "out", SlowColors, shard_images=6, pattern=PATTERN, precision="float32")
    galleries = [Gallery.open(tmp_path / name, SlowColors()) for name in "ab"]
    paths, _ = by_hand(images)
    galleries[0].enroll([images / path for path in paths], [path[:2] for path in paths])
    assert enroll_extracted(galleries[1], tmp_path / "out", keep_s=100) == 20
    np.testing.assert_array_equal(galleries[0].embeddings(), galleries[1].embeddings())
    table = galleries[1].table()
    assert table["path"].tolist() == [(images / path).as_posix() for path in paths] and table["camid"].tolist() == [
        path[-5] for path in paths
    ]
    assert (table["expires"] - table["time"] == 100).all() and abs(table["time"] - time.time()).max() < 60
    with pytest.raises(InputError, match="embedded with checkpoint"):
        enroll_extracted(Gallery.open(tmp_path / "c", SlowColors(checkpoint="d" * 16)), tmp_path / "out")
    extract(images, tmp_path / "nameless", SlowColors)
    with pytest.raises(InputError, match="no image has a pid"):
        enroll_extracted(Gallery.open(tmp_path / "d", SlowColors()), tmp_path / "nameless")


def test_damaged_files_of_our_own_are_named(tmp_path):
    images = images_in(tmp_path / "in", 8)
    extract(images, tmp_path / "out", SlowColors)
    (tmp_path / "out" / "part-00000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match=r"part-00000\.parquet: damaged .*; delete it, and give"):
        extract(images, tmp_path / "out", SlowColors)
    (tmp_path / "out" / "part-00000.parquet").unlink()
    (tmp_path / "out" / "_plan.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match=r"_plan\.parquet: damaged"):
        extract(images, tmp_path / "out", SlowColors)
    (tmp_path / "out" / MANIFEST).write_text("[1]")
    with pytest.raises(InputError, match="not readable as JSON"):
        extract(images, tmp_path / "out", SlowColors)


@pytest.mark.slow
def test_memory_doesnt_grow_with_a_table_of_100_000_rows(tmp_path):
    """Rows are listed, divided and read a shard at a time; one of each thousand is an image."""
    (images_in(tmp_path, 1) / "p0" / "0000_c0.png").rename(tmp_path / "a.png")
    peaks = []
    for rows in (10_000, 100_000):
        table = tmp_path / f"{rows}.csv"
        table.write_text("path,pid\n" + "".join(f"{'a' if n % 1000 == 0 else n}.png,{n}\n" for n in range(rows)))
        tracemalloc.start()
        found = extract(table, tmp_path / str(rows), SlowColors, shard_images=3000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (found.images, found.refused) == (rows // 1000, rows - rows // 1000)
    assert peaks[1] - peaks[0] < 90_000 * 120  # bytes: a row takes 250, Python's interned names 80


def kept_network():
    return reidlab.load(CLONE / "data" / "models" / "demo_osnet_x0_25")


@pytest.mark.slow
def test_four_processes_write_the_bytes_of_one(market, tmp_path):
    """By a real network, whose sums depend on batches and threads."""
    options = {"shard_images": 7, "pattern": re.compile(r"\w+/(?P<pid>\d+)_c(?P<camid>\d)"), "precision": "float32"}
    one = extract(market, tmp_path / "1", kept_network, **options)
    four = extract(market, tmp_path / "4", kept_network, processes=4, **options)
    assert contents(one.folder) == contents(four.folder) and one.images == four.images == 72
    exact = kept_network()([market / path for path in table_of(one.folder)["path"].to_pylist()])
    np.testing.assert_allclose(decoded(table_of(one.folder)), exact, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_ray_cluster_writes_the_bytes_of_one_process(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{CLONE}")  # of Ray's processes
    images = images_in(tmp_path / "in", 50)
    (images / "p0" / "broken.png").write_bytes(b"")
    alone = extract(images, tmp_path / "1", SlowColors, shard_images=4)
    log = tmp_path / "log"
    there = extract(images, tmp_path / "2", partial(SlowColors, log), shard_images=4, processes=2, ray="local")
    assert contents(alone.folder) == contents(there.folder)
    workers = {line.split()[0] for line in log.read_text().splitlines()} - {str(os.getpid())}
    assert workers and there == (Path(tmp_path / "2"), 50, 1)
    (images / "p0" / "more.png").write_bytes(b"")
    with pytest.raises(InputError, match="other images"):
        extract(images, tmp_path / "2", SlowColors, shard_images=4, ray="local")


def test_an_absent_ray_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'reidlab\[ray\]'"):
        extract(images_in(tmp_path / "in", 2), tmp_path / "out", SlowColors, ray="auto")


def test_the_readers_of_a_folder_see_types_that_stay(tmp_path):
    """Also where a file has no row, no pid and no box."""
    images = images_in(tmp_path / "in", 3)
    (images / "a.png").write_bytes(b"")
    folder = extract(images, tmp_path / "out", SlowColors, shard_images=1).folder
    schemas = {str(pq.read_schema(file).remove_metadata()) for file in folder.glob("part-*")}
    assert len(schemas) == 1
    schema = pq.read_schema(folder / "part-00000.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float16(), 12) and schema.field("box").type == extraction.BOX
