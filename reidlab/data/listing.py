"""The images of a folder, table, tar archive or video, one by one: listed without being opened, then read by name.

A listing is as long as its source; what is held of it at a time are the names in one folder or in one archive.
"""

import csv
import io
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from reidlab.data.folders import IMAGE_EXTENSIONS, is_hidden, require_utf8, walk_each
from reidlab.data.images import MAX_IMAGE_BYTES, decode, read_image
from reidlab.data.labels import JUNK, MISSING, is_junk, is_known_camera, is_whole_number, labels_of
from reidlab.data.mot import BOX, corners, in_view, numbered, read_sequence, read_video, refuse_bare_video
from reidlab.data.sources import found_in
from reidlab.errors import InputError, one_line
from reidlab.files import open_regular
from reidlab.untrusted import UNPRINTABLE, parse_json

TAR, PACKED_TAR = ".tar", (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
TABLES = (".csv", ".tsv")
SIDECARS = (".json", ".cls")
MAX_TAR_BYTES, MAX_TABLE_BYTES = 1 << 50, 1 << 40
MAX_HEADER_BYTES = 1 << 20  # of a tar's member, and of a file of labels in it
BLOCK = 512  # bytes of a tar


class Entry(NamedTuple):
    """An image, or a box in one, with what its source says of it; or what can't be read there, and why.

    Args:
        path: its name: the path below the source's folder, for a member of an archive that of the archive before it,
            for a box with the frame and the place after it, as in `a/img1/000001.jpg#xywh=10,20,30,40`.
        file: below the source's folder, or anywhere; a video for its frames.
        stamp: size and time of the file, which a change changes.
        offset: of the image in an archive, and `length`, in bytes.
        frame: number of the frame, from 1.
        box: left, top, width and height in it, in pixels.
        pid: identity, where known; `camid` likewise.
        time: seconds since 1970, where known.
        refused: why there is no image.
    """

    path: str
    file: str
    stamp: str = ""
    offset: int | None = None
    length: int | None = None
    frame: int | None = None
    box: list[float] | None = None
    pid: str | None = None
    camid: str | None = None
    time: float | None = None
    refused: str | None = None


def entries_of(place: Path, pattern: re.Pattern[str] | None = None) -> tuple[Path, Iterator[Entry]]:
    """The folder of a source and its entries, always in the same order; InputError where it holds none.

    A source is an image; a folder of images and tar archives; a CSV with the column `path` and perhaps `pid`, `camid`
    and `time`; an archive, where `a.json` (keys `pid`, `camid`, `time`) or else `a.cls` beside `a.jpg` says whom it
    shows; a sequence in MOTChallenge's layout, or a folder of them, whose boxes are the entries.

    Args:
        place: the source.
        pattern: reads `pid` and perhaps `camid` and `time` from an image's path below the folder or in the archive.
    """
    name = place.name.lower()
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; {found_in(place.parent)}")
    require_utf8(place.name, place.parent)
    refuse_bare_video(place)
    if not place.is_dir():
        listed = _table(place) if name.endswith(TABLES) else _file(place.parent, place.name, pattern)
        return place.parent, listed
    filmed = [folder for folder in [place, *_folders(place)] if _has_boxes(folder)]
    if filmed:
        return place, chain((entry for folder in filmed for entry in _boxes(place, folder)), _beside(place, filmed))
    return place, (entry for path in _listed(place) for entry in _file(place, path, pattern))


def _listed(place: Path) -> Iterator[str]:
    """The images and archives below a folder without sequences; InputError where it has some further down."""
    for path in walk_each(place):
        if path.endswith(("/gt/gt.txt", "/det/det.txt")):
            sequences = (place / path).parents[2]
            raise InputError(f"{place}: has the sequence {path.rsplit('/', 2)[0]}; give the folder {sequences}")
        if path.lower().endswith((*IMAGE_EXTENSIONS, TAR, *PACKED_TAR)):
            yield path


def _beside(place: Path, filmed: Sequence[Path]) -> Iterator[Entry]:
    """Entries, refused, of the images and archives beside sequences."""
    inside = tuple("" if folder == place else f"{folder.relative_to(place).as_posix()}/" for folder in filmed)
    for path in walk_each(place):
        if not path.startswith(inside) and path.lower().endswith((*IMAGE_EXTENSIONS, TAR, *PACKED_TAR)):
            yield Entry(path, path, "", refused="lies beside sequences; embed its folder by itself")


def _file(root: Path, path: str, pattern: re.Pattern[str] | None) -> Iterator[Entry]:
    """An image, or the members of an archive."""
    if path.lower().endswith((TAR, *PACKED_TAR)):
        yield from _members(root, path, pattern)
    else:
        yield _labeled(Entry(path, path, _stamp(root / path)), path, pattern)


def _labeled(entry: Entry, path: str, pattern: re.Pattern[str] | None) -> Entry:
    match = pattern.match(path) if pattern else None
    if match is None:
        return entry
    pid, camid = labels_of(match)
    return _with_labels(entry, None if is_junk(match) else pid, camid, match.groupdict().get("time"))


def _with_cells(entry: Entry, pid: Any, camid: Any, time: Any) -> Entry:
    """The entry with the labels of a table or of a file beside it, where a negative pid is nobody's."""
    pid = None if pid is None else str(pid).strip()
    return _with_labels(entry, None if pid and JUNK.fullmatch(pid) else pid, camid, time)


def _with_labels(entry: Entry, pid: Any, camid: Any, time: Any) -> Entry:
    """The entry with labels as text, None where they are missing; refused where one can't be what it should."""
    given = ["" if value is None else str(value) for value in (pid, camid, time)]
    if any(UNPRINTABLE.search(text) or "\n" in text for text in given):
        return entry._replace(refused="its pid, camid or time holds a character that isn't printable")
    texts = [None if text.strip() in MISSING else text.strip() for text in given]
    camid = texts[1] if is_known_camera(texts[1] or "") else None
    try:
        seconds = None if texts[2] is None else float(texts[2])
    except ValueError:
        seconds = math.nan
    if seconds is not None and not math.isfinite(seconds):
        return entry._replace(refused=f"its time {texts[2]!r} is no number of seconds since 1970")
    return entry._replace(pid=texts[0], camid=camid, time=seconds)


def _table(file: Path) -> Iterator[Entry]:
    """The rows of a CSV; those without a path, or of another length than the header, are refused.

    It is read twice: whether 7.0 is 7 depends on its whole column, as in a data set's table.
    """
    numbers = {"pid", "camid"}
    for _, names, cells in _rows(file):
        row = dict(zip(names, cells, strict=False))
        numbers = {name for name in numbers if is_whole_number(row.get(name, "").strip())}
        if not numbers:
            break
    for number, names, cells in _rows(file):
        row = dict(zip(names, cells, strict=False))
        path = row.get("path", "").strip().replace("\\", "/")
        entry = Entry(path or f"{file.name}#row={number}", path, _stamp(file.parent / path))
        if not path or len(cells) != len(names):
            reason = "no path" if not path else f"{len(cells)} cells, the header {len(names)}"
            yield entry._replace(refused=f"row {number} has {reason}")
        else:
            row |= {name: row[name].strip().partition(".")[0] for name in numbers & row.keys()}
            yield _with_cells(entry, row.get("pid"), row.get("camid"), row.get("time"))


def _rows(file: Path) -> Iterator[tuple[int, list[str], list[str]]]:
    """Number, names of columns and cells of each row of a CSV that isn't empty."""
    with open_regular(file, MAX_TABLE_BYTES) as raw:
        try:
            text = io.TextIOWrapper(io.BufferedReader(raw), "utf-8-sig", newline="")
            header = text.readline(MAX_HEADER_BYTES)
            separator = max(",;\t", key=header.count)
            cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
            names = [name.strip().lower() for name in cells]
            if "path" not in names:
                raise InputError(f"{file}: column 'path' is missing; found {', '.join(names) or 'nothing'}")
            if twice := {name for name in ("path", "pid", "camid", "time") if names.count(name) > 1}:
                raise InputError(f"{file}: column '{min(twice)}' comes twice; leave one out")
            for number, cells in enumerate(csv.reader(text, delimiter=separator, skipinitialspace=True), start=2):
                if any(cells):
                    yield number, names, cells
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{file}: not a CSV in UTF-8 ({one_line(error)})") from error


def _boxes(root: Path, folder: Path) -> Iterator[Entry]:
    """The boxes of a sequence; identities of two scenes are different ones, and each sequence is a camera."""
    sequence = read_sequence(folder)
    files = numbered(sequence.source) if sequence.source.is_dir() else {}
    for number, rows in sequence.boxes.groupby("frame"):
        file = files.get(int(number), sequence.source)
        name, stamp = file.relative_to(root).as_posix(), _stamp(file)
        before = "" if files else f"frame={number}&"
        for pid, *box in rows[["pid", *BOX]].itertuples(index=False, name=None):
            where = ",".join(f"{value:g}" for value in box)
            yield Entry(f"{name}#{before}xywh={where}", name, stamp, frame=int(number), box=[*map(float, box)],
                        pid=f"{sequence.scene}/{pid}" if pid >= 0 else None, camid=sequence.name)  # fmt: skip


def _members(root: Path, archive: str, pattern: re.Pattern[str] | None) -> Iterator[Entry]:
    """The images of a tar archive, with the labels beside them, and whatever in it can't be used, in its order."""
    if not archive.lower().endswith(TAR):
        yield Entry(archive, archive, refused="a compressed archive can't be read in parts; uncompress it")
        return
    images: list[tuple[str, Entry]] = []
    labels: dict[str, tuple[Any, ...]] = {}
    stamp = _stamp(root / archive)
    try:
        with open_regular(root / archive, MAX_TAR_BYTES) as file:
            for name, member, refused in _headers(file):
                inside = PurePosixPath(name)
                stem, extension = str(inside.with_suffix("")) if name else "", inside.suffix.lower()
                entry = Entry(f"{archive}/{name}" if name else archive, archive, stamp, refused=refused)
                if member is None or refused:
                    images.append((stem, entry))
                elif extension in SIDECARS:
                    raw = os.pread(file.fileno(), member.size, member.offset_data)
                    try:
                        told, known = _sidecar(raw, extension), labels.get(stem, (None, None, None))
                        pairs = zip(told, known, strict=True) if extension == ".json" else zip(known, told, strict=True)
                        labels[stem] = tuple(second if first is None else first for first, second in pairs)
                    except ValueError as error:
                        images.append((stem, entry._replace(refused=f"not readable as labels ({one_line(error)})")))
                else:
                    entry = entry._replace(offset=member.offset_data, length=member.size)
                    images.append((stem, _labeled(entry, name, pattern)))
    except InputError as error:
        images.append(("", Entry(archive, archive, stamp, refused=str(error))))
    for stem, entry in images:
        inside = PurePosixPath(stem)
        key = stem if stem in labels else str(inside.parent / inside.name.partition(".")[0])  # as WebDataset's keys are
        yield _with_cells(entry, *labels[key]) if key in labels and not entry.refused else entry


def _headers(file: io.FileIO) -> Iterator[tuple[str, tarfile.TarInfo | None, str | None]]:
    """Name and header of each image and file of labels in a tar, or why it can't be used; other files are left out."""
    kinds = (*IMAGE_EXTENSIONS, *SIDECARS, TAR, *PACKED_TAR)
    end, seen, last = os.fstat(file.fileno()).st_size, set(), -1
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]  # has what it needs
            while (member := tar.next()) is not None:
                tar.members = []  # which would hold all of them
                if member.offset <= last:
                    raise tarfile.ReadError("a header leads back")
                last = member.offset
                name = member.name.removeprefix("./")
                hidden = any(is_hidden(part) for part in PurePosixPath(name).parts if part != "..")
                if member.isdir() or hidden or not name.lower().endswith(kinds):
                    continue
                safe = name.encode("utf-8", "replace").decode()
                yield safe, member, _unusable(name, member, end) or ("another of that name came before it"
                                                                                if name in seen else None)  # fmt: skip
                seen.add(name)
            rest = os.pread(file.fileno(), BLOCK, tar.offset)
            if rest.strip(b"\0") or len(rest) < BLOCK:
                yield "", None, f"damaged or cut off at byte {tar.offset:,}; what follows isn't read"
    except (tarfile.TarError, ValueError, RecursionError, OverflowError) as error:
        yield "", None, f"damaged or cut off ({one_line(error)}); what follows isn't read"


def _unusable(name: str, member: tarfile.TarInfo, end: int) -> str | None:
    if not member.isreg() or member.issparse():
        return "a link, device or sparse file in an archive"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "its name leads out of the archive"
    if name.encode("utf-8", "replace") != name.encode("utf-8", "surrogateescape") or "\0" in name:
        return "its name isn't UTF-8"
    if name.lower().endswith((TAR, *PACKED_TAR)):
        return "an archive in an archive; unpack it"
    if member.offset_data + member.size > end:
        return "cut off by the end of the archive"
    largest = MAX_HEADER_BYTES if name.lower().endswith(SIDECARS) else MAX_IMAGE_BYTES
    return f"{member.size:,} bytes, more than {largest:,}" if member.size > largest else None


class _Headers:
    """A file to read the headers of a tar from, none of which is longer than MAX_HEADER_BYTES."""

    def __init__(self, file: io.FileIO) -> None:
        self.tell, self.seek = file.tell, file.seek
        self._read = file.read

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes; a ReadError for more than a header has."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read(size) or b""


def _sidecar(raw: bytes, extension: str) -> tuple[Any, Any, Any]:
    """The pid, camid and time of a .json or .cls; ValueError for what isn't one."""
    if extension == ".cls":
        return raw.decode().strip(), None, None
    found = parse_json(raw)
    if not isinstance(found, dict):
        raise ValueError("no object")
    values = [found.get(key) for key in ("pid", "camid", "time")]
    if any(isinstance(value, dict | list | bool) for value in values):
        raise ValueError("pid, camid or time is no text or number")
    pid, camid, time = (int(value) if isinstance(value, float) and value.is_integer() else value for value in values)
    return pid, camid, time


class Reader:
    """The images of entries, as (H, W, 3) uint8 RGB; InputError where one can't be read.

    The frame that was read last is kept, and so is the place in the video that was read last, so that entries in their
    order are read in one go.

    Args:
        root: the source's folder, by `entries_of`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._image = lru_cache(maxsize=1)(self._frame)
        self._video: tuple[str, int, Iterator[tuple[int, np.ndarray]]] = "", 0, iter(())
        self._ends: dict[str, int] = {}  # the last frames of videos that were read to it

    def __call__(self, entry: Entry) -> np.ndarray:
        """Read an entry's image, cut to its box."""
        if entry.refused:
            raise InputError(entry.refused)
        if entry.offset is not None and entry.length is not None:
            with open_regular(self.root / entry.file, MAX_TAR_BYTES) as file:
                return decode(os.pread(file.fileno(), entry.length, entry.offset), entry.path)
        if entry.box is None:
            return read_image(self.root / entry.file)
        image = self._image(entry.file, entry.frame)
        box = np.array([entry.box])
        if not in_view(box, image).all():
            raise InputError(f"the box lies outside of the frame, {image.shape[1]} x {image.shape[0]} pixels")
        ((left, top, right, bottom),) = corners(box, image)
        return image[top:bottom, left:right]

    def _frame(self, file: str, frame: int) -> np.ndarray:
        if file.lower().endswith(IMAGE_EXTENSIONS):
            return read_image(self.root / file)
        opened, last, frames = self._video
        if frame > self._ends.get(file, frame):
            raise InputError(f"{self.root / file}: no frame {frame}")
        if opened != file or last >= frame:
            last, frames = 0, read_video(self.root / file)
        for last, image in frames:
            if last == frame:
                self._video = file, frame, frames
                return image
        self._video, self._ends[file] = ("", 0, iter(())), last
        raise InputError(f"{self.root / file}: no frame {frame}")


def _stamp(file: Path) -> str:
    try:
        state = file.stat()
    except (OSError, ValueError):  # ValueError: a null byte
        return "absent"
    return f"{state.st_size}-{state.st_mtime_ns}"


def _has_boxes(folder: Path) -> bool:
    return any((folder / name / f"{name}.txt").is_file() for name in ("gt", "det"))


def _folders(place: Path) -> list[Path]:
    return [folder for folder in sorted(place.iterdir()) if folder.is_dir() and not is_hidden(folder.name)]
