"""A disk that is full from some file operation on: one line, and the same command goes on when there is room."""

import shutil
import subprocess

import broken
import pytest
from pipeline import STAGES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_one_line_and_loses_nothing(stage, pipeline, tally):
    for nth in pipeline.points(stage):
        pipeline.again(stage)
        refused = pipeline.command(stage, "full", nth)
        if refused.status == 0:  # nothing was left to write
            assert pipeline.differences(stage) == [], nth
        else:
            assert refused.one_line and "No space left on device" in refused.errors, (nth, refused.errors)
        ended = pipeline.command(stage)
        assert ended.status == 0, (nth, ended.errors)
        assert pipeline.differences(stage) == [], nth
        assert broken.litter(pipeline.root) == [], nth
        tally(f"full disk during `{stage}`", "one line" if refused.status else "right")


@pytest.fixture
def small_disk(pipeline):
    """A file system of its own for the run folders, of 200 MB."""
    shutil.rmtree(pipeline.root)
    pipeline.root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "none", str(pipeline.root)]
    if (mounted := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"this user may mount no file system: {mounted.stderr.strip()}")
    yield pipeline.root
    subprocess.run(["umount", "-l", str(pipeline.root)], check=True)


@pytest.mark.parametrize("kib", [4, 400])
@pytest.mark.parametrize("stage", ["train", "evaluate", "quantize", "deploy", "report", "search"])
def test_a_real_disk_of_which_less_is_free_than_a_stage_writes(stage, kib, pipeline, small_disk, tally):
    """Here a write fails half-way, also one in C++ or of another process; the temporary folder is on the same disk."""
    pipeline.again(stage)
    temporary = small_disk / "tmp"
    temporary.mkdir()
    ballast, argv = broken.fill(small_disk, kib), pipeline.stages[stage].argv
    refused = broken.command(*argv, folder=small_disk, temporary=temporary)
    assert refused.status == 0 or refused.one_line, refused.errors
    shutil.rmtree(temporary)
    ballast.unlink()
    ended = pipeline.command(stage)
    assert ended.status == 0, ended.errors
    assert pipeline.differences(stage) == []
    tally(f"full disk during `{stage}`", "one line" if refused.status else "right")
