"""Trackers: offline without an account, what they are given, and that a resumed run stays one run."""

import json
import sqlite3
import struct
import subprocess
import sys
import time

import pandas as pd
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from reidlab import cli
from reidlab.run import Row, Run
from reidlab.stages import evaluate, train
from reidlab.training import tracking


def test_trackers_number_epochs_from_one(tmp_path):
    logger = tracking.count_from_one(CSVLogger(tmp_path, name="", version=""))
    logger.log_metrics({"epoch": 0, "val/mAP": 0.5}, step=7)
    logger.log_metrics(metrics={"epoch": 1, "val/mAP": 0.6}, step=15)
    logger.save()
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table.set_index("epoch")["val/mAP"].to_dict() == {1: 0.5, 2: 0.6}


@pytest.fixture
def tracked(small, tmp_path, monkeypatch):
    for variable in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no stored login

    def tracked_run(logger, *more, callbacks=()):
        overrides = [
            "model=fdmobilenet_x0_25",
            "trainer.max_epochs=1",
            f"logger={logger}",
            f"run.root={tmp_path}",
            "run.name=t",
            *more,
        ]
        return train.run(Run.compose([*small, *overrides]), callbacks)

    return tracked_run


def written(file):
    """The records so far of a .wandb file: a header of 7 bytes, then LevelDB's log format, 32 KiB a block."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if place + 7 + length > len(content):
            return
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def records(file):
    """All records of a run that is over; W&B's own process writes the last ones a little later."""
    for _ in range(300):
        found = list(written(file))
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.1)
    pytest.fail(f"{file}: no end")


def logged(file):
    """What was logged, a dict a line, without W&B's own clocks; pictures as their keys."""
    for record in records(file):
        line = {}
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            line[name] = None if inner else json.loads(item.value_json)
        if line:
            yield {name: value for name, value in line.items() if name == "_step" or not name.startswith("_")}


class Stop(pl.Callback):
    """Ctrl-C in an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def test_wandb_is_offline_without_login_or_question(tracked):
    pytest.importorskip("wandb", reason="needs the tracking extra")
    (run,) = (tracked("wandb", "privacy.share_images=true") / "wandb").glob("offline-run-*")
    file = next(run.glob("run-*.wandb"))
    assert records(file)
    record = file.read_bytes()
    for text in (b"learning_rate", b"val/mAP", b"fdmobilenet_x0_25", b"data_hash", b"git_commit", b"worst_rankings"):
        assert text in record, text
    assert list(run.glob("files/media/images/validation/worst_rankings_*.png"))
    assert "torch==" in (run / "files" / "requirements.txt").read_text()


def test_pictures_of_people_are_not_in_what_wandb_uploads_unless_asked_for(tracked):
    pytest.importorskip("wandb", reason="needs the tracking extra")
    (run,) = (tracked("wandb", "run.name=private", "privacy.share_images=false") / "wandb").glob("offline-run-*")
    file = next(run.glob("run-*.wandb"))
    assert records(file) and b"worst_rankings" not in file.read_bytes()
    assert not [found for found in run.rglob("*") if found.suffix in (".png", ".jpg", ".webp")]


def test_a_resumed_run_logs_to_wandb_what_an_unbroken_one_logs(tracked):
    """Stopped before and after its first epochs, its newest part has all, and the id of those that sync leaves out."""
    pytest.importorskip("wandb", reason="needs the tracking extra")
    unbroken = next((tracked("wandb", "run.name=unbroken", "trainer.max_epochs=3") / "wandb").glob("offline*/*.wandb"))
    for epoch in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            tracked("wandb", "trainer.max_epochs=3", callbacks=[Stop(epoch)])
    run = tracked("wandb", "trainer.max_epochs=3")
    parts = sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(parts) == 3 and len({part.name for part in parts}) == 1
    assert [part.with_suffix(".wandb.synced").exists() for part in parts] == [True, True, False]
    assert list(logged(parts[-1])) == list(logged(unbroken))
    assert [next(r.exit.exit_code for r in records(part) if r.HasField("exit")) for part in parts] == [1, 1, 0]


def test_the_workspace_has_panels_of_all_that_runs_log_and_of_nothing_else(tracked):
    pytest.importorskip("wandb_workspaces", reason="needs the tracking extra")
    run = tracked("wandb", "privacy.share_images=true")
    names = set().union(*logged(next((run / "wandb").glob("offline-run-*/*.wandb"))))
    view = tracking.workspace("team", "reidlab", tracking.logged(run.folder.parent))
    panels = [panel for section in view.sections for panel in section.panels]
    named = [key for panel in panels for key in getattr(panel, "media_keys", None) or panel.y]
    assert len(named) == len(set(named)) == len(panels)
    assert set(named) == names - {"_step", "epoch", "trainer/global_step"}
    assert [section.name for section in view.sections] == ["Validation", "Worst rankings", "Losses", "More"]
    assert json.loads(view._to_model().model_dump_json(by_alias=True))["entity"] == "team"


@pytest.mark.parametrize("place", ["team", "team/", "/project", "a/b/c"])
def test_a_workspace_needs_an_entity_and_a_project(place, tmp_path, capsys):
    assert cli.main(["dashboard", "--wandb", place, "--runs", str(tmp_path)]) == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err


def test_a_workspace_needs_a_login(tracked, capsys):
    pytest.importorskip("wandb_workspaces", reason="needs the tracking extra")
    assert cli.main(["dashboard", "--wandb", "team/reidlab", "--runs", str(tracked("none").folder.parent)]) == 2
    assert "wandb login" in capsys.readouterr().err


def test_csv(tracked):
    table = pd.concat(pd.read_csv(file) for file in tracked("csv").folder.glob("csv/version_*/metrics.csv"))
    assert {"train/loss", "val/mAP", "learning_rate"} <= set(table)


def test_tensorboard_has_graph_settings_and_what_the_test_split_gave(tracked):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = evaluate.run(tracked("tensorboard"))
    (version,) = run.folder.glob("tensorboard/version_*")
    events = accumulator.EventAccumulator(str(version))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/mAP", "learning_rate", "test/mAP"} <= set(tags["scalars"])
    assert {event.value for event in events.Scalars("epoch")} == {1} and "hp_metric" not in tags["scalars"]
    assert {"validation/worst_rankings", "test/worst", "test/roc"} <= set(tags["images"]) and tags["graph"]
    (score,) = events.Scalars("test/mAP")
    assert score.value == pytest.approx(run.results[Row.CHECKPOINT].figures["mAP"])
    session = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"optimizer.lr" in session and str(run.folder.parent).encode() not in session
    assert all(".reidlab." in file.name for file in version.glob("events.out.tfevents.*"))


def test_tensorboard_does_without_tensorflow():
    pytest.importorskip("tensorboard", reason="needs the tracking extra")
    code = "import sys, reidlab.training.tracking; from torch.utils.tensorboard import SummaryWriter"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'tensorflow' not in sys.modules"], check=True)


def test_mlflow_keeps_settings_and_figures_in_one_database_beside_the_runs(tracked):
    pytest.importorskip("mlflow", reason="needs the mlflow extra")
    run = tracked("mlflow")
    database = sqlite3.connect(run.folder.parent / "mlflow.db")
    assert database.execute("select name, status from runs").fetchall() == [("t", "FINISHED")]
    figures = {key for (key,) in database.execute("select key from metrics")}
    assert {"val/mAP", "train/loss", "learning_rate"} <= figures
    settings = dict(database.execute("select key, value from params").fetchall())
    assert settings["seed"] == "0" and str(run.folder.parent) not in str(settings)
