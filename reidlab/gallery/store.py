"""The folder of a gallery: Arrow files that are mapped into memory, and a manifest that says which of them count.

Files are written once and never changed. A change writes new ones, replaces the manifest, and deletes those that it no
longer names: whenever the process ends, the gallery is the old one or the new one.
"""

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from reidlab.errors import InputError, one_line
from reidlab.files import locked, read_json, write_atomic, write_json
from reidlab.gallery.search import Block
from reidlab.metrics.closeness import norms_of

MANIFEST, LOCK = "gallery.json", ".lock"
# files of a gallery, and unfinished ones
OURS = re.compile(r"\.?(part|index)-[0-9a-f]{32}\.|\.gallery\.json\.[a-z0-9_]{8}\.reidlab$")
ADVICE = "put a copy of it back, or enroll into another folder"
FORMAT = 1
PART_ROWS = 262_144  # of a file: what a deletion rewrites
BLOCK_ROWS = 32_768  # decoded at a time
PATIENCE_S = 60.0  # for another process that writes
PRECISIONS = {"float16": pa.float16(), "int8": pa.int8()}


class Unusable(InputError):
    """A gallery's folder is gone or damaged, or of a newer reidlab."""


@dataclass(frozen=True)
class Part:
    """One Arrow file, mapped: a row is an image."""

    name: str
    table: pa.Table

    @classmethod
    def open(cls, folder: Path, name: str) -> "Part":
        """Map a file; Unusable where it isn't whole."""
        try:
            table = pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all()
        except FileNotFoundError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            raise Unusable(f"{folder / name}: damaged ({error}); {ADVICE}") from error
        return cls(name, table)

    def __len__(self) -> int:
        return self.table.num_rows

    def numbers(self, column: str) -> np.ndarray:
        """A column without missing values, (n,), or (n, D) for `embedding`."""
        values = self.table[column].chunk(0)
        if column == "embedding":
            return values.flatten().to_numpy().reshape(len(self), -1)
        return values.to_numpy()

    @cached_property
    def codes(self) -> np.ndarray:
        """The embeddings as they are stored, (n, D) float16 or int8."""
        return self.numbers("embedding")

    def rows(self, chosen: slice | np.ndarray, offset: int = 0) -> Block:
        """Some rows, decoded; positions count from `offset`."""
        embedding = self.codes[chosen].astype(np.float32)
        embedding *= self.numbers("scale")[chosen, None]
        return Block(offset + np.arange(len(self))[chosen], embedding, self.numbers("norm")[chosen].copy())


class Store:
    """The rows of a gallery folder, in the order of their enrollment.

    Columns: `id` int64, which ascends; `path`, `pid`, `camid` text (the latter may be missing), `time` and `expires` in
    seconds since 1970, `checkpoint`, and the embedding: codes (D,), which times `scale` are its values, and its length
    `norm`. Several processes may use a folder at once; those that read see each change at their next call.

    Args:
        folder: any; it is made by the first change.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{folder}: is no folder; give one for the gallery")
        self.about: dict[str, Any] = {}
        self.parts: list[Part] = []
        self.state: tuple[int, int] | None = None  # which every change changes
        self.refresh()
        if self._strays():  # which a process that was killed left
            with self.writing():
                pass

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def is_current(self) -> bool:
        """Whether no other process has changed the folder since `refresh`."""
        return _state(self.folder / MANIFEST) == self.state

    def refresh(self) -> None:
        """Take up what other processes have changed; Unusable where the folder is gone or damaged."""
        while (state := _state(self.folder / MANIFEST)) != self.state:
            about = self._read()
            opened = {part.name: part for part in self.parts}
            try:
                parts = [opened.get(name) or Part.open(self.folder, name) for name in about.get("parts", [])]
            except FileNotFoundError as error:
                if _state(self.folder / MANIFEST) == state:
                    raise Unusable(f"{self.folder}: a file is missing ({error}); {ADVICE}") from error
                continue  # replaced meanwhile
            self.about, self.parts, self.state = about, parts, state

    def is_usable(self) -> bool:
        """Whether the folder is there, if it ever was, and its manifest can be read."""
        try:
            self._read()
        except InputError:
            return False
        return True

    def _read(self) -> dict[str, Any]:
        """Content of the manifest; empty before the first change."""
        file = self.folder / MANIFEST
        try:
            about = read_json(file)
        except InputError as error:
            reason = one_line(error.__cause__ or error)
            raise Unusable(f"{file}: damaged ({reason}), the list of the gallery's files; {ADVICE}") from error
        if self.about and not about:
            raise Unusable(f"{self.folder}: the gallery is gone; bring it back, or open it again to begin another one")
        if about.get("format", FORMAT) != FORMAT:
            raise Unusable(f"{self.folder}: a gallery of format {about['format']}; use a newer reidlab")
        return about

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only process that changes the folder; InputError where another does for a minute."""
        with locked(self.folder / LOCK, "another process writes there; try again when it has ended", PATIENCE_S):
            self.refresh()
            self._sweep()
            yield

    def commit(self, parts: Sequence[str], about: Mapping[str, Any]) -> None:
        """Make these files the gallery and delete the others; `about` changes entries of the manifest."""
        new = {**self.about, "format": FORMAT, **about, "parts": [*parts]}
        write_json(self.folder / MANIFEST, new)
        self.refresh()
        self._sweep()

    def change(
        self,
        gone: np.ndarray,
        embeddings: np.ndarray | None = None,
        columns: Mapping[str, Sequence | np.ndarray] | None = None,
        about: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Delete rows and add others, both or neither (within `writing`).

        Files that hold no deleted row stay as they are. Small ones at the end are merged with new rows, so that files
        stay few however little is added at a time.

        Args:
            gone: positions (M,) to delete.
            embeddings: new ones (N, D) float32.
            columns: their path, pid, camid, time and expires.
            about: changed entries of the manifest; a new gallery needs `precision`, `checkpoint` and `dim`.
        """
        new = {**self.about, **about}
        kept: list[tuple[str | None, pa.Table]] = []
        for part, offset in self.placed():
            keep = np.ones(len(part), bool)
            keep[gone[(gone >= offset) & (gone < offset + len(part))] - offset] = False
            if keep.all():
                kept.append((part.name, part.table))
            elif keep.any():
                kept.append((None, part.table.filter(pa.array(keep))))
        if embeddings is not None and columns is not None:
            first = new.get("next_id", 0)
            added = _table(embeddings, columns, first, new["precision"], new["checkpoint"])
            while kept and kept[-1][1].num_rows <= min(2 * added.num_rows, PART_ROWS - added.num_rows):
                added = pa.concat_tables([kept.pop()[1], added])
            kept += [(None, added.slice(start, PART_ROWS)) for start in range(0, added.num_rows, PART_ROWS)]
            new["next_id"] = first + len(embeddings)
        self.commit([name or self._write(table) for name, table in kept], new)

    def new_file(self, kind: str) -> Path:
        """A path that no file had, for a `part` or an `index`."""
        return self.folder / f"{kind}-{uuid.uuid4().hex}"

    def placed(self) -> Iterator[tuple[Part, int]]:
        """Each file with the position of its first row."""
        offset = 0
        for part in self.parts:
            yield part, offset
            offset += len(part)

    def numbers(self, column: str) -> np.ndarray:
        """A column of numbers of all rows, (N,)."""
        return np.concatenate([part.numbers(column) for part in self.parts] or [np.empty(0)])

    def text(self, column: str) -> pa.ChunkedArray:
        """A column of text of all rows."""
        return pa.chunked_array([part.table[column].chunk(0) for part in self.parts], pa.string())

    def blocks(self, positions: np.ndarray | None = None, since: int = 0) -> Iterator[Block]:
        """Decoded rows in blocks: all from position `since` on, or those at ascending positions."""
        for part, offset in self.placed():
            if positions is None:
                for start in range(max(since - offset, 0), len(part), BLOCK_ROWS):
                    yield part.rows(slice(start, start + BLOCK_ROWS), offset)
                continue
            first, last = np.searchsorted(positions, [offset, offset + len(part)])
            for start in range(first, last, BLOCK_ROWS):
                yield part.rows(positions[start : min(start + BLOCK_ROWS, last)] - offset, offset)

    def rows(self, positions: np.ndarray) -> Block:
        """The rows at ascending positions, decoded, as one block."""
        none = Block(np.empty(0, np.int64), np.empty((0, self.about.get("dim", 0)), np.float32), np.empty(0))
        parts = [*self.blocks(positions)] or [none]
        return Block(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _write(self, table: pa.Table) -> str:
        """Write a file, whose bytes are those of these rows alone; its name."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks())
        return write_atomic(self.new_file("part").with_suffix(".arrow"), sink.getvalue().to_pybytes()).name

    def _strays(self) -> list[Path]:
        """Files of a gallery that the manifest doesn't name."""
        named = {*self.about.get("parts", []), (self.about.get("index") or {}).get("file"), MANIFEST}
        return [file for file in self.folder.glob("*") if OURS.match(file.name) and file.name not in named]

    def _sweep(self) -> None:
        for file in self._strays():
            file.unlink(missing_ok=True)


def _state(file: Path) -> tuple[int, int]:
    """Identity of a manifest, which every change writes anew."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _table(
    embeddings: np.ndarray, columns: Mapping[str, Sequence | np.ndarray], first: int, precision: str, checkpoint: str
) -> pa.Table:
    """Rows as an Arrow table; the first gets the id `first`."""
    codes, scale = encode(embeddings, precision)
    norm = norms_of(torch.from_numpy(codes.astype(np.float32) * scale[:, None]), "gallery").numpy()
    constant = pa.DictionaryArray.from_arrays(np.zeros(len(codes), np.int8), pa.array([checkpoint]))
    return pa.table(
        {
            "id": pa.array(first + np.arange(len(codes))),
            **{name: pa.array(columns[name], pa.string()) for name in ("path", "pid", "camid")},
            **{name: pa.array(columns[name], pa.float64()) for name in ("time", "expires")},
            "checkpoint": constant,
            "scale": pa.array(scale),
            "norm": pa.array(norm),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(codes.ravel(), PRECISIONS[precision]), embeddings.shape[1]
            ),
        }
    )


def encode(embeddings: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, D) and scales (N,) of embeddings (N, D): an embedding is about its codes times its scale.

    int8 spreads -127..127 over each embedding's own range; float16 divides by a power of two, which changes no value.
    """
    largest = np.abs(embeddings).max(axis=1, initial=0).astype(np.float32)
    if precision == "int8":
        scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
        return np.rint(embeddings / scale[:, None]).astype(np.int8), scale
    scale = np.exp2(np.frexp(largest)[1]).astype(np.float32)
    return (embeddings / scale[:, None]).astype(np.float16), scale
