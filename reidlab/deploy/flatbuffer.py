"""A bounds-checked reader of flatbuffers: whatever the bytes say, it reads inside them or raises InputError."""

import struct
from dataclasses import dataclass

from reidlab.errors import InputError

FORMATS = {
    "int8": "<b", "uint8": "<B", "uint16": "<H", "int32": "<i", "uint32": "<I", "uint64": "<Q", "float32": "<f",
}  # fmt: skip


@dataclass(frozen=True)
class Buffer:
    """The bytes of a file, and the name that error messages call it by."""

    data: bytes
    name: str

    def scalar(self, kind: str, offset: int) -> int | float:
        """One little-endian number."""
        layout = FORMATS[kind]
        self.span(offset, struct.calcsize(layout))
        return struct.unpack_from(layout, self.data, offset)[0]

    def span(self, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size)."""
        if offset < 0 or size < 0 or offset + size > len(self.data):
            raise InputError(
                f"{self.name}: {size} bytes at offset {offset} lie outside the file's {len(self.data)}; "
                "the file is truncated or damaged, make it again"
            )
        return self.data[offset : offset + size]

    def root(self) -> "Table":
        """The table that the file consists of."""
        return Table(self, self.scalar("uint32", 0))


@dataclass(frozen=True)
class Table:
    """A flatbuffer table: fields by number, each with a default for when it is absent."""

    buffer: Buffer
    offset: int

    def _field(self, number: int) -> int | None:
        start = self.offset - self.buffer.scalar("int32", self.offset)
        entry = 4 + 2 * number
        if entry >= self.buffer.scalar("uint16", start):
            return None
        inside = self.buffer.scalar("uint16", start + entry)
        return self.offset + inside if inside else None

    def scalar(self, number: int, kind: str, default: int | float = 0) -> int | float:
        """A number field."""
        position = self._field(number)
        return default if position is None else self.buffer.scalar(kind, position)

    def _follow(self, number: int) -> int | None:
        position = self._field(number)
        return None if position is None else position + self.buffer.scalar("uint32", position)

    def table(self, number: int) -> "Table | None":
        """A field that is a table of its own."""
        target = self._follow(number)
        return None if target is None else Table(self.buffer, target)

    def vector(self, number: int, item_bytes: int) -> bytes:
        """The raw bytes of a vector of numbers; empty where the field is absent."""
        target = self._follow(number)
        if target is None:
            return b""
        return self.buffer.span(target + 4, self.buffer.scalar("uint32", target) * item_bytes)

    def tables(self, number: int) -> "list[Table]":
        """A vector of tables."""
        target = self._follow(number)
        if target is None:
            return []
        entries = self.vector(number, 4)
        positions = range(target + 4, target + 4 + len(entries), 4)
        return [Table(self.buffer, at + self.buffer.scalar("uint32", at)) for at in positions]

    def text(self, number: int) -> str:
        """A string field."""
        return self.vector(number, 1).decode(errors="replace")
