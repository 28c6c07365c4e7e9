"""Parts of a card, in whatever format it is written: sections of words, tables and pictures, with their sources."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import pandas as pd


class Link(NamedTuple):
    """A file of the run, by its path below the run folder, and the words for it if not that path."""

    path: str
    text: str = ""


class Code(NamedTuple):
    """A command, a key or a name, as it is typed."""

    text: str


Cell = str | float | bool | Link | Code | None


class Column(NamedTuple):
    """A column of a table: numbers are written by `format`; columns side by side may share a `group`."""

    title: str
    format: str = ""
    group: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells, and the files of the run that the figures come from."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sources: Sequence[str] = ()
    title: str = ""
    folded: bool = False
    kind: ClassVar[str] = "table"

    @property
    def width(self) -> str:
        """The class of its columns' number, by which a page lays it out; `facts` has no titles."""
        if not any(column.title for column in self.columns):
            return "facts"
        return "wide" if len(self.columns) > 9 else "middle" if len(self.columns) > 2 else "narrow"

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of the columns from left to right with how many each has; empty where no column has one."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found if any(name for name, _ in found) else []


@dataclass(frozen=True)
class Picture:
    """A picture of the run folder, and what it shows; a chart is dark ink on white paper."""

    path: str
    text: str
    is_chart: bool = False
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, or a list where there are several texts; `sources` are the files that its figures come from."""

    texts: Sequence[str]
    sources: Sequence[str] = ()
    title: str = ""
    kind: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Snippet:
    """Lines of code to copy."""

    title: str
    text: str
    language: str
    kind: ClassVar[str] = "snippet"


@dataclass(frozen=True)
class Missing:
    """A part that a card lacks: its name, the command that makes it, and why it isn't shown."""

    what: str
    command: str
    why: str = "Not available"
    kind: ClassVar[str] = "missing"


Part = Table | Picture | Paragraph | Snippet | Missing


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    parts: Sequence[Part]


class Figure(NamedTuple):
    """One of the few figures at the top, with its file; `value` is None where it isn't known."""

    label: str
    value: str | None
    detail: str
    source: str


@dataclass(frozen=True)
class Card:
    """Everything that a card says."""

    name: str
    summary: str
    figures: Sequence[Figure]
    sections: Sequence[Section]
    metadata: dict = field(default_factory=dict)


def two_columns(rows: Sequence[tuple[str, Cell]], sources: Sequence[str]) -> Table:
    """A table of names and values, without those that aren't known."""
    return Table((Column(""), Column("")), [row for row in rows if row[1] not in (None, "")], sources)


def of_frame(frame: pd.DataFrame) -> Table:
    """The columns of a data frame, fractions with three digits."""
    columns = [Column(str(name), ".3f" if frame[name].dtype.kind == "f" else "") for name in frame]
    return Table(columns, frame.to_numpy(dtype=object).tolist())
