"""Estimate of an int8 model on Ethos-U NPUs by Arm's compiler, `ethos-u-vela`, where it is installed."""

import csv
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from reidlab.errors import InputError

ACCELERATOR = "ethos-u55-128"
INSTALL = "pip install ethos-u-vela, in an environment of its own"


def report(model: Path, accelerator: str = ACCELERATOR) -> dict[str, float] | None:
    """Estimate RAM, flash and latency of a .tflite by Vela's model of the NPU; None where Vela isn't on the PATH."""
    program = shutil.which("vela")
    if program is None:
        return None
    with TemporaryDirectory(prefix="reidlab-vela-") as place:
        command = [program, str(model), "--accelerator-config", accelerator, "--output-dir", place]
        done = subprocess.run(command, capture_output=True, text=True)
        found = sorted(Path(place).glob("*_summary_*.csv"))
        if done.returncode or not found:
            words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise InputError(f"vela ended with {done.returncode}: {' '.join(words[-1:])[:200]}")
        with found[0].open() as file:
            row = next(csv.DictReader(file))
    try:
        return {
            "ram_kib": float(row["sram_memory_used"]),
            "flash_kib": float(row["off_chip_flash_memory_used"]) + float(row["on_chip_flash_memory_used"]),
            "latency_ms": 1e3 * float(row["inference_time"]),
        }
    except (KeyError, ValueError) as error:
        raise InputError(f"vela: no figure {error} in its summary; is it another version's?") from error
