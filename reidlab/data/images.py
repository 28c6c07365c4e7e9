"""Decode and resize images, to the same pixels as published re-identification tools."""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from reidlab.errors import InputError

_JPEG = b"\xff\xd8"
_START_AND_END = {_JPEG: b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


def read_image(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3), resized to `size` = (height, width) if given.

    Gray and palette images become RGB, an alpha channel is dropped, 16 bits are scaled to 8 and an EXIF orientation is
    ignored. All but the third is what PIL's `convert("RGB")` does in published tools; it clips 16-bit gray to white.
    A missing, broken or truncated file is an InputError that names it.
    """
    image = decode(read_bytes(file), str(file))
    return image if size is None else resize(image, size)


def read_batch(files: Sequence[Path], size: tuple[int, int], reduced: bool = False) -> np.ndarray:
    """Images as uint8 RGB (N, H, W, 3), each the same as by `read_image`; those of one size are resized together.

    `reduced` decodes a JPEG that is at least 2, 4 or 8 times as high and as wide as `size` at that fraction: several
    times as fast, but the pixels differ, since they are averages of blocks that are then resized.
    """
    decoded, alike = [], defaultdict(list)
    for position, file in enumerate(files):
        raw = read_bytes(file)
        decoded.append(decode(raw, str(file), _reduction(raw, size) if reduced else 1))
        alike[decoded[-1].shape].append(position)
    if len(alike) == 1:
        return resize(np.stack(decoded), size)
    batch = np.empty((len(files), *size, 3), np.uint8)
    for positions in alike.values():
        batch[positions] = resize(np.stack([decoded[position] for position in positions]), size)
    return batch


def read_bytes(file: Path) -> bytes:
    """A file's content; an InputError names the file that can't be read."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror}); check the path and its permissions") from error


def decode(raw: bytes, where: str, reduction: int = 1) -> np.ndarray:
    """An image file's bytes as uint8 RGB (H, W, 3); `where` names it in the InputError for a broken or truncated one.

    A `reduction` of 2, 4 or 8 decodes that fraction of the height and width, rounded up. OpenCV is fast but may fill
    what a truncated file lacks with gray: PIL decodes what doesn't end as it should.
    """
    if raw and all(raw.endswith(end) for start, end in _START_AND_END.items() if raw.startswith(start)):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[reduction]
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), flags)
        if image is not None:
            return image
    try:
        return np.array(Image.open(io.BytesIO(raw)).convert("RGB"))
    except UnidentifiedImageError as error:
        reason = "its format is unknown" if raw else "it is empty"
        raise InputError(f"{where}: not a readable image ({reason}); replace or remove it") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: not a readable image ({error}); replace or remove it") from error


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """PIL's bilinear resize of uint8 (..., H, W, 3) to (..., height, width, 3), pixel for pixel.

    torch's antialiased uint8 kernel rounds as PIL does when enlarging, in half the time for one image and in a seventh
    for each of many; when shrinking it can be off by one, so that PIL itself does that.
    """
    *several, old_height, old_width, _ = images.shape
    height, width = size
    if (old_height, old_width) == (height, width):
        return images
    flat = images.reshape(-1, old_height, old_width, 3)
    if old_height > height or old_width > width:
        shrunk = [Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR) for image in flat]
        return np.stack([np.asarray(image) for image in shrunk]).reshape(*several, height, width, 3)
    pixels = torch.from_numpy(flat).permute(0, 3, 1, 2)
    enlarged = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return enlarged.permute(0, 2, 3, 1).numpy().reshape(*several, height, width, 3)


def _reduction(raw: bytes, size: tuple[int, int]) -> int:
    """The most that a JPEG can be reduced by and still be as large as `size`; 1 for anything else."""
    if not raw.startswith(_JPEG):
        return 1
    try:
        width, height = Image.open(io.BytesIO(raw)).size
    except (OSError, SyntaxError, ValueError):
        return 1
    return max((by for by in _REDUCED if height >= by * size[0] and width >= by * size[1]), default=1)
