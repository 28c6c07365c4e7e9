import resource
import sys
from pathlib import Path

import pytest
import torch

from reidlab.memory import kept_when_freed

PAGE_BYTES, TENSOR_BYTES = resource.getpagesize(), 64 * 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="of GNU's C library")


def cleared_pages() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(TENSOR_BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_in_a_loop_large_tensors_take_the_memory_of_those_before():
    with kept_when_freed():
        cleared = [cleared_pages() for _ in range(40)]
    assert sum(cleared[20:]) < TENSOR_BYTES / PAGE_BYTES  # at first some find no gap that is wide enough
    assert cleared_pages() > 0.9 * TENSOR_BYTES / PAGE_BYTES  # though the next may find this one's gap in the heap


def test_after_the_outermost_loop_memory_goes_back():
    before = resident_bytes()
    with kept_when_freed():
        with kept_when_freed():
            torch.ones(4 * TENSOR_BYTES // 4)
        assert resident_bytes() - before > 3 * TENSOR_BYTES
    assert resident_bytes() - before < TENSOR_BYTES
