"""How far a long loop is: a bar in a terminal, a widget in a notebook, now and then a plain line in a log."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 30


class Lines:
    """A progress bar as plain lines with rate and time left; a short loop prints none."""

    def __init__(self, items: Iterable = (), desc: str = "", total: int | None = None, unit: str = "it"):
        self.items, self.desc, self.unit = items, desc, unit
        self.total = total or (len(items) if isinstance(items, Sized) else None)
        self.done, self.started = 0, time.monotonic()
        self.told = self.started

    def __iter__(self) -> Iterator:
        for item in self.items:
            yield item
            self.update()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        now = time.monotonic()
        if now - self.told >= SECONDS_BETWEEN_LINES:
            self.told, rate = now, self.done / (now - self.started)
            of = left = ""
            if self.total is not None:
                of, left = f"/{self.total}", f", {(self.total - self.done) / rate / 60:.1f} min left"
            print(f"{self.desc}: {self.done}{of}, {rate:.3g} {self.unit}/s{left}", flush=True)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def bar(items: Iterable | None = None, shown: bool = True, **options: Any) -> "tqdm | Lines":
    """A loop over items, or a counter with `update`, that shows its progress; options `desc`, `total` and `unit`."""
    if not shown or in_notebook() or sys.stderr.isatty():
        return tqdm(items, leave=False, disable=not shown, **options)
    return Lines(() if items is None else items, **options)
