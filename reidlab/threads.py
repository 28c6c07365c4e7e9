"""As many of torch's threads as are fastest at present, since other programs may want the same cores.

Threads that share a loop wait for the last of them. Where another program holds a core, that one waits for its turn
while the others spin: two threads on two cores can be slower than one. A step that gets less processor time than it
has threads shows it.
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from reidlab.memory import kept_when_freed

WINDOW_S = 0.25  # in which steps are measured
STARVED = 0.25  # threads' worth of processor time that a step went without
GAIN = 1.05  # that fewer threads must bring
TRIALS = 0.03  # the share of the time that may go into trials

Batch = TypeVar("Batch", bound=Mapping)
Stage = TypeVar("Stage", bound=Callable)


class Pace:
    """Measures steps of work, and changes the number of threads where another one is faster.

    Fewer are tried where steps are starved of processor time, and one more, up to what torch had at first, from time to
    time afterwards. A trial is paid for by the time until the next one. On a machine that does nothing else
    there is no trial, so that sums are rounded as ever. OMP_NUM_THREADS, where it is set, holds the number too.

    Args:
        get: the number of threads.
        set: changes it.
        clock: seconds.
        processor: seconds of processor time of all threads of this process.
    """

    def __init__(
        self,
        get: Callable[[], int] = torch.get_num_threads,
        set: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
    ) -> None:
        self._get, self._set, self._clock, self._processor = get, set, clock, processor
        self.most = self.count = 0
        self.active = self._fixed = self._starting = self._suspected = False
        self._work = self._seconds = self._used = self._next_trial = 0.0
        self._compared: tuple[int, float] | None = None  # the number and the rate that a trial is measured against

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A loop of like steps; torch has its threads again afterwards, and the next loop begins as this one ended."""
        with kept_when_freed(), self._threads_kept():
            yield

    @contextmanager
    def _threads_kept(self) -> Iterator[None]:
        if self.active or self._fixed or "OMP_NUM_THREADS" in os.environ:
            yield
            return
        before = self._get()
        if before != self.most:
            self.most = self.count = before
            self._next_trial = 0.0
        self._forget()
        self._suspected = False
        self.active = True
        self._set(self.count)
        try:
            yield
        finally:
            if self._compared:  # a trial that isn't over
                (self.count, _), self._compared = self._compared, None
            self.active = False
            self._set(before)

    @contextmanager
    def fixed(self, count: int | None) -> Iterator[None]:
        """So many threads in all loops, meanwhile; None leaves them free."""
        before, was_fixed = self._get(), self._fixed
        self._set(count or before)
        self._fixed |= count is not None
        try:
            yield
        finally:
            self._set(before)
            self._fixed = was_fixed

    def begin(self) -> None:
        """A step begins."""
        self._begun = self._clock(), self._processor()

    def end(self, work: float) -> None:
        """The step is done; `work` is what it did, in units that are alike within a loop."""
        if not self.active or self.most == 1:
            return
        seconds, used = self._clock() - self._begun[0], self._processor() - self._begun[1]
        starting, self._starting = self._starting, False
        if starting and seconds < WINDOW_S:
            return
        self._work, self._seconds, self._used = self._work + work, self._seconds + seconds, self._used + used
        if self._seconds >= WINDOW_S:
            rate, starved, took = self._work / self._seconds, self.count - self._used / self._seconds, self._seconds
            self._forget()
            self._decide(rate, starved, took)

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """A loop over batches `{"image": (B, ...)}`, each of which is a step."""
        with self.kept():
            for batch in batches:
                self.begin()
                yield batch
                self.end(len(batch["image"]))

    def _decide(self, rate: float, starved: float, took: float) -> None:
        now = self._clock()
        if self._compared:
            self._judge(*self._compared, rate, starved, now)
            return
        again, self._suspected = self._suspected, starved > STARVED and self.count > 1
        if now < self._next_trial:
            return
        if again and self._suspected:  # in a whole window
            self._try(max(1, int(self.count - starved)), rate, now - took)  # as long as trying so many again takes
        elif starved <= STARVED and self.count < self.most:
            self._try(self.count + 1, rate, now)

    def _try(self, count: int, rate: float, begun: float) -> None:
        self._compared, self._tried_at = (self.count, rate), begun
        self._change(count)

    def _judge(self, count: int, before: float, rate: float, starved: float, now: float) -> None:
        """Stay with the number on trial, or go back to `count`, whose rate was `before`."""
        fewer = self.count < count
        better = rate > GAIN * before if fewer else rate >= before and starved <= STARVED
        if fewer and not better and starved > STARVED and self.count > 1:
            self._change(max(1, int(self.count - starved)))  # still too many to tell
            return
        self._compared = None
        if not better:
            self._change(count)
        if fewer or not better:
            self._next_trial = now + (now - self._tried_at) / TRIALS

    def _change(self, count: int) -> None:
        self.count = count
        self._set(count)
        self._forget()
        self._starting = True  # the threads, in the first step

    def _forget(self) -> None:
        """Begin a window."""
        self._work = self._seconds = self._used = 0.0
        self._starting = False


pace = Pace()  # of this process


def with_its_threads(stage: Stage) -> Stage:
    """A stage in whose loops torch has as many threads as `threads` of its run says; null leaves them free."""

    @functools.wraps(stage)
    def held(run: Mapping, *more: Any, **options: Any) -> Any:
        with pace.fixed(run["threads"]):
            return stage(run, *more, **options)

    return cast(Stage, held)
