import re
import shutil
import subprocess
from collections import Counter
from importlib.resources import as_file, files

import numpy as np
import pandas as pd
import pytest

from reidlab.deploy.cycles import (
    CHIPS,
    ESTIMATED,
    PIPELINES,
    Block,
    Caches,
    Trace,
    block_cycles,
    calibrate,
    milliseconds,
    published,
)
from reidlab.deploy.emulator import build_firmware, emulate, missing_tools, numbers, symbols_of, trace_in
from reidlab.deploy.instructions import instruction_of, program_of

needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=f"needs {missing_tools()}")

PROGRAM = """
#include <stdint.h>
__attribute__((aligned(16), used)) const uint32_t table[16] = {1};
__attribute__((noinline)) void measured(void) { __asm__ volatile(""); }
__attribute__((naked, noinline, aligned(16))) void run(void) {
  __asm__ volatile("movs r0, #10\\n"
                   "1: subs r0, #1\\n bne 1b\\n"
                   "cbz r0, 2f\\n nop\\n"
                   "2: movs r2, #2\\n"
                   "3: ldr r1, =table\\n movs r0, #16\\n"
                   "4: ldr r3, [r1], #4\\n subs r0, #1\\n bne 4b\\n"
                   "subs r2, #1\\n bne 3b\\n"
                   "bx lr\\n .ltorg");
}
void finish(int status) {
  const int32_t arguments[] = {0x20026, status};
  register int32_t r0 __asm__("r0") = 0x20;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  for (;;) {
  }
}
int main(void) { run(); measured(); return 0; }
"""
# Of each instruction in order: how often it runs; nop never does, and the last is that of the return.
EXECUTED = [1, 10, 10, 1, 0, 1, 2, 2, 32, 32, 32, 2, 2, 1]
TAKEN = 1 + 9 + 1 + 2 * 15 + 1 + 1  # the call, the loops and the jump over nop, and the return
LINES = {"1x8x16": 5, "1x2x16": 10}  # the table's four and that of its address; in two ways nothing stays


@needs_tools
@pytest.mark.parametrize("core", PIPELINES)
def test_blocks_of_a_hand_worked_program(core, tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    with as_file(files("reidlab.deploy") / "firmware") as firmware:
        build_firmware(firmware, tmp_path, core, MODEL=tmp_path, PARTS="program.o")
    symbols = symbols_of(tmp_path)
    bounds = {"begin": [symbols["run"]], "end": [symbols["measured"]]}
    for data, lines in LINES.items():
        output = emulate(tmp_path, core, bounds, 60, Caches("64x1x16", data))
        trace = trace_in(tmp_path, core, output)
        runs = Counter()
        for block in trace.blocks:
            address = block.address
            for _ in range(block.instructions):
                runs[address] += block.executed
                address = trace.program[address][1]
        addresses = [address for address in trace.program if address >= symbols["run"]][: len(EXECUTED)]
        assert [runs[address] for address in addresses] == EXECUTED
        assert sum(runs.values()) == numbers("instructions", output)[0]
        assert 1 <= sum(runs.values()) - sum(EXECUTED) <= 2  # of main, up to the next call
        assert sum(block.taken for block in trace.blocks) == TAKEN
        assert trace.lines[1:] == (lines, 0)
        assert 2 <= trace.lines[0] <= 3  # 30 bytes of code, and of main where it goes on


def body(*lines):
    return tuple(instruction_of(*line.split(" ", 1)) for line in lines)


@pytest.mark.parametrize(
    "core, lines, cycles",
    [
        ("m4", ["ldr r0, [r1]", "ldr r2, [r3]", "add r4, r4, #1"], 4),  # loads in a row: 2 + 1, then 1
        ("m4", ["ldr r0, [r1]", "add r4, r4, #1", "ldr r2, [r3]", "add r5, r5, #1"], 6),
        ("m4", ["ldrd r0, r1, [r2]", "smlad r3, r0, r1, r3"], 4),
        ("m33", ["ldr r0, [r1]", "add r4, r4, #1"], 2),  # nobody waits for the load
        ("m33", ["ldr r0, [r1]", "add r4, r0, #1"], 3),
        ("m7", ["add r0, r0, #1", "add r1, r1, #1"], 1),  # together
        ("m7", ["add r0, r1, #1", "add r1, r0, #1"], 2),  # one after the other
        ("m7", ["mul r0, r4, r5", "mul r1, r4, r5"], 2),  # one multiplier
        ("m7", ["ldr r0, [r4], #4", "ldr r1, [r5], #4", "subs r6, #1", "bne.n 10"], 2),
        ("m55", ["vldrb.u8 q0, [r0]", "vmlava.s8 r2, q4, q5"], 2),  # each takes two cycles of its own unit
        ("m55", ["vldrb.u8 q0, [r0]", "vldrb.u8 q1, [r1]"], 4),
    ],
)
def test_hand_worked_cycles(core, lines, cycles):
    assert block_cycles(body(*lines), PIPELINES[core]) == cycles


def test_the_sum_equals_a_slow_one():
    lines = ["movs\tr0, #1", "adds\tr1, r1, #1", "bne.n\t100", "ldr\tr2, [r3]", "adds\tr2, r2, #1", "b.n\t100"]
    listing = "\n".join(f"     {0x100 + 2 * n:x}:\t{line}" for n, line in enumerate(lines))
    trace = Trace([Block(0x100, 3, 7, 5), Block(0x106, 3, 4, 0)], program_of(listing), (3, 2, 9))
    slow = 0
    for _ in range(7):
        slow += 1 + 1 + 1
    for _ in range(4):
        slow += 2 + 1 + 1
    for _ in range(5):
        slow += PIPELINES["m4"].taken
    for _ in range(3 + 2):
        slow += 6
    for _ in range(9):
        slow += 4
    assert trace.cycles(PIPELINES["m4"], 6, 4) == slow


@pytest.mark.skipif(shutil.which("llvm-mca") is None, reason="needs llvm-mca, of Debian's llvm")
@pytest.mark.parametrize(
    "lines",
    [
        ["ldr r4, [r0], #4", "ldr r5, [r1], #4", "sxtb16 r6, r4", "sxtb16 r7, r5", "smlad r2, r6, r7, r2"],
        ["ldrsb r4, [r0, #1]", "mla r5, r4, r6, r5", "ldrsb r7, [r0, #2]", "mla r8, r7, r6, r8", "add r0, r0, #3"],
        ["smmulr r4, r4, r5", "adds r4, r4, r6", "ssat r4, #8, r4", "strb r4, [r7], #1", "ldr r4, [r0], #4"],
    ],
)  # fmt: skip
def test_the_m7_agrees_with_llvm(lines):
    command = ["llvm-mca", "-mtriple=thumbv7em-none-eabi", "-mcpu=cortex-m7", "-iterations=1000"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    theirs = int(re.search(r"Total Cycles: +(\d+)", done.stdout)[1]) / 1000
    assert block_cycles(body(*lines), PIPELINES["m7"]) == pytest.approx(theirs, rel=0.35, abs=1)


def rows(core, **ratios):
    """A table whose published cycles are the given multiples of the model's."""
    chip = next(name for name, found in CHIPS.items() if found.core == core)
    return pd.DataFrame(
        {"core": core, "chip": chip, "mhz": 100, "network": name, "pipeline_cycles": 2e6, "flash_lines": 0,
         "ram_lines": 0, "latency_ms": 20 * ratio}
        for name, ratio in ratios.items()
    )  # fmt: skip


def test_calibration_by_hand():
    found = calibrate("m4", rows("m4", a=1, b=2, c=4))
    assert found.factor == pytest.approx(2)
    # By the others, a is expected to be the root of 2 x 4, b that of 1 x 4, and c that of 1 x 2.
    assert found.errors == pytest.approx({"a": 8**0.5 / 1 - 1, "b": 0, "c": 2**0.5 / 4 - 1})
    # Residuals of 1.5 ln 2, 0 and -1.5 ln 2; Student's t for 5 % on each side with two degrees of freedom is 2.920.
    half = 2.920 * (2 * (1.5 * np.log(2)) ** 2 / 3) ** 0.5
    assert [found.low, found.high] == pytest.approx([2 * np.exp(-half), 2 * np.exp(half)], rel=1e-3)


def test_a_core_with_few_networks_has_the_bounds_of_all_and_one_without_no_value():
    table = pd.concat([rows("m4", a=1, b=1.1, c=1.2), rows("m33", a=1, b=1.5, c=2), rows("m7", a=3)])
    few, none = calibrate("m7", table), calibrate("m55", table)
    assert few.factor == pytest.approx(3) and not few.errors
    assert calibrate("m4", table).high / calibrate("m4", table).low < few.high / few.low
    assert np.isnan(none.factor) and none.low == 1
    assert none.high == max(calibrate(core, table).high for core in ("m4", "m33", "m7"))


def test_several_chips_of_a_network_count_once():
    table = pd.concat([rows("m4", a=1), rows("m4", a=4), rows("m4", b=2)])
    assert calibrate("m4", table).factor == pytest.approx(2)


def test_published_rows_name_their_source_and_are_met():
    table = published()
    assert table["source"].str.match(r"https://\S+$").all() and set(table["chip"]) <= set(CHIPS)
    assert all(CHIPS[row.chip].core == row.core and CHIPS[row.chip].mhz == row.mhz for row in table.itertuples())
    for core in set(table["core"]):
        errors = calibrate(core, table).errors
        assert max(map(abs, errors.values()), default=0) < 0.5


@pytest.mark.parametrize("core", ESTIMATED)
def test_milliseconds(core):
    assert len({CHIPS[name].caches for name in ESTIMATED[core]}) == 1
    program = program_of("     100:\tadds\tr0, r0, #1\n     102:\tbne.n\t100\n")
    times = milliseconds(Trace([Block(0x100, 2, 1_000_000, 0)], program), core)
    for name, found in times.items():
        alone = 1e-3 * 1e6 * block_cycles(body("adds r0, r0, #1", "bne.n 100"), PIPELINES[core]) / CHIPS[name].mhz
        assert 0.5 * alone < found.low < found.high < 6 * alone
        assert np.isnan(found.value) == (core == "m55") or found.low < found.value < found.high
