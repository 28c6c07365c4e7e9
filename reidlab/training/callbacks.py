"""Callbacks: the history of a run, averaged weights, and progress in terminals, notebooks and logs."""

import logging
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from reidlab.console import log
from reidlab.errors import InputError
from reidlab.files import write_atomic
from reidlab.progress import in_notebook
from reidlab.run import File
from reidlab.threads import pace
from reidlab.training.schedules import Planned
from reidlab.training.tasks import Task

TIPS = (
    "does not have many workers",
    "smaller than the logging interval",
    "isinstance.treespec",
    "is zero",
    "in eval mode at the start of training",
    "in a `val_dataloader` but have no `validation_step`",
    "exists and is not empty",
    "ReduceLROnPlateau conditioned on metric",
)
UNJUDGED_EPOCHS = 1.5  # at the full learning rate, which a warm-up reaches later
EPOCHS_AT_CHANCE = 3  # in a row; one alone may be a network on its way
NEAR_CHANCE, ALIKE = 0.03, 0.98
UNITS = "days", "hours", "minutes", "seconds"
SHOWN = ("train/loss", "val/mAP", "val/rank-1", "val/top-1")


class OfEpoch(pl.Callback):
    """The base of callbacks that read an epoch's figures, of which Lightning keeps those of an earlier validation."""

    validated = False  # in this epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing is validated yet."""
        super().on_train_epoch_start(trainer, pl_module)
        self.validated = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The figures of validation are this epoch's."""
        super().on_validation_end(trainer, pl_module)
        self.validated = True

    def figures(self, trainer: pl.Trainer) -> dict[str, float]:
        """Figures of this epoch, by name."""
        found = trainer.callback_metrics.items()
        return {name: float(value) for name, value in found if self.validated or not name.startswith("val/")}


class History(OfEpoch):
    """Keeps the figures of all epochs in the checkpoint, to go on from, and in `history.csv`, numbered from 1.

    An epoch that isn't validated has no figure of validation, a gap in the table.
    """

    def __init__(self, folder: str | Path):
        self.file = Path(folder) / File.HISTORY
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the figures of an epoch."""
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step - 1, **self.figures(trainer)})
        if trainer.is_global_zero:
            table = pd.DataFrame(self.rows)
            write_atomic(self.file, table.assign(epoch=table["epoch"] + 1).to_csv(index=False))

    def state_dict(self) -> dict:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the rows of a checkpoint."""
        self.rows = list(state_dict["rows"])


class CollapseNotice(pl.Callback):
    """Says after an epoch that a network has collapsed, and what to change.

    It has where a cross-entropy stays for epochs at what equally likely classes cost, or where a loss of embeddings
    finds those of a batch all alike. Epochs count by their learning rate, so that a warm-up is no collapse.

    Args:
        history: of the training.
    """

    def __init__(self, history: History):
        self.history = history

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the figures of the epoch, which `history` has by now."""
        task, rows = cast(Task, pl_module), self.history.rows
        full_epochs = sum(row["learning_rate"] for row in rows) / task.optimizer.keywords["lr"]
        if full_epochs < UNJUDGED_EPOCHS or not trainer.is_global_zero:
            return
        latest = rows[-EPOCHS_AT_CHANCE:]
        found = [
            f"{name} {rows[-1][name]:.3f} stays at ln(classes) = {chance:.3f}"
            for name, chance in task.chance_losses().items()
            if len(latest) == EPOCHS_AT_CHANCE and all(abs(row[name] / chance - 1) < NEAR_CHANCE for row in latest)
        ]
        if task.compares_embeddings and (alike := rows[-1]["similarity"]) > ALIKE:
            found.append(f"the embeddings of a batch are all alike, mean cosine {alike:.3f}")
        if found:
            log.warning(
                f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  collapsed: {' and '.join(found)}; lower "
                "optimizer.lr, raise schedule.warmup_epochs, or learn by other losses (loss=softmax)"
            )


class BestEpoch(OfEpoch, pl.callbacks.ModelCheckpoint):
    """Keeps the epoch with the best validation figure; of equal ones the last, which has learned longest.

    It does so at the epoch's end, so that a training that goes on from it repeats no end of an epoch.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "save_on_train_epoch_end": True})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether an epoch that was validated is the best."""
        if self.validated:
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether an epoch is kept: also where it is as good as the best."""
        equal = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        return equal or super().check_monitor_top_k(trainer, current)


class ResumedPlateau(pl.Callback):
    """Tells a schedule that watches a figure that of the checkpoint's epoch, which Lightning writes before it does.

    Args:
        history: of the training.
    """

    def __init__(self, history: History):
        self.history = history

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checkpoint is loaded, and no epoch has begun."""
        for planned in trainer.lr_scheduler_configs:
            watched, schedule = planned.monitor, planned.scheduler
            if watched is None or not isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
                continue
            rows = self.history.rows
            if judged := [number for number, row in enumerate(rows) if watched in row]:
                latest = rows[judged[-1]][watched]
                trainer.callback_metrics[watched] = torch.tensor(latest)  # until another epoch is validated
                if schedule.last_epoch < len(rows) - judged[0]:  # a step after each epoch since
                    schedule.step(latest)


class StaysStopped(pl.Callback):
    """Ends a training at once that goes on from the checkpoint of the epoch that stopped it early."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checkpoint is loaded, and no epoch has begun."""
        if any(stopping.wait_count >= stopping.patience for stopping in trainer.early_stopping_callbacks):
            trainer.should_stop = True


class TimeBudget(pl.Callback):
    """Ends a training within a time, with its schedule at the end.

    The number of epochs is planned anew after each: those done, by the share of the time that they took. Where the time
    left is less than the last epoch took, that was the last; one there is in any case. It is the time of training and
    validation, in all processes that one training went on in.

    Args:
        time: what there is, in minutes, or as Lightning has it, "DD:HH:MM:SS".
    """

    def __init__(self, time: float | str):
        try:
            units = (
                {"minutes": time}
                if isinstance(time, int | float)
                else dict(zip(UNITS, map(int, time.split(":")), strict=True))
            )
            self.seconds = timedelta(**units).total_seconds()
        except (TypeError, ValueError, AttributeError, OverflowError):
            self.seconds = 0.0
        if self.seconds <= 0:
            raise InputError(
                f"trainer.max_time={time}: give minutes, as 60, or days, hours, minutes and seconds, as 00:01:00:00"
            )
        self.used = self.epoch = 0.0  # seconds, of all epochs and of the last

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """No number of epochs ends the training."""
        trainer.fit_loop.max_epochs = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, or go on with that of the checkpoint."""
        self.begun = monotonic() - self.used
        if self.used:
            self._plan(trainer, trainer.current_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when the epoch began."""
        self.epoch_begun = monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Plan the rest."""
        self.used, self.epoch = monotonic() - self.begun, monotonic() - self.epoch_begun
        self._plan(trainer, trainer.current_epoch + 1)

    @property
    def left(self) -> float:
        """Seconds."""
        return max(self.seconds - (monotonic() - self.begun), 0.0)

    def state_dict(self) -> dict:
        """The seconds used so far, and those of the last epoch."""
        return {"used": self.used, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore them."""
        self.used, self.epoch = state_dict["used"], state_dict["epoch"]

    def _plan(self, trainer: pl.Trainer, done: int) -> None:
        """Set the number of epochs after those done, as the first of several processes sees it."""
        epochs, last = done * max(1.0, self.seconds / self.used), self.used + self.epoch > self.seconds
        one_more = self.used + 2 * self.epoch > self.seconds
        epochs, last, one_more = trainer.strategy.broadcast((epochs, last, one_more))
        trainer.should_stop |= last
        trainer.fit_loop.max_epochs = done if last else done + 1 if one_more else max(round(epochs), done + 1)
        for planned in trainer.lr_scheduler_configs:
            if isinstance(planned.scheduler, Planned):
                planned.scheduler.plan(epochs)


class ValidatesLast(pl.Callback):
    """Validates the last epoch, often the best, though `check_val_every_n_epoch` would leave it out.

    So is the first one of a training that ends by time, which may be the only one.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Keep what the settings say."""
        self.every = trainer.check_val_every_n_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look how many epochs there are by now; it counts until the epoch's end, where checkpoints look, too."""
        last = trainer.max_epochs in (trainer.current_epoch + 1, -1)
        trainer.check_val_every_n_epoch = 1 if self.every and last else self.every

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the trainer as it was."""
        trainer.check_val_every_n_epoch = self.every


class KeepsPace(pl.Callback):
    """Measures the steps of a training on one processor for `pace`, and counts them by their threads.

    Attributes:
        steps: number of threads -> steps made with them.
    """

    def __init__(self) -> None:
        self.steps: Counter[int] = Counter()

    def on_train_batch_start(self, *_: Any) -> None:
        """A batch is there."""
        pace.begin()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """The step with its images (B, 3, H, W) is done."""
        if trainer.strategy.root_device.type == "cpu" and trainer.world_size == 1:
            self.steps[torch.get_num_threads()] += 1
            pace.end(batch["image"].numel())

    def state_dict(self) -> dict:
        """The steps so far."""
        return {"steps": dict(self.steps)}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on counting."""
        self.steps = Counter(state_dict["steps"])


class SmallFirst(pl.Callback):
    """Trains on smaller images at first, on which an epoch takes less time; their sides grow evenly.

    In a training that ends by time, no more than lets the next epoch end in it.

    Args:
        scale: of the sides in the first epoch.
        until: the share of the training, of its epochs or of the time that it has, after which images keep their size.
    """

    def __init__(self, scale: float = 0.5, until: float = 0.8):
        self.scale, self.until = scale, until
        self.now: float | None = None  # the scale of the last epoch, where one is known

    def size(self, full: Sequence[int]) -> list[int]:
        """Height and width now of images of a size."""
        return [max(1, round(side * (self.now or self.scale))) for side in full]

    def state_dict(self) -> dict:
        """The scale of the last epoch."""
        return {"now": self.now}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore it."""
        self.now = state_dict["now"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the images grow."""
        epochs = trainer.max_epochs or 0  # -1 in the first one of a training that ends by time, see `TimeBudget`
        done = trainer.current_epoch / (self.until * epochs) if epochs > 0 else 0.0
        scale = self.scale + (1 - self.scale) * min(done, 1.0)
        for budget in _budgets(trainer):
            if budget.epoch and self.now:  # which took as long as its images are large
                scale = min(scale, self.now * max(1.0, (budget.seconds - budget.used) / budget.epoch) ** 0.5)
        self.now = trainer.strategy.broadcast(scale)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        """Shrink the images (B, 3, H, W) of a batch."""
        if self.now is not None and self.now < 1:
            size = self.size(batch["image"].shape[2:])
            batch["image"] = F.interpolate(batch["image"], size, mode="bilinear", antialias=True)


class AveragedWeights(WeightAveraging):
    """An exponential moving average of weights and BN statistics, which is validated and kept as the best.

    After n steps its decay is (1 + n) / (10 + n), at most `decay`, so that the initial weights soon count for nothing.
    """

    def __init__(self, decay: float = 0.999):
        super().__init__(multi_avg_fn=self.average)
        self.decay = decay

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """After each step."""
        return step_idx is not None

    @torch.no_grad()
    def average(self, averaged: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
        """Move the average, in place."""
        share = max(1 - self.decay, 9 / (10 + int(steps)))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, share)
        else:
            torch._foreach_copy_(averaged, current)


def minutes_left(trainer: pl.Trainer, estimate: float) -> float:
    """Of an estimate in seconds, not more than a `TimeBudget` has: later epochs may have larger images."""
    return min([estimate, *(budget.left for budget in _budgets(trainer))]) / 60


def _budgets(trainer: pl.Trainer) -> list[TimeBudget]:
    return [callback for callback in trainer.callbacks if isinstance(callback, TimeBudget)]  # type: ignore[attr-defined]


class EpochLines(OfEpoch):
    """One plain line an epoch, for logs that are no terminal."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_epoch_start(trainer, pl_module)
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print loss, validation figures, seconds and the time left."""
        if not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self.started
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        found = self.figures(trainer)
        shown = "  ".join(f"{name} {found[name]:.3f}" for name in SHOWN if name in found)
        left = minutes_left(trainer, seconds * (total - done))
        log.info(f"epoch {done}/{total}  {shown}  {seconds:.1f} s  {left:.1f} min left")


class TimeLeft(pl.callbacks.ProgressBar):
    """Adds the time left to a progress bar, estimated from the epochs of this process so far."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self.started, self.first = time.perf_counter(), trainer.current_epoch

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict:
        """The figures, and the minutes left from the second epoch on."""
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)  # the tracker's number of the run
        done, total = trainer.current_epoch - self.first, trainer.max_epochs or 0
        if done and total > 0:
            mean = (time.perf_counter() - self.started) / done
            shown["min_left"] = f"{minutes_left(trainer, mean * (total - trainer.current_epoch)):.1f}"
        return shown


class TerminalBar(TimeLeft, pl.callbacks.RichProgressBar):
    """Batches with their rate and the time left of the epoch, the figures, and the time left of all."""


class NotebookBar(TimeLeft, pl.callbacks.TQDMProgressBar):
    """`TerminalBar` as a notebook's widget."""


def progress() -> pl.Callback:
    """A rich bar in a terminal, tqdm's widget in a notebook, a line an epoch in a log."""
    if in_notebook():
        return NotebookBar(refresh_rate=10, leave=False)
    return TerminalBar(leave=True) if sys.stdout.isatty() else EpochLines()


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's tips for developers."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    with warnings.catch_warnings():
        for message in TIPS:
            warnings.filterwarnings("ignore", f".*{message}")
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Lightning's SystemExit on Ctrl-C back into KeyboardInterrupt, and let the next Ctrl-C stop the process."""
    try:
        yield
    except SystemExit as stopped:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from stopped
