"""STEdgeAI Core, ST's own tool, where it is installed: it is closed, so its printed report is read."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from reidlab.errors import InputError
from reidlab.files import write_atomic

KNOWN_MAJORS = (2, 3, 4)  # of reports that have the lines below
SIZE = r"\s*:\s*([\d,]+)\s*B\b"
LINES = {  # key -> (pattern of its line, factor)
    "macs": (r"^\s*macc\s*:\s*([\d,]+)", 1),
    "weights_kib": (rf"^\s*weights \(ro\){SIZE}", 1 / 1024),
    "activations_kib": (rf"^\s*activations \(rw\){SIZE}", 1 / 1024),
    "ram_kib": (rf"^\s*ram \(total\){SIZE}", 1 / 1024),
    "latency_ms": (r"^\s*duration\s*:\s*([\d.,]+)\s*ms", 1),
    "cycles": (r"^\s*CPU cycles\s*:\s*([\d,]+)", 1),
    "cosine": (r"\bcos(?:ine)?\s*[:=]\s*([\d.]+)", 1),
}
NEEDED = ("macs", "weights_kib", "activations_kib")


@dataclass(frozen=True)
class Tool:
    """An installed STEdgeAI Core."""

    program: Path
    version: str

    def analyze(self, model: Path, target: str, out: Path) -> dict[str, float]:
        """Report RAM, flash and MACs for a target such as stm32h7, by `LINES`."""
        return self._report("analyze", model, target, out)

    def generate(self, model: Path, target: str, out: Path) -> dict[str, float]:
        """Write ST's C into `out` and return the report."""
        return self._report("generate", model, target, out)

    def validate(self, model: Path, target: str, out: Path, board: str = "") -> dict[str, float]:
        """Compare the C with the model, on this machine or on a board; there, the report has a latency.

        Args:
            model: the .tflite.
            target: such as stm32h7.
            out: for the report.
            board: its port, such as serial:921600; empty for this machine.
        """
        where = ["--mode", "target", "--desc", board] if board else ["--mode", "host"]
        return self._report("validate", model, target, out, *where)

    def _report(self, command: str, model: Path, target: str, out: Path, *more: str) -> dict[str, float]:
        out.mkdir(parents=True, exist_ok=True)
        places = ["--output", str(out), "--workspace", str(out / "workspace")]
        printed = _call(self.program, command, "--model", str(model), "--target", target, *places, *more)
        write_atomic(out / f"{command}.txt", printed)
        return parse_report(printed, f"{self.program.name} {command}")


def find_tool() -> Tool | None:
    """STEdgeAI Core from the PATH or below `STEDGEAI_CORE_DIR`; None where there is none.

    Raises InputError for a version with an unknown report, and where the tool doesn't run.
    """
    root = os.environ.get("STEDGEAI_CORE_DIR")
    below = sorted(Path(root).glob("Utilities/*/stedgeai*")) if root else []
    program = shutil.which("stedgeai") or next((str(file) for file in below if os.access(file, os.X_OK)), None)
    if program is None:
        return None
    printed = _call(Path(program), "--version")
    found = re.search(r"v?(\d+)\.(\d+)\.(\d+)", printed)
    if not found or int(found[1]) not in KNOWN_MAJORS:
        majors = ", ".join(map(str, KNOWN_MAJORS))
        said = found[0] if found else (printed.strip().splitlines() or ["nothing"])[0][:80]
        raise InputError(f"{program}: says version {said}; reports of major versions {majors} are known")
    return Tool(Path(program), ".".join(found.groups()))


def parse_report(printed: str, name: str) -> dict[str, float]:
    """Read the figures that a printed report has; InputError where one of `NEEDED` is missing."""
    found = {}
    for key, (pattern, factor) in LINES.items():
        if match := re.search(pattern, printed, re.MULTILINE):
            found[key] = float(match[1].replace(",", "")) * factor
    missing = [key for key in NEEDED if key not in found]
    if missing:
        raise InputError(f"{name}: no line of {', '.join(missing)} in its report; is it another version's?")
    return found


def _call(program: Path, *arguments: str) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=1800)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{program}: can't be run ({error}); without it on the PATH, figures are estimated") from error
    if done.returncode:
        words = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        why = next((line for line in words if "error" in line.lower()), words[-1] if words else "no message")
        raise InputError(f"{program.name} {arguments[0]} ended with {done.returncode}: {why[:200]}")
    return done.stdout
