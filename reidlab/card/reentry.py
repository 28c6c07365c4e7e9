"""The page about re-entry: who is recognized after how long a gap, and who is mistaken."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from reidlab.card.parts import of_frame
from reidlab.card.render import data_uri, number, page_environment
from reidlab.evaluation.reentry import FIGURES
from reidlab.run import provenance


def page(name: str, facts: Mapping[str, str], table: pd.DataFrame, tracks: pd.DataFrame, picture: Path,
         rate: float | None) -> str:  # fmt: skip
    """A self-contained page.

    Args:
        name: of the run.
        facts: lines below the title.
        table: of `reidlab.evaluation.reentry.reentry`.
        tracks: figures of the same sequences followed.
        picture: of the table.
        rate: frames a second; None where sequences differ, or don't say.
    """
    rows = [
        {
            "gap": f"{gap} frame{'' if gap == 1 else 's'}" + (f" ({gap / rate:.2g} s)" if rate else ""),
            "counts": [f"{row['known']:,.0f}", f"{row['unknown']:,.0f}", number(row["remembered"], ".1f")],
            "figures": [_cell(row, figure) for figure in FIGURES],
        }
        for gap, row in table.iterrows()
    ]
    template = page_environment().get_template("reentry.html")
    return template.render(
        name=name,
        facts=facts,
        rows=rows,
        tracks=of_frame(tracks.reset_index()),
        picture=data_uri(picture),
        made_by=provenance(),
    )


def _cell(row: pd.Series, figure: str) -> tuple[str, str]:
    low, high = row[f"{figure}_low"], row[f"{figure}_high"]
    return number(row[figure], ".3f"), "" if low != low else f"{low:.3f} to {high:.3f}"
