"""What happens beside training: the time left, and Ctrl-C."""

import math
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import pytorch_lightning.demos.boring_classes
import torch
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from reidlab.errors import InputError
from reidlab.training import callbacks
from reidlab.training.schedules import warmup_cosine


class PlainBar(pl.callbacks.ProgressBar):
    def on_train_start(self, trainer, pl_module):
        pass

    def get_metrics(self, trainer, pl_module):
        return {"val/mAP": 0.5, "v_num": "x1y2"}


def test_the_time_left_is_that_of_the_epochs_to_come(monkeypatch):
    """A resumed training of 10 epochs, begun at its fifth: an epoch took 2 minutes, four are left, if there is time."""

    class Bar(callbacks.TimeLeft, PlainBar):
        pass

    now = iter([100.0, 220.0, 220.0, 220.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(now))
    trainer, bar = SimpleNamespace(current_epoch=5, max_epochs=10, callbacks=[]), Bar()
    bar.on_train_start(trainer, None)
    assert bar.get_metrics(trainer, None) == {"val/mAP": 0.5}
    trainer.current_epoch = 6
    assert bar.get_metrics(trainer, None) == {"val/mAP": 0.5, "min_left": "8.0"}
    trainer.callbacks = [budget := callbacks.TimeBudget(12)]
    for minute, left in ((3, "8.0"), (5, "7.0")):
        budget.begun = callbacks.monotonic() - 60 * minute
        assert bar.get_metrics(trainer, None)["min_left"] == left


def test_lightnings_answer_to_ctrl_c_is_ctrl_c_again():
    kept = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), callbacks.interruptible():
            sys.exit(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, kept)


@pytest.mark.parametrize(("notebook", "terminal", "kind"), [
    (True, False, "NotebookBar"), (False, True, "TerminalBar"), (False, False, "EpochLines"),
])  # fmt: skip
def test_progress_suits_where_it_is_shown(notebook, terminal, kind, monkeypatch):
    monkeypatch.setattr(callbacks, "in_notebook", lambda: notebook)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert type(callbacks.progress()).__name__ == kind


class Clocked(pl.demos.boring_classes.BoringModel):
    """Epochs that take the seconds given, by a clock of its own; notes the rate of each."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.now, self.rates = seconds, 1000.0, []

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return [optimizer], [warmup_cosine(optimizer, epochs=3, warmup_epochs=0, final_factor=0.0)]

    def on_train_epoch_start(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.now += self.seconds[self.current_epoch]


def trained(seconds, folder, monkeypatch, checkpoint=None, **budget):
    """A task, trained within a time; Lightning's epochs are at most a thousand."""
    task = Clocked(seconds)
    monkeypatch.setattr(callbacks, "monotonic", lambda: task.now)
    keeper = pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}")
    trainer = pl.Trainer(
        max_epochs=3, limit_train_batches=1, limit_val_batches=0, logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, callbacks=[callbacks.TimeBudget(**budget), keeper],
    )  # fmt: skip
    trainer.fit(task, ckpt_path=checkpoint, weights_only=True)
    return task.rates, trainer


def cosine(epoch, epochs):
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def test_the_schedule_ends_with_the_time(tmp_path, monkeypatch):
    """Ten seconds an epoch and 1:45 minutes: ten epochs on a cosine of ten and a half."""
    rates, trainer = trained([10] * 99, tmp_path, monkeypatch, time="00:00:01:45")
    assert rates == pytest.approx([cosine(epoch, 10.5) for epoch in range(10)])
    assert trainer.current_epoch == trainer.max_epochs == 10


def test_a_machine_that_slows_down_has_fewer_epochs_and_the_same_end(tmp_path, monkeypatch):
    """After 50 s of 100 an epoch takes 20 s: rates follow the time, and the third such epoch isn't begun."""
    rates, trainer = trained([10] * 5 + [20] * 99, tmp_path, monkeypatch, time=100 / 60)
    spent = [0, 10, 20, 30, 40, 50, 70]
    assert rates == pytest.approx([cosine(seconds, 100) for seconds in spent])
    assert trainer.current_epoch == 7


def test_a_training_that_goes_on_has_the_time_that_was_left(tmp_path, monkeypatch):
    whole, _ = trained([10] * 99, tmp_path / "whole", monkeypatch, time=1)
    rest, trainer = trained([10] * 99, tmp_path, monkeypatch, tmp_path / "whole" / "epoch=3.ckpt", time=1)
    assert rest == pytest.approx(whole[4:])
    assert trainer.current_epoch == 6
    none, trainer = trained([10] * 99, tmp_path, monkeypatch, tmp_path / "whole" / "epoch=5.ckpt", time=1)
    assert not none


def test_one_epoch_is_trained_however_short_the_time(tmp_path, monkeypatch):
    assert trained([10] * 9, tmp_path, monkeypatch, time=1 / 60)[0] == [1.0]


class Validated(Clocked):
    """Notes the epochs that it is validated after, and is better after each."""

    def on_validation_epoch_end(self):
        self.judged = [*getattr(self, "judged", []), self.current_epoch]
        self.log("val/mAP", float(self.current_epoch))


@pytest.mark.parametrize(("budget", "seconds", "judged"), [
    ([], [10] * 7, [2, 5, 6]),
    ([1], [10] * 6, [0, 2, 5]),
    ([80 / 60], [10] * 8, [0, 2, 5, 7]),
    ([75 / 60], [10] * 3 + [20] * 2 + [99], [0, 2, 4]),  # slows down: a sixth epoch would take too long
    ([5 / 60], [10], [0]),
])  # fmt: skip
def test_the_last_epoch_is_validated_and_kept_where_only_each_third_is(budget, seconds, judged, tmp_path, monkeypatch):
    task, best = Validated(seconds), callbacks.BestEpoch(tmp_path, "{epoch}", monitor="val/mAP", mode="max")
    monkeypatch.setattr(callbacks, "monotonic", lambda: task.now)
    given = [*map(callbacks.TimeBudget, budget), callbacks.ValidatesLast(), best]
    trainer = pl.Trainer(
        max_epochs=7, check_val_every_n_epoch=3, num_sanity_val_steps=0, limit_train_batches=1, limit_val_batches=1,
        logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, callbacks=given,
    )  # fmt: skip
    trainer.fit(task)
    assert task.judged == judged and trainer.check_val_every_n_epoch == 3
    assert best.best_model_path.endswith(f"epoch={judged[-1]}.ckpt")


def test_a_training_that_goes_on_from_its_best_epoch_repeats_no_end_of_it(tmp_path):
    """Every second epoch is validated; the best of the first three is the second."""

    def history(epochs, checkpoint=None):
        best = callbacks.BestEpoch(tmp_path, "{epoch}", monitor="val/mAP", mode="max")
        trainer = pl.Trainer(
            max_epochs=epochs, check_val_every_n_epoch=2, num_sanity_val_steps=0, limit_train_batches=1,
            limit_val_batches=1, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
            callbacks=[callbacks.History(tmp_path), best],
        )  # fmt: skip
        trainer.fit(Validated([0] * 9), ckpt_path=checkpoint, weights_only=True)
        return best.best_model_path, pd.read_csv(tmp_path / "history.csv")

    best, _ = history(3)
    _, part = history(5, best)
    _, whole = history(5)
    assert part["epoch"].tolist() == [1, 2, 3, 4, 5] and part.equals(whole)
    assert whole["val/mAP"].dropna().tolist() == [1.0, 3.0]


class Watched(Validated):
    """Its figure never rises, and its rate is halved after each epoch but the first."""

    def on_validation_epoch_end(self):
        self.log("val/mAP", 0.5)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/mAP", "strict": False}}


@pytest.mark.parametrize(("every", "whole"), [(1, [1, 1, 0.5, 0.25, 0.125]), (2, [1, 1, 1, 0.5, 0.25])])
def test_a_plateau_is_the_same_for_a_training_that_goes_on(every, whole, tmp_path):
    """Of epochs that aren't validated Lightning takes the last figure that there is; the history has none of them."""

    def rates(checkpoint=None):
        history, task = callbacks.History(tmp_path), Watched([0] * 5)
        keeper = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = pl.Trainer(
            max_epochs=5, check_val_every_n_epoch=every, num_sanity_val_steps=0, limit_train_batches=1,
            limit_val_batches=1, logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
            callbacks=[history, callbacks.ResumedPlateau(history), keeper],
        )  # fmt: skip
        trainer.fit(task, ckpt_path=checkpoint, weights_only=True)
        return task.rates

    assert rates() == whole
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"][history["val/mAP"].notna()].tolist() == [*range(every, 6, every)]
    for epoch in range(4):
        assert rates(tmp_path / f"epoch={epoch}.ckpt") == whole[epoch + 1 :]
        assert pd.read_csv(tmp_path / "history.csv").equals(history)


def test_the_line_of_an_epoch_that_is_not_validated_has_no_figure_of_an_earlier_one(capsys):
    lines = callbacks.EpochLines()
    figures = {"train/loss": torch.tensor(1.0), "val/mAP": torch.tensor(0.5)}
    trainer = SimpleNamespace(
        current_epoch=0, max_epochs=2, callbacks=[], callback_metrics=figures, is_global_zero=True
    )  # fmt: skip
    for validated in (True, False):
        lines.on_train_epoch_start(trainer, None)
        if validated:
            lines.on_validation_end(trainer, None)
        lines.on_train_epoch_end(trainer, None)
    first, second = capsys.readouterr().out.splitlines()
    assert "train/loss 1.000  val/mAP 0.500" in first and "train/loss 1.000" in second and "val/mAP" not in second


@pytest.mark.parametrize(
    "time", ["1 h", "00:00:00:00", "60", {"hours": 1}, [], -1, "::::", "0:0:0:x", math.nan, math.inf, 1e300]
)
def test_what_is_no_time_is_refused(time):
    with pytest.raises(InputError, match=r"trainer\.max_time.*give minutes"):
        callbacks.TimeBudget(time)


class Sized(Clocked):
    """Notes the images that it is given, one batch an epoch."""

    def train_dataloader(self):
        images = torch.arange(4 * 3 * 8 * 6, dtype=torch.float32).view(4, 3, 8, 6)
        return torch.utils.data.DataLoader([{"image": image} for image in images], batch_size=4)

    def training_step(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), batch["image"].clone()]
        return super().training_step(torch.ones(1, 32), batch_idx)


@pytest.mark.parametrize(("budget", "heights"), [([], [4, 6, 8, 8]), ([20], [4, round(8 * 0.7), round(8 * 0.9), 8, 8])])
def test_images_grow_for_a_share_of_the_epochs_or_of_the_time(budget, heights, monkeypatch):
    """Half of four epochs; or of 20 minutes, in which epochs of 4 minutes begin at 0, 4, 8, 12 and 16."""
    task = Sized([240] * 9)
    monkeypatch.setattr(callbacks, "monotonic", lambda: task.now)
    given = [*map(callbacks.TimeBudget, budget), callbacks.SmallFirst(scale=0.5, until=0.5)]
    trainer = pl.Trainer(
        max_epochs=4, limit_val_batches=0, logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=given,
    )  # fmt: skip
    trainer.fit(task)
    sizes = [tuple(image.shape[2:]) for image in task.seen]
    assert [height for height, _ in sizes] == heights and sizes[0] == (4, 3) and sizes[-1] == (8, 6)
    whole = task.seen[-1].permute(0, 2, 3, 1).numpy()
    for image, little in zip(whole, task.seen[0].permute(0, 2, 3, 1).numpy(), strict=True):  # by another library
        channels = [Image.fromarray(image[..., n]).resize((3, 4), Image.Resampling.BILINEAR) for n in range(3)]
        np.testing.assert_allclose(np.stack(channels, 2), little, atol=1e-3)


@pytest.mark.parametrize("minutes", [2, 15, 25, 40, 60, 100, 119])
def test_growing_images_take_no_more_than_the_time_there_is(minutes, monkeypatch):
    """Of 60 minutes, where an epoch takes so many with whole images, and time is spent by pixels."""

    class BySize(Sized):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.now += 60 * minutes * batch["image"].shape[2:].numel() / (80 * 60)
            return loss

        def train_dataloader(self):
            return torch.utils.data.DataLoader([{"image": torch.zeros(3, 80, 60)}])

    task = BySize([0] * 99)
    monkeypatch.setattr(callbacks, "monotonic", lambda: task.now)
    pl.Trainer(
        limit_val_batches=0, logger=False, accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callbacks.TimeBudget(60), callbacks.SmallFirst(scale=0.5, until=0.8)],
    ).fit(task)  # fmt: skip
    heights = [image.shape[2] for image in task.seen]
    taken = (task.now - 1000) / 60
    assert taken <= 60 * 1.02 and heights == sorted(heights) and heights[0] == 40
    assert minutes > 2 or (heights[-1] == 80 and taken > 60 - minutes)


def test_averaged_weights_forget_those_that_training_began_with():
    """Against the average written out: steps 1, 2, ... weigh in at 9 / (10 + n), later at 1 - decay."""
    network = torch.nn.BatchNorm1d(1)
    ema = callbacks.AveragedWeights(decay=0.9)
    averaged = AveragedModel(network, multi_avg_fn=ema.average, use_buffers=True)
    expected = None
    for step in range(300):
        network.weight.data.fill_(100.0 if step == 0 else float(step % 7))
        network.num_batches_tracked.fill_(step)
        value = network.weight.item()
        share = 1 if expected is None else max(0.1, 9 / (10 + step))
        expected = value if expected is None else (1 - share) * expected + share * value
        averaged.update_parameters(network)
    assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert averaged.module.num_batches_tracked == 299
    assert ema.should_update(step_idx=0) and not ema.should_update(epoch_idx=1)
