"""Memory plan of one static arena: the best order of steps, buffers shared over time, results in place.

A step reads whole tensors, writes one, and needs work space while it runs. The order is found by a best-first search
over sets of finished steps; where that takes too many states, the order of the file is kept.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

SEARCH_LIMIT = 200_000
ALIGNMENT = 8
PLACING_ORDERS = (  # of buffers (size, first, last): by size, by start, by area
    lambda buffer: (-buffer[0], buffer[1]),
    lambda buffer: (buffer[1], -buffer[0]),
    lambda buffer: (-buffer[0] * (buffer[2] - buffer[1] + 1), buffer[1]),
)


@dataclass(frozen=True)
class PlanStep:
    """One unit of execution; `replaceable` are inputs that the output may overwrite if nothing needs them later."""

    name: str
    inputs: tuple[int, ...]
    output: int
    work_bytes: tuple[int, ...] = ()
    replaceable: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Placement:
    """Bytes [offset, offset + size) of the arena, held from position `first` to `last` of the order."""

    tensor: int | None
    label: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """Steps in order, offsets of tensors and of each step's work space, and all placements.

    - `arena_bytes`: the size to reserve; `live_bytes`: needed at each position, whatever the placement
    - `lower_bound`: no order and no placement of these steps can need less
    """

    steps: list[PlanStep]
    offsets: dict[int, int]
    work_offsets: dict[int, list[int]]
    arena_bytes: int
    live_bytes: list[int]
    lower_bound: int
    placements: list[Placement] = field(repr=False)


def plan(steps: Sequence[PlanStep], sizes: dict[int, int], held: tuple[int, ...], kept: tuple[int, ...] = ()) -> Plan:
    """Order the steps and place their tensors.

    Args:
        steps: in an executable order.
        sizes: tensor -> bytes; one that is absent lies elsewhere and is not placed.
        held: tensors that exist before the first step.
        kept: tensors that must exist after the last.
    """
    problem = _Problem(list(steps), {tensor: _align(size) for tensor, size in sizes.items()}, held, kept)
    order = problem.best_order()
    return problem.place(order)


def _align(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Problem:
    """The search for the best order; sets of steps are bit masks."""

    def __init__(self, steps: list[PlanStep], sizes: dict[int, int], held: tuple[int, ...], kept: tuple[int, ...]):
        self.steps, self.sizes, self.held, self.kept = steps, sizes, held, set(kept)
        maker = {step.output: index for index, step in enumerate(steps)}
        self.needs = [sum({1 << maker[t] for t in step.inputs if t in maker}) for step in steps]
        self.users: dict[int, int] = {}
        for index, step in enumerate(steps):
            for tensor in step.inputs:
                self.users[tensor] = self.users.get(tensor, 0) | 1 << index

    def run(self, index: int, done: int, live: int) -> tuple[int, int, int | None]:
        """(bytes needed while the step runs, bytes live after it, input that the output replaces)."""
        step = self.steps[index]
        after = done | 1 << index
        dying = [
            tensor
            for tensor in dict.fromkeys(step.inputs)
            if tensor in self.sizes and tensor not in self.kept and not self.users[tensor] & ~after
        ]
        size = self.sizes.get(step.output, 0)
        fitting = [tensor for tensor in dying if tensor in step.replaceable and self.sizes[tensor] >= size]
        replaced = min(fitting, key=lambda tensor: self.sizes[tensor], default=None) if size else None
        during = live + sum(map(_align, step.work_bytes)) + (0 if replaced is not None else size)
        unused = size if not self.users.get(step.output, 0) and step.output not in self.kept else 0
        return during, live + size - sum(self.sizes[tensor] for tensor in dying) - unused, replaced

    def best_order(self) -> list[int]:
        """The order with the smallest peak; of equals, the first that is found."""
        start = sum(self.sizes.get(tensor, 0) for tensor in self.held)
        everything = (1 << len(self.steps)) - 1
        ticket = count()
        heap = [(start, 0, next(ticket), 0, start, None)]
        seen: set[int] = set()
        while heap and len(seen) < SEARCH_LIMIT:
            peak, _, _, done, live, trail = heapq.heappop(heap)
            if done in seen:
                continue
            seen.add(done)
            if done == everything:
                return _unwind(trail)
            for peak_after, done_after, live_after, trail_after in self._moves(peak, done, live, trail):
                if done_after not in seen:
                    heapq.heappush(
                        heap,
                        (peak_after, -done_after.bit_count(), next(ticket), done_after, live_after, trail_after),
                    )
        return list(range(len(self.steps)))

    def _moves(self, peak: int, done: int, live: int, trail):
        """Every step that may run next, or only one that costs nothing and frees memory, which is always optimal."""
        moves = []
        for index, needs in enumerate(self.needs):
            if done >> index & 1 or needs & ~done:
                continue
            during, after, _ = self.run(index, done, live)
            move = (max(peak, during), done | 1 << index, after, (index, trail))
            if during <= peak and after <= live:
                return [move]
            moves.append(move)
        return moves

    def place(self, order: list[int]) -> Plan:
        """Place buffers, each one tensor or a chain of replacements, as low as they fit, the largest first."""
        first, last, chain = {tensor: 0 for tensor in self.held if tensor in self.sizes}, {}, {}
        live_bytes, done, live = [], 0, sum(self.sizes[tensor] for tensor in first)
        work = []
        for position, index in enumerate(order):
            step = self.steps[index]
            during, after, replaced = self.run(index, done, live)
            live_bytes.append(during)
            if step.output in self.sizes:
                first[step.output] = position
                if replaced is not None:
                    chain[step.output] = replaced
            for tensor in (*step.inputs, step.output):
                last[tensor] = position
            work += [(position, slot, _align(size)) for slot, size in enumerate(step.work_bytes)]
            done, live = done | 1 << index, after
        for tensor in self.kept:
            last[tensor] = len(order)

        def root(tensor: int) -> int:
            return root(chain[tensor]) if tensor in chain else tensor

        buffers: dict[object, tuple[int, int, int]] = {(p, slot): (size, p, p) for p, slot, size in work}
        for tensor in first:
            top = root(tensor)
            size, start, end = buffers.get(top, (0, first[top], 0))
            buffers[top] = (max(size, self.sizes[tensor]), start, max(end, last.get(tensor, first[tensor])))
        offsets = min(
            (_lowest_fit(buffers, by) for by in PLACING_ORDERS),
            key=lambda found: max((found[key] + buffers[key][0] for key in found), default=0),
        )
        arena = max((offsets[key] + buffers[key][0] for key in buffers), default=0)
        tensors = {tensor: offsets[root(tensor)] for tensor in first}
        spaces = {
            position: [offsets[position, slot] for slot in range(len(self.steps[index].work_bytes))]
            for position, index in enumerate(order)
        }
        placements = [
            Placement(t, f"tensor {t}", tensors[t], self.sizes[t], first[t], last.get(t, first[t])) for t in tensors
        ] + [Placement(None, f"work of {self.steps[order[p]].name}", offsets[p, s], n, p, p) for p, s, n in work]
        steps = [self.steps[index] for index in order]
        return Plan(steps, tensors, spaces, arena, live_bytes, self.lower_bound(), placements)

    def lower_bound(self) -> int:
        """Largest need of a step by itself plus what every order keeps across it.

        A tensor is kept across a step that comes after its maker and before, or instead of, one of its users.
        """
        before = list(self.needs)
        maker = {step.output: index for index, step in enumerate(self.steps)}
        for index in range(len(self.steps)):
            for earlier in range(index):
                if before[index] >> earlier & 1:
                    before[index] |= before[earlier]
        after = [0] * len(self.steps)
        for index, mask in enumerate(before):
            for earlier in range(index):
                if mask >> earlier & 1:
                    after[earlier] |= 1 << index
        largest = 0
        for index, step in enumerate(self.steps):
            across = 0
            for tensor, size in self.sizes.items():
                made = tensor in self.held or before[index] >> maker[tensor] & 1
                if made and (tensor in step.inputs or tensor in self.kept or self.users.get(tensor, 0) & after[index]):
                    across += size
            own = self.sizes.get(step.output, 0)
            spare = max((self.sizes[t] for t in step.replaceable if t in step.inputs and t in self.sizes), default=0)
            still = 0 if spare >= own else own
            largest = max(largest, across + still + sum(map(_align, step.work_bytes)))
        return largest


def _unwind(trail) -> list[int]:
    order = []
    while trail:
        index, trail = trail
        order.append(index)
    return order[::-1]


def _lowest_fit(buffers: dict[object, tuple[int, int, int]], order) -> dict[object, int]:
    """Place each buffer, in the given order, at the lowest offset that no buffer of overlapping lifetime uses."""
    offsets: dict[object, int] = {}
    for key in sorted(buffers, key=lambda key: order(buffers[key])):
        size, start, end = buffers[key]
        taken = sorted(
            (offset, offset + buffers[other][0])
            for other, offset in offsets.items()
            if buffers[other][1] <= end and start <= buffers[other][2]
        )
        at = 0
        for low, high in taken:
            if low - at >= size:
                break
            at = max(at, high)
        offsets[key] = at
    return offsets
