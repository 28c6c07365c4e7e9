"""A small run through all stages, with the folder before and after each, and how many file operations each made."""

import itertools
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import broken
import numpy as np

STAGES = ("search", "train", "evaluate", "export", "quantize", "deploy", "report")
TRIED = int(os.environ.get("FAULTS", 3))  # faults of a kind in each stage
QUICK_INT8 = ["quantize.images=8", "quantize.method=ptq", "quantize.max_drop=100", "quantize.threads=1"]


def commands(small: list[str]) -> list[list[str]]:
    """All stages on a small data set."""
    small = [*small, "trainer.max_epochs=2"]
    return [
        ["search", "--trials=2", *small, "optimizer.lr=log(1e-4,1e-2)", "model.network.dropout=0,0.1"],
        ["train", *small],
        ["evaluate", "evaluate.resamples=20", "evaluate.baselines=[untrained]"],
        ["export"],
        ["quantize", "quantize.formats=[onnx]", "quantize.runtimes=[onnxruntime]", *QUICK_INT8],
        ["deploy", "deploy=edge_linux"],
        ["report"],
    ]


@dataclass
class Stage:
    """A command, and what it made of the run folder."""

    argv: list[str]
    before: Path
    after: Path
    operations: int
    seconds: float


class Pipeline:
    """The stages in their order; `again` puts a run folder back to before one of them."""

    def __init__(self, place: Path, commands: Iterable[list[str]]):
        self.place, self.root = place, place / "runs"
        self.stages: dict[str, Stage] = {}
        for argv in commands:
            self._make(argv)

    def _make(self, argv: list[str]) -> None:
        name = argv[0]
        before, after = (self.place / f"{when}-{name}" for when in ("before", "after"))
        argv = [*argv, f"run.root={self.root}", f"run.name={name if name == 'search' else 'run'}"]
        self.root.mkdir(exist_ok=True)
        shutil.copytree(self.root, before)
        ended = broken.command(*argv, folder=self.root)
        assert ended.status == 0, ended.errors
        shutil.copytree(self.root, after)
        self.stages[name] = Stage(argv, before, after, ended.operations, ended.seconds)

    def command(self, name: str, kind: str = "", nth: int = 0, **how) -> broken.Ended:
        return broken.command(*self.stages[name].argv, folder=self.root, kind=kind, nth=nth, **how)

    def again(self, name: str) -> None:
        """Put the folder back to before a stage."""
        broken.restore(self.stages[name].before, self.root)

    def points(self, name: str) -> list[int]:
        """Operations of a stage to fail at: as many in each part of it, drawn with a fixed seed."""
        ends = np.linspace(0, self.stages[name].operations, TRIED + 1).astype(int)
        random = np.random.default_rng(sum(name.encode()))
        return [int(random.integers(low, high)) for low, high in itertools.pairwise(ends) if high > low]

    def differences(self, name: str) -> list[str]:
        """What differs between the folder and that of an unbroken run."""
        return broken.differences(self.stages[name].after, self.root)
