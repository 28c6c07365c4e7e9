"""Training beside another program: images a second with fixed threads and with as many as are fastest.

    python benchmarks/contention.py --seconds 40

Trainings of the demo's network take turns: with as many threads as there are cores, with one fewer, and with the number
that `reidlab.threads` finds. Each meets an idle machine first, then a program that keeps a core busy, then an idle
machine again. What is left beside that program is what one thread fewer reaches on the idle machine: the fair share.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time

import pandas as pd
import pytorch_lightning as pl

from reidlab.console import print_table
from reidlab.errors import refusing
from reidlab.run import Run
from reidlab.stages import data, train

SETTINGS = ["experiment=demo", "trainer.max_epochs=1000", "logger=none", "trainer.check_val_every_n_epoch=1000"]
PHASES = "idle", "busy", "idle again"
WARMING_S = 5  # of each phase, which don't count


class Stamps(pl.Callback):
    """Prints when each step was done, and interrupts the training after some seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_train_start(self, *_) -> None:
        self.begun = time.monotonic()

    def on_train_batch_end(self, *_) -> None:
        print(f"step {time.monotonic() - self.begun}", flush=True)
        if time.monotonic() > self.begun + self.seconds:
            raise KeyboardInterrupt


def child(folder: str, seconds: float) -> None:
    """One training, for as long as the three phases take."""
    with contextlib.suppress(KeyboardInterrupt):
        train.run(Run.begin([f"run.root={folder}", *SETTINGS]), [Stamps(len(PHASES) * seconds)])


def rates(threads: int | None, seconds: float) -> dict[str, float]:
    """Steps a second of a training in each phase."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": str(threads)} if threads else {}
    steps, other = [], None
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", folder, "--seconds", str(seconds)]
        training = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for line in training.stdout:
            if line.startswith("step "):
                steps.append(float(line.split()[1]))
                phase = int(steps[-1] // seconds)
                if phase == 1 and other is None:
                    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                if phase > 1:
                    other.kill()
        training.wait()
    times = pd.Series(steps)
    counted = {name: times.between(k * seconds + WARMING_S, (k + 1) * seconds) for k, name in enumerate(PHASES)}
    return {name: float(those.sum() / (seconds - WARMING_S)) for name, those in counted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=40, help="of each phase")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.seconds)
        return
    data.run(Run.compose(SETTINGS))
    cores = os.cpu_count()
    sides = {f"{cores} threads": cores, f"{cores - 1} threads": cores - 1, "as many as are fastest": None}
    table = pd.DataFrame({name: rates(count, options.seconds) for name, count in sides.items()}).T
    table["busy / fair share"] = table["busy"] / table.loc[f"{cores - 1} threads", "idle"]
    table["idle / all threads"] = table["idle"] / table.loc[f"{cores} threads", "idle"]
    print_table(table, f"steps a second, {cores} cores")


if __name__ == "__main__":
    with refusing():
        main()
