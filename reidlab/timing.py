"""Where the time of a run goes: seconds by part, of which the innermost counts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Parts:
    """Seconds of wall-clock time by the path of parts that they were spent in, such as `("train", "forward")`.

    >>> parts = Parts(iter([0, 1, 3, 7]).__next__)
    >>> with parts.within("train"):
    ...     parts.turn(1, "forward")
    ...     parts.turn(1, "backward")
    >>> parts.seconds
    {('train',): 1, ('train', 'forward'): 2, ('train', 'backward'): 4}
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[tuple[str, ...], float] = {}
        self.path: list[str] = []
        self._clock, self._since = clock, 0.0

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """A part of the present one."""
        depth = len(self.path)
        self.turn(depth, part)
        try:
            yield
        finally:
            self.turn(depth)

    def turn(self, depth: int, *parts: str) -> None:
        """From now on it is these parts below the first `depth` ones of the path."""
        now = self._clock()
        if self.path:
            self.seconds[tuple(self.path)] = self.seconds.get(tuple(self.path), 0) + now - self._since
        self._since, self.path[depth:] = now, parts


spent = Parts()  # of this process
