"""Searches: what varies, what is kept, what an interruption costs."""

import math
import pickle
import sys
import types

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.stages import search

AXES = ["loss=softmax,softmax_triplet", "optimizer.lr=log(1e-4,1e-2)"]


@pytest.fixture
def fake_training(monkeypatch):
    """Training that takes no time: the validation figure rises over three epochs to what the rate gives."""
    trained = []

    class Trainer:
        callback_metrics, current_epoch = {}, 0

    def run(cfg, watchers):
        folder = search.run_folder(cfg)
        trained.append(folder.name)
        reached = 1 + math.log10(cfg.optimizer.lr) / 4 + (0.05 if "triplet" in cfg.loss else 0)
        for epoch in range(3):
            Trainer.current_epoch, Trainer.callback_metrics = epoch, {cfg.task.monitor: reached * (epoch + 1) / 3}
            for watcher in watchers:
                watcher.on_validation_end(Trainer, None)
        write_json(folder / "train.json", {"best_" + cfg.task.monitor.replace("/", "_"): reached})

    monkeypatch.setattr(search.train, "run", run)
    return trained


def searched(small, root, *more, trials=8):
    return search.run([*small, *AXES, f"run.root={root}", "run.name=s", *more], trials=trials, patient_epochs=1)


def test_overrides_with_several_values_are_axes():
    axes, fixed = search.split_axes(
        ["seed=1", "data.size=[32,16]", "a.b=x,y", "c=interval(0, 0.5)", "d=log(1e-4,1e-2)", "e=range(2,8)",
         "f=[1,2],[3,4]"]
    )  # fmt: skip
    assert fixed == ["seed=1", "data.size=[32,16]"]
    assert axes == {
        "a.b": CategoricalDistribution(["x", "y"]),
        "c": FloatDistribution(0, 0.5),
        "d": FloatDistribution(1e-4, 1e-2, log=True),
        "e": IntDistribution(2, 8),
        "f": CategoricalDistribution(["[1,2]", "[3,4]"]),
    }


@pytest.mark.parametrize("overrides", [["seed=1"], ["optimizer.lr=log(0,1)"], ["optimizer.lr=interval(2,1)"]])
def test_what_cannot_be_searched_is_refused(overrides):
    with pytest.raises(InputError):
        search.split_axes(overrides)


def test_trials_are_tabled_best_first_and_bad_ones_are_stopped(small, tmp_path, fake_training):
    folder = searched(small, tmp_path, trials=7)
    table = pd.read_csv(folder / "trials.csv")
    assert len(table) == len(fake_training) == 7
    assert table["val/mAP"].is_monotonic_decreasing and table["state"][0] == "complete"
    assert set(table["state"]) == {"complete", "pruned"}
    assert (table[table["state"] == "pruned"]["epochs"] < 3).all()
    assert {"loss", "optimizer.lr"} <= set(table) and (folder / "parallel.png").stat().st_size > 5000


def test_classifiers_are_searched_by_their_accuracy(small, tmp_path, fake_training):
    overrides = ["data=shapes", "optimizer.lr=1e-3,1e-2", f"run.root={tmp_path}", "run.name=classes"]
    table = pd.read_csv(search.run(overrides, trials=3) / "trials.csv")
    assert table["val/top-1"].is_monotonic_decreasing and table["val/top-1"][0] == pytest.approx(0.5)


def test_an_interrupted_search_goes_on_in_the_same_trial(small, tmp_path, fake_training, monkeypatch):
    train = search.train.run

    def interrupted(cfg, watchers):
        if len(fake_training) == 2:
            fake_training.append(search.run_folder(cfg).name)
            raise KeyboardInterrupt
        train(cfg, watchers)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(search.train, "run", interrupted)
        searched(small, tmp_path, trials=4)
    folder = searched(small, tmp_path, trials=4)
    assert fake_training[3] == fake_training[2]  # the same values in the same folder
    assert len(pd.read_csv(folder / "trials.csv")) == 4
    searched(small, tmp_path, trials=4)
    assert len(fake_training) == 5


def test_a_misspelled_value_is_told_before_the_first_trial(small, tmp_path, fake_training):
    with pytest.raises(InputError, match="did you mean softmax"):
        searched(small, tmp_path, "loss=softmx,softmax_triplet")
    assert not fake_training


def test_another_search_in_the_same_folder_is_refused(small, tmp_path, fake_training):
    searched(small, tmp_path, trials=1)
    with pytest.raises(InputError, match="another search"):
        searched(small, tmp_path, "optimizer.weight_decay=log(1e-5,1e-3)")


def test_a_trial_that_cannot_be_trained_fails_alone_unless_it_is_the_first(small, tmp_path, fake_training, monkeypatch):
    train = search.train.run

    def diverges(cfg, watchers):
        if len(fake_training) == 1:
            fake_training.append("failed")
            raise InputError("no longer finite")
        train(cfg, watchers)

    monkeypatch.setattr(search.train, "run", diverges)
    table = pd.read_csv(searched(small, tmp_path, trials=3) / "trials.csv")
    assert sorted(table["state"]) == ["complete", "complete", "fail"]
    monkeypatch.setattr(search.train, "run", lambda cfg, watchers: (_ for _ in ()).throw(InputError("broken image")))
    with pytest.raises(InputError, match="broken image"):
        searched(small, tmp_path / "other", trials=3)


@pytest.fixture
def ray(monkeypatch):
    """As much of Ray as a search asks for: tasks get copies of what they are given, and run when waited for."""
    library = types.ModuleType("ray")
    library.exceptions = types.SimpleNamespace(RayTaskError=type("RayTaskError", (Exception,), {"cause": None}))
    library.addresses, library.most = [], 0

    def remote(**options):
        library.options = options
        return lambda function: types.SimpleNamespace(remote=lambda *given: (function, pickle.dumps(given)))

    def wait(tasks):
        library.most = max(library.most, len(tasks))
        return tasks[:1], tasks[1:]

    def get(tasks):
        for function, given in tasks:
            function(*pickle.loads(given))

    library.init = lambda address: library.addresses.append(address)
    library.cluster_resources = lambda: {"CPU": 8.0, "GPU": 2.0}
    library.remote, library.wait, library.get = remote, wait, get
    monkeypatch.setitem(sys.modules, "ray", library)
    return library


def test_a_cluster_trains_several_trials_at_once(small, tmp_path, fake_training, ray):
    overrides = [*small, *AXES, f"run.root={tmp_path}", "run.name=s"]
    folder = search.run(overrides, trials=7, patient_epochs=1, cluster=search.RayCluster("auto", at_once=3))
    assert ray.addresses == ["auto"] and ray.options == {"num_gpus": 1} and ray.most == 3
    assert len(pd.read_csv(folder / "trials.csv")) == 7 and len(fake_training) == 7


def test_positions_on_axes():
    assert search.position(FloatDistribution(1e-4, 1e-2, log=True), 1e-3) == pytest.approx(0.5)
    assert search.position(IntDistribution(2, 8), 8) == 1
    assert search.position(CategoricalDistribution(["a", "b", "c"]), "b") == 0.5


def test_a_picture_without_scores_says_so():
    failed = create_trial(state=TrialState.FAIL, params={}, distributions={})
    assert search.parallel_coordinates([failed], {"a": FloatDistribution(0, 1)}).texts


def test_the_judge_stops_a_real_training(small, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    folder = search.run([*small, AXES[0], f"run.root={tmp_path}", "run.name=s"], trials=1)
    table = pd.read_csv(folder / "trials.csv")
    assert table["state"].tolist() == ["pruned"] and table["epochs"].tolist() == [1]
