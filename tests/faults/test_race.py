"""Processes that write to one run folder at once."""

import json
import multiprocessing

import pytest

from reidlab.errors import InputError
from reidlab.files import alone, write_atomic
from reidlab.run import File, Run

pytestmark = pytest.mark.slow
SPAWN = multiprocessing.get_context("spawn")
ROWS = 150


def record(root, name, start):
    run = Run.compose(["experiment=smoke", f"run.root={root}", "run.name=shared"])
    start.wait()
    for number in range(ROWS):
        run.record({f"{name}{number}": {"mAP": number / ROWS}}, {"distance": "cosine"})


def test_two_processes_keep_all_rows_and_readers_see_whole_files(tmp_path, tally):
    start = SPAWN.Event()
    writers = [SPAWN.Process(target=record, args=(tmp_path, name, start)) for name in "ab"]
    for writer in writers:
        writer.start()
    start.set()
    metrics, seen = tmp_path / "shared" / File.METRICS, 0
    while any(writer.is_alive() for writer in writers):
        rows = len(json.loads(metrics.read_text())) if metrics.exists() else 0
        assert rows >= seen
        seen = rows
    assert [writer.exitcode for writer in writers] == [0, 0]
    rows = json.loads(metrics.read_text())
    assert set(rows) == {f"{name}{number}" for name in "ab" for number in range(ROWS)}
    assert rows["b149"]["mAP"] == 149 / ROWS
    tally("two processes that record", "right")


def test_a_second_training_is_one_line(small, tmp_path, tally):
    from reidlab.stages import train

    run = Run.compose([*small, f"run.root={tmp_path}", "run.name=r"])
    with alone(run.folder), pytest.raises(InputError, match="another process trains there"):
        train.run(run)
    assert not run.has(File.CONFIG)
    tally("two processes that train", "one line")


def overwrite(file, letter, start):
    start.wait()
    for _ in range(60):
        write_atomic(file, letter * 100_000)


def test_a_file_is_one_writers_or_the_others_never_a_mixture(tmp_path, tally):
    file, start = tmp_path / "file", SPAWN.Event()
    writers = [SPAWN.Process(target=overwrite, args=(file, letter, start)) for letter in "ab"]
    for writer in writers:
        writer.start()
    start.set()
    while any(writer.is_alive() for writer in writers):
        assert not file.exists() or file.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [writer.exitcode for writer in writers] == [0, 0] and list(tmp_path.iterdir()) == [file]
    tally("two processes that write one file", "right")
