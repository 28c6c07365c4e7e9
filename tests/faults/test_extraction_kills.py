"""Embeddings by processes that are killed at any time: each image once, one shard at most embedded again a kill.

The model is a slow one without a network, which writes down what it embeds.
"""

import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "gallery"))
from made_up import SlowColors, images_in

from reidlab.errors import InputError
from reidlab.gallery.extraction import extract

pytestmark = pytest.mark.slow
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["reidlab.gallery.extraction", "made_up"])
IMAGES, SHARD, PAUSE_S, KILLS = 60, 4, 0.02, 12


def begin(images, out, log, pause_s=PAUSE_S, **options):
    """The extraction in a process of its own."""
    options = {"shard_images": SHARD, **options}
    process = FORKS.Process(target=_extract, args=(images, out, partial(SlowColors, log, pause_s)), kwargs=options)
    process.start()
    return process


def _extract(*given, **options):
    os.setsid()
    extract(*given, **options)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def embedded(log):
    """Images embedded by each process, the first one, which tells the embeddings' length, left out."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    counts = {int(pid): 0 for pid, _ in lines}
    for pid, count in lines:
        counts[int(pid)] += int(count)
    return counts


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def has_ended(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    images = images_in(root / "in", IMAGES)
    (images / "p1" / "broken.png").write_bytes(b"\x89PNG")
    return images, contents(extract(images, root / "out", SlowColors, shard_images=SHARD).folder)


def test_kills_at_any_time_cost_a_shard_each(unbroken, tmp_path, tally):
    images, expected = unbroken
    random, log = np.random.default_rng(0), tmp_path / "log"
    for _ in range(KILLS):
        process = begin(images, tmp_path / "out", log)
        until(log.exists)
        time.sleep(random.uniform(0, 4 * SHARD * PAUSE_S))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        parts = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
        assert all(expected[name] == data for name, data in parts.items() if name.startswith("part-"))
        tally("kill at any time during `predict` into a folder", "right")
    last = begin(images, tmp_path / "out", log)
    last.join()
    assert last.exitcode == 0 and contents(tmp_path / "out") == expected
    counts = embedded(log)
    assert sum(counts.values()) - len(counts) <= IMAGES + KILLS * SHARD


def test_what_a_killed_process_held_is_taken_up_by_another(unbroken, tmp_path, tally):
    images, expected = unbroken
    log = tmp_path / "log"
    first, second = (begin(images, tmp_path / "out", log) for _ in range(2))
    until(lambda: len(embedded(log)) == 2 and len([*(tmp_path / "out").glob("part-*")]) > 3)
    os.kill(first.pid, signal.SIGKILL)
    second.join()
    assert second.exitcode == 0 and contents(tmp_path / "out") == expected
    counts = embedded(log)
    assert min(counts.values()) > 1 and sum(counts.values()) - 2 <= IMAGES + SHARD
    tally("kill of one of two processes that `predict` into a folder", "right")


def test_commands_that_begin_together_share_the_work(unbroken, tmp_path, tally):
    images, expected = unbroken
    log = tmp_path / "log"
    together = [begin(images, tmp_path / "out", log) for _ in range(3)]
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0, 0, 0] and contents(tmp_path / "out") == expected
    assert sum(embedded(log).values()) == IMAGES + 3
    tally("three processes that `predict` into a folder", "right")


def test_a_command_of_another_choice_is_one_line_meanwhile(unbroken, tmp_path, tally):
    images, expected = unbroken
    process = begin(images, tmp_path / "out", tmp_path / "log")
    until(lambda: [*(tmp_path / "out").glob("part-*")])
    with pytest.raises(InputError, match="shard_images 4, not 5"):
        extract(images, tmp_path / "out", SlowColors, shard_images=5)
    process.join()
    assert contents(tmp_path / "out") == expected
    tally("two processes that `predict` into a folder by different settings", "one line")


def test_processes_end_with_the_command_that_started_them(unbroken, tmp_path, tally):
    images, expected = unbroken
    log = tmp_path / "log"
    parent = begin(images, tmp_path / "out", log, pause_s=0.5, processes=2)
    until(lambda: len(embedded(log)) == 2)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    (child,) = {*embedded(log)} - {parent.pid}
    until(lambda: has_ended(child))
    extract(images, tmp_path / "out", SlowColors, shard_images=SHARD)
    assert contents(tmp_path / "out") == expected
    tally("kill of a `predict` of two processes", "right")
