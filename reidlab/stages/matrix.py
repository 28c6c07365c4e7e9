"""Command `matrix`: what runs score on their own test set and on those of `evaluate.also`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from reidlab.console import log, print_table
from reidlab.errors import InputError
from reidlab.run import Result, Row, Run

RULES = "protocol"  # the column of a table whose runs aren't scored by one protocol


def run(runs: Sequence[Run]) -> pd.DataFrame:
    """Print and return the cross-domain table of some evaluated runs."""
    table = transfer_matrix(runs)
    print_table(table, "mAP: trained on, tested on")
    if RULES in table:
        log.warning("these runs are scored by different protocols: compare the figures of one protocol alone")
    return table


def transfer_matrix(runs: Sequence[Run], figure: str = "mAP") -> pd.DataFrame:
    """A row a run, a column a test set, which is one set only where its images are; `protocol` where runs differ in it.

    Two sets of one name have their digests behind it. Raises InputError for a run without the figure.
    """
    columns: dict[str, str] = {}  # name of each test set, by its digest
    cells: dict[str, dict[str, float]] = {}
    rules: dict[str, dict[str, str]] = {}
    for run in runs:
        origin = _origin(run)
        line = f"{run.name} ({origin})"
        line = f"{run.folder} ({origin})" if line in cells else line
        cells[line], rules[line] = {}, {}
        for data, result in _test_sets(run):
            if figure not in result.figures:
                raise InputError(f"{run.folder}: has no {figure}; a cross-domain table is of re-identification runs")
            digest = str(result.protocol.get("test", data))
            columns.setdefault(digest, data)
            if digest not in cells[line]:
                cells[line][digest], rules[line][digest] = result.figures[figure], _rule(result.protocol)
    names = [*columns.values()]
    labels = {key: f"{name} {key[:8]}" if names.count(name) > 1 else name for key, name in columns.items()}
    table = pd.DataFrame.from_dict(cells, orient="index", columns=[*columns]).rename(columns=labels)
    if any(len({rule[key] for rule in rules.values() if key in rule}) > 1 for key in columns):
        table[RULES] = ["; ".join(dict.fromkeys(rule.values())) for rule in rules.values()]
    return table.rename_axis("trained on")


def _origin(run: Run) -> str:
    """Name the data that a run's network learned, or else its weights."""
    if run.is_trained:
        then = run.as_trained
        return then["data.name"] if then else "not recorded"
    file = run.foreign_file or run.weights
    return file.name if file else "not trained"


def _test_sets(run: Run) -> Iterator[tuple[str, Result]]:
    """Name and figures of a run's own test set and of the others; InputError where it isn't evaluated."""
    results, elsewhere = run.results, Row.CHECKPOINT.on("")
    if run.subject not in results:
        raise InputError(f"{run.folder}: not evaluated; run `{run.command('evaluate')}` first")
    yield results[run.subject].data or run["data.name"], results[run.subject]
    if run.foreign_file:
        return
    for row, result in results.items():
        if row.startswith(elsewhere):
            digest = str(result.protocol.get("test", ""))[:8]
            yield row.removeprefix(elsewhere).removesuffix(f" {digest}"), result


def _rule(protocol: Mapping[str, Any]) -> str:
    """A protocol in words, without its test images, and their size, which is a network's own."""
    own = "test", "size"
    return ", ".join(f"{name}={value}" for name, value in protocol.items() if name not in own) or "not recorded"
