"""Memory of large tensors, kept for the next ones when it is freed.

The C library gives blocks of 32 MiB and more back to the system at once, and the system clears every page of the next
one: with large networks that can take as long as the computation. A process that keeps its memory needs some more of
it, a few of its largest tensors.
"""

import ctypes
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of GNU's mallopt
LARGEST = 2**31 - 1  # bytes, of its int


@cache
def keep_freed() -> None:
    """Let this process keep its freed memory; does nothing where the C library isn't GNU's."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "gnu_get_libc_version"):
        libc.mallopt(MMAP_THRESHOLD, LARGEST)
        libc.mallopt(TRIM_THRESHOLD, LARGEST)
