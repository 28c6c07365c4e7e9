"""What the dead leave: locks, half-written files, torn lines, and figures of a network that is no longer there."""

import multiprocessing
import os
import signal
import time

import pytest

from reidlab import files
from reidlab.errors import InputError
from reidlab.run import File, Row, Run
from reidlab.stages import report, search, train

pytestmark = pytest.mark.slow
SPAWN = multiprocessing.get_context("spawn")


def hold(folder, ready, user=None):
    """Train, as it seems, and write a file, for ever."""
    if user:
        os.setuid(user)
    with files.alone(folder), files.replacing(folder / "metrics.json") as file:
        file.write(b"{")
        file.flush()
        ready.set()
        time.sleep(300)


@pytest.fixture
def holder(tmp_path):
    ready = SPAWN.Event()
    process = SPAWN.Process(target=hold, args=(tmp_path / "r", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def hidden(folder):
    return sorted(
        place.name.removesuffix(".reidlab").rpartition(".")[0]
        for place in folder.rglob(".*")
        if place.suffix != ".lock"
    )


def test_the_lock_of_a_killed_process_is_free_and_its_file_is_swept(holder, tmp_path, tally):
    folder = tmp_path / "r"
    files.sweep(folder)
    assert hidden(folder) == [".metrics.json"]  # somebody is writing it
    with pytest.raises(InputError, match=r"another process trains there.*\.training\.lock"), files.alone(folder):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with files.alone(folder):
        files.sweep(folder)
    assert hidden(folder) == [] and not (folder / "metrics.json").exists()
    tally("lock of a killed process", "right")


def test_a_process_that_is_stopped_keeps_its_lock(holder, tmp_path, tally):
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(InputError, match="another process trains there"), files.alone(tmp_path / "r"):
        pass
    tally("lock of a stopped process", "one line")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_the_lock_that_another_user_left_can_be_taken(tmp_path, tally):
    for place in (tmp_path, *tmp_path.parents):
        if place.name.startswith(("test_", "popen-", "pytest-")):  # whoever runs it: pytest or its workers
            place.chmod(0o777)
    folder, ready = tmp_path / "r", SPAWN.Event()
    folder.mkdir()
    folder.chmod(0o777)
    with files.alone(folder):  # root's
        pass
    other = SPAWN.Process(target=hold, args=(folder, ready, 65534))
    other.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match="another process trains there"), files.alone(folder):
        pass
    other.kill()
    other.join()
    tally("lock of another user", "right")


def test_only_what_looks_half_written_is_swept(tmp_path):
    kept = [".gitignore", ".training.lock", ".hidden/notes.txt", "metrics.json", ".metrics.json.old", ".env.template",
            ".bashrc.20240101", ".vimrc.original/a", ".reidlab", ".notes.reidlab"]  # fmt: skip
    for name in [*kept, ".metrics.json.ab12_xyz.reidlab", "evaluate/.a.csv.abcdefgh.reidlab"]:
        files.write_atomic(tmp_path / name, "x")
    (tmp_path / ".quantize.abcdefgh.reidlab" / "in").mkdir(parents=True)
    files.sweep(tmp_path)
    left = [str(place.relative_to(tmp_path)) for place in tmp_path.rglob("*") if place.is_file()]
    assert sorted(left) == sorted(kept) and not (tmp_path / ".quantize.abcdefgh.reidlab").exists()


TORN = {
    "the last line without its end": lambda lines: b"".join(lines)[:-20],
    "a torn line that another process wrote on": lambda lines: b"".join(
        [*lines[:4], lines[4][:9], *lines[4:]]
    ),
    "a line of nothing": lambda lines: b"".join([*lines, b"\0" * 40 + b"\n"]),
}  # fmt: skip


@pytest.mark.parametrize("tear", TORN.values(), ids=TORN)
def test_a_search_with_a_torn_line_goes_on(tear, small, tmp_path, tally):
    overrides = [*small, "trainer.max_epochs=1", "optimizer.lr=1e-3,1e-2", f"run.root={tmp_path}", "run.name=s"]
    folder = search.run(overrides, trials=1)
    log = folder / File.SEARCH_LOG
    log.write_bytes(tear(log.read_bytes().splitlines(keepends=True)))
    search.run(overrides, trials=2)
    trials = (folder / File.TRIALS).read_text().splitlines()
    assert len(trials) == 3 and all(",complete," in line for line in trials[1:])
    tally("torn line in a search's log", "right")


def test_no_figure_outlives_its_network(small, tmp_path, tally):
    """The old network's figures and threshold are gone with it, whether it was overwritten or exchanged."""
    settings = [*small, "trainer.max_epochs=1", f"run.root={tmp_path}", "run.name=r"]
    run = train.run(Run.compose(settings))
    run.record({Row.CHECKPOINT: {"mAP": 0.98765}}, {}, run.checkpoint)
    assert "0.988" in (report.run(run) / File.CARD_MARKDOWN).read_text()
    train.run(Run.compose([*settings, "seed=1", "run.overwrite=true"]))
    again = Run(run.folder)
    assert Row.CHECKPOINT not in again.all_results
    again.record({Row.CHECKPOINT: {"mAP": 0.98765}}, {}, "0123456789abcdef")
    assert "0.988" not in (report.run(again) / File.CARD_MARKDOWN).read_text()
    tally("figure of another network", "right")
