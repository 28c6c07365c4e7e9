"""Searches: what varies, what is kept, what an interruption costs."""

import math
import signal
import subprocess
import sys
import types
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.run import File, Run
from reidlab.stages import search

AXES = ["loss=softmax,softmax_triplet", "optimizer.lr=log(1e-4,1e-2)"]


def pretend_training(run, callbacks):
    """Training that takes no time: the validation figure rises over three epochs to what the rate gives."""
    figure = run["task.monitor"]
    reached = 1 + math.log10(run["optimizer.lr"]) / 4 + (0.05 if run["loss.triplet"] else 0)
    for epoch in range(3):
        trainer = types.SimpleNamespace(current_epoch=epoch, callback_metrics={figure: reached * (epoch + 1) / 3})
        for callback in callbacks:
            callback.on_validation_end(trainer, None)
    write_json(run / File.TRAINING, {search.train.best_key(figure): reached, "epochs": 3})
    return run


@pytest.fixture
def fake_training(monkeypatch):
    """The names of the folders that were trained in, in order."""
    trained = []

    def run(run, callbacks):
        trained.append(run.name)
        return pretend_training(run, callbacks)

    monkeypatch.setattr(search.train, "run", run)
    return trained


def searched(small, root, *more, trials=8):
    return search.run([*small, *AXES, f"run.root={root}", "run.name=s", *more], trials=trials, patient_epochs=1)


def test_overrides_with_several_values_are_axes():
    axes, fixed = search.split_axes(
        ["seed=1", "data.size=[32,16]", "a.b=x,y", "c=interval(0, 0.5)", "d=log(1e-4,1e-2)", "e=range(2,8)",
         "f=[1,2],[3,4]", "g=choice(x,[1,2])"]
    )  # fmt: skip
    whole = ["data.progressive=[[0,0.5],[0.5,1]]", 'data.about.description="People, in a shop"', "x={a: [1,2], b: 3}"]
    whole += ["data.source.pattern=(?P<pid>[0-9]{1,3})_c[a,b]", "data.root=/data/a{1,2}"]
    kept, apart = search.split_axes([*whole, "y=[[1],[2,3]],[[4]]", "z='a,b',c", "model.weights=/a b,/c"])
    assert apart == whole and [axis.choices for axis in kept.values()] == [
        ("[[1],[2,3]]", "[[4]]"), ("'a,b'", "c"), ("/a b", "/c"),
    ]  # fmt: skip
    assert fixed == ["seed=1", "data.size=[32,16]"]
    assert axes == {
        "a.b": CategoricalDistribution(["x", "y"]),
        "c": FloatDistribution(0, 0.5),
        "d": FloatDistribution(1e-4, 1e-2, log=True),
        "e": IntDistribution(2, 8),
        "f": CategoricalDistribution(["[1,2]", "[3,4]"]),
        "g": CategoricalDistribution(["x", "[1,2]"]),
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

    def interrupted(run, callbacks):
        if len(fake_training) == 2:
            fake_training.append(run.name)
            raise KeyboardInterrupt
        train(run, callbacks)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(search.train, "run", interrupted)
        searched(small, tmp_path, trials=4)
    folder = searched(small, tmp_path, trials=4)
    assert fake_training[3] == fake_training[2]  # the same values in the same folder
    assert len(pd.read_csv(folder / "trials.csv")) == 4
    searched(small, tmp_path, trials=4)
    assert len(fake_training) == 5


def test_what_a_killed_search_left_half_written_is_swept(small, tmp_path, fake_training):
    folder = searched(small, tmp_path, trials=1)
    for name in ("parallel.png", "trials.csv", "search.json", "search.log"):
        (folder / f".{name}.abcd1234.reidlab").touch()
    searched(small, tmp_path, trials=1)
    assert [file.name for file in folder.glob(".*") if file.suffix != ".lock"] == []


def test_a_misspelled_value_is_told_before_the_first_trial(small, tmp_path, fake_training):
    with pytest.raises(InputError, match="did you mean softmax"):
        searched(small, tmp_path, "loss=softmx,softmax_triplet")
    assert not fake_training


@pytest.mark.parametrize(("given", "told"), [
    (["data=market1501,shapes"], r"trials with val/mAP and with val/top-1 don't compare"),
    (["trainer.devices=1,2"], r"trainer\.devices=2 .*: a trial is trained on one device"),
    (["trainer.devices=[0,1]"], r"trainer\.devices=\[0, 1\] "),
    (["trainer.num_nodes=2"], r"trainer\.num_nodes=2: a trial"),
])  # fmt: skip
def test_trials_that_could_not_be_told_apart_or_would_mix_are_refused_at_once(given, told, tmp_path, fake_training):
    with pytest.raises(InputError, match=told):
        search.run(["optimizer.lr=1e-3,1e-2", f"run.root={tmp_path}", "run.name=s", *given], trials=2)
    assert not fake_training and not (tmp_path / "s").exists()


def test_a_trial_whose_training_was_over_has_its_epochs(small, tmp_path, monkeypatch):
    """As where the same values are drawn again, or its process was killed just then."""
    monkeypatch.setattr(search.train, "run", lambda run, callbacks: pretend_training(run, []))
    table = pd.read_csv(searched(small, tmp_path, trials=1) / "trials.csv")
    assert table["epochs"].tolist() == [3]


def test_the_figure_is_that_of_the_trials_and_each_is_trained_on_one_device(tmp_path, monkeypatch):
    seen = []

    def train(run, callbacks):
        seen.append(run["trainer.devices"])
        return pretend_training(run, callbacks)

    monkeypatch.setattr(search.train, "run", train)
    given = ["data=shapes,plant_leaves", "optimizer.lr=1e-3,1e-2", f"run.root={tmp_path}", "run.name=s"]
    table = pd.read_csv(search.run(given, trials=2) / "trials.csv")
    assert "val/top-1" in table and seen == [1, 1]
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "mine.yaml").write_text("_target_: pytorch_lightning.Trainer\nmax_epochs: 2\n")
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    for number, more in enumerate(["trainer.devices=[0]", "trainer.devices=-1", "trainer=mine"]):
        search.run([*given[1:3], f"run.name=t{number}", more], trials=1)
    assert seen[2:] == [[0], 1, 1]


def test_a_search_without_validation_is_refused_before_an_epoch_is_trained(small, tmp_path):
    with pytest.raises(InputError, match=r"needs a validation split: raise data\.val_fraction"):
        search.run([*small, AXES[0], "data.val_fraction=0", f"run.root={tmp_path}", "run.name=s"], trials=1)
    assert not [*tmp_path.rglob("history.csv")]


def test_another_search_in_the_same_folder_is_refused(small, tmp_path, fake_training):
    searched(small, tmp_path, trials=1)
    with pytest.raises(InputError, match="another search"):
        searched(small, tmp_path, "optimizer.weight_decay=log(1e-5,1e-3)")


def test_a_trial_that_cannot_be_trained_fails_alone_unless_it_is_the_first(small, tmp_path, fake_training, monkeypatch):
    train = search.train.run

    def diverges(run, callbacks):
        train(run, callbacks)
        if len(fake_training) == 2:
            raise InputError("no longer finite")

    monkeypatch.setattr(search.train, "run", diverges)
    table = pd.read_csv(searched(small, tmp_path, trials=3) / "trials.csv")
    assert table["state"].tolist() == ["complete", "complete", "fail"]  # best first, whatever a failed one reported
    monkeypatch.setattr(search.train, "run", lambda run, callbacks: (_ for _ in ()).throw(InputError("broken image")))
    with pytest.raises(InputError, match="broken image"):
        searched(small, tmp_path / "other", trials=3)


PROCESSES = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from reidlab.run import File, Run
from reidlab.stages import search
from tests.stages.test_search import pretend_training

root, *overrides = sys.argv[1:]

def started(killed):
    "A process of the search, forked when all is imported; `killed` ends as soon as it trains."

    def run(run, callbacks):
        with (Path(root) / "begun").open("a") as file:
            file.write(f"{run.name} {os.getpid()}\\n")
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
        pretend_training(run, callbacks)

    search.train.run = run
    options = {"trials": 4, "patient_epochs": 9}
    process = multiprocessing.get_context("fork").Process(target=search.run, args=(overrides,), kwargs=options)
    process.start()
    return process

def ended(process):
    process.join(120)
    return process.exitcode

search.POLL_S = 0.1
ends = [ended(started(killed=True))]
ends += map(ended, [started(killed=False) for _ in range(2)])
print(ends)
for process in multiprocessing.active_children():
    process.kill()
"""


def test_processes_share_the_trials_and_repeat_that_of_a_killed_one(small, tmp_path):
    overrides = [*small, *AXES, f"run.root={tmp_path}", "run.name=s"]
    command = [sys.executable, "-c", PROCESSES, str(tmp_path), *overrides]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines()[-1] == f"[{-signal.SIGKILL}, 0, 0]"
    begun = [line.split() for line in (tmp_path / "begun").read_text().splitlines()]
    names = [name for name, _ in begun]
    table = pd.read_csv(tmp_path / "s" / "trials.csv")
    assert sorted(table["trial"]) == list(range(4)) and set(table["state"]) == {"complete"}
    assert names.count(names[0]) == 2 and len(names) == 5 and len(set(names)) == 4  # the killed one's twice
    assert len({process for _, process in begun}) == 3  # both took trials


def test_a_trial_in_training_elsewhere_is_left_alone(small, tmp_path, fake_training, monkeypatch):
    """Its values come up again in this process, and nothing else is left to do: it waits, and trains nothing twice."""
    overrides = [*small, "loss=softmax,softmax_triplet", f"run.root={tmp_path}", "run.name=s"]
    axes, fixed = search.split_axes(overrides)
    run = Run.compose(fixed)
    search._claim(run, axes, fixed)
    other = search.SharedStudy(run, axes, 5, "val/mAP")
    trial, lock = other.next(1)
    waited = []

    def sleep(seconds):
        waited.append([*fake_training])
        with lock:
            other.tell(trial, 0.5)

    monkeypatch.setattr(search.time, "sleep", sleep)
    search.run(overrides, trials=1)
    assert waited == [[]] and fake_training == []
    assert pd.read_csv(run / File.TRIALS)["val/mAP"].tolist() == [0.5]


def test_a_picture_has_an_axis_for_each_key_and_names_the_figure():
    study = optuna.create_study(direction="maximize")
    axes = {"optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True), "loss": CategoricalDistribution(["a", "b"])}
    for value, params in ((0.2, {"optimizer.lr": 1e-3, "loss": "a"}), (0.4, {"optimizer.lr": 1e-2, "loss": "b"})):
        study.add_trial(create_trial(value=value, params=params, distributions=axes))
    drawn = search.parallel_coordinates(study, "val/mAP")
    first, *others = drawn.axes
    assert [label.get_text() for label in first.get_xticklabels()] == ["val/mAP", "loss", "optimizer.lr"]
    assert first.get_title(loc="left") == "completed trials: 2"
    (lines,) = first.collections
    assert [line[0, 1] for line in lines.get_segments()] == pytest.approx([0.2, 0.4])
    assert lines.get_array().tolist() == pytest.approx([0.2, 0.4]) and others[1].get_yscale() == "log"


def test_a_picture_without_scores_says_so():
    study = optuna.create_study(direction="maximize")
    study.add_trial(create_trial(state=TrialState.FAIL, params={}, distributions={}))
    assert search.parallel_coordinates(study, "val/mAP").texts


def test_a_real_training_is_stopped_by_its_reports(small, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    folder = search.run([*small, AXES[0], f"run.root={tmp_path}", "run.name=s"], trials=1)
    table = pd.read_csv(folder / "trials.csv")
    assert table["state"].tolist() == ["pruned"] and table["epochs"].tolist() == [1]
