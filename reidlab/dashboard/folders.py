"""Snapshots of run folders, for the dashboard; what is missing or broken is named in words, never raised."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from reidlab.config import NEUTRAL_KEYS
from reidlab.errors import InputError
from reidlab.files import read_json
from reidlab.run import File, Result, Row, Run
from reidlab.run.contract import HASHES, MADE_BY_QUANTIZE

MAIN_FIGURES = ("mAP", "top-1")
FIGURES = ("mAP", "rank-1", "rank-5", "mINP", "top-1", "top-5", "macro_f1")
SIZES = ("num_query", "num_gallery", "num_images")
FIRST_PICTURES = ("worst", "median", "best")
MAX_ROWS, MAX_COUNT = 2000, 2**53
NO_RUNS = ("notebooks",)  # folders beside the runs
TRACKED = {File.TRACK, File.REENTRY_PAGE}
SPLIT, NOT_SCORED = "test split", "not scored yet"


@dataclass
class Snapshot:
    """A run folder as it is now; `problems` says in words what can't be read."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)  # by dotted key
    results: Mapping[str, Result] = field(default_factory=dict)
    stale: Sequence[str] = ()  # rows of a checkpoint or a file that is no longer there
    history: pd.DataFrame = field(default_factory=pd.DataFrame)  # a row an epoch
    training: Mapping[str, Any] = field(default_factory=dict)  # train.json
    problems: list[str] = field(default_factory=list)

    def read(self, reader: Callable[[Path], Any], *files: str) -> Any:
        """The result of a reader on the first file, cached until one of the files changes; None where it fails."""
        return _read(reader, [self.folder / file for file in files], self.problems)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def is_search(self) -> bool:
        """Whether it holds the trials of a search."""
        return (self.folder / File.SEARCH).exists()

    def changed(self, *names: str) -> float:
        """When one of these files was last written; without any, those of epochs, figures and trials."""
        files = names or (File.HISTORY, File.METRICS, File.TRIALS)
        return max(_stamp(self.folder / file)[0] for file in files)

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
            done, planned = int(self.history["epoch"].iloc[-1]), self.settings.get("trainer.max_epochs", "?")
            return f"epoch {done}" if self.settings.get("trainer.max_time") else f"epoch {done} of {planned}"
        return "evaluated" if self.results else "started"

    def evaluated(self) -> list[str]:
        """The rows of metrics.json that have pictures or tables of their own."""
        rows = [place.name for place in _children(self.folder / File.EVALUATE) if _children(place)]
        return sorted(rows, key=lambda row: (row != Row.CHECKPOINT, row))


def run_folders(root: Path) -> list[Path]:
    """The folders of runs in `root`, by name; those that hold the tracks of a released network alone are none."""
    named = (p for p in _children(root) if p.is_dir() and p.name not in NO_RUNS and not p.name.startswith("."))
    return sorted(p for p in named if {child.name for child in _children(p)} - TRACKED or not (p / File.TRACK).exists())


def read_run(folder: Path) -> Snapshot:
    """Read a run folder; files that can't be read are named in its `problems`."""
    found = Snapshot(folder)
    found.settings = found.read(_settings, File.CONFIG) or {}
    if not found.settings:
        if not found.problems and not found.is_search:
            found.problems.append("config.yaml is missing: no run, or one that was cut short before it began")
        return found
    measured = dict.fromkeys(MADE_BY_QUANTIZE.values())
    found.results, found.stale = found.read(_results, File.METRICS, File.BEST, File.CONFIG, *measured) or ({}, ())
    found.training = found.read(_training, File.TRAINING) or {}
    history = found.read(_history, File.HISTORY)
    found.history = found.history if history is None else history
    return found


def leaderboard(runs: Sequence[Snapshot], every_row: bool = False) -> pd.DataFrame:
    """A row a network: its data, its figures with their 95 % intervals, and how they were measured.

    Sorted by test split, then best first: figures of two test splits can't be ranked. Without `every_row`, a run shows
    its checkpoint alone, or all its rows where it has none.
    """
    lines = []
    names: dict[str, str] = {}  # of the digests of test splits
    for run in runs:
        about = {"run": run.name, "state": run.state, "model": run.settings.get("model.name")}
        about["parameters"] = run.training.get("parameters")
        chosen = [row for row in run.results if row == Row.CHECKPOINT]
        rows: list[str | None] = [*(run.results if every_row or not chosen else chosen)] or [None]
        for name in rows:
            foreign = {"model": name, "parameters": None} if name and run.results[name].is_foreign else {}
            lines.append(about | foreign | {"row": name} | (_line(run, name, names) if name else {}))
    row = ["row"] if every_row else []
    columns = ["run", *row, *_columns(lines), "model", "state", "parameters", "protocol", SPLIT]
    table = pd.DataFrame(lines, columns=columns)
    for name in {*SIZES, "parameters"} & {*table}:
        numbers = pd.to_numeric(table[name], errors="coerce")
        table[name] = numbers.where(numbers.abs() < MAX_COUNT).round().astype("Int64")
    main = [name for name in MAIN_FIGURES if name in table]
    return table.sort_values([SPLIT, *main], ascending=[True, *(False for _ in main)], kind="stable", ignore_index=True)


def newest(runs: Sequence[Snapshot], *files: str) -> Snapshot:
    """The run of which one of these files was written last; without any, those of epochs, figures and trials."""
    return max(runs, key=lambda run: run.changed(*files))


def by_split(board: pd.DataFrame, runs: Sequence[Snapshot]) -> dict[str, pd.DataFrame]:
    """Test split -> its rows of a leaderboard, best first; that of the newest run first, `NOT_SCORED` last."""
    order = {run.name: run.changed() for run in runs}
    groups = {str(split): table for split, table in board.fillna({SPLIT: NOT_SCORED}).groupby(SPLIT, sort=False)}
    return dict(sorted(groups.items(), key=lambda item: (item[0] == NOT_SCORED, -item[1]["run"].map(order).max())))


def newest_and_best(runs: Sequence[Snapshot], *files: str) -> list[str]:
    """The names of the newest run, see `newest`, and of the best on its test split, which may be the same."""
    last, groups = newest(runs, *files).name, by_split(leaderboard(runs), runs)
    best = [table["run"].iloc[0] for split, table in groups.items() if split != NOT_SCORED and last in {*table["run"]}]
    return list(dict.fromkeys([last, *best]))


def curves(runs: Sequence[Snapshot]) -> dict[str, pd.DataFrame]:
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
    return _read(_table, [file], [])


def paired(one: Snapshot, other: Snapshot) -> pd.DataFrame | None:
    """The comparison of two runs by `evaluate.against`; None where there is none of their present checkpoints."""
    found = table(one.folder / File.EVALUATE / Row.CHECKPOINT / f"against_{other.name}.csv")
    compared = {"checkpoint": one, "against": other}
    if found is None or any(
        name in found and (found[name] != run.read(_checkpoint, File.CONFIG, File.BEST)).any()
        for name, run in compared.items()
    ):
        return None
    return found.drop(columns=[*compared], errors="ignore")


def compare(first: Snapshot, second: Snapshot) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The figures of rows that two runs share, with their differences and protocols; and the settings that differ."""
    lines = []
    for row in (row for row in first.results if row in second.results):
        one, other = first.results[row], second.results[row]
        protocols = _protocols(one.protocol, other.protocol)
        for figure in (name for name in FIGURES if name in one.figures and name in other.figures):
            lines.append((row, figure, one.figures[figure], other.figures[figure], protocols))
    figures = pd.DataFrame(lines, columns=["row", "figure", "first", "second", "protocols"])
    figures.insert(4, "difference", figures["second"] - figures["first"])
    changed = [
        (key, str(first.settings.get(key, "–")), str(second.settings.get(key, "–")))
        for key in sorted(first.settings.keys() | second.settings.keys())
        if first.settings.get(key) != second.settings.get(key)
        and not key.startswith(("run.", "logger."))
        and not NEUTRAL_KEYS.fullmatch(key)
    ]
    return figures, pd.DataFrame(changed, columns=["key", "first", "second"])


def _protocols(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether two figures may be compared, in words."""
    if not one or not other:
        return "not recorded"
    differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return f"differ: {', '.join(differing)}" if differing else "same"


def _line(run: Snapshot, row: str, names: dict[str, str]) -> dict[str, Any]:
    """Test split, protocol, figures and sizes of a row, and `<figure> 95 %` for those with an interval."""
    result, elsewhere = run.results[row], Row.CHECKPOINT.on("")
    intervals = run.read(_intervals, f"{File.EVALUATE}/{row}/intervals.json") or {}
    tested = result.data or run.settings.get("data.name") or "unnamed data"
    data = row.removeprefix(elsewhere) if row.startswith(elsewhere) else tested
    digest = str(result.protocol.get("test", ""))
    split = names.setdefault(digest, f"{data} {digest[:8]}") if digest else f"{data}, digest not recorded"
    rules = ", ".join(f"{name}={value}" for name, value in result.protocol.items() if name != "test")
    figures = {name: value for name, value in result.figures.items() if name in (*FIGURES, *SIZES)}
    ends = {f"{name} 95 %": intervals[name] for name in MAIN_FIGURES if name in figures and name in intervals}
    return {SPLIT: split, "protocol": rules} | figures | ends


def _columns(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures that any line has, an interval behind its main figure, and the sizes."""
    wanted = [c for name in FIGURES for c in ((name, f"{name} 95 %") if name in MAIN_FIGURES else (name,))]
    return [name for name in (*wanted, *SIZES) if any(name in line for line in lines)]


def _children(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []


def _stamp(file: Path) -> tuple[float, int, int]:
    """Time, size and inode of a file; zeros where it is absent."""
    try:
        stat = file.stat()
        return stat.st_mtime, stat.st_size, stat.st_ino
    except OSError:
        return 0.0, 0, 0


def _read(reader: Callable[[Path], Any], files: Sequence[Path], problems: list[str]) -> Any:
    """See `Snapshot.read`; None without a problem where the first file is absent."""
    stamps = tuple(map(_stamp, files))
    if not any(stamps[0]):
        return None
    try:
        return _cached(reader, files[0], stamps)
    except InputError as error:
        problems.append(str(error))
    except Exception as error:  # a broken file may do anything to a parser
        problems.append(f"{files[0]}: not readable ({type(error).__name__}: {' '.join(str(error).split())[:200]})")
    return None


@lru_cache(maxsize=2000)
def _cached(reader: Callable[[Path], Any], file: Path, stamps: tuple) -> Any:
    return reader(file)


def _settings(file: Path) -> dict[str, Any]:
    flat = pd.json_normalize(Run.stored(file.parent).settings).to_dict("records")
    return {str(key): value for key, value in flat[0].items()}


def _training(file: Path) -> dict[str, Any]:
    return Run.stored(file.parent).training


def _results(file: Path) -> tuple[dict[str, Result], list[str]]:
    run = Run.stored(file.parent)
    results = {
        row: replace(result, figures={k: float(v) for k, v in result.figures.items()}, protocol=dict(result.protocol))
        for row, result in run.results.items()
    }
    return results, run.stale_results


def _intervals(file: Path) -> dict[str, str]:
    return {figure: f"{low:.3f} – {high:.3f}" for figure, (low, high) in read_json(file).items()}


def _history(file: Path) -> pd.DataFrame:
    numbers = pd.read_csv(file).apply(pd.to_numeric, errors="coerce")
    numbers = numbers[numbers["epoch"].abs() < MAX_COUNT].sort_values("epoch", ignore_index=True)
    return numbers.assign(epoch=numbers["epoch"] + (numbers["epoch"].min() == 0))  # earlier releases counted from 0


def _table(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, nrows=MAX_ROWS, dtype=HASHES)


def _checkpoint(file: Path) -> str:
    return Run.stored(file.parent).checkpoint
