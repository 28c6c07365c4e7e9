"""Trackers: offline without an account, and what they are told."""

import pandas as pd
import pytest

from reidlab import train
from reidlab.config import compose


@pytest.fixture
def tracked(small, tmp_path, monkeypatch):
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no stored login

    def run(logger):
        train.run(compose([*small, "trainer.max_epochs=1", f"logger={logger}", f"run.root={tmp_path}", "run.name=t"]))
        return tmp_path / "t"

    return run


def test_wandb_is_offline_without_login_or_question(tracked):
    pytest.importorskip("wandb", reason="needs the tracking extra")
    (run,) = (tracked("wandb") / "wandb").glob("offline-run-*")
    record = next(run.glob("run-*.wandb")).read_bytes()
    for told in (b"learning_rate", b"val/mAP", b"osnet_x0_25", b"data_hash", b"git_commit", b"worst_rankings"):
        assert told in record, told
    assert list(run.glob("files/media/images/validation/worst_rankings_*.png"))
    assert "torch==" in (run / "files" / "requirements.txt").read_text()


def test_csv(tracked):
    table = pd.concat(pd.read_csv(file) for file in tracked("csv").glob("csv/version_*/metrics.csv"))
    assert {"train/loss", "val/mAP", "learning_rate"} <= set(table)


@pytest.mark.slow  # TensorBoard loads tensorflow where that is installed
def test_tensorboard(tracked):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(next(tracked("tensorboard").glob("tensorboard/version_*"))))
    events.Reload()
    assert {"train/loss", "val/mAP", "learning_rate"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["validation/worst_rankings"]
