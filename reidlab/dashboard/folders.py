"""What run folders hold, read anew for every look; what is missing or broken is told, not raised."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from reidlab.config import NEUTRAL_KEYS, read_config
from reidlab.errors import InputError
from reidlab.files import read_json

MAIN_ROW = "checkpoint"
MAIN_FIGURES = ("mAP", "top-1")
FIGURES = ("mAP", "rank-1", "rank-5", "mINP", "top-1", "top-5", "macro_f1")
FIRST_PICTURES = ("worst", "median", "best")
MAX_ROWS = 2000
NO_RUNS = ("notebooks",)  # folders beside the runs


@dataclass
class Run:
    """A run folder as it is now; `problems` says in words what can't be read."""

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)  # dotted keys
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # row -> figure -> value
    history: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row an epoch
    training: Mapping[str, Any] = field(default_factory=dict)  # train.json
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def is_search(self) -> bool:
        """Whether it holds the trials of a search."""
        return (self.folder / "search.json").exists()

    def changed(self, *names: str) -> float:
        """When one of these files was last written; without any, those of epochs, figures and trials."""
        return max(_changed(self.folder / name) for name in names or ("history.csv", "metrics.json", "trials.csv"))

    @property
    def state(self) -> str:
        """How far it is."""
        if self.problems:
            return "broken"
        if self.is_search:
            return "search"
        if self.training.get("finished"):
            return "trained"
        if not self.history.empty:
            return f"epoch {int(self.history['epoch'].iloc[-1]) + 1} of {self.config.get('trainer.max_epochs', '?')}"
        return "evaluated" if self.metrics else "started"

    def rows(self) -> Iterator[str]:
        """The rows of metrics.json that have pictures or tables of their own."""
        place = self.folder / "evaluate"
        yield from sorted((p.name for p in _children(place) if _children(p)), key=lambda name: name != MAIN_ROW)


def run_folders(root: Path) -> list[Path]:
    """The folders of runs in `root`, by name."""
    return sorted(p for p in _children(root) if p.is_dir() and p.name not in NO_RUNS and not p.name.startswith("."))


def read_run(folder: Path) -> Run:
    """A run folder; files that can't be read are named in its `problems`."""
    run = Run(folder)
    run.config = _read(_config, folder / "config.yaml", run.problems) or {}
    run.metrics = _read(_metrics, folder / "metrics.json", run.problems) or {}
    run.training = _read(read_json, folder / "train.json", run.problems) or {}
    history = _read(_history, folder / "history.csv", run.problems)
    run.history = pd.DataFrame() if history is None else history
    if not run.config and not run.problems and not run.is_search:
        run.problems.append("config.yaml is missing: no run, or one that was cut short before it began")
    return run


def leaderboard(runs: Sequence[Run], every_row: bool = False) -> pd.DataFrame:
    """A row a network: what it learned from, its figures on the test split with their 95 % intervals, best first.

    Without `every_row`, a run shows its checkpoint alone, or all that it scored where there is none.
    """
    lines = []
    for run in runs:
        about = {
            "run": run.name,
            "state": run.state,
            "data": run.config.get("data.name"),
            "model": run.config.get("model.name"),
            "parameters": run.training.get("parameters"),
        }
        chosen = [row for row in run.metrics if row == MAIN_ROW]
        for row in (run.metrics if every_row or not chosen else chosen) or [None]:
            lines.append(about | {"row": row} | (_figures(run, row) if row else {}))
    table = pd.DataFrame(lines, columns=["run", "row", "state", "data", "model", *_columns(lines), "parameters"])
    main = [name for name in MAIN_FIGURES if name in table]
    table["parameters"] = table["parameters"].astype("Float64").round().astype("Int64")
    return table.sort_values(main, ascending=False, kind="stable", ignore_index=True) if main else table


def curves(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Figure -> a table (epoch, value, run) of its course in all of these runs; validation first."""
    columns = dict.fromkeys(column for run in runs for column in run.history if column not in ("epoch", "step"))
    found = {}
    for column in sorted(columns, key=lambda name: (not name.startswith("val/"), name)):
        parts = [
            run.history[["epoch", column]].rename(columns={column: "value"}).dropna().assign(run=run.name)
            for run in runs
            if column in run.history
        ]
        found[column] = pd.concat(parts, ignore_index=True)
    return {column: table for column, table in found.items() if not table.empty}


def pictures(place: Path) -> list[Path]:
    """PNG files of a folder: rankings first, worst to best, then by name."""
    order = {name: number for number, name in enumerate(FIRST_PICTURES)}
    return sorted(place.glob("*.png"), key=lambda file: (order.get(file.stem, len(order)), file.stem))


def table(file: Path) -> pd.DataFrame | None:
    """The first rows of a CSV file; None where it can't be read."""
    return _read(_table, file, [])


def compare(first: Run, second: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The figures of rows that two runs share, with their differences; and the config keys that differ."""
    lines = [
        (row, figure, first.metrics[row][figure], second.metrics[row][figure])
        for row in first.metrics
        for figure in FIGURES
        if figure in first.metrics[row] and figure in second.metrics.get(row, {})
    ]
    figures = pd.DataFrame(lines, columns=["row", "figure", "first", "second"])
    figures["difference"] = figures["second"] - figures["first"]
    changed = [
        (key, str(first.config.get(key, "–")), str(second.config.get(key, "–")))
        for key in sorted(first.config.keys() | second.config.keys())
        if first.config.get(key) != second.config.get(key)
        and not key.startswith(("run.", "logger."))
        and not NEUTRAL_KEYS.fullmatch(key)
    ]
    return figures, pd.DataFrame(changed, columns=["key", "first", "second"])


def _figures(run: Run, row: str) -> dict[str, Any]:
    """The main figures of a row, and `<figure> 95 %` for those with an interval."""
    known = {name: value for name, value in run.metrics[row].items() if name in FIGURES}
    intervals = _read(_intervals, run.folder / "evaluate" / row / "intervals.json", run.problems) or {}
    return known | {f"{name} 95 %": intervals[name] for name in MAIN_FIGURES if name in known and name in intervals}


def _columns(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures that any line has, an interval behind its main figure."""
    wanted = [c for name in FIGURES for c in ((name, f"{name} 95 %") if name in MAIN_FIGURES else (name,))]
    return [name for name in wanted if any(name in line for line in lines)]


def _children(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _read(reader: Callable[[Path], Any], file: Path, problems: list[str]) -> Any:
    """What a reader makes of a file, remembered until the file changes; None, with the problem noted, if it fails."""
    try:
        stamp = file.stat()
    except OSError:
        return None
    try:
        return _cached(reader, file, (stamp.st_mtime_ns, stamp.st_size, stamp.st_ino))
    except InputError as error:
        problems.append(str(error))
    except Exception as error:  # a broken file may do anything to a parser
        problems.append(f"{file}: not readable ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
    return None


@lru_cache(maxsize=2000)
def _cached(reader: Callable[[Path], Any], file: Path, stamp: tuple) -> Any:
    return reader(file)


def _config(file: Path) -> dict[str, Any]:
    flat = pd.json_normalize(OmegaConf.to_container(read_config(file))).to_dict("records")
    return {str(key): value for key, value in flat[0].items()}


def _metrics(file: Path) -> dict[str, dict[str, float]]:
    return {
        str(row): {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
        for row, figures in read_json(file).items()
    }


def _intervals(file: Path) -> dict[str, str]:
    return {figure: f"{low:.3f} – {high:.3f}" for figure, (low, high) in read_json(file).items()}


def _history(file: Path) -> pd.DataFrame:
    history = pd.read_csv(file)
    numbers = history.apply(pd.to_numeric, errors="coerce").dropna(subset="epoch")
    return numbers.sort_values("epoch", ignore_index=True)


def _table(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, nrows=MAX_ROWS)
