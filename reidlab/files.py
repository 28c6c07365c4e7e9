"""Files: reading what users give, atomic writes, locks, hashes."""

import contextlib
import hashlib
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reidlab.errors import InputError
from reidlab.untrusted import MAX_JSON_BYTES, MAX_YAML_BYTES, check_schema, parse_json, parse_yaml

EXPORTED = (".tflite", ".onnx")
# torchreid writes model.pth.tar-60, others model.pth.tar and best.pth_epoch3
_CHECKPOINT = re.compile(r"\.(ckpt|pth|pt|tar|pkl|bin|safetensors)([-_.]?\w*)$", re.IGNORECASE)


def is_checkpoint(file: str | Path) -> bool:
    """Whether a file is a checkpoint by its name: `.pth`, `.ckpt`, `.pth.tar-60` and the like."""
    return Path(file).suffix.lower() not in EXPORTED and bool(_CHECKPOINT.search(Path(file).name))


MAX_BYTES = 4 << 30  # of a file that a user gives
KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@contextlib.contextmanager
def open_regular(path: str | Path, limit: int = MAX_BYTES) -> Iterator[io.FileIO]:
    """Open a regular file of at most `limit` bytes.

    An InputError names a file that can't be read, is larger, or is a folder, pipe, device or socket (never waited for).
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:  # Path has no opener
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                kind = KINDS.get(stat.S_IFMT(state.st_mode), "socket")
                raise InputError(f"{path}: can't be read (it is a {kind}); give a regular file")
            if state.st_size > limit:
                size = f"{state.st_size:,} bytes, more than {limit:,}"
                raise InputError(f"{path}: can't be read ({size}); give a smaller file")
            yield file
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte, or one that can't be encoded
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: can't be read ({reason}); check the path and its permissions") from error


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file, see `open_regular`."""
    with open_regular(path, limit) as file:
        return file.read() or b""


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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


def read_json(path: Path, schema: Any = None) -> dict:
    """The object in a JSON file, see `parse_json` and `check_schema`, or an empty one where the file is absent."""
    if not Path(path).exists():
        return {}
    try:
        return _mapping(parse_json(read_bytes(path, MAX_JSON_BYTES)), schema)
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error}); delete it and run the stage again") from error


def read_yaml(path: Path, schema: Any = None) -> dict:
    """The mapping in a YAML file, see `parse_yaml` and `check_schema`."""
    try:
        return _mapping(parse_yaml(read_bytes(path, MAX_YAML_BYTES)), schema)
    except ValueError as error:
        raise InputError(f"{path}: not readable as YAML ({error}); mend it, or give another file") from error


def _mapping(content: Any, schema: Any) -> dict:
    check_schema(content, {} if schema is None else schema)
    return content


def write_json(path: Path, content: Mapping) -> Path:
    """Write an object as indented JSON, atomically."""
    return write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def file_hash(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256; InputError where it can't be read."""
    with open_regular(path, limit=1 << 50) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
