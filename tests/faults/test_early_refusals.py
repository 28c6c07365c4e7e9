"""What can't be done is refused before any image is embedded, decoded or learned from."""

import re

import cv2
import numpy as np
import pytest

from reidlab.cli import main
from reidlab.errors import InputError
from reidlab.run import Run
from reidlab.stages import evaluate, quantize


@pytest.fixture
def no_work(monkeypatch):
    """Makes all that takes time an error."""

    def called(*args, **kwargs):
        raise AssertionError("work was begun")

    for stage in ("evaluate", "quantize", "predict"):
        monkeypatch.setattr(f"reidlab.stages.{stage}.embed", called)
    monkeypatch.setattr("reidlab.stages.evaluate.evaluate", called)
    monkeypatch.setattr("reidlab.data.datamodule.ImageDataModule.setup", called)


def refused(capsys, *given):
    assert main([*given]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(("override", "told"), [
    ("evaluate.also=[folders:nodir]", "evaluate.also: "),
    ("evaluate.also=[folders:{single}]", "each of its 6 identities has one image"),
    ("evaluate.also=[shapes:{single}]", "a data set of classes"),
    ("evaluate.baselines=[foo]", "evaluate.baselines: foo is none; there are untrained and color-histogram"),
    ("evaluate.galleries=['../../x:*']", "evaluate.galleries: ../../x:*: '../../x' is to be a folder's name"),
    ("evaluate.galleries=['x:nosuch*']", "evaluate.galleries: x: no gallery image's path fits 'nosuch*'"),
])  # fmt: skip
def test_evaluate(override, told, small, single_images, no_work, capsys, tmp_path):
    line = refused(capsys, "evaluate", *small, f"run.root={tmp_path}", override.format(single=single_images))
    assert told in line


@pytest.mark.parametrize("stage", [evaluate, quantize])
def test_a_test_split_that_cannot_be_ranked(stage, small, single_images, no_work, tmp_path):
    data = ["data=folders", f"data.root={single_images}", f"run.root={tmp_path}"]
    run = Run.compose([*small[2:], *data])
    with pytest.raises(InputError, match="can't be ranked: each of its 6 identities has one image, and a match takes"):
        stage.run(run)


@pytest.mark.parametrize(("override", "told"), [
    ("model.weights=nosuch.pth", "model.weights=.*nosuch.pth: no such file"),
    ("distill=standard distill.teacher=nosuch", "distill.teacher=nosuch: "),
])  # fmt: skip
def test_train(override, told, small, no_work, capsys, tmp_path):
    assert re.search(told, refused(capsys, "train", *small, f"run.root={tmp_path}", *override.split()))


def test_predict(small, no_work, capsys, market, tmp_path):
    image = next((market / "query").iterdir())
    line = refused(capsys, "predict", str(image), *small, f"run.root={tmp_path}", "predict.gallery=nosuch")
    assert "nosuch: no such file or folder" in line


def test_deploy(small, no_work, capsys, tmp_path):
    line = refused(capsys, "deploy", *small, f"run.root={tmp_path}", "deploy.cores=[m7,z80]")
    assert line == "reidlab: deploy.cores: there is no z80; choose from m4, m7, m33, m55"


@pytest.fixture
def single_images(tmp_path):
    """A folder of twelve identities with one image each."""
    for pid in range(12):
        (tmp_path / "single" / f"p{pid}").mkdir(parents=True)
        image = np.random.default_rng(pid).integers(0, 256, (32, 16, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "single" / f"p{pid}" / "a.png"), image)
    return tmp_path / "single"
