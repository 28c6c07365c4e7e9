"""Output of the stages: lines by one logger, and tables; in a terminal, a log and a notebook."""

import logging
import math
import os
import sys
import textwrap
from html import escape
from typing import TYPE_CHECKING, Literal

from reidlab.progress import in_notebook
from reidlab.untrusted import printable

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

PAGE = 100  # characters beside JupyterLab's list of files
log = logging.getLogger("reidlab")


class Lines(logging.Handler):
    """Plain lines on the standard output as it is now, which a notebook or a test may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message alone; JupyterLab would break a long line within a word."""
        text = printable(self.format(record))
        print(_wrapped(text) if in_notebook() else text, file=sys.stdout, flush=True)


def _wrapped(text: str) -> str:
    words = textwrap.TextWrapper(PAGE, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(words.fill(line) for line in text.splitlines())


if not log.handlers:
    log.addHandler(Lines())
    log.setLevel(logging.INFO)
    log.propagate = False


def print_table(table: "pd.DataFrame", title: str = "") -> None:
    """Print a table, its index first; floats with three digits, missing values as a dash.

    It is as wide as the terminal or `$COLUMNS`, in a log 120 columns, and turned on its side where its words don't fit
    in it otherwise. A notebook gets it as one of its own.
    """
    from rich.console import Console

    cells = table.astype(object).where(table.notna(), None).map(_cell)
    console = Console()
    if console.is_jupyter:
        from IPython.display import HTML, display

        cells.columns = [str(name).replace("_", " ").replace("-", "\u2011") for name in cells]  # breaks at blanks alone
        rows = cells.to_html(border=0).replace("<td>", '<td style="white-space: nowrap">')
        display(HTML(f"<b>{escape(title)}</b>{rows}"))
        return
    width = None if console.is_terminal or "COLUMNS" in os.environ else 120
    console = Console(width=width, markup=False)
    columns = [[cells.index.name or "", *map(str, cells.index)]]
    columns += [[str(name), *cells.iloc[:, number]] for number, name in enumerate(cells)]
    upright = [[printable(text) for text in (column[0].replace("_", " "), *column[1:])] for column in columns]
    turned = [[*row] for row in zip(*upright, strict=True)]
    layouts = (_layout(each, title, gap, console.width) for gap in (2, 1) for each in (upright, turned))
    console.print(next(filter(None, layouts), None) or _layout(upright, title, 1, console.width, break_words=True))


def _layout(columns: list[list[str]], title: str, gap: int, width: int, break_words: bool = False) -> "Table | None":
    """A table of columns, their headings first, so many blanks apart; None where lines would break within words."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    shown = Table(title=printable(title), box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0))
    shown.title_justify, shown.title_style = "left", "bold"
    least = [max(cell_len(word) for text in column for word in [*text.split(), ""]) for column in columns]
    least[0] = max(map(cell_len, columns[0]))
    spare = width - sum(least) - gap * len(columns) - 1
    if spare < 0 and not break_words:
        return None
    for number, (column, low) in enumerate(zip(columns, least, strict=True)):
        more = max(0, min(spare, max(map(cell_len, column)) - low))
        spare -= more
        justify: Literal["left", "right"] = "right" if number else "left"
        shown.add_column(column[0], justify=justify, overflow="fold", width=None if break_words else low + more)
    for row in zip(*(column[1:] for column in columns), strict=True):
        shown.add_row(*row)
    return shown


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return written(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def written(value: float) -> str:
    """A number of a table: three decimals below 10, one below 1,000, then none; a power of ten below a thousandth."""
    if abs(value) >= 10:
        return f"{value:,.{0 if abs(value) >= 1000 or value == round(value) else 1}f}"
    return f"{value:.3f}" if abs(value) >= 1e-3 or not value else f"{value:.1e}"


def percent(share: float, decimals: int = 0) -> str:
    """A share in a sentence: with more decimals where it would read as none or all otherwise."""
    rest = 100 * min(share, 1 - share)
    return f"{share:.{max(decimals, -math.floor(math.log10(rest)) if rest > 1e-9 else 0)}%}"


def significant(value: float) -> str:
    """A distance or threshold in a sentence: four significant digits; 0 below what rounding leaves."""
    return f"{round(value, 9) + 0.0:.4g}"
