"""Cycles of executed code on Cortex-M cores, from its basic blocks, and milliseconds at a chip's clock.

A block takes what an in-order pipeline takes for its instructions; a taken branch and a line that a cache fetches cost
extra. What the pipeline and the memory leave out (write buffers, bus conflicts, prefetching) is one factor for each core,
calibrated on published latencies of known code: see `Calibration`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from reidlab.config import SHIPPED
from reidlab.deploy.instructions import Instruction

PUBLISHED = SHIPPED / "data" / "cycles_published.csv"
COVERAGE = 0.9  # of the intervals
FEWEST_NETWORKS = 3  # from which a core's own errors count, and not those of all cores

class Block(NamedTuple):
    """A basic block: how often it ran, and how often a taken branch led to it."""

    address: int
    instructions: int
    executed: int
    taken: int


@dataclass(frozen=True)
class Caches:
    """Simulated caches of the flash as SETSxWAYSxLINE, least recently used; one for both, or also one for data.

    `ram`: whether they hold lines of the RAM, too; otherwise it answers at once.
    """

    code: str
    data: str = ""
    ram: bool = False


@dataclass(frozen=True)
class Trace:
    """What ran: basic blocks, the disassembly by address, and fetched lines of code, constants and RAM."""

    blocks: Sequence[Block]
    program: Mapping[int, tuple[Instruction, int]]
    lines: tuple[int, int, int] = (0, 0, 0)

    def cycles(self, pipeline: "Pipeline", flash_cycles: float = 0, ram_cycles: float = 0) -> float:
        """Cycles of all blocks; the costs are of a fetched line."""
        code, constants, data = self.lines
        total = flash_cycles * (code + constants) + ram_cycles * data
        for block in self.blocks:
            total += block.executed * block_cycles(self._body(block), pipeline) + block.taken * pipeline.taken
        return total

    def _body(self, block: Block) -> tuple[Instruction, ...]:
        body, address = [], block.address
        for _ in range(block.instructions):
            instruction, address = self.program[address]
            body.append(instruction)
        return tuple(body)


class Timing(NamedTuple):
    """The unit that a kind of instruction takes, for how many cycles, and the cycles until its result can be read."""

    unit: str
    latency: int = 1
    busy: int = 1


@dataclass(frozen=True)
class Pipeline:
    """An in-order core.

    Args:
        width: instructions that may start in a cycle.
        taken: cycles that a taken branch loses.
        units: how many of each unit there are.
        timings: of each kind of instruction; `alu` is that of all others.
        blocking_loads: whether only loads and stores may follow a load at once.
    """

    width: int
    taken: float
    units: Mapping[str, int]
    timings: Mapping[str, Timing]
    blocking_loads: bool = False

    def timing(self, instruction: Instruction) -> Timing:
        """Of an instruction, with the cycles of all its words."""
        found = self.timings.get(instruction.kind, self.timings["alu"])
        more = instruction.words - 1 if instruction.kind in ("load", "store") else 0
        return found._replace(busy=found.busy + more, latency=found.latency + more)


ONE = {"alu": Timing("alu"), "mac": Timing("alu"), "shift": Timing("alu"), "branch": Timing("alu"), "loop": Timing("alu")}
PIPELINES = {
    # Cortex-M4 Technical Reference Manual, table 3-1: a load takes 2 cycles, and 1 in a row of loads and stores;
    # a taken branch 1 to 3 more; a multiplication 1.
    "m4": Pipeline(1, 2, {"alu": 1}, ONE | {
        "load": Timing("alu", 2), "store": Timing("alu"), "divide": Timing("alu", 8, 8),
        "float": Timing("alu"), "fmac": Timing("alu", 3, 3), "fdivide": Timing("alu", 14, 14),
    }, blocking_loads=True),
    # No table is published; LLVM schedules for it as for the M4, whose loads block here only who reads their result.
    "m33": Pipeline(1, 2, {"alu": 1}, ONE | {
        "load": Timing("alu", 2), "store": Timing("alu"), "divide": Timing("alu", 8, 8),
        "float": Timing("alu"), "fmac": Timing("alu", 3, 3), "fdivide": Timing("alu", 14, 14),
    }),
    # LLVM's ARMScheduleM7.td: two arithmetic units, one of them with a shifter, one multiplier, two loads in a cycle.
    "m7": Pipeline(2, 1, {"alu": 2, "shift": 1, "mac": 1, "load": 2, "store": 1, "branch": 1, "float": 1}, {
        "alu": Timing("alu"), "shift": Timing("shift"), "mac": Timing("mac", 2), "load": Timing("load", 2),
        "store": Timing("store"), "branch": Timing("branch"), "loop": Timing("branch"), "divide": Timing("mac", 7, 6),
        "float": Timing("float", 3), "fmac": Timing("float", 6), "fdivide": Timing("float", 16, 14),
    }),
    # LLVM's ARMScheduleM55.td: a vector takes its unit for two cycles, in which another unit's may start.
    "m55": Pipeline(1, 2, {"alu": 1, "memory": 1, "valu": 1, "vmac": 1}, {
        "alu": Timing("alu"), "shift": Timing("alu"), "mac": Timing("alu", 2), "load": Timing("alu", 2),
        "store": Timing("alu"), "branch": Timing("alu"), "loop": Timing("alu", 1, 0), "divide": Timing("alu", 8, 8),
        "float": Timing("vmac", 2), "fmac": Timing("vmac", 2), "fdivide": Timing("vmac", 14, 14),
        "vload": Timing("memory", 1, 2), "vstore": Timing("memory", 1, 2), "valu": Timing("valu", 2, 2),
        "vmac": Timing("vmac", 2, 2),
    }),
}  # fmt: skip


def trace_of(output: str, program: Mapping[int, tuple[Instruction, int]]) -> Trace:
    """Read what count.c printed of some runs, all together."""
    rows = [Block(*map(int, row.split())) for row in re.findall(r"^block ([\d ]+)$", output, re.MULTILINE)]
    lines = [list(map(int, row.split())) for row in re.findall(r"^lines ([\d ]+)$", output, re.MULTILINE)]
    code, constants, data = np.array(lines or [[0, 0, 0]]).sum(0).tolist()
    return Trace(rows, program, (code, constants, data))


def block_cycles(body: Sequence[Instruction], pipeline: Pipeline) -> int:
    """Cycles from the start of a block to that of its next execution, as in a loop."""
    ready: dict[str, int] = {}
    free = {unit: [0] * count for unit, count in pipeline.units.items()}
    cycle = started = loaded = 0
    starts = []
    for instruction in (*body, *body, body[0]):
        timing = pipeline.timing(instruction)
        unit = free[timing.unit]
        first = max(cycle, min(unit), *(ready.get(name, 0) for name in instruction.reads))
        if pipeline.blocking_loads and instruction.kind not in ("load", "store"):
            first = max(first, loaded)
        if first == cycle and started == pipeline.width:
            first += 1
        cycle, started = first, started + 1 if first == cycle else 1
        if timing.busy:
            unit[unit.index(min(unit))] = first + timing.busy
        ready.update((name, first + timing.latency) for name in instruction.writes)
        if instruction.kind == "load":
            loaded = first + timing.latency
        starts.append(first)
    return starts[-1] - starts[len(body)]
