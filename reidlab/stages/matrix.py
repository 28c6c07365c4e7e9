"""Command `matrix`: what runs score on their own test set and on those of `evaluate.also`."""

from collections.abc import Sequence

import pandas as pd

from reidlab.console import print_table
from reidlab.errors import InputError
from reidlab.run import Row, Run


def run(runs: Sequence[Run]) -> pd.DataFrame:
    """Print and return the cross-domain table of some evaluated runs."""
    table = transfer_matrix(runs)
    print_table(table, "mAP: trained on, tested on")
    return table


def transfer_matrix(runs: Sequence[Run], figure: str = "mAP") -> pd.DataFrame:
    """A row a run, a column a test set."""
    cells = {}
    for run in runs:
        results, home = run.results, run["data.name"]
        if Row.CHECKPOINT not in results:
            raise InputError(f"{run.folder}: not evaluated; run `{run.command('evaluate')}` first")
        own = (Row.CHECKPOINT, Row.CHECKPOINT.on(""))
        rows = {row: found for row, found in results.items() if row == own[0] or row.startswith(own[1])}
        cells[f"{run.name} ({home})"] = {row.partition("@")[2] or home: r.figures[figure] for row, r in rows.items()}
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("trained on")
