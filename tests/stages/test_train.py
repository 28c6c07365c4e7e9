"""Training: what is kept, what an interruption costs, and what a second command does."""

import os
import signal
import subprocess

import pandas as pd
import pytest
import torch
from pytorch_lightning.callbacks import LambdaCallback

from reidlab.config import SHIPPED
from reidlab.errors import InputError
from reidlab.files import read_json
from reidlab.run import File, Run
from reidlab.stages import evaluate, train
from reidlab.threads import Pace


def settings(small, root, name, *more):
    return Run.compose([*small, f"run.root={root}", f"run.name={name}", *more])


QUICK = ["model=fdmobilenet_x0_25", "trainer.max_epochs=1"]


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    train.run(settings(small, root, "unbroken"))
    return root / "unbroken"


def test_the_run_folder_tells_all(unbroken):
    record = read_json(unbroken / "train.json")
    assert record["finished"] and record["epochs"] == 3 and record["num_identities"] == 4
    assert record["versions"]["torch"] and len(record["data_hash"]) == 64
    history = pd.read_csv(unbroken / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["val/mAP"].max() == pytest.approx(record["best_val_mAP"])
    assert {"train/softmax", "train/triplet", "learning_rate"} <= set(history)


def test_parameters_are_those_of_the_network_without_its_classifier(unbroken):
    run = Run(unbroken)
    assert run.training["parameters"] == sum(tensor.numel() for tensor in run.network.parameters())


def test_the_best_epoch_by_validation_map_is_kept(unbroken):
    history = pd.read_csv(unbroken / "history.csv")
    best = torch.load(unbroken / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == history["val/mAP"].idxmax()


def test_the_seed_fixes_training(small, tmp_path, unbroken):
    again = train.run(settings(small, tmp_path, "again"))
    expected = weights(unbroken / "checkpoints" / "best.ckpt")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(again / File.BEST).items())


def test_the_number_of_threads_is_that_of_the_settings(small, tmp_path, monkeypatch):
    seen = []
    counts = LambdaCallback(on_train_batch_end=lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    run = train.run(settings(small, tmp_path, "threads", "threads=3", *QUICK), [counts])
    assert set(seen) == {3} and torch.get_num_threads() == before
    seen.clear()
    monkeypatch.setattr(Pace, "end", lambda *_: seen.append(torch.get_num_threads()))
    evaluate.run(run)
    assert set(seen) == {3} and torch.get_num_threads() == before


def test_a_finished_run_is_not_trained_again(small, unbroken, capsys):
    before = (unbroken / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    train.run(settings(small, unbroken.parent, "unbroken"))
    assert (unbroken / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert "already trained" in capsys.readouterr().out


def test_another_config_in_the_same_folder_is_refused(small, unbroken):
    with pytest.raises(InputError, match=r"optimizer.lr: 0.00035 -> 0.1.*run.overwrite=true"):
        train.run(settings(small, unbroken.parent, "unbroken", "optimizer.lr=0.1"))


def test_a_time_takes_the_place_of_a_number_of_epochs(small, tmp_path):
    options = QUICK[0], "trainer.max_time=0.06", "schedule=warmup_cosine", "schedule.warmup_epochs=0"
    run = train.run(settings(small, tmp_path, "timed", *options, "schedule.final_factor=0"))
    rates = pd.read_csv(run / File.HISTORY)["learning_rate"]
    assert run.training["finished"] and run.training["epochs"] == len(rates)
    assert rates.is_monotonic_decreasing and rates.is_unique
    with pytest.raises(InputError, match=r"trainer\.max_time"):
        train.run(settings(small, tmp_path, "untimed", "trainer.max_time=1 h"))


def test_without_validation_identities_the_last_epoch_is_the_best(small, tmp_path):
    run = train.run(settings(small, tmp_path, "all", "data.val_fraction=0", *QUICK))
    assert torch.load(run / File.BEST, weights_only=True)["epoch"] == 0
    assert read_json(tmp_path / "all" / "train.json")["num_identities"] == 6


STOPS_ITSELF = """
import os, signal, sys
import pytorch_lightning as pl
from reidlab import cli
from reidlab.stages import train

class Stop(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), int(sys.argv[1]))

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
whole = train.run
train.run = lambda run: whole(run, [Stop()])
sys.exit(cli.main(["train", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_and_ends_as_an_unbroken_one(how, small, tmp_path, unbroken, warm):
    """Stopped by Ctrl-C or killed in its second epoch, the same command ends with the same weights and history."""
    command = [*warm, "-c", STOPS_ITSELF, str(int(how)), *small, f"run.root={tmp_path}", "run.name=broken"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "finished epochs are kept; to go on: reidlab train data=market1501" in process.stderr
    assert not read_json(tmp_path / "broken" / "train.json").get("finished")

    train.run(settings(small, tmp_path, "broken"))
    for name in ("best.ckpt", "last.ckpt"):
        expected = weights(unbroken / "checkpoints" / name)
        found = weights(tmp_path / "broken" / "checkpoints" / name)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())
    assert (tmp_path / "broken" / "history.csv").read_text() == (unbroken / "history.csv").read_text()


def test_a_run_that_was_killed_after_its_last_epoch_is_finished(small, tmp_path):
    run = train.run(settings(small, tmp_path, "last", *QUICK))
    (run / File.TRAINING).unlink()
    again = train.run(settings(small, tmp_path, "last", *QUICK))
    assert again.training["finished"] and again.training["epochs"] == len(run.table_of(File.HISTORY))


@pytest.mark.parametrize(("given", "said"), [
    (["schedule=plateau", "data.val_fraction=0"], "schedule=plateau watches a validation figure"),
    (["data=csv", "data.source.file={}", "data.val_fraction=0"], "one identity to train on"),
    (["model=osnet_x0_25", "callbacks=small_first", "callbacks.small_first.scale=0.01"], r"scale=0\.01: .*=\[1, 1\]"),
    (["loss=softmax", "loss.softmax.weight=0"], r"loss\.\*\.weight: no term has one above 0"),
    (["model=color_histogram"], "nothing to train; score it by `reidlab evaluate model=color_histogram`"),
    (["task=classification"], "task=classification: data=market1501 has identities; leave task out"),
])  # fmt: skip
def test_what_could_only_fail_later_is_refused_before_the_first_epoch(given, said, small, market, tmp_path):
    files = sorted((market / "bounding_box_train").glob("[0-9]*.jpg"))
    one = [file.relative_to(market).as_posix() for file in files if file.name[:4] == files[-1].name[:4]]
    lines = "".join(f"{file},7,{number % 2 + 1},train\n" for number, file in enumerate(one))
    (tmp_path / "one.csv").write_text(f"path,pid,camid,split\n{lines}")
    more = [override.format(tmp_path / "one.csv") for override in given]
    with pytest.raises(InputError, match=said):
        train.run(settings(small, tmp_path, "refused", *QUICK, "data.batch_size=2", "data.num_instances=2", *more))


def test_weights_of_a_run_with_other_settings_are_named(small, tmp_path, capsys):
    """Its images were normalized otherwise, which the weights themselves don't say."""
    weights = SHIPPED / "data" / "models" / "demo_osnet_x0_25" / File.BEST
    given = small, tmp_path, "begun", "model=osnet_x0_25", f"model.weights={weights}"
    train.build_network(settings(*given), 0)
    assert "best.ckpt: of a run with other settings: " in (said := capsys.readouterr().out)
    assert "model.mean [0.0, 0.0, 0.0] there, [0.485, 0.456, 0.406] here" in said


def test_overwriting_removes_all_that_the_old_network_left_and_keeps_the_data(small, tmp_path):
    run = train.run(settings(small, tmp_path, "twice", *QUICK))
    left = [
        *("metrics.json", "verification.json", "evaluate/checkpoint/worst.png", "export/model.onnx"),
        *("quantize/parity.csv", "deploy/c/firmware.json", "card.html", "card.md", "evaluation.html"),
    ]
    for name in [*left, "data/summary.csv", "wandb/offline-run-1/x"]:
        run.write(name, "{}")
    old = run.checkpoint
    again = train.run(settings(small, tmp_path, "twice", *QUICK, "seed=1", "run.overwrite=true"))
    assert again.checkpoint != old and not again.there(*left)
    assert again.there("data/summary.csv", "wandb/offline-run-1/x") == ["data/summary.csv", "wandb/offline-run-1/x"]
