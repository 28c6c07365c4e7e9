"""Command `search`: try values of any config keys, stop what falls behind, keep every trial in the run folder."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from reidlab.config import compose, run_folder
from reidlab.errors import InputError
from reidlab.files import read_json, write_atomic, write_json
from reidlab.plots.canvas import INK, SERIES, blank, empty
from reidlab.plots.saving import save_figure
from reidlab.stages import train

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
NUMBER = r"[-+.\deE]+"
RANGE = re.compile(rf"(interval|log|range)\(\s*({NUMBER})\s*,\s*({NUMBER})\s*\)")
DISTRIBUTIONS = {
    "interval": lambda low, high: FloatDistribution(float(low), float(high)),
    "log": lambda low, high: FloatDistribution(float(low), float(high), log=True),
    "range": lambda low, high: IntDistribution(int(low), int(high)),
}


class Judge(pl.Callback):
    """Reports each validation to the trial and ends one that is worse than the median of its predecessors."""

    def __init__(self, trial: Trial, figure: str):
        self.trial, self.figure = trial, figure

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise TrialPruned where it isn't worth going on."""
        self.trial.report(float(trainer.callback_metrics[self.figure]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


class Here:
    """Trials in this process, one after the other."""

    at_once = 1

    def start(self, *trial) -> None:
        """Train it."""
        _attempt(*trial)

    def wait(self) -> None:
        """It is over already."""


class RayCluster:
    """Trials as Ray tasks, a GPU each where the cluster has some; its machines share the run folder."""

    def __init__(self, address: str, at_once: int):
        try:
            import ray
        except ImportError as error:
            raise InputError("--ray needs Ray: pip install ray, on all machines of the cluster") from error
        ray.init(address=address)
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self.ray, self.at_once, self.attempt, self.running = ray, at_once, ray.remote(num_gpus=gpus)(_attempt), []

    def start(self, *trial) -> None:
        """Queue it."""
        self.running.append(self.attempt.remote(*trial))

    def wait(self) -> None:
        """Until one of them is over."""
        over, self.running = self.ray.wait(self.running)
        try:
            self.ray.get(over)
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from error


def run(
    overrides: Sequence[str], trials: int = 20, patient_epochs: int = 5, cluster: Here | RayCluster | None = None
) -> Path:
    """Search until the run folder holds `trials` trials, and return it; the same command goes on where it stopped.

    Overrides with several values are the axes: `loss=softmax,softmax_triplet`, `optimizer.lr=log(1e-4,1e-2)`,
    `model.network.dropout=interval(0,0.5)`, `data.num_instances=range(2,8)` (both ends included). No trial is stopped
    in its first `patient_epochs`. Writes `search.log` (Optuna's storage), `trials.csv` and `parallel.png`; each trial
    is a run in `trials/`. One such command at a time; `cluster` is where the trials run. Raises InputError where
    nothing varies, where the folder holds another search or a training, or where the first trial can't be trained.
    """
    axes, fixed = split_axes(overrides)
    cfg = compose(fixed)
    folder, figure = run_folder(cfg), cfg.task.monitor
    _claim(folder, {"axes": {key: repr(axis) for key, axis in axes.items()},
                    "fixed": [o for o in fixed if not o.startswith("run.")]})  # fmt: skip
    _try_values(axes, fixed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "search.log"))),
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=patient_epochs),
    )
    for interrupted in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(interrupted.number, state=TrialState.FAIL)
        study.set_user_attr(f"repeated {interrupted.number}", True)
        study.enqueue_trial(interrupted.params)
    cluster, running = cluster or Here(), 0
    while (ended := len(counted(study))) < trials:
        for _ in range(min(cluster.at_once, trials - ended) - running):
            study.sampler = TPESampler(seed=len(study.trials), constant_liar=cluster.at_once > 1)
            cluster.start(study, study.ask(axes), fixed, folder)
        cluster.wait()
        running = len(study.get_trials(states=(TrialState.RUNNING,)))
        write_atomic(folder / "trials.csv", trial_table(counted(study), figure).to_csv(index=False))
        save_figure(parallel_coordinates(counted(study), axes, figure), folder / "parallel.png")
    return folder


def split_axes(overrides: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The axes by key, and the overrides with one value."""
    axes: dict[str, BaseDistribution] = {}
    fixed = []
    for override in overrides:
        key, _, value = override.partition("=")
        choices = re.split(r",(?![^\[{(]*[\]})])", value)  # commas outside of brackets
        try:
            if match := RANGE.fullmatch(value):
                axes[key] = DISTRIBUTIONS[match[1]](match[2], match[3])
            elif len(choices) > 1:
                axes[key] = CategoricalDistribution(choices)
            else:
                fixed.append(override)
        except ValueError as error:
            raise InputError(
                f"{override}: {error}; write a,b or log(1e-4,1e-2) or interval(0,1) or range(2,8)"
            ) from error
    if not axes:
        raise InputError("nothing to search: give a key several values, as optimizer.lr=log(1e-4,1e-2) or loss=a,b")
    return axes, fixed


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that ended, without those that were interrupted and repeated."""
    ended = study.get_trials(states=FINISHED)
    return [trial for trial in ended if f"repeated {trial.number}" not in study.user_attrs]


def trial_table(trials: Sequence[FrozenTrial], figure: str) -> pd.DataFrame:
    """One row a trial, best first: how it ended, its validation figure (the last one if pruned), epochs, values."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            figure: score(trial),
            "epochs": 0 if trial.last_step is None else trial.last_step + 1,
            **trial.params,
        }
        for trial in trials
    ]
    return pd.DataFrame(rows).sort_values(figure, ascending=False, na_position="last", ignore_index=True)


def score(trial: FrozenTrial) -> float:
    """The validation figure of a trial: its best, the last reported one if it was pruned, NaN if it failed."""
    if trial.state is TrialState.COMPLETE:
        return trial.value
    return trial.intermediate_values.get(trial.last_step, math.nan)


def parallel_coordinates(
    trials: Sequence[FrozenTrial], axes: Mapping[str, BaseDistribution], validated: str = "val/mAP"
) -> Figure:
    """A line a trial through its value on every axis to its figure `validated`; finished ones darker the better."""
    shown = sorted((t for t in trials if not math.isnan(score(t))), key=score)
    if not shown:
        return empty("no trial has been validated yet")
    scores = np.array([score(trial) for trial in shown])
    low, high = scores.min(), max(scores.max(), scores.min() + 1e-9)
    figure = blank(2.2 * (len(axes) + 1) + 1, 4.2)
    plot = figure.subplots()
    for place, trial in enumerate(shown):
        heights = [position(axis, trial.params[key]) for key, axis in axes.items()]
        complete = trial.state is TrialState.COMPLETE
        plot.plot(
            [*heights, (scores[place] - low) / (high - low)],
            color=SERIES[0] if complete else "#b0b0b0",
            alpha=0.25 + 0.75 * place / len(shown) if complete else 0.5,
            linewidth=2.4 if place == len(shown) - 1 else 1.2,
        )
    for place, axis in enumerate(axes.values()):
        plot.axvline(place, color=INK, linewidth=0.8)
        values = axis.choices if isinstance(axis, CategoricalDistribution) else (axis.low, axis.high)
        for value in values:
            text = value if isinstance(value, str) else f"{value:.3g}"
            plot.annotate(text, (place, position(axis, value)), xytext=(4, 3), textcoords="offset points", fontsize=8)
    plot.axvline(len(axes), color=INK, linewidth=0.8)
    for height, value in ((0, low), (1, high)):
        plot.annotate(f"{value:.3f}", (len(axes), height), xytext=(4, 3), textcoords="offset points", fontsize=8)
    plot.set_xticks(range(len(axes) + 1), [*axes, validated], fontsize=9)
    plot.set_yticks([])
    plot.spines[:].set_visible(False)
    plot.set_title(f"{len(shown)} trials; grey: stopped early", fontsize=11, loc="left", color=INK)
    return figure


def position(axis: BaseDistribution, value: float | str) -> float:
    """Where a value lies on its axis, 0 to 1."""
    if isinstance(axis, CategoricalDistribution):
        return axis.choices.index(value) / max(1, len(axis.choices) - 1)
    low, value, high = (math.log(v) if getattr(axis, "log", False) else v for v in (axis.low, value, axis.high))
    return (value - low) / max(high - low, 1e-12)


def _claim(folder: Path, search: Mapping) -> None:
    """Write what is searched into the run folder, unless it holds another search or a training."""
    stored = read_json(folder / "search.json")
    if (stored and stored != search) or (folder / "train.json").exists():
        raise InputError(f"{folder}: holds another search or a training; choose another run.name")
    write_json(folder / "search.json", search)


def _try_values(axes: Mapping[str, BaseDistribution], fixed: Sequence[str]) -> None:
    """Compose every choice and both ends of every range once, so that a misspelled one is told before hours pass."""
    for key, axis in axes.items():
        values = axis.choices if isinstance(axis, CategoricalDistribution) else (axis.low, axis.high)
        for value in values:
            compose([*fixed, f"{key}={value}"])


def _attempt(study: optuna.Study, trial: Trial, fixed: Sequence[str], folder: Path) -> None:
    """Train one trial, in a folder named by its values so that a repeated one goes on, and tell the study."""
    values = [f"{key}={value}" for key, value in sorted(trial.params.items())]
    name = hashlib.sha256("\n".join(values).encode()).hexdigest()[:10]
    print(f"trial {trial.number} ({name}): {' '.join(values)}", flush=True)
    place = [o for o in fixed if not o.startswith(("run.name=", "run.root="))]
    cfg = compose([*place, *values, f"run.root={folder / 'trials'}", f"run.name={name}"])
    try:
        train.run(cfg, watchers=[Judge(trial, cfg.task.monitor)])
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return
    except (InputError, torch.OutOfMemoryError) as error:
        study.tell(trial, state=TrialState.FAIL)
        if not any(t.state is TrialState.COMPLETE for t in study.trials):
            raise
        print(f"trial {trial.number} failed: {error}", flush=True)
        return
    reached = read_json(folder / "trials" / name / "train.json")[train.best_key(cfg.task.monitor)]
    if reached is None:
        study.tell(trial, state=TrialState.FAIL)
        raise InputError("a search needs a validation split: raise data.val_fraction")
    study.tell(trial, reached)
