"""Run folders of the release before the packages were rearranged: they open, and everything is built from them.

`old_runs/*.yaml` are config.yaml files as that release wrote them.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from reidlab.config import compose, read_config, training_differences
from reidlab.data import ClassDataModule, ReidDataModule
from reidlab.models import ReIdNetwork
from reidlab.run import File, Row, Run, Task
from reidlab.stages import train
from reidlab.training.tasks import ClassificationTask, ReidTask

OLD = Path(__file__).parent / "old_runs"
KINDS = {
    "identities": (Task.REID, ReidDataModule, ReidTask),
    "classes": (Task.CLASSIFICATION, ClassDataModule, ClassificationTask),
}


@pytest.fixture(params=KINDS)
def folder(request, tmp_path):
    place = tmp_path / request.param
    place.mkdir()
    shutil.copy(OLD / f"{request.param}.yaml", place / File.CONFIG)
    return place


@pytest.fixture(params=["opened", "resumed"])
def run(request, folder):
    if request.param == "opened":
        return Run(folder)
    return Run.resume([f"run.root={folder.parent}", f"run.name={folder.name}"])


def test_its_settings_are_its_own(run, folder):
    assert run.folder == folder and run.task is KINDS[folder.name][0]
    if folder.name == "identities":
        assert run["regime.backbone_lr_scale"] == 0.2 and run["regime.trunk_rate"] is None
        assert run["evaluate.baselines"] == [Row.UNTRAINED, Row.COLOR_HISTOGRAM]
    else:
        assert run["data.num_instances"] is None and "num_instances" not in run["data"]


def test_what_training_takes_is_built(run, folder):
    run.config.distill = None  # its teacher is elsewhere
    run.config.model.weights = None
    _, of_data, of_task = KINDS[folder.name]
    datamodule = run.datamodule()
    assert isinstance(datamodule, of_data)
    datamodule.__dict__["classes"] = [1, 2, 3]
    task = train.build_task(run, datamodule, "")
    assert isinstance(task, of_task) and isinstance(task.network, ReIdNetwork)
    task.trainer = train.build_trainer(run, datamodule_without_images(datamodule), [], [])
    optimizer = task.configure_optimizers()["optimizer"]
    assert len(optimizer.param_groups) >= 1
    terms = task.loss(torch.rand(6, task.network.feat_dim), torch.rand(6, 3), torch.arange(6) % 3)
    assert all(term.isfinite() for term in terms.values())


def datamodule_without_images(datamodule):
    datamodule.samples = type("Empty", (), {"split": lambda self, *names: []})()
    return datamodule


def test_training_may_go_on(folder):
    """What an unchanged command composes today, with the defaults of that day, is no other training."""
    stored = read_config(folder / File.CONFIG)
    overrides = [o.replace("trunk_rate", "backbone_lr_scale") for o in stored.run.overrides if "num_instances" not in o]
    earlier = ["data.val_identities=1", "augment.crop.padding=10", "optimizer.lr=3e-3"]
    now = compose([*overrides, *(earlier if "val_identities" in stored.data else [])])
    now.model.weights = stored.model.weights  # of a folder elsewhere
    assert training_differences(stored, now) == []


def test_its_figures_keep_their_names(run):
    run.write(File.METRICS, json.dumps({"checkpoint": {"mAP": 0.7}, "colour-histogram": {"mAP": 0.1}}))
    assert list(run.results) == [Row.CHECKPOINT, Row.COLOR_HISTOGRAM]
