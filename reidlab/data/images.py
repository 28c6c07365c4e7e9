"""Decode and resize images, to the same pixels as published re-identification tools."""

import io
import re
import struct
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from reidlab.errors import InputError
from reidlab.files import read_bytes

PIXEL_RULE = 2  # to raise where any file gets other pixels: caches of decoded images carry it
EXACTLY_ENLARGED = (1, 2, 4, 8)  # by torch
MAX_PIXELS = 89_478_485  # PIL's own limit, of 256 MiB as RGB
MAX_IMAGE_BYTES = 1 << 30
# Those of PIL's that images come in; of the rest some wrap a JPEG (BLP), or start a program (EPS).
FORMATS = {*("JPEG", "MPO", "JPEG2000", "PNG", "WEBP", "AVIF", "TIFF", "GIF"),
           *("BMP", "DIB", "PPM", "TGA", "PCX", "SGI", "ICO")}  # fmt: skip
ORIENTATION = 0x0112  # tag of EXIF; values from 5 on swap height and width
TRANSPOSED = 5
JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_ENDS = {JPEG: b"\xff\xd9", PNG: b"IEND\xaeB\x60\x82"}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a JPEG whose segment has the size
_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # but for the bare ones, also behind a scan's data
MOST_SCANS = 100  # of a JPEG; libtiff, too, ends there
_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type ")  # of a PNG that may hold an orientation
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_BROKEN = (  # what PIL raises at arbitrary bytes
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class Header(NamedTuple):
    """The size of an image as it is stored, and whether more than pixels must be looked at."""

    height: int
    width: int
    plain: bool  # OpenCV's pixels are PIL's
    tagged: bool  # may have an orientation


def read_image(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3), upright, resized to `size` = (height, width) if given.

    See `decode` for what becomes of other kinds of pixels. A missing, broken or truncated file is an InputError that
    names it.
    """
    image = decode(read_bytes(file, MAX_IMAGE_BYTES), str(file))
    return image if size is None else resize(image, size)


def read_size(file: Path) -> tuple[int, int]:
    """Height and width of the upright image; InputError as of `read_image`."""
    raw, where = read_bytes(file, MAX_IMAGE_BYTES), str(file)
    header = _header(raw)
    if header is None:
        image = _open(raw, where)
        width, height = image.size
        if image.format == "TIFF":  # PIL gives the upright size
            return height, width
    else:
        height, width = header.height, header.width
        _check_size(width, height, where)
    try:
        return (width, height) if _orientation(raw, header) >= TRANSPOSED else (height, width)
    except _BROKEN as error:
        raise _unreadable(where, error) from error


def stored_size(raw: bytes, where: str) -> tuple[int, int]:
    """Height and width of an image file's bytes, whatever its orientation, which may take decoding to find."""
    if header := _header(raw):
        return header.height, header.width
    width, height = _open(raw, where).size
    return height, width


def read_batch(files: Sequence[Path], size: tuple[int, int], reduced: bool = False) -> np.ndarray:
    """Images as uint8 RGB (N, H, W, 3), each the same as by `read_image`; those of one size are resized together.

    `reduced` decodes a JPEG that is at least 2, 4 or 8 times as high and as wide as `size` at that fraction: several
    times as fast, but the pixels differ, since they are averages of blocks that are then resized.
    """
    decoded, alike = [], defaultdict(list)
    for position, file in enumerate(files):
        decoded.append(decode(read_bytes(file, MAX_IMAGE_BYTES), str(file), size if reduced else None))
        alike[decoded[-1].shape].append(position)
    if len(alike) == 1:
        return resize(np.stack(decoded), size)
    batch = np.empty((len(files), *size, 3), np.uint8)
    for positions in alike.values():
        batch[positions] = resize(np.stack([decoded[position] for position in positions]), size)
    return batch


def decode(raw: bytes, where: str, least: tuple[int, int] | None = None) -> np.ndarray:
    """An image file's bytes as uint8 RGB (H, W, 3), by the rule of published tools, PIL's `convert("RGB")`.

    Gray, palette and CMYK become RGB and an alpha channel is dropped. Beyond PIL, an orientation in the metadata is
    applied (as `ImageOps.exif_transpose` does), 16 bits are cut to their upper 8 where PIL clips gray to white, and of
    an animation the first frame is read. Refused before anything is decoded: more than MAX_PIXELS or, of a JPEG,
    MOST_SCANS; 32-bit pixels.
    OpenCV is fast but may fill what a truncated file lacks with gray: PIL decodes what doesn't end as it should.

    Args:
        raw: the file's content.
        where: names it in the InputError for a broken or truncated one.
        least: height and width; a JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 that is as large.
    """
    header = _header(raw)
    if header is not None:
        _check_size(header.width, header.height, where)
    if raw.startswith(JPEG) and _has_too_many_scans(raw):
        raise _unreadable(where, "more scans than any camera writes")
    if header is not None and header.plain:
        try:
            orientation = _orientation(raw, header)
            stored = (header.width, header.height) if orientation >= TRANSPOSED else (header.height, header.width)
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[_reduction(raw, stored, least)]
            image = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
        except (*_BROKEN, cv2.error):  # PIL says below what is wrong
            image = None
        if image is not None:
            return _upright(image, orientation)
    picture = _open(raw, where)
    try:
        return _pixels(picture, where)
    except _BROKEN as error:
        raise _unreadable(where, error) from error


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """PIL's bilinear, antialiased resize of uint8 (..., H, W, 3) to (..., height, width, 3), bit for bit.

    Rows are resized first, then columns, as Pillow did until 12; Pillow 13 chooses the order by the sizes, which may
    change a byte by one. torch's antialiased uint8 kernel takes half the time for one image and a seventh for each of
    many, but its weights have fewer bits: they are exact where a power of two enlarges. Otherwise PIL itself does it.
    """
    *several, old_height, old_width, _ = images.shape
    height, width = size
    if (old_height, old_width) == (height, width):
        return images
    flat = images.reshape(-1, old_height, old_width, 3)
    ratios = (height / old_height, width / old_width)
    if not all(ratio in EXACTLY_ENLARGED for ratio in ratios):
        narrowed = [Image.fromarray(image).resize((width, old_height), Image.Resampling.BILINEAR) for image in flat]
        shrunk = [image.resize((width, height), Image.Resampling.BILINEAR) for image in narrowed]
        return np.stack([np.asarray(image) for image in shrunk]).reshape(*several, height, width, 3)
    pixels = torch.from_numpy(flat).permute(0, 3, 1, 2)
    enlarged = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return enlarged.permute(0, 2, 3, 1).numpy().reshape(*several, height, width, 3)


def blur_head(image: np.ndarray, share: float = 0.25) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 whose upper share is four patches of one color each, whoever is there.

    Of a crop of a person that is the head.
    """
    image = image.copy()
    top = image[: max(1, round(share * len(image)))]
    patches = cv2.resize(top, (min(4, top.shape[1]), 1), interpolation=cv2.INTER_AREA)
    top[:] = cv2.resize(patches, top.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return image


def _header(raw: bytes) -> Header | None:
    """The header of a JPEG or PNG that ends as it should; None for anything else, which PIL looks at."""
    start = next((start for start in _ENDS if raw.startswith(start)), None)
    if start is None or not raw.endswith(_ENDS[start]):
        return None
    try:
        return _jpeg_header(raw) if start == JPEG else _png_header(raw)
    except IndexError:  # it ends within a segment
        return None


def _jpeg_header(raw: bytes) -> Header | None:
    found, tagged, at = None, False, 2
    while raw[at] == 0xFF:
        marker = raw[at + 1]
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _SCAN:
            break
        if marker in _FRAMES and found is None:
            found = int.from_bytes(raw[at + 5 : at + 7]), int.from_bytes(raw[at + 7 : at + 9]), raw[at + 9] in (1, 3)
        tagged |= marker == _APP1
        at += 2 + int.from_bytes(raw[at + 2 : at + 4])
    return found and Header(*found, tagged)


def _has_too_many_scans(raw: bytes) -> bool:
    """Whether a JPEG has more than MOST_SCANS; each takes the time of the whole image, however few bytes it has.

    What follows its end, such as the film of a motion photo, isn't counted, nor is a thumbnail in its metadata.
    """
    at, scans = len(JPEG), 0
    while scans <= MOST_SCANS and (found := _MARKER.search(raw, at)) and (marker := found[1][0]) != _END:
        scans += marker == _SCAN
        at = found.end() + int.from_bytes(raw[found.end() : found.end() + 2])
    return scans > MOST_SCANS


def _png_header(raw: bytes) -> Header:
    width, height, at, tagged = int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24]), 8, False
    while at < len(raw):
        kind = raw[at + 4 : at + 8]
        tagged |= kind in (b"eXIf", b"acTL") or (kind in (b"iTXt", b"tEXt", b"zTXt") and raw.startswith(_TEXTS, at + 8))
        at += 12 + int.from_bytes(raw[at : at + 4])
    return Header(height, width, not tagged, tagged)


def _orientation(raw: bytes, header: Header | None) -> int:
    """1 to 8 as PIL finds it in EXIF or XMP; 1 where there is none."""
    if header is not None and not header.tagged:
        return 1
    return _orientation_in(Image.open(io.BytesIO(raw)))


def _orientation_in(image: Image.Image) -> int:
    """Likewise of an opened image; 1 where the tag holds anything else, such as text."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels of an image with this orientation, turned as `ImageOps.exif_transpose` does."""
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    return np.ascontiguousarray(image.swapaxes(0, 1) if 5 <= orientation <= 8 else image)


def _open(raw: bytes, where: str) -> Image.Image:
    """The image of which nothing but the header is read yet."""
    try:
        image = Image.open(io.BytesIO(raw))
    except UnidentifiedImageError as error:
        raise _unreadable(where, "its format is unknown" if raw else "it is empty") from error
    except _BROKEN as error:
        raise _unreadable(where, error) from error
    if image.format not in FORMATS:
        raise _unreadable(where, f"its format is {image.format}")
    _check_size(*image.size, where)
    return image


def _pixels(image: Image.Image, where: str) -> np.ndarray:
    """All pixels by PIL, upright, as uint8 RGB."""
    deep = image.mode.startswith("I;16")
    if image.mode in ("I", "F"):
        raise _unreadable(where, "32 bits a pixel; save it with 8")
    image.load()  # of a TIFF, turns it upright
    if deep:
        pixels = np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    else:
        pixels = np.array(image.convert("RGB"))
    return _upright(pixels, _orientation_in(image))


def _check_size(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: {width} x {height} pixels, more than {MAX_PIXELS // 10**6} million; shrink or crop it"
        )


def _unreadable(where: str, reason: object) -> InputError:
    return InputError(f"{where}: not a readable image ({reason}); replace or remove it")


def _reduction(raw: bytes, stored: tuple[int, int], least: tuple[int, int] | None) -> int:
    """The most that a JPEG of this size can be reduced by and still be as large as `least`; 1 for anything else."""
    if least is None or not raw.startswith(JPEG):
        return 1
    return max((by for by in _REDUCED if stored[0] >= by * least[0] and stored[1] >= by * least[1]), default=1)
