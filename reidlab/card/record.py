"""A run folder as a card reads it."""

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig

from reidlab.config import run_folder
from reidlab.files import read_json
from reidlab.stages.evaluate import MAIN_ROW
from reidlab.training.tasks import known_classes, tells_classes

FIGURES = {False: ("mAP", "rank-1", "rank-5", "rank-10"), True: ("top-1", "top-5")}  # by whether classes are told


@dataclass(frozen=True)
class Record:
    """What a run has recorded so far, and the commands that would record more."""

    cfg: DictConfig

    @cached_property
    def folder(self) -> Path:
        """The run folder."""
        return run_folder(self.cfg)

    @cached_property
    def metrics(self) -> dict[str, dict]:
        """The rows of `metrics.json`."""
        return read_json(self.folder / "metrics.json")

    @cached_property
    def training(self) -> dict:
        """`train.json`."""
        return read_json(self.folder / "train.json")

    @cached_property
    def classes(self) -> list[str]:
        """The classes that the network tells; none for re-identification."""
        return known_classes(self.cfg)

    @cached_property
    def tells_classes(self) -> bool:
        """Whether the task is classification."""
        return tells_classes(self.cfg)

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures that say how good the network is, the main one first."""
        return FIGURES[self.tells_classes]

    @property
    def evaluated(self) -> bool:
        """Whether the network has been scored on the test split."""
        return MAIN_ROW in self.metrics

    @property
    def size(self) -> str:
        """Of the input, as height x width."""
        return "x".join(map(str, self.cfg.data.size))

    def has(self, path: str) -> bool:
        """Whether the run folder holds a file."""
        return (self.folder / path).exists()

    def there(self, *paths: str) -> list[str]:
        """Those of the files that the run folder holds."""
        return [path for path in paths if self.has(path)]

    def table(self, path: str) -> pd.DataFrame:
        """A CSV of the run folder; empty where it is absent."""
        return pd.read_csv(self.folder / path) if self.has(path) else pd.DataFrame()

    def command(self, stage: str, *more: str) -> str:
        """What to type for a stage of this run."""
        return shlex.join(["reidlab", *stage.split(), *more, f"run.name={self.folder.name}"])

    def command_from_config(self, stage: str) -> str:
        """The same for stages that take their config from the command alone; folders of this machine are left open."""
        given = [
            f"{key}=..." if key.endswith((".root", ".weights", ".cache")) else override
            for override in self.cfg.run.get("overrides", [])
            for key in [override.partition("=")[0]]
        ]
        return self.command(stage, *given)
