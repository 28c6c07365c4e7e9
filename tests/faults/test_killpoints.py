"""SIGKILL at sampled file operations of every stage: the same command then ends as if it had never been killed."""

import signal
import tempfile
from pathlib import Path

import broken
import pytest
from pipeline import STAGES

from reidlab.training.checkpoints import is_whole

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_changes_no_result(stage, pipeline, tally):
    for nth in pipeline.points(stage):
        pipeline.again(stage)
        killed = pipeline.command(stage, "kill", nth)
        assert killed.status == -signal.SIGKILL, (nth, killed)
        ended = pipeline.command(stage)
        assert ended.status == 0, (nth, ended.errors)
        assert pipeline.differences(stage) == [], nth
        assert broken.litter(pipeline.root) == [], nth
        tally(f"kill during `{stage}`", "right")


def half_trained(pipeline):
    """The folder of a training that was killed when its second epoch was nearly over."""
    pipeline.again("train")
    pipeline.command("train", "kill", pipeline.stages["train"].operations * 7 // 8)
    checkpoints = pipeline.root / "run" / "checkpoints"
    assert {file.name for file in checkpoints.glob("*.ckpt")} == {
        *("best.ckpt", "last.ckpt", "previous-best.ckpt", "previous-last.ckpt"),
    }
    return checkpoints


@pytest.mark.parametrize("torn", [["last"], ["best"], ["last", "best"], ["last", "previous-last"]])
def test_a_torn_checkpoint_costs_an_epoch_and_is_said(torn, pipeline, tally):
    checkpoints = half_trained(pipeline)
    for name in torn:
        file = checkpoints / f"{name}.ckpt"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.unlink()  # the predecessor may be the same file
        file.write_bytes(content if name == "best" else content[: len(content) // 2])
    assert not any(is_whole(checkpoints / f"{name}.ckpt") for name in torn)
    ended = pipeline.command("train")
    assert ended.status == 0 and "can't be read; training goes back" in ended.output
    assert pipeline.differences("train") == []
    tally("torn checkpoint", "right")


def test_a_torn_best_checkpoint_is_one_line_for_the_stages_after_training(pipeline, tally):
    pipeline.again("evaluate")
    best = pipeline.root / "run" / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-100])
    assert pipeline.command("evaluate").one_line
    tally("torn checkpoint", "one line")


def test_checkpoints_never_pass_through_the_temporary_folder(pipeline, tmp_path):
    """Which may be another file system, where a move is a copy that a kill tears."""
    pipeline.again("train")
    train = pipeline.stages["train"]
    ended = broken.command(*train.argv, folder=tmp_path, temporary=tmp_path)
    assert ended.status == 0 and ended.operations == 0 and list(tmp_path.iterdir()) == []


def test_a_run_folder_on_another_file_system_than_the_temporary_one(pipeline, tally, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system than the temporary folder")
    train = pipeline.stages["train"]
    with tempfile.TemporaryDirectory(dir=other) as place:
        for nth in pipeline.points("train"):
            pipeline.again("train")
            where = {"folder": pipeline.root, "temporary": Path(place)}
            assert broken.command(*train.argv, kind="kill", nth=nth, **where).status == -signal.SIGKILL
            assert broken.command(*train.argv, **where).status == 0
            assert pipeline.differences("train") == [], nth
            tally("kill during `train`, temporary folder on another disk", "right")
        assert list(Path(place).iterdir()) == []
