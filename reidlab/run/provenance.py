"""Provenance of artifacts."""

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from reidlab.config import CLONE

RECORDED_PACKAGES = ("reidlab", "torch", "pytorch-lightning", "torchmetrics", "numpy", "opencv-python-headless", "onnx")


def provenance() -> dict:
    """Provenance of an artifact: package versions, git commit, machine and time (UTC)."""
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "versions": versions,
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
        },
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    """The processor by its maker's name where the system tells it, else its architecture."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit that this code is at, with `+changes` where the tree differs from it; None outside a checkout."""
    if CLONE is None:
        return None  # git would answer for whatever repository the installed package lies in

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=CLONE, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
