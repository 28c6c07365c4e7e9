"""Cycles of executed code on Cortex-M cores, from its basic blocks, and milliseconds at a chip's clock.

A block takes what an in-order pipeline takes for its instructions; a taken branch and a line that a cache fetches cost
extra. What the pipeline and the memory leave out (write buffers, bus conflicts) is one factor for each core,
calibrated on published latencies of known code: see `Calibration`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from reidlab.config import SHIPPED
from reidlab.deploy.estimate import Figure
from reidlab.deploy.instructions import Instruction

PUBLISHED = SHIPPED / "data" / "cycles_published.csv"
COVERAGE = 0.9  # of the intervals
COSTS = ("flash_cycles", "ram_cycles")
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
    """An execution: basic blocks, the disassembly by address, and fetched lines of code, constants and RAM."""

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


ONE = {
    "alu": Timing("alu"),
    "mac": Timing("alu"),
    "shift": Timing("alu"),
    "branch": Timing("alu"),
    "loop": Timing("alu"),
}
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


@dataclass(frozen=True)
class Chip:
    """A chip's clock and memory: the cycles for a line that is fetched from flash, and from RAM."""

    core: str
    mhz: int
    caches: Caches
    flash_cycles: float
    ram_cycles: float = 0


M7_LARGE, M7_SMALL = Caches("256x2x32", "128x4x32", ram=True), Caches("64x2x32", "32x4x32", ram=True)
CHIPS = {  # costs of a line are guesses from the chips' wait states (on the M7s with a burst on the AXI bus)
    "STM32L4R5": Chip("m4", 120, Caches("1x64x16", "1x16x16"), 5),
    "nRF5340": Chip("m33", 128, Caches("256x2x16"), 5),
    "RA6M4": Chip("m33", 200, Caches("256x2x16"), 5),
    "STM32U575": Chip("m33", 160, Caches("256x2x16"), 4),
    "STM32F746": Chip("m7", 216, M7_SMALL, 16, 12),
    "STM32F769": Chip("m7", 216, M7_LARGE, 16, 12),
    "STM32H747": Chip("m7", 400, M7_LARGE, 20, 16),
    "STM32H743": Chip("m7", 480, M7_LARGE, 24, 16),
    "TCM": Chip("m55", 400, Caches("256x4x32", "256x4x32"), 0),
}
ESTIMATED = {  # core -> the chips that its time is estimated for; all have the same caches
    "m4": ("STM32L4R5",), "m33": ("STM32U575",), "m7": ("STM32F769", "STM32H747", "STM32H743"), "m55": ("TCM",),
}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Factor on the model's cycles; NaN where nothing is published for the core, then with bounds alone.

    - `low`, `high`: bounds that hold the true factor with probability `COVERAGE`
    - `errors`: relative error of each network's latency by the other networks of its core, see `_left_out`
    """

    factor: float
    low: float
    high: float
    errors: Mapping[str, float]


def published() -> pd.DataFrame:
    """Published latencies of known code, with what the model says of it."""
    return pd.read_csv(PUBLISHED)


def calibrate(core: str, rows: pd.DataFrame) -> Calibration:
    """Fit the factor of a core, in logarithms, to the networks of a table such as `published`.

    A core with fewer than `FEWEST_NETWORKS` networks has bounds by the errors of all cores. One without any lies
    between the model itself and the highest bound of another core.
    """
    ratios = {name: _log_ratios(found) for name, found in rows.groupby("core")}
    errors = {name: _left_out(found) for name, found in ratios.items()}
    if core not in ratios:
        return Calibration(np.nan, 1, max(calibrate(other, rows).high for other in ratios), {})
    own, center = errors[core], ratios[core].mean()
    used = [own] if len(ratios[core]) >= FEWEST_NETWORKS else [found for found in errors.values() if len(found)]
    residuals = pd.concat(used)
    freedom = len(residuals) - len(used)
    half = stdtrit(freedom, (1 + COVERAGE) / 2) * np.sqrt((residuals**2).mean())
    low, high = np.exp([center - half, center + half])
    return Calibration(float(np.exp(center)), float(low), float(high), np.expm1(-own).to_dict())


def _log_ratios(rows: pd.DataFrame) -> pd.Series:
    """Published cycles over those of the model, in logarithms, by network: the mean over its chips."""
    flash, ram = (rows["chip"].map(lambda name, part=part: getattr(CHIPS[name], part)) for part in COSTS)
    expected = rows["pipeline_cycles"] + flash * rows["flash_lines"] + ram * rows["ram_lines"]
    return np.log(1e3 * rows["latency_ms"] * rows["mhz"] / expected).groupby(rows["network"]).mean()


def _left_out(ratios: pd.Series) -> pd.Series:
    """How far each ratio lies from the mean of the others."""
    return (ratios - ratios.mean()) * len(ratios) / (len(ratios) - 1) if len(ratios) > 1 else ratios[:0]


def milliseconds(trace: Trace, core: str) -> dict[str, Figure]:
    """Chip -> estimated time of what ran; the value is NaN where nothing is published for the core."""
    found = calibrate(core, published())
    times = {}
    for name in ESTIMATED[core]:
        chip = CHIPS[name]
        model = trace.cycles(PIPELINES[core], chip.flash_cycles, chip.ram_cycles) / (1e3 * chip.mhz)
        times[name] = Figure(found.factor * model, found.low * model, found.high * model, COVERAGE)
    return times


def time_lines(times: Mapping[str, Figure]) -> list[str]:
    """Estimated times in words, a line for each chip."""
    return [
        f"{CHIPS[chip].core} at {CHIPS[chip].mhz} MHz ({chip}): estimated "
        + (f"{found.value:.1f} ms, " if found.value == found.value else "")
        + f"{found.low:.1f} to {found.high:.1f} ms"
        + ("" if found.value == found.value else "; nothing published to calibrate on")
        for chip, found in times.items()
    ]
