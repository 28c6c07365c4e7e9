"""Commands in forked children whose file operations fail or kill them, and whether two run folders hold the same."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
GROWING = {"open", "os.mkdir", "os.link"}  # what a full disk refuses
VARYING = ("ms_", "memory", "time", "versions", "machine", "git_commit", "size_")  # beginnings of figures' names
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("torch", "pytorch_lightning", "tensorflow", "onnxruntime", "openvino", "optuna", "sklearn.manifold"),
        *(f"reidlab.stages.{name}" for name in ("train", "evaluate", "export", "quantize", "deploy", "report")),
        *("reidlab.cli", "reidlab.stages.data", "reidlab.stages.search", "reidlab.stages.predict"),
    ]
)


@dataclass
class Fault:
    """What befalls the file operations below a folder from the nth on; `kind` is kill or full.

    Counting begins at 0; without a kind they are only counted.
    """

    folder: Path
    kind: str = ""
    nth: int = 0
    count: int = 0

    def __call__(self, event: str, args: tuple) -> None:
        if event not in CHANGES or not self._concerns(args):
            return
        if event == "open" and not args[2] & WRITES:
            return
        if self.kind == "kill" and self.count == self.nth:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "full" and self.count >= self.nth and event in GROWING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        self.count += 1

    def _concerns(self, args: tuple) -> bool:
        return any(isinstance(arg, str | Path) and str(self.folder) in str(arg) for arg in args)


@dataclass
class Ended:
    """How a command ended: its status (negative for a signal), what it printed, the file operations that it made."""

    status: int
    output: str
    errors: str
    operations: int
    seconds: float

    @property
    def one_line(self) -> bool:
        """Whether it was refused in a line, and no traceback was written anywhere."""
        lines = [line for line in self.errors.splitlines() if line.startswith("reidlab: ")]
        return self.status == 2 and len(lines) == 1 and "raceback" not in self.errors


def command(
    *argv: str,
    folder: Path,
    kind: str = "",
    nth: int = 0,
    temporary: Path | None = None,
    memory: int = 0,
    kill: Callable[[int, int], None] = os.kill,
    seconds: float = 300,
) -> Ended:
    """Run a command in a child and a session of its own, with a fault among its file operations below a folder.

    Args:
        argv: of the command.
        folder: a run folder, or its root.
        kind: of the fault, see `Fault`.
        nth: the operation at which it begins.
        temporary: the child's temporary folder.
        memory: bytes that the child may add to its own; 0 for any.
        kill: what gets SIGKILL when its time is up: the child by os.kill, its session by os.killpg.
        seconds: that it may take.
    """
    beside = [folder.with_name(f"{folder.name}.{name}") for name in ("operations", "stdout", "stderr")]
    for file in beside:
        file.write_text("")
    begun = FORKS.Event()
    child = FORKS.Process(target=_run, args=(argv, Fault(folder, kind, nth), beside, temporary, memory, begun))
    child.start()
    assert begun.wait(300)
    start = time.monotonic()
    child.join(seconds)
    if child.is_alive():
        kill(child.pid, signal.SIGKILL)
        child.join()
    operations, output, errors = (file.read_text(errors="replace") for file in beside)
    return Ended(child.exitcode or 0, output, errors, int(operations or -1), time.monotonic() - start)


def _run(argv, fault, beside, temporary, memory, begun) -> None:
    from reidlab import cli

    torch.set_num_threads(1)
    os.setsid()
    report, *streams = beside
    for number, file in enumerate(streams, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    sys.stdout.reconfigure(line_buffering=True)
    begun.set()
    if temporary:
        os.environ["TMPDIR"] = str(temporary)
        tempfile.tempdir = None
        tempfile.gettempdir()  # which tries the folder by a file, once
    if memory:
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + memory, own + memory))
    sys.addaudithook(fault)
    status = cli.main(argv)
    count, fault.kind = fault.count, ""
    report.write_text(str(count))
    sys.stderr.flush()
    os._exit(status)


def restore(snapshot: Path, place: Path) -> None:
    """Put a copy of a folder in the place of another."""
    shutil.rmtree(place, ignore_errors=True)  # the folder itself may be where a disk is mounted
    shutil.copytree(snapshot, place, dirs_exist_ok=True)


def differences(one: Path, other: Path) -> list[str]:
    """The files that two run folders don't share, or that differ in more than times and sizes of memory.

    Locks and what W&B keeps don't count; checkpoints are compared tensor by tensor.
    """
    names = sorted(_files(one) | _files(other))
    return [name for name in names if not _same(one / name, other / name)]


def _files(folder: Path) -> set[str]:
    found = (place.relative_to(folder) for place in folder.rglob("*") if place.is_file())
    return {str(name) for name in found if name.suffix != ".lock" and "wandb" not in name.parts}


def _same(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    if one.suffix == ".ckpt":
        return _equal(*(torch.load(file, weights_only=True)["state_dict"] for file in (one, other)))
    if one.suffix == ".json":
        return _steady(json.loads(one.read_text())) == _steady(json.loads(other.read_text()))
    if one.suffix == ".csv":
        tables = [pd.read_csv(file) for file in (one, other)]
        return tables[0].filter(regex=_STEADY).equals(tables[1].filter(regex=_STEADY))
    if one.suffix in (".html", ".md", ".log", ".zip", ".png", ".svg"):  # pictures, and what has times in it
        return one.stat().st_size > 0 and other.stat().st_size > 0
    return one.read_bytes() == other.read_bytes()


_STEADY = f"^(?!{'|'.join(VARYING)})"


def _steady(node):
    if isinstance(node, dict):
        # the hash of a checkpoint's bytes, which depend on whether its callbacks were restored
        return {
            key: _steady(value)
            for key, value in node.items()
            if not (key.startswith(VARYING) or (key == "checkpoint" and isinstance(value, str)))
        }
    return node


def _equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def litter(folder: Path) -> list[Path]:
    """What a killed process left and nothing swept, locks apart."""
    return [place for place in folder.rglob(".*") if place.suffix != ".lock"]


def fill(disk: Path, kib: int) -> Path:
    """Write a file that leaves so many KiB free."""
    state, ballast = os.statvfs(disk), disk / "ballast"
    ballast.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - kib * 1024)))
    return ballast
