"""The run folder: the one place that a stage reads from and writes to."""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from reidlab.errors import InputError

RECORDED_PACKAGES = ("reidlab", "torch", "pytorch-lightning", "torchmetrics", "numpy", "opencv-python-headless", "onnx")


def write_atomic(path: Path, data: str | bytes) -> Path:
    """Write a file so that a reader sees the old content or the new, never half of it.

    Raises InputError where the disk is full or the folder can't be written; the old file is then untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data.encode() if isinstance(data, str) else data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path}: can't be written ({error.strerror}); free space or choose another run.root"
        ) from error
    return path


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep other processes of this machine from training in the same run folder meanwhile; InputError where one does.

    Local ranks of one distributed training count as one. The lock ends with its process, however that ends.
    """
    key = hashlib.sha256(f"{run.resolve()} {os.environ.get('LOCAL_RANK', 0)}".encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"reidlab-{key}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{run}: another process trains there; let it end, or choose another run.name") from error
    try:
        yield
    finally:
        lock.release()


def read_json(path: Path) -> dict:
    """The object in a JSON file, or an empty one where the file is absent."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete it and run the stage again") from error


def write_json(path: Path, content: Mapping) -> Path:
    """Write an object as indented JSON, atomically."""
    return write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def record_metrics(run: Path, rows: Mapping[str, Mapping[str, float]]) -> Path:
    """Put rows (stage name -> figures) into `metrics.json`; rows of other stages stay as they are."""
    path = run / "metrics.json"
    return write_json(path, {**read_json(path), **rows})


def file_hash(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def provenance() -> dict:
    """What made an artefact: package versions, git commit, machine and time (UTC)."""
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
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")
