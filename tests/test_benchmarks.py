"""Benchmarks import, explain themselves, and keep networks that open as runs."""

import runpy
import sys

import pandas as pd
import pytest
import torch

from reidlab.config import CLONE
from reidlab.data import Samples
from reidlab.models import read_weights
from reidlab.run import File, Row, Run
from reidlab.stages import evaluate, train

BENCHMARKS = CLONE / "benchmarks"
SCRIPTS = sorted(file for file in BENCHMARKS.glob("*.py") if "__main__" in file.read_text())


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    """They import each other, as scripts of one folder do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_each_says_what_it_measures(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(file), run_name="__main__")
    assert ended.value.code == 0 and f"usage: {file.name}" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run of one epoch, with the figures of its checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    given = ["experiment=osnet_x0_25_market1501", *small, f"run.root={root}", "run.name=tiny", "trainer.max_epochs=1"]
    return evaluate.run(train.run(Run.compose([*given, "evaluate.baselines=[]", "evaluate.resamples=20"])))


def test_a_kept_network_opens_as_a_run_with_its_figures(trained, tmp_path):
    from kept import keep

    keep(trained, tmp_path / "kept", [Row.CHECKPOINT], "# A card", half=True)
    kept = Run(tmp_path / "kept")
    assert kept["model"] == trained["model"] and kept["data.size"] == [32, 16]
    assert kept.results[Row.CHECKPOINT].figures == trained.results[Row.CHECKPOINT].figures
    assert kept.results[Row.CHECKPOINT].protocol == trained.results[Row.CHECKPOINT].protocol
    assert kept.training["finished"] and "machine" not in kept.training
    weights = read_weights(kept / File.BEST)
    assert {tensor.dtype for tensor in weights.values()} <= {torch.float16, torch.int64}
    assert len(kept.network(torch.zeros(1, 3, 32, 16)).embedding[0]) == trained.network.feat_dim
    assert (kept / File.CARD_MARKDOWN).read_text() == "# A card"


def test_the_training_step_learns_from_images_of_any_layout(market):
    """The step that is timed beside torchreid's lowers the loss of a batch that it sees twice."""
    from training import CLASSES, Ours

    table = pd.DataFrame({"path": ["none.jpg"], "pid": [1], "camid": [1], "split": ["train"]})
    step = Ours(Samples(table, market), 0, "cpu").trainer("osnet_x0_25")
    images, pids = torch.rand(4, 3, 32, 16), torch.arange(4) % CLASSES
    losses = [float(step(images, pids)) for _ in range(5)]
    assert losses[-1] < losses[0]
