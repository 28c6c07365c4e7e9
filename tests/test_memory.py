import resource
import sys

import pytest
import torch

from reidlab.memory import keep_freed

PAGE_BYTES, TENSOR_BYTES = resource.getpagesize(), 64 * 2**20


def cleared_pages() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(TENSOR_BYTES // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="of GNU's C library")
def test_large_tensors_take_the_memory_of_those_before():
    keep_freed()
    cleared = [cleared_pages() for _ in range(40)]
    assert sum(cleared[20:]) < TENSOR_BYTES / PAGE_BYTES  # at first some find no gap that is wide enough
