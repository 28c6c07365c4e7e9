"""What happens beside training: the time left, and Ctrl-C."""

import signal
import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.optim.swa_utils import AveragedModel

from reidlab.training import callbacks


class PlainBar(pl.callbacks.ProgressBar):
    def on_train_start(self, trainer, pl_module):
        pass

    def get_metrics(self, trainer, pl_module):
        return {"val/mAP": 0.5, "v_num": "x1y2"}


def test_the_time_left_is_that_of_the_epochs_to_come(monkeypatch):
    """A resumed training of 10 epochs, begun at its fifth: an epoch took 2 minutes, four are left."""

    class Bar(callbacks.TimeLeft, PlainBar):
        pass

    now = iter([100.0, 220.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(now))
    trainer, bar = SimpleNamespace(current_epoch=5, max_epochs=10), Bar()
    bar.on_train_start(trainer, None)
    assert bar.get_metrics(trainer, None) == {"val/mAP": 0.5}
    trainer.current_epoch = 6
    assert bar.get_metrics(trainer, None) == {"val/mAP": 0.5, "min_left": "8.0"}


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
