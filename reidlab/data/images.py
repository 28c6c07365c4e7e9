"""Decoding and resizing crops, to the same pixels as published re-identification tools."""

import io
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from reidlab.errors import InputError

_START_AND_END = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}


def read_image(file: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """The image as uint8 RGB (H, W, 3), resized to `size` = (height, width) if given.

    Grey and palette images become RGB, an alpha channel is dropped, 16 bits are scaled to 8 and an EXIF orientation is
    ignored. All but the third is what PIL's `convert("RGB")` does in published tools; it clips 16-bit grey to white.
    A missing, broken or truncated file is an InputError that names it.
    """
    image = decode(read_bytes(file), str(file))
    return image if size is None else resize(image, size)


def read_bytes(file: Path) -> bytes:
    """A file's content; an InputError names the file that can't be read."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror}); check the path and its permissions") from error


def decode(raw: bytes, where: str) -> np.ndarray:
    """An image file's bytes as uint8 RGB (H, W, 3); `where` names it in the InputError for a broken or truncated one.

    OpenCV is fast but may fill what a truncated file lacks with grey: PIL decodes what doesn't end as it should.
    """
    if raw and all(raw.endswith(end) for start, end in _START_AND_END.items() if raw.startswith(start)):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
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


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """PIL's bilinear resize of uint8 (H, W, 3) to (height, width), pixel for pixel.

    torch's antialiased uint8 kernel rounds as PIL does when enlarging, in half the time; when shrinking it can be off
    by one, so that PIL itself does that.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if image.shape[0] > height or image.shape[1] > width:
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    enlarged = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)
    return enlarged[0].permute(1, 2, 0).numpy()
