"""Memory of large tensors, kept for the next ones while a loop goes on.

The C library gives blocks of 32 MiB and more back to the system when they are freed, and the system clears every page
of the next one: with large networks that can take as long as the computation. A process that keeps its memory needs
some more of it, a few of its largest tensors.
"""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of GNU's mallopt
KEEP, USUAL = 2**31 - 1, 32 * 2**20  # bytes: the largest int, and what the library comes to by itself

_loops = 0  # that are going on, one within the other or side by side
_count = threading.Lock()  # of loops


@contextmanager
def kept_when_freed() -> Iterator[None]:
    """A loop of like steps; what is free at its end goes back. Does nothing where the C library isn't GNU's."""
    global _loops
    libc = _gnu()
    if libc is None:
        yield
        return
    with _count:
        _loops += 1
        _give_back_from(KEEP, libc)
    try:
        yield
    finally:
        with _count:
            _loops -= 1
            if not _loops:
                _give_back_from(USUAL, libc)
                libc.malloc_trim(0)


def _give_back_from(size: int, libc: ctypes.CDLL) -> None:
    libc.mallopt(MMAP_THRESHOLD, size)
    libc.mallopt(TRIM_THRESHOLD, size)


@cache
def _gnu() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
