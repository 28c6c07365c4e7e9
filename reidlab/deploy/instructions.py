"""Instructions of ARM's M profile, as an in-order pipeline sees them, from their disassembly."""

import re
from typing import NamedTuple

LINE = re.compile(r"^ *([0-9a-f]+):\t(\S+)(?:\t([^@\n]*))?", re.MULTILINE)
REGISTER = re.compile(r"\b(?:[rsdq]\d+|sp|lr|pc|ip|fp|sl)\b")
CONDITION = r"(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?"
KINDS = [  # kind of instruction -> its mnemonics; the first that fits
    ("vload", r"vld\S*\..*q"),
    ("vstore", r"vst\S*\..*q"),
    ("vmac", r"(vml|vmul|vqr?dm|vrmul|vaddva|vaddv|vfm)\S* .*q"),
    ("valu", r"v\S* .*q"),
    ("load", r"(ldr|ldm|pop|vldr|vldm|vpop)\S*"),
    ("store", r"(str|stm|push|vstr|vstm|vpush)\S*"),
    ("loop", r"(le|letp|dls|dlstp|wls|wlstp) "),
    ("branch", rf"(b{CONDITION}|bl|blx|bx|cbn?z|tb[bh])(\.[nw])? "),
    ("divide", r"[su]div"),
    ("mac", r"(mul|mla|mls|smul|smla|smls|smm|smua|smus|umul|umla|umaal)"),
    ("fdivide", r"v(div|sqrt)\S*f"),
    ("fmac", r"v(ml[as]|nml[as]|fn?m[as])\S*f"),
    ("float", r"v"),
    ("none", r"(nop|it[te]*|vpst|vpt)(\.[nw])? "),
    ("shift", r"(ls[lr]|asr|ror|.xt|pkh|[su]sat|bf[ci]|[su]bfx)|.*(lsl|lsr|asr|ror)"),
]
MEMORY = ("load", "store", "vload", "vstore")
NO_RESULT = re.compile(r"cmp|cmn|tst|teq|vcmp|vpst|vctp|vmsr")
TWO_RESULTS = re.compile(r"[su]ml?al|[su]mull|umaal|smlald|smlsld")
READS_RESULT = re.compile(r"[su]mlal|umaal|smlald|smlsld|movt|bfi|v\w*ml[as]|vfm|vqr?dmlah|vmov[nt]|vqr?movu?n|vaddva")
COPIES = re.compile(r"mov|mvn|.xt|rbit|rev|clz|vmov|vneg|vabs|vcvt|vdup|adr|sqrt")


class Instruction(NamedTuple):
    """An instruction, as the pipeline sees it: `words` are those that it moves between registers and memory."""

    kind: str
    reads: frozenset[str]
    writes: frozenset[str]
    words: int = 1


def instruction_of(mnemonic: str, operands: str) -> Instruction:
    """Parse a line of `objdump -d`."""
    kind = next((kind for kind, pattern in KINDS if re.match(pattern, f"{mnemonic} {operands}")), "alu")
    if kind in MEMORY:
        return _access(kind, operands)
    registers = _registers(operands)
    results = 2 if TWO_RESULTS.match(mnemonic) else 1
    if NO_RESULT.match(mnemonic) or kind in ("branch", "loop", "none"):
        results = 0
    reads = set(registers[results:])
    if READS_RESULT.match(mnemonic) or (len(operands.split(",")) == 2 and not COPIES.match(mnemonic)):
        reads |= set(registers[:results])
    return Instruction(kind, frozenset(reads), frozenset(registers[:results]))


def _access(kind: str, operands: str) -> Instruction:
    """A load or a store; one that updates its address writes that register, too."""
    before, _, after = operands.partition("[")
    listed = re.search(r"\{(.*)\}", operands)
    moved = _span(listed[1]) if listed else _registers(before)
    address = _registers(after) or _registers(operands.partition("{")[0])
    updated = address[:1] if re.search(r"!|\],", operands) else []
    loads = kind in ("load", "vload")
    reads, writes = (address, moved + updated) if loads else (moved + address, updated)
    return Instruction(kind, frozenset(reads), frozenset(writes), len(moved))


def _registers(text: str) -> list[str]:
    return REGISTER.findall(text)


def _span(text: str) -> list[str]:
    """Registers of a list, in which `d8-d15` stands for eight."""
    found: list[str] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        names = [f"{low[0]}{n}" for n in range(int(low[1:]), int(high[1:]) + 1)] if high else [low]
        found += names
    return found


def program_of(listing: str) -> dict[int, tuple[Instruction, int]]:
    """Address -> instruction and the address after it, of what `objdump -d --no-show-raw-insn` prints."""
    lines = [(int(address, 16), mnemonic, operands) for address, mnemonic, operands in LINE.findall(listing)]
    following = [address for address, *_ in lines[1:]] + [0]
    return {
        address: (instruction_of(mnemonic, operands.strip()), after)
        for (address, mnemonic, operands), after in zip(lines, following, strict=True)
    }
