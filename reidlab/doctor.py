"""Check this machine: the software it has, the commands that each piece enables, and how to install the rest."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from packaging.requirements import Requirement

from reidlab.places import CLONE, root

EXTRAS = {
    "export": "ONNX export and its checks",
    "tflite": "TFLite files, float and int8",
    "keras": "models of Keras and of ST's model zoo",
    "index": "galleries beyond a million images",
    "service": "reidlab serve --gallery",
    "milvus": "galleries on a Milvus server",
    "qdrant": "galleries on a Qdrant server",
    "ray": "predict.ray: embedding on a cluster",
    "search": "reidlab search",
    "tracking": "Weights & Biases and TensorBoard",
    "mlflow": "logger=mlflow",
    "hub": "reidlab publish --to hf:USER/NAME",
    "docs": "make docs",
    "dashboard": "reidlab dashboard",
    "notebooks": "JupyterLab, reidlab notebooks",
    "dev": "make test, make lint, in a clone",
}
TOOLS = {
    "arm-none-eabi-gcc": ("firmware for Cortex-M", "apt install gcc-arm-none-eabi"),
    "qemu-system-arm": ("running that firmware without a board", "apt install qemu-system-arm"),
    "stedgeai": ("ST's own figures for STM32", "install ST Edge AI Core from st.com"),
    "vela": ("figures for Ethos-U NPUs", "pip install ethos-u-vela"),
    "trtexec": ("TensorRT engines", "install TensorRT from developer.nvidia.com"),
    "chromium": ("make test-browser", "apt install chromium"),
    "git": ("the commit in every run's record", "apt install git"),
}
DISK_WANTED = 2 * 2**30


class Check(NamedTuple):
    """One thing looked for: what was found (None: nothing), what it enables, and what to do without."""

    name: str
    found: str | None
    enables: str
    advice: str
    required: bool = False


def run() -> bool:
    """Print a line a check; whether what every stage needs is there."""
    found = list(checks())
    for check in found:
        state = check.found or f"missing: {check.advice}"
        print(f"{'✓' if check.found else '✗' if check.required else '–'} {check.name:20} {state:52} {check.enables}")
    lacking = [check.name for check in found if check.required and not check.found]
    print(f"every stage needs: {', '.join(lacking)}" if lacking else "every stage can start")
    return not lacking


def checks() -> Iterator[Check]:
    """Python, memory and disk, the packages of each extra, the accelerator, and tools that are no packages."""
    python = platform.python_version() if sys.version_info >= (3, 11) else None
    yield Check("Python", python, "everything", "install Python 3.11 or newer", required=True)
    everything, one = (
        ("make install", "pip install -e '.[{}]'") if CLONE else ("pip install reidlab", "pip install 'reidlab[{}]'")
    )
    yield Check("packages", _packages(None), "data, train, evaluate", everything, required=True)
    for extra, enables in EXTRAS.items():
        yield Check(f"packages [{extra}]", _packages(extra), enables, one.format(extra))
    yield Check("processor", _processor(), "everything", "")
    yield Check("GPU", _gpu(), "training in minutes, not hours", "works without; NVIDIA: a driver and a CUDA torch")
    yield Check("disk", _disk(), "runs and data sets", f"free {DISK_WANTED / 2**30:.0f} GiB at {root()}", required=True)
    for tool, (enables, advice) in TOOLS.items():
        yield Check(tool, _tool(tool), enables, advice)


def _packages(extra: str | None) -> str | None:
    """How many of an extra's packages are installed in the wanted versions; None unless all are."""
    wanted = [Requirement(line) for line in requires("reidlab") or ()]
    wanted = [r for r in wanted if (r.marker.evaluate({"extra": extra or ""}) if r.marker else extra is None)]
    for requirement in wanted:
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                return None
        except PackageNotFoundError:
            return None
    return f"all {len(wanted)}"


def _processor() -> str:
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{os.cpu_count()} cores" + (f", OMP_NUM_THREADS={threads}" if threads else "")


def _gpu() -> str | None:
    """The GPU that torch sees; a torch that sees none isn't imported, which takes seconds."""
    try:
        if version("torch").endswith("+cpu"):
            return None
        import torch
    except ImportError:  # PackageNotFoundError too
        return None
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return "Apple" if torch.backends.mps.is_available() else None


def _disk() -> str | None:
    free = shutil.disk_usage(root()).free
    return f"{free / 2**30:.0f} GiB free" if free >= DISK_WANTED else None


def _tool(name: str) -> str | None:
    """The first line that a program says of its version, or its place where it says nothing."""
    place = shutil.which(name)
    if place is None:
        return None
    try:
        answer = subprocess.run([place, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return place
    lines = (answer.stdout.strip() or answer.stderr.strip()).splitlines()
    return lines[0][:50] if lines and answer.returncode == 0 else place
