"""What happens beside training: the time left, and Ctrl-C."""

import signal
import sys
from types import SimpleNamespace

import pytest

from reidlab import callbacks


class PlainBar:
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
