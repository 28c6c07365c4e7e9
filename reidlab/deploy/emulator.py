"""Exported C on an emulated Cortex-M: embeddings, executed instructions, flash, RAM and stack."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from enum import IntEnum
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from reidlab.deploy.cycles import Caches, Trace, trace_of
from reidlab.deploy.device_gallery import DeviceRules, Match
from reidlab.deploy.instructions import program_of
from reidlab.errors import InputError

CORES = {"m4": "mps2-an386", "m7": "mps2-an500", "m33": "mps2-an505", "m55": "mps3-an547"}
KERNEL = re.compile(r"reid_\w+_(row|all)")  # functions whose calls are counted
RAM = 0x20000000  # where it begins, on all boards
TOOLS = {  # command -> Debian package
    "make": "make", "cc": "gcc", "arm-none-eabi-gcc": "gcc-arm-none-eabi", "qemu-system-arm": "qemu-system-arm",
}  # fmt: skip
# The image and embedding buffers of the emulation lie in other sections.
FLASH_SECTIONS, RAM_SECTIONS = (".text", ".rodata", ".data"), (".data", ".bss")
STATUS = {
    2: "a processor fault",
    3: "damaged constants",
    4: "no access to its files",
    5: "a full disk",
    6: "too large a gallery",
}


@dataclass(frozen=True)
class FirmwareRun:
    """Results of a run on the emulated core.

    - `embeddings`: (N, D) float32; `instructions`: of each `reid_run`
    - `calls`: instructions of the last image by kernel call, in the order of `Stage.calls`, if they were asked for
    - `trace`: what the last image executed, for its cycles, if caches were given
    - `flash_bytes`, `ram_bytes`: by section; `stack_bytes`: deepest use, by painting
    """

    core: str
    embeddings: np.ndarray
    instructions: list[int]
    flash_bytes: dict[str, int]
    ram_bytes: dict[str, int]
    stack_bytes: int
    calls: list[int] = field(default_factory=list)
    trace: Trace | None = None


def missing_tools() -> str | None:
    """The command that installs the tools that `run_firmware` lacks, or None."""
    packages = [package for command, package in TOOLS.items() if shutil.which(command) is None]
    return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else None


def run_firmware(
    folder: Path,
    images: np.ndarray,
    core: str = "m7",
    timeout_s: float = 600,
    compiler_flags: Sequence[str] = (),
    by_call: bool = False,
    caches: Caches | None = None,
) -> FirmwareRun:
    """Build exported C for a core and run it on images.

    Raises InputError where tools are missing, the build fails (a model too large for the board) or the run fails.

    Args:
        folder: of the C, see `export_c`.
        images: (N, H, W, C) uint8.
        core: one of `CORES`.
        timeout_s: of the run.
        compiler_flags: added to the build's own.
        by_call: count the instructions of each kernel call, too.
        caches: record what runs, with the lines that these caches fetch.
    """
    require_core(core)
    with as_file(files("reidlab.deploy") / "firmware") as sources, tempfile.TemporaryDirectory() as out:
        build, c = Path(out), Path(folder).resolve() / "src"
        prefix = next((file.stem.removesuffix("_model") for file in c.glob("*_model.c")), "reid")
        build_firmware(Path(sources), build, core, MODEL=c, PREFIX=prefix, EXTRA=" ".join(compiler_flags))
        sections, symbols = _sections(build), symbols_of(build)
        (build / "images.bin").write_bytes(np.ascontiguousarray(images, np.uint8).tobytes())
        parts = [symbols[name] for name in symbols if by_call and KERNEL.fullmatch(name)]
        bounds = {"begin": [symbols[f"{prefix}_run"]], "end": [symbols["measured"]], "part": parts}
        output = emulate(build, core, bounds, timeout_s, caches)
        trace = trace_in(build, core, output.rpartition("\npart")[2]) if caches else None
        instructions, stack = numbers("instructions", output), numbers("stack", output)
        if not stack:
            raise InputError(f"core={core}: the firmware reported no stack: {output.strip()[-200:] or 'no output'}")
        calls = numbers("part", output)
        embeddings = np.fromfile(build / "embeddings.bin", "<f4")
    if len(instructions) != len(images):
        raise InputError(f"core={core}: {len(instructions)} of {len(images)} images came back; is their size right?")
    return FirmwareRun(
        core,
        embeddings.reshape(len(images), -1),
        instructions,
        {name: sections.get(name, 0) for name in FLASH_SECTIONS},
        {name: sections.get(name, 0) for name in RAM_SECTIONS},
        stack[0],
        _calls(calls, len(images)) if by_call else [],
        trace,
    )


class GalleryOp(IntEnum):
    """An operation on the gallery, with how many embeddings it takes, and its number."""

    ENROLL = 0  # one
    LEARN = 1  # one, the identity
    FORGET = 2  # one that isn't used, the identity
    IDENTIFY = 3  # one
    FOLLOW = 4  # those of the frame's crops, the frame
    DISTANCE = 5  # two


GALLERY_FUNCTIONS = {
    GalleryOp.IDENTIFY: "reid_identify",
    GalleryOp.FOLLOW: "reid_follow",
    GalleryOp.LEARN: "reid_learn",
}


@dataclass(frozen=True)
class GalleryShape:
    """A gallery of the C: identities, size of an embedding, crops of a frame, and the codes' zero point."""

    capacity: int
    size: int
    crops: int
    zero: int


def gallery_commands(
    shape: GalleryShape, operations: Sequence[tuple[GalleryOp, np.ndarray, int]], rules: DeviceRules
) -> bytes:
    """Write the input of `firmware/gallery.c`: operations with their codes (N, size) int8 and their numbers."""
    parts = [np.array(astuple(shape), "<i4").tobytes()]
    for kind, codes, number in operations:
        parts += [np.array([kind, len(codes), number, *astuple(rules)], "<i4").tobytes(), codes.tobytes()]
    return b"".join(parts)


def gallery_answers(content: bytes) -> list[Match]:
    """Read the output of `firmware/gallery.c`: one match for each operation, or for each crop of a frame."""
    return [Match(*pair) for pair in np.frombuffer(content, "<i4").reshape(-1, 2).tolist()]


def run_gallery(
    shape: GalleryShape,
    operations: Sequence[tuple[GalleryOp, np.ndarray, int]],
    rules: DeviceRules,
    counted: GalleryOp = GalleryOp.IDENTIFY,
    core: str = "m7",
) -> tuple[list[Match], list[int]]:
    """The answers of the C gallery on an emulated core, and the instructions of each operation of one kind.

    Raises InputError as `run_firmware` does.
    """
    require_core(core)
    package = files("reidlab.deploy")
    with as_file(package / "firmware") as sources, as_file(package / "c") as c, tempfile.TemporaryDirectory() as out:
        build = Path(out)
        parts = "gallery.o semihosting.o reid_distance.o reid_gallery.o"
        build_firmware(Path(sources), build, core, MODEL=Path(c), PARTS=parts)
        (build / "commands.bin").write_bytes(gallery_commands(shape, operations, rules))
        symbols = symbols_of(build)
        bounds = {"begin": [symbols[GALLERY_FUNCTIONS[counted]]], "end": [symbols["measured"]]}
        counts = numbers("instructions", emulate(build, core, bounds, 600))
        answers = gallery_answers((build / "answers.bin").read_bytes())
    return answers, [n for n, (kind, *_) in zip(counts, operations, strict=True) if kind == counted]


def require_core(core: str) -> None:
    """Raise InputError where there is no such core, or tools are missing."""
    if core not in CORES:
        raise InputError(f"core={core}: choose one of {', '.join(CORES)}")
    if install := missing_tools():
        raise InputError(f"core={core}: the emulation needs more tools; {install}")


def build_firmware(sources: Path, out: Path, core: str, **variables: str | Path) -> None:
    """Make `firmware.elf` and the counter in a folder, with the variables of the Makefile in `sources`."""
    settings: dict[str, str | Path] = {"CORE": core, "OUT": out, **variables}
    command = ["make", "-s", "-f", str(sources / "Makefile"), *(f"{name}={value}" for name, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        line = next(
            (line for line in done.stderr.splitlines() if re.search("error|overflow|undefined", line)), done.stderr
        )
        raise InputError(f"core={core}: the firmware can't be built: {line.strip()}")


def _sections(build: Path) -> dict[str, int]:
    listing = _output("arm-none-eabi-size", "-A", build / "firmware.elf")
    return {name: int(size) for name, size in re.findall(r"^(\.\S+)\s+(\d+)", listing, re.MULTILINE)}


def symbols_of(build: Path) -> dict[str, int]:
    """Addresses of the firmware's functions."""
    listing = _output("arm-none-eabi-nm", build / "firmware.elf")
    return {name: int(address, 16) for address, name in re.findall(r"^(\w+) T (\w+)$", listing, re.MULTILINE)}


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def numbers(label: str, output: str) -> list[int]:
    """The numbers that the firmware or the counter printed after a label."""
    return [int(number) for number in re.findall(rf"^{label} (\d+)$", output, re.MULTILINE)]


def _calls(parts: list[int], runs: int) -> list[int]:
    """Instructions by kernel call of the last of some runs; what comes before the first call is the first's."""
    before, first, *others = parts[-len(parts) // runs :]
    return [before + first, *others]


def trace_in(build: Path, core: str, output: str) -> Trace:
    """Parse the counter's output: the executed parts of `firmware.elf`."""
    decoder = ["-marmv8.1-m.main"] if core == "m55" else []  # GNU's objdump finds no vectors by itself
    listing = _output("arm-none-eabi-objdump", "-d", "--no-show-raw-insn", *decoder, build / "firmware.elf")
    return trace_of(output, program_of(listing))


def emulate(
    build: Path, core: str, bounds: dict[str, list[int]], timeout_s: float, caches: Caches | None = None
) -> str:
    """Run `firmware.elf` and the counter, both in `build`, for what they print; `bounds`: addresses, see count.c."""
    given = [f"{name}={address}" for name, found in bounds.items() for address in found]
    if caches:
        given += ["blocks=1", f"ram={RAM}", f"cached={caches.ram:d}", f"code={caches.code}", f"data={caches.data}"]
    counter = ",".join([str(build / "count.so"), *given])
    command = [
        "qemu-system-arm", "-M", CORES[core], "-display", "none", "-monitor", "none", "-serial", "none",
        "-semihosting-config", "enable=on,target=native", "-kernel", str(build / "firmware.elf"), "-plugin", counter,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=build, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"core={core}: no result within {timeout_s:.0f} s; give fewer images or more time") from error
    if done.returncode:
        reason = STATUS.get(done.returncode, done.stderr.strip().splitlines()[-1:])
        raise InputError(f"core={core}: the firmware stopped because of {reason}")
    return done.stdout + done.stderr
