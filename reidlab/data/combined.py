"""Several data sets as one: more identities to train on, or a test on cameras that aren't among the training ones."""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pandas as pd

from reidlab.data.samples import Samples
from reidlab.data.sources import require_folder
from reidlab.errors import InputError


class CombinedSources:
    """The samples of several named sources, their pids and camids renumbered so that none is shared.

    Sources named in `tested_on` give all of their splits, the others their training images alone. A source that is
    None is left out. Paths become relative to `root`. Pid 0 (distractor) and camid 0 (unknown) keep their meaning.
    Labels of the others are the source's name and the label there.
    """

    def __init__(
        self, root: str | Path, sources: Mapping[str, Callable[[], Samples] | None], tested_on: Collection[str]
    ) -> None:
        self.root = Path(root)
        self.sources = {name: source for name, source in sources.items() if source is not None}
        self.tested_on = frozenset(tested_on)
        if unknown := sorted(self.tested_on - self.sources.keys()):
            raise InputError(f"data.source.tested_on: '{unknown[0]}' isn't one of {', '.join(self.sources)}")

    def __call__(self) -> Samples:
        """Read all sources, in the order given."""
        require_folder(self.root, "data.root")
        tables, notes = [], []
        names: dict[int, str] = {}
        cameras: dict[int, str] = {}
        last_pid = last_camid = 0
        for name, source in self.sources.items():
            samples = source()
            table = samples.table if name in self.tested_on else samples.split("train")
            prefix = Path(os.path.relpath(samples.root, self.root))
            renumbered = table.assign(
                path=[(prefix / path).as_posix() for path in table["path"]],
                pid=table["pid"].where(table["pid"] == 0, table["pid"] + last_pid),
                camid=table["camid"].where(table["camid"] == 0, table["camid"] + last_camid),
            )
            tables.append(renumbered)
            notes += [f"{name}: {note}" for note in samples.notes]
            shown = samples.labeled(table)
            for column, labels in (("pid", names), ("camid", cameras)):
                known = table[column] > 0
                labels |= {
                    number: f"{name} {own}"
                    for number, own in zip(renumbered.loc[known, column], shown.loc[known, column], strict=True)
                }
            if len(table):
                last_pid, last_camid = (max(int(tables[-1][c].max()), n) for c, n in
                                        (("pid", last_pid), ("camid", last_camid)))  # fmt: skip
        return Samples(pd.concat(tables), self.root, notes, names, cameras)
