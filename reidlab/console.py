"""Output of the stages: lines by one logger, and tables; in a terminal, a log and a notebook."""

import logging
import sys
from html import escape
from typing import TYPE_CHECKING

from reidlab.untrusted import printable

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("reidlab")


class Lines(logging.Handler):
    """Plain lines on the standard output as it is now, which a notebook or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message alone."""
        print(printable(self.format(record)), file=sys.stdout, flush=True)


if not log.handlers:
    log.addHandler(Lines())
    log.setLevel(logging.INFO)
    log.propagate = False


def print_table(table: "pd.DataFrame", title: str = "") -> None:
    """Print a table, its index first; floats with three digits, missing values as a dash.

    A notebook gets it as one of its own, as wide as it is.
    """
    from rich.console import Console
    from rich.table import Table

    cells = table.astype(object).where(table.notna(), None).map(_cell)
    console = Console()
    if console.is_jupyter:
        from IPython.display import HTML, display

        display(HTML(f"<b>{escape(title)}</b>{cells.to_html(border=0)}"))
        return
    shown = Table(title=title, title_justify="left", title_style="bold")
    shown.add_column(table.index.name or "", no_wrap=True)
    for column in table.columns:
        shown.add_column(str(column), justify="right")
    for name, row in cells.iterrows():
        shown.add_row(*map(printable, (str(name), *row)))
    Console(width=None if console.is_terminal else 120, markup=False).print(shown)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return written(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def written(value: float) -> str:
    """A number of a table: three decimals, none beyond a thousand, a power of ten below a thousandth."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"
