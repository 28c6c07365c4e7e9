"""SIGKILL at any time, several in a row: the same command then ends as if it had never been killed.

The times are drawn with a fixed seed, uniformly from those that the unbroken command takes. Either the process alone is
killed, and what it had started goes on beside the next, or its whole session.
"""

import itertools
import os
import re
import signal

import broken
import numpy as np
import pytest
from pipeline import QUICK_INT8, TRIED, Pipeline

pytestmark = pytest.mark.slow
MOST_IN_A_ROW = 3


@pytest.fixture(scope="module")
def pipeline(small, tmp_path_factory):
    """The stages that take long; the last makes C of the .tflite, and runs it where the tools for that are."""
    small = [*small, "trainer.max_epochs=6"]
    return Pipeline(
        tmp_path_factory.mktemp("pipeline"),
        [
            ["search", "--trials=3", *small, "optimizer.lr=log(1e-4,1e-2)"],
            ["train", *small],
            ["quantize", "quantize.formats=[tflite]", "quantize.runtimes=[litert]", *QUICK_INT8],
            ["deploy", "deploy=c", "deploy.images=2"],
        ],
    )


def epochs(output):
    """(trial, epoch) of each epoch that a command said it ended."""
    trial, found = 0, []
    for word, number in re.findall(r"^(trial|epoch) (\d+)", output, re.MULTILINE):
        if word == "trial":
            trial = int(number)
        else:
            found.append((trial, int(number)))
    return found


@pytest.mark.parametrize("stage", ["train", "search", "quantize", "deploy"])
def test_a_kill_at_any_time_costs_at_most_the_epoch_under_way(stage, pipeline, tally):
    random, kills = np.random.default_rng(sum(stage.encode())), 0
    while kills < TRIED:
        pipeline.again(stage)
        tries = []
        for _ in range(random.integers(1, MOST_IN_A_ROW, endpoint=True)):
            kill, part = (os.kill, os.killpg)[random.integers(2)], random.random()
            tries.append(pipeline.command(stage, kill=kill, seconds=part * pipeline.stages[stage].seconds))
            assert tries[-1].status in (0, -signal.SIGKILL), tries[-1]  # 0: it was faster than the unbroken one
        tries.append(pipeline.command(stage))
        assert tries[-1].status == 0, tries
        done = [found for each in tries if (found := epochs(each.output))]
        assert all(after[0] >= before[-1] for before, after in itertools.pairwise(done)), tries
        assert pipeline.differences(stage) == [], tries
        assert broken.litter(pipeline.root) == [], tries
        for _ in range(killed := sum(each.status < 0 for each in tries)):
            tally(f"kill at any time during `{stage}`", "right")
        kills += killed
