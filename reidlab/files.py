"""Files: reading what users give, atomic writes, locks, hashes."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from reidlab.errors import InputError, StorageError
from reidlab.untrusted import MAX_JSON_BYTES, MAX_YAML_BYTES, check_schema, parse_json, parse_yaml

EXPORTED = (".tflite", ".onnx")
CHECKPOINTS = (".ckpt", ".pth", ".pt", ".tar", ".pkl", ".bin", ".safetensors")
# torchreid writes model.pth.tar-60, others model.pth.tar and best.pth_epoch3
_CHECKPOINT = re.compile(rf"({'|'.join(map(re.escape, CHECKPOINTS))})([-_.]?\w*)$", re.IGNORECASE)


def is_checkpoint(file: str | Path) -> bool:
    """Whether a file is a checkpoint by its name: `.pth`, `.ckpt`, `.pth.tar-60` and the like."""
    return Path(file).suffix.lower() not in EXPORTED and bool(_CHECKPOINT.search(Path(file).name))


FOLDERS = re.compile(r"(?<![\w.~:/])/(?=[^/\s])(?:[^/\n]+/)+")
MARK = ".reidlab"
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}" + re.escape(MARK))  # of the name meant, with what Python's tempfile adds
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES)
FREE = "free space or choose a folder that can be written, then give the same command again"
RANKS = ("NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "LOCAL_RANK")  # of the processes of a distributed training
MAX_BYTES = 4 << 30  # of a file that a user gives
STAND_INS = {  # how the text begins that lies in a file's place -> what it is and what to do
    b"version https://git-lfs.github.com/": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<!doctype html": "a web page, not the file itself; download that by the link that gives it raw",
    b"<html": "a web page, not the file itself; download that by the link that gives it raw",
}
KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}

_hashes: dict[tuple[int, ...], str] = {}  # of versions of files that were read


@contextlib.contextmanager
def open_regular(path: str | Path, limit: int = MAX_BYTES) -> Iterator[io.FileIO]:
    """Open a regular file of at most `limit` bytes.

    An InputError names a file that can't be read, is larger, or is a folder, pipe, device or socket (never waited for),
    and one in whose place a Git LFS pointer or a web page lies.
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
            begin = os.pread(file.fileno(), 256, 0).lstrip().lower()
            if stand_in := next((what for text, what in STAND_INS.items() if begin.startswith(text)), None):
                raise InputError(f"{path}: {stand_in}")
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

    Raises StorageError where the disk is full or the folder can't be written; the old file is then untouched.
    """
    with replacing(Path(path)) as file:
        file.write(data.encode() if isinstance(data, str) else data)
    return Path(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block has ended, and vanishes if that fails.

    It lies beside it as `.name.xxxxxxxx.reidlab` until then, locked, so that `sweep` knows it from what a kill left
    behind. Raises StorageError, see `write_atomic`.
    """
    temporary = None
    try:
        temporary, descriptor = _begun(path, tempfile.mkstemp)
        with open(temporary, "w+b", opener=lambda *_: descriptor) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a power cut leaves an empty file under the name
            temporary.chmod(0o644)
            temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder `.name.xxxxxxxx.reidlab` in another, gone after the block unless it was moved.

    One that a kill left is swept when the next of that name is made. Raises StorageError where it can't be made or
    filled.
    """
    folder = None
    try:
        sweep(parent, name)
        folder, descriptor = _begun(parent / name, _make_folder)
        try:
            folder.chmod(0o755)
            yield folder
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(parent / name, error) from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def made_once(folder: Path, is_there: Callable[[], bool], make: Callable[[Path], None]) -> Path:
    """The folder, made whole by `make` where it isn't there; another process may make the same one meanwhile."""
    if is_there():
        return folder
    try:
        with temporary_folder(folder.parent, folder.name) as unfinished:
            make(unfinished)
            unfinished.replace(folder)
    except StorageError:
        if not is_there():
            raise
    return folder


def _begun(path: Path, make: Callable[..., tuple[int, str]]) -> tuple[Path, int]:
    """A new file or folder `.name.xxxxxxxx.reidlab` beside a path, and the open descriptor that locks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor, name = make(dir=path.parent, prefix=f".{path.name}.", suffix=MARK)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.lexists(name):
            return Path(name), descriptor
        os.close(descriptor)  # a sweep was faster than the lock


def _make_folder(**where: Any) -> tuple[int, str]:
    name = tempfile.mkdtemp(**where)
    return os.open(name, os.O_RDONLY), name


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half-written: `.name.xxxxxxxx.reidlab` that no process holds.

    Args:
        folder: where it lies.
        name: of the file or folder that was meant; None for any, also in folders below.
    """
    for place in folder.glob(f".{glob.escape(name)}.*{MARK}") if name else folder.rglob(f".*{MARK}"):
        if not UNFINISHED.fullmatch(place.name):
            continue
        with contextlib.suppress(OSError):  # held, or on a file system without locks, where nobody can tell
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            finally:
                os.close(descriptor)


def unwritable(path: Path, error: OSError) -> StorageError:
    """The one line for a file that couldn't be written."""
    return StorageError(f"{path}: can't be written ({error.strerror or error}); {FREE}")


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn a full or read-only disk, however a library below reports it, into a StorageError; also a decorator."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, OSError) and cause.errno in STORAGE:
                raise StorageError(f"{cause.filename or 'a file'}: {cause.strerror}; {FREE}") from error
            if (reason := os.strerror(errno.ENOSPC)) in str(cause):  # of libraries in C++
                raise StorageError(f"{tempfile.gettempdir()} or the run folder: {reason}; {FREE}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def file_lock(place: Path, wait_s: float = -1) -> FileLock:
    """A lock file, against all processes and users on all machines that share the folder; -1 waits for ever.

    The operating system releases it when its process ends, however that ends; the empty file stays.
    """
    return FileLock(place, timeout=wait_s, mode=0o666)


@contextlib.contextmanager
def locked(place: Path, busy: str, wait_s: float = 0) -> Iterator[None]:
    """Hold a `file_lock`; InputError with `busy` where another does for longer than `wait_s`."""
    lock = file_lock(place, wait_s)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{place.parent}: {busy} (it holds {place.name})") from error
    except OSError as error:
        raise unwritable(place, error) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def claimed(place: Path, number: int, wait: bool) -> Iterator[bool]:
    """Hold one byte of a lock file, against all other processes on all machines that share it; False where one does.

    The operating system releases it when its process ends, however that ends. A process has one such file open at a
    time.

    Args:
        place: the file, which stays.
        number: of the byte: of what is claimed.
        wait: until it is free, or whoever holds it has ended.
    """
    with contextlib.ExitStack() as open_files:
        try:
            file = open_files.enter_context(place.open("ab"))
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
            mine = True
        except BlockingIOError:
            mine = False
        except OSError as error:
            raise unwritable(place, error) from error
        yield mine


def is_first_process() -> bool:
    """Whether this process is the first of a distributed training, or none of one."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def alone(run: Path) -> contextlib.AbstractContextManager[None]:
    """Keep other processes from training in the same run folder meanwhile; InputError where one does.

    The processes of one distributed training count as one.
    """
    ranks = "-".join(os.environ.get(name, "0") for name in RANKS)
    name = ".training.lock" if is_first_process() else f".training-{ranks}.lock"
    return locked(run / name, "another process trains there; let it end, or choose another run.name")


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


def one_spelling(path: Path) -> Path:
    """The absolute path without `..` and links to folders, the same however it was given; a link to a file stays."""
    return path.parent.resolve() / path.name


def without_folders(text: str) -> str:
    """Text with its absolute paths cut to their last names, so that it doesn't tell whose machine it comes from."""
    return FOLDERS.sub("", text)


def file_hash(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256; InputError where it can't be read.

    A file that has been as it is for a second is read once by a process, however often it is asked for: a report asks
    hundreds of times for that of a checkpoint.
    """
    with open_regular(path, limit=1 << 50) as file:
        state = os.fstat(file.fileno())
        version = state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
        if version in _hashes:
            return _hashes[version]
        begun = time.time_ns()
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    if state.st_ctime_ns < begun - 1_000_000_000:  # else another change, while it was read, may have the same time
        _hashes[version] = found
    return found
