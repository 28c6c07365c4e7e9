"""The content of a request: images, or a frame and boxes, and fields; read in memory, within limits."""

import asyncio
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from reidlab.data.images import JPEG, PNG, decode, resize, stored_size
from reidlab.export.model import cut
from reidlab.gallery.gallery import label_of
from reidlab.service.limits import Limits
from reidlab.untrusted import UNPRINTABLE, check_schema, parse_json

WEBP = re.compile(rb"RIFF.{4}WEBP", re.DOTALL)
LONGEST_NAME = 200  # characters, of an identity or a camera
LONGEST_FIELD = 64 << 10  # bytes
IMAGES = ("image", "frame")


@dataclass(frozen=True)
class Upload:
    """The images of a request as they came, or one frame with the boxes of them, and its other fields."""

    files: Sequence[bytes]
    boxes: Sequence[Sequence[float]] | None
    fields: dict[str, list[str]]
    max_megapixels: float

    @property
    def count(self) -> int:
        """The number of images, boxes of a frame included."""
        return len(self.files) if self.boxes is None else len(self.boxes)

    def pixels(self, size: tuple[int, int]) -> list[np.ndarray]:
        """All images, resized; InputError for one that isn't readable, or a box that is empty, 413 for a huge one."""
        if self.boxes is not None:
            parts = cut(self._decode(self.files[0], "the frame"), self.boxes)
            return [resize(np.ascontiguousarray(part), size) for part in parts]
        return [resize(self._decode(file, f"image {n}"), size) for n, file in enumerate(self.files, start=1)]

    def _decode(self, file: bytes, where: str) -> np.ndarray:
        height, width = stored_size(file, where)
        if height * width > self.max_megapixels * 1e6:
            raise HTTPException(413, f"{where}: {width} x {height} pixels; at most {self.max_megapixels:g} million")
        return decode(file, where)

    def text(self, name: str) -> list[str]:
        """The values of a field that names something, as `label_of` spells them; 422 for one that can't be a name."""
        for value in (values := self.fields.get(name, [])):
            if not value.strip() or len(value) > LONGEST_NAME or UNPRINTABLE.search(value) or "\n" in value:
                raise HTTPException(422, f"{name}: give 1 to {LONGEST_NAME} printable characters")
        return [label_of(value) or "" for value in values]

    def number(self, name: str, default: float, low: float = -math.inf, high: float = math.inf) -> float:
        """The value of a field that is a number; 422 for anything else."""
        value = self.fields.get(name, [])
        try:
            number = float(value[0]) if len(value) == 1 else default if not value else math.nan
        except ValueError:
            number = math.nan
        if not (low <= number <= high) or (value and math.isinf(number)):
            limits = "" if math.isinf(low) else f" from {low:g} to {high:g}"
            raise HTTPException(422, f"{name}: give one number{limits}")
        return number


async def received(request: Request, limits: Limits, known: Sequence[str]) -> Upload:
    """The upload of a request.

    Refuses another type (415), what doesn't arrive in time (408), is no form (400), holds too much (413), or has fields
    that aren't `known` or can't be used (422).
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise HTTPException(415, "send a form: multipart/form-data, e.g. curl -F image=@crop.jpg")
    try:
        async with asyncio.timeout(limits.timeout_s):
            form = await _read(request, limits, len(known))
    except TimeoutError as error:
        late = f"not all has arrived in {limits.timeout_s:g} s"
        raise HTTPException(408, late, {"Connection": "close"}) from error
    return _upload(form, limits, known)


class _InMemory(MultiPartParser):
    """A parser that writes no file, and refuses a form without its end."""

    spool_max_size = sys.maxsize
    ended = False

    def on_end(self) -> None:
        self.ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self.ended:
            raise MultiPartException("its end is missing")
        return form


async def _read(request: Request, limits: Limits, kinds: int) -> list[tuple[str, str | bytes]]:
    """The fields of a form in their order."""
    parser = _InMemory(
        request.headers,
        request.stream(),
        max_files=limits.max_images,
        max_fields=limits.max_images + kinds,
        max_part_size=LONGEST_FIELD,
    )
    try:
        items = (await parser.parse()).multi_items()
    except MultiPartException as error:
        too_many = error.message.startswith(("Too many", "Part exceeded"))
        raise HTTPException(413 if too_many else 400, f"the form can't be read: {error.message}") from error
    except UnicodeError as error:  # of the charset that it names
        raise HTTPException(400, "the form can't be read: its charset") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the client has gone") from error
    return [(name, value.file.read() if isinstance(value, UploadFile) else value) for name, value in items]


def _upload(form: Sequence[tuple[str, str | bytes]], limits: Limits, known: Sequence[str]) -> Upload:
    files: dict[str, list[bytes]] = {name: [] for name in IMAGES}
    fields: dict[str, list[str]] = {}
    for name, value in form:
        if name not in known:
            raise HTTPException(422, f"an unknown field; there are {', '.join(known)}")
        if isinstance(value, bytes) != (name in IMAGES):
            raise HTTPException(422, f"{name}: {'give a file' if name in IMAGES else 'give text, no file'}")
        if isinstance(value, bytes):
            files[name].append(value)
        else:
            fields.setdefault(name, []).append(value)
    boxes = _boxes(fields.pop("boxes", None), limits.max_images)
    if "image" not in known:
        return Upload((), None, fields, 0)
    if boxes is None and (files["frame"] or not files["image"]):
        raise HTTPException(422, "give image files, or one frame with boxes")
    if boxes is not None and (len(files["frame"]) != 1 or files["image"]):
        raise HTTPException(422, "boxes: give one frame with them, and no image")
    given = files["image"] if boxes is None else files["frame"]
    if not all(file.startswith((JPEG, PNG)) or WEBP.match(file) for file in given):
        raise HTTPException(415, "an image is no JPEG, PNG or WebP")
    return Upload(given, boxes, fields, limits.max_megapixels)


def _boxes(values: Sequence[str] | None, most: int) -> list[list[float]] | None:
    if values is None:
        return None
    expected = "boxes: give one JSON list of [left, top, right, bottom] in pixels"
    try:
        boxes: Any = parse_json(values[0])
        check_schema(boxes, [[(int, float)]])
    except ValueError as error:
        raise HTTPException(422, expected) from error
    if len(values) > 1 or any(len(box) != 4 for box in boxes):
        raise HTTPException(422, expected)
    if len(boxes) > most:
        raise HTTPException(413, f"{len(boxes)} boxes; send at most {most}")
    return boxes
