"""Command `search`: try values of any config keys, stop what falls behind, keep every trial in the run folder."""

import hashlib
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import cast

import numpy as np
import optuna
import pandas as pd
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout
from matplotlib import pyplot
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState
from optuna.visualization.matplotlib import plot_parallel_coordinate

from reidlab.config import compose, plain
from reidlab.console import log
from reidlab.errors import InputError, StorageError
from reidlab.files import file_lock, read_bytes, storage_errors, sweep, write_atomic, write_json
from reidlab.plots.canvas import empty, tidy
from reidlab.plots.saving import save_figure
from reidlab.run import File, Run
from reidlab.stages import train

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
BEGUN = (TrialState.RUNNING, TrialState.WAITING)
ALL_DEVICES = ("auto", "-1", -1)  # of a machine, as Lightning has it
EPOCHS = "epochs"  # what a trial's training took, in Optuna's storage
POLL_S = 1.0  # between looks at what other processes train
UNVALIDATED = "a search needs a validation split: raise data.val_fraction"
NUMBER = r"[-+.\deE]+"
RANGE = re.compile(rf"(interval|log|range)\(\s*({NUMBER})\s*,\s*({NUMBER})\s*\)")
Axis = CategoricalDistribution | FloatDistribution | IntDistribution
DISTRIBUTIONS: dict[str, Callable[[str, str], Axis]] = {
    "interval": lambda low, high: FloatDistribution(float(low), float(high)),
    "log": lambda low, high: FloatDistribution(float(low), float(high), log=True),
    "range": lambda low, high: IntDistribution(int(low), int(high)),
}


class ReportToTrial(pl.Callback):
    """Report each validation to a trial, and end one that is worse than the median of its predecessors."""

    def __init__(self, trial: Trial, figure: str):
        self.trial, self.figure = trial, figure

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise InputError, before the first epoch, where nothing is validated."""
        if not len(trainer.datamodule.module.validation):  # type: ignore[attr-defined]
            raise InputError(UNVALIDATED)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise TrialPruned where it isn't worth going on."""
        self.trial.report(float(trainer.callback_metrics[self.figure]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


class LogLock(JournalFileOpenLock):
    """The lock of Optuna's log: unlike its own, it isn't left behind by a killed process for half a minute."""

    def __init__(self, place: Path):
        self.lock = file_lock(place)

    def acquire(self) -> bool:
        """Wait for it."""
        self.lock.acquire()
        return True

    def release(self) -> None:
        """Leave it to others."""
        self.lock.release()


class Log(JournalFileBackend):
    """Optuna's log, without the lines that a kill or a full disk has torn: what they said is asked or told again."""

    def __init__(self, file: Path):
        self.file, self.lock = file, LogLock(file.with_name(f".{file.name}.lock"))
        super().__init__(str(file), self.lock)
        self._leave_out_torn_lines()

    def append_logs(self, logs: list[dict]) -> None:
        """Add lines, not to the end of a torn one."""
        self._leave_out_torn_lines()
        super().append_logs(logs)

    def _leave_out_torn_lines(self) -> None:
        with self.lock.lock:
            lines = read_bytes(self.file).splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n") and _is_json(line)]
            if whole != lines:
                log.warning(f"{self.file}: {len(lines) - len(whole)} torn lines left out")
                write_atomic(self.file, b"".join(whole))


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class SharedStudy:
    """An Optuna study in a run folder, for any number of processes at once, on all machines that share the folder.

    A process holds the lock of a trial's folder while it trains there; an operating system releases those of a killed
    one, whose trial another process then goes on with.
    """

    def __init__(self, run: Run, axes: Mapping[str, Axis], patient_epochs: int, figure: str):
        self.run, self.axes, self.figure = run, axes, figure
        self.turn = file_lock(run / File.SEARCH_LOCK)  # of the process that takes or records a trial
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = JournalStorage(Log(run / File.SEARCH_LOG))
        with self.turn:
            self.study = optuna.create_study(
                storage=self.storage,
                study_name="search",
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=patient_epochs),
            )

    def next(self, wanted: int) -> tuple[Trial, AbstractContextManager] | None:
        """A trial to train, with the lock of its folder; None once there are as many ended trials as wanted.

        Waits where other processes train all that is left, since one of them may be killed.
        """
        waiting = False
        while True:
            with self.turn:
                if taken := self._take(wanted):
                    return taken
                if not (others := self.study.get_trials(states=BEGUN)):
                    return None
            if not waiting:
                log.info(f"other processes train trials {', '.join(str(trial.number) for trial in others)}: waiting")
            waiting = True
            time.sleep(POLL_S)

    def _take(self, wanted: int) -> tuple[Trial, AbstractContextManager] | None:
        """An abandoned trial, else a new one; None where as many as wanted were begun.

        A trial with the values of one in training is left until that has ended, and has its figure at once then.
        """
        while True:
            abandoned = [trial for trial in self.study.get_trials(states=BEGUN) if not self._is_held(trial)]
            number = len(self.study.trials)
            self.study.sampler = TPESampler(seed=number, constant_liar=True)
            if abandoned:
                self.storage.set_trial_state_values(abandoned[0]._trial_id, TrialState.WAITING)  # the next to be asked
            elif number >= wanted:
                return None
            else:
                self._enqueue()
            trial = self.study.ask(dict(self.axes))
            with suppress(Timeout):
                return trial, self._lock(trial).acquire()

    def _enqueue(self) -> None:
        """Choose the values of a trial before it is there, so that a kill in between changes none of them."""
        rehearsal = optuna.create_study(direction="maximize", sampler=self.study.sampler)
        rehearsal.add_trials(self.study.trials)
        self.study.enqueue_trial(rehearsal.ask(dict(self.axes)).params)

    def _lock(self, trial: Trial | FrozenTrial) -> FileLock:
        return file_lock(self.run / File.TRIAL_RUNS / f"{folder_name(trial)}.lock", wait_s=0)

    def _is_held(self, trial: FrozenTrial) -> bool:
        try:
            with self._lock(trial):
                return False
        except Timeout:
            return True

    def tell(self, trial: Trial, value: float | None = None, state: TrialState | None = None) -> None:
        """End a trial, and write the table and the picture of all."""
        with self.turn:
            self.study.tell(trial, value, state)
            self.write_table()

    def write_table(self) -> None:
        """Write the table and the picture of all ended trials."""
        if ended := self.study.get_trials(states=ENDED):
            self.run.write(File.TRIALS, trial_table(ended, self.figure).to_csv(index=False))
            save_figure(parallel_coordinates(self.study, self.figure), self.run / File.PARALLEL)


@storage_errors()
def run(overrides: Sequence[str], trials: int = 20, patient_epochs: int = 5) -> Path:
    """Search until the run folder holds `trials` trials, and return it; the same command goes on where it stopped.

    Overrides with several values are the axes: `loss=softmax,softmax_triplet`, `optimizer.lr=log(1e-4,1e-2)`,
    `model.network.dropout=interval(0,0.5)`, `regime.head_epochs=range(0,8)` (both ends included). The same command may
    run any number of times at once, see `SharedStudy`. No trial is stopped in its first `patient_epochs`. Writes
    `search.log` (Optuna's storage), `trials.csv` and `parallel.png`; each trial is a run in `trials/`. Raises
    InputError where nothing varies, where the folder holds another search or a training, or where no trial could be
    trained yet and one can't.
    """
    axes, fixed = split_axes(overrides)
    figure = _try_values(axes, fixed)
    run = Run.compose(fixed)
    _claim(run, axes, fixed)
    study = SharedStudy(run, axes, patient_epochs, figure)
    with study.turn:
        for file in (File.SEARCH, File.SEARCH_LOG, File.TRIALS, File.PARALLEL):
            sweep(run.folder, file)  # of each trial's folder, its training does
    while taken := study.next(trials):
        trial, lock = taken
        with lock:
            _train(study, trial, fixed)
    with study.turn:
        study.write_table()  # which a kill may have left without the last trial
    return run.folder


def split_axes(overrides: Sequence[str]) -> tuple[dict[str, Axis], list[str]]:
    """The axes by key, and the overrides with one value."""
    axes: dict[str, Axis] = {}
    fixed = []
    for override in overrides:
        key, _, value = override.partition("=")
        listed = value[7:-1] if value.startswith("choice(") and value.endswith(")") else value  # Hydra's word for a,b
        choices = _values_of(listed)
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


def _values_of(listed: str) -> list[str]:
    """The values between commas outside of brackets and quotation marks."""
    found, begun = [], ""
    for part in listed.split(","):
        begun = f"{begun},{part}" if begun else part
        if all(begun.count(left) == begun.count(right) for left, right in ("()", "[]", "{}")) and not any(
            begun.count(mark) % 2 for mark in "'\""
        ):
            found.append(begun)
            begun = ""
    return [*found, begun] if begun else found


def trial_table(trials: Sequence[FrozenTrial], figure: str) -> pd.DataFrame:
    """One row a trial, best first: how it ended, its validation figure (the last one if pruned), epochs, values."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            figure: score(trial),
            "epochs": trial.user_attrs.get(EPOCHS, 0 if trial.last_step is None else trial.last_step + 1),
            **trial.params,
        }
        for trial in trials
    ]
    return pd.DataFrame(rows).sort_values(figure, ascending=False, na_position="last", ignore_index=True)


def score(trial: FrozenTrial) -> float:
    """The validation figure of a trial: its best, the last reported one if it was pruned, NaN if it failed."""
    if trial.state is TrialState.COMPLETE and trial.value is not None:
        return trial.value
    return (
        math.nan
        if trial.last_step is None or trial.state is TrialState.FAIL
        else trial.intermediate_values[trial.last_step]
    )


def parallel_coordinates(study: optuna.Study, figure: str) -> Figure:
    """Draw a line for each completed trial, from its validation figure through its values; the darkest is the best."""
    completed = study.get_trials(states=(TrialState.COMPLETE,))
    if not completed:
        return empty("no trial has completed yet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, that an axis has one value
        axes = plot_parallel_coordinate(study, target_name=figure)
    drawn, names = cast(Figure, axes.figure), sorted({key for trial in completed for key in trial.params})
    lines = axes.collections[0]
    heights = cast(np.ndarray, lines.get_array())  # matplotlib's types allow lines without values
    pyplot.close(drawn)  # it stays a figure, and leaves pyplot's list of them
    drawn.axes[1].remove()  # the color bar says what the first axis says
    width = 2.2 * len(names) + 2.5
    drawn.set_size_inches(width, 4.2)
    for part in drawn.axes:
        part.set_position((0.9 / width, 0.1, 2.2 * len(names) / width, 0.78))
    best, spread = heights.max(), np.ptp(heights)
    lines.set_clim(best - (spread * 1.3 or 1), best)  # the worst is no white line
    axes.set_title("")
    tidy(axes, f"completed trials: {len(completed)}", grid="")
    axes.set_xticks(range(len(names) + 1), [figure, *names], rotation=0)
    return drawn


def folder_name(trial: Trial | FrozenTrial) -> str:
    """The name of a trial's folder, by its values, so that a repeated one goes on there."""
    return hashlib.sha256("\n".join(_values(trial)).encode()).hexdigest()[:10]


def _values(trial: Trial | FrozenTrial) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(trial.params.items())]


def _claim(run: Run, axes: Mapping[str, Axis], fixed: Sequence[str]) -> None:
    """Write what is searched into the run folder, unless it holds another search or a training."""
    search = {
        "axes": {key: repr(axis) for key, axis in axes.items()},
        "fixed": [override for override in fixed if not override.startswith("run.")],
    }
    stored = run.json_of(File.SEARCH)
    if (stored and stored != search) or run.training:
        raise InputError(f"{run.folder}: holds another search or a training; choose another run.name")
    (run / File.TRIAL_RUNS).mkdir(parents=True, exist_ok=True)
    if not stored:
        write_json(run / File.SEARCH, search)


def _try_values(axes: Mapping[str, Axis], fixed: Sequence[str]) -> str:
    """The validation figure of all trials, by composing every choice and both ends of every range once.

    InputError, before any trial, for a misspelled one, one by which trials have another figure, and several devices.
    """
    values = {
        key: [*axis.choices] if isinstance(axis, CategoricalDistribution) else [axis.low, axis.high]
        for key, axis in axes.items()
    }
    first, figures = {key: each[0] for key, each in values.items()}, set()
    for chosen in [first | {key: value} for key, each in values.items() for value in each]:
        cfg = compose([*fixed, *(f"{key}={value}" for key, value in chosen.items())])
        trainer = plain(cfg.trainer)
        devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
        if (len(devices) if isinstance(devices, list) else devices) not in ("1", 1, *ALL_DEVICES) or nodes > 1:
            raise InputError(
                f"trainer.devices={devices} and trainer.num_nodes={nodes}: a trial is trained on one device; set both "
                "to 1, and to use several devices, give the same command on each"
            )
        figures.add(str(cfg.task.monitor))
    if len(figures) > 1:
        raise InputError(f"trials with {' and with '.join(sorted(figures))} don't compare; search each task by itself")
    return figures.pop()


def _train(study: SharedStudy, trial: Trial, fixed: Sequence[str]) -> None:
    """Train one trial in its folder, and tell the study."""
    values, root = _values(trial), study.run / File.TRIAL_RUNS
    log.info(f"trial {trial.number} ({folder_name(trial)}): {' '.join(values)}")
    kept = [override for override in fixed if not override.startswith(("run.name=", "run.root="))]
    run = Run.compose([*kept, *values, f"run.root={root}", f"run.name={folder_name(trial)}"])
    if run["trainer.devices"] in (None, *ALL_DEVICES):  # each further one would be a process that repeats the command
        OmegaConf.update(run.config, "trainer.devices", 1, force_add=True)
    try:
        with storage_errors():
            train.run(run, [ReportToTrial(trial, study.figure)])
        reached = run.training[train.best_key(study.figure)]
        if reached is None:
            raise InputError(UNVALIDATED)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except StorageError:
        raise  # the trial goes on once there is room
    except (InputError, torch.OutOfMemoryError) as error:
        study.tell(trial, state=TrialState.FAIL)
        if not study.study.get_trials(states=(TrialState.COMPLETE,)):
            raise
        log.warning(f"trial {trial.number} failed: {error}")
    else:
        trial.set_user_attr(EPOCHS, run.training["epochs"])  # of which nothing was reported where it was trained before
        study.tell(trial, reached)
