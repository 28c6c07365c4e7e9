from itertools import permutations

import numpy as np
import pytest

from reidlab.deploy.planner import ALIGNMENT, PlanStep, plan


def random_problem(seed, count=7):
    """Steps 0..count-1, each of which makes the tensor of its number from one to three earlier ones."""
    random = np.random.default_rng(seed)
    steps, sizes = [], {-1: ALIGNMENT * int(random.integers(1, 20))}
    for index in range(count):
        earlier = list(range(-1, index))
        inputs = tuple(random.choice(earlier, min(len(earlier), random.integers(1, 4)), replace=False).tolist())
        sizes[index] = ALIGNMENT * int(random.integers(1, 20))
        replaceable = frozenset(tensor for tensor in inputs if random.random() < 0.5)
        work = (ALIGNMENT * int(random.integers(0, 4)),)
        steps.append(PlanStep(f"step {index}", inputs, index, work, replaceable))
    return steps, sizes


def needed(order, sizes, kept):
    """Peak of live bytes of an order, by sets of tensors."""
    live, peak = {-1}, sizes[-1]
    for position, step in enumerate(order):
        later = {tensor for other in order[position + 1 :] for tensor in other.inputs} | set(kept)
        dying = [tensor for tensor in step.inputs if tensor not in later]
        room = [t for t in dying if t in step.replaceable and sizes[t] >= sizes[step.output]]
        own = 0 if room else sizes[step.output]
        peak = max(peak, sum(sizes[tensor] for tensor in live) + own + sum(step.work_bytes))
        live = (live | {step.output}) & later
    return peak


def executable(order):
    made = {-1}
    for step in order:
        if not made.issuperset(step.inputs):
            return False
        made.add(step.output)
    return True


@pytest.mark.parametrize("seed", range(25))
def test_order_is_the_best_of_all(seed):
    steps, sizes = random_problem(seed)
    kept = (len(steps) - 1,)
    best = min(needed(order, sizes, kept) for order in permutations(steps) if executable(order))
    found = plan(steps, sizes, held=(-1,), kept=kept)
    assert executable(found.steps) and sorted(step.output for step in found.steps) == list(range(len(steps)))
    assert needed(found.steps, sizes, kept) == best == max(found.live_bytes)
    assert found.lower_bound <= best <= found.arena_bytes


@pytest.mark.parametrize("seed", range(25))
def test_nothing_that_lives_is_overwritten(seed):
    steps, sizes = random_problem(seed)
    found = plan(steps, sizes, held=(-1,), kept=(len(steps) - 1,))
    memory = np.zeros(found.arena_bytes, int)  # which tensor wrote each byte last

    def write(tensor):
        memory[found.offsets[tensor] : found.offsets[tensor] + sizes[tensor]] = tensor

    memory[:] = -9
    write(-1)
    for position, step in enumerate(found.steps):
        for offset, size in zip(found.work_offsets[position], step.work_bytes, strict=True):
            memory[offset : offset + size] = -2
        for tensor in step.inputs:
            place = memory[found.offsets[tensor] : found.offsets[tensor] + sizes[tensor]]
            assert (place == tensor).all(), f"tensor {tensor} was overwritten before {step.name}"
        overlapped = [
            tensor
            for tensor in step.inputs
            if found.offsets[tensor] < found.offsets[step.output] + sizes[step.output]
            and found.offsets[step.output] < found.offsets[tensor] + sizes[tensor]
        ]
        assert set(overlapped) <= step.replaceable
        write(step.output)


def test_placements_are_the_picture_of_the_plan():
    steps = [PlanStep("a", (), 0), PlanStep("b", (0,), 1, (16,)), PlanStep("c", (1,), 2, replaceable=frozenset({1}))]
    found = plan(steps, {0: 64, 1: 32, 2: 32}, held=(), kept=(2,))
    spans = {place.label: (place.size, place.first, place.last) for place in found.placements}
    assert spans == {"tensor 0": (64, 0, 1), "tensor 1": (32, 1, 2), "tensor 2": (32, 2, 3), "work of b": (16, 1, 1)}
    assert found.offsets[1] == found.offsets[2]
    assert found.arena_bytes == found.lower_bound == max(found.live_bytes) == 112


def test_sizes_are_aligned_and_outside_tensors_take_no_room():
    steps = [PlanStep("a", (9,), 0), PlanStep("b", (0,), 1), PlanStep("c", (0, 1), 8)]
    found = plan(steps, {0: 3, 1: 9}, held=(9,))
    assert found.arena_bytes == 24 and 8 not in found.offsets and 9 not in found.offsets


def test_streams_of_a_block_run_one_after_the_other():
    """Each of three branches is large inside and small at its end; side by side they would need three times as much."""
    steps = [PlanStep("in", (), 0)]
    for branch in range(3):
        steps.append(PlanStep(f"wide {branch}", (0,), 10 + branch))
    for branch in range(3):
        steps.append(PlanStep(f"narrow {branch}", (10 + branch,), 20 + branch))
    steps.append(PlanStep("join", (20, 21, 22), 30))
    sizes = {0: 8, 30: 8} | {10 + b: 800 for b in range(3)} | {20 + b: 8 for b in range(3)}
    assert plan(steps, sizes, held=()).arena_bytes == 8 + 800 + 2 * 8
