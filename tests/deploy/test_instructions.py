import pytest

from reidlab.deploy.instructions import instruction_of, program_of


@pytest.mark.parametrize(
    "text, kind, reads, writes, words",
    [
        ("ldr.w r0, [r1], #4", "load", "r1", "r0 r1", 1),
        ("ldr r0, [r1, r2]", "load", "r1 r2", "r0", 1),
        ("ldrd r0, r1, [r2, #8]", "load", "r2", "r0 r1", 2),
        ("ldmia.w sp!, {r4, r5, pc}", "load", "sp", "r4 r5 pc sp", 3),
        ("str.w r2, [r1, #4]!", "store", "r1 r2", "r1", 1),
        ("vpush {d8-d10}", "store", "d8 d9 d10", "", 3),
        ("smlal r2, r3, r4, r5", "mac", "r2 r3 r4 r5", "r2 r3", 1),
        ("smlad r0, r1, r2, r3", "mac", "r1 r2 r3", "r0", 1),
        ("add r0, r1", "alu", "r0 r1", "r0", 1),
        ("mov r0, r1", "alu", "r1", "r0", 1),
        ("add.w r0, r1, r2, lsl #2", "shift", "r1 r2", "r0", 1),
        ("cmp r0, r1", "alu", "r0 r1", "", 1),
        ("bls.n 1240", "branch", "", "", 1),
        ("bic.w r0, r1, r2", "alu", "r1 r2", "r0", 1),
        ("letp lr, 1382", "loop", "lr", "", 1),
        ("itt eq", "none", "", "", 1),
        ("vfma.f32 s0, s1, s2", "fmac", "s0 s1 s2", "s0", 1),
        ("vmlava.s8 r0, q0, q1", "vmac", "r0 q0 q1", "r0", 1),
        ("vldrb.u8 q0, [r0], #16", "vload", "r0", "q0 r0", 1),
        ("vstrbt.32 q0, [r1, q2]", "vstore", "q0 r1 q2", "", 1),
        ("vadd.i32 q0, q1, q2", "valu", "q1 q2", "q0", 1),
    ],
)
def test_registers_and_kinds(text, kind, reads, writes, words):
    found = instruction_of(*text.split(" ", 1))
    assert (found.kind, found.words) == (kind, words)
    assert (found.reads, found.writes) == (set(reads.split()), set(writes.split()))


def test_a_listing_is_read_by_address():
    listing = (
        "00000100 <run>:\n     100:\tmovs\tr0, #10\n     102:\tldr.w\tr1, [pc, #4]\t@ 108 <run+0x8>\n     106:\tnop\n"
    )
    program = program_of(listing)
    assert [(address, instruction.kind, after) for address, (instruction, after) in program.items()] == [
        (0x100, "alu", 0x102), (0x102, "load", 0x106), (0x106, "none", 0),
    ]  # fmt: skip
