"""The resize of the exported C against PIL's passes and the project's own, byte for byte, with the sanitizers on."""

import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host import SANITIZERS, compile_sources, needs_gcc
from PIL import Image

from reidlab.data.images import resize

C = Path(str(files("reidlab.deploy") / "c"))
HOST = Path(__file__).with_name("host_resize.c")
SIZES = [
    ((467, 231), (256, 128)),  # smaller
    ((768, 384), (256, 128)),
    ((101, 47), (256, 128)),  # larger
    ((61, 300), (128, 64)),  # both
    ((300, 33), (128, 64)),
    ((256, 77), (256, 128)),  # one axis alone
    ((77, 128), (256, 128)),
    ((64, 32), (64, 32)),  # neither
    ((1, 1), (32, 16)),
    ((2, 999), (32, 16)),
    ((997, 3), (1, 1)),
    ((8191, 2), (3, 5)),
]
random = np.random.default_rng(0)
SIZES += [(tuple(random.integers(1, 300, 2)), tuple(random.integers(1, 150, 2))) for _ in range(60)]


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    place = tmp_path_factory.mktemp("resize") / "host"
    compile_sources("-O2", *SANITIZERS, "-ffp-contract=off", f"-I{C}", C / "reid_resize.c", HOST, "-o", place)
    return place


def by_c(host, images, sizes, strides):
    """Images resized one after another, rows `stride` bytes apart."""
    given = bytearray()
    for image, size, stride in zip(images, sizes, strides, strict=True):
        rows = np.full((len(image), stride), 99, np.uint8)
        rows[:, : 3 * image.shape[1]] = image.reshape(len(image), -1)
        given += np.array([*image.shape[:2], *size, stride], np.int32).tobytes()
        given += rows.tobytes()[: stride * (len(image) - 1) + 3 * image.shape[1]]
    done = subprocess.run([host], input=bytes(given), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    ends = np.cumsum([3 * height * width for height, width in sizes])
    parts = np.split(np.frombuffer(done.stdout, np.uint8), ends)
    assert parts.pop().size == 0
    return [part.reshape(*size, 3) for part, size in zip(parts, sizes, strict=True)]


@needs_gcc
def test_every_byte_is_pils(host):
    images = [random.integers(0, 256, (*old, 3), np.uint8) for old, _ in SIZES]
    sizes, strides = [new for _, new in SIZES], [3 * old[1] + n % 7 for n, (old, _) in enumerate(SIZES)]
    for image, size, found in zip(images, sizes, by_c(host, images, sizes, strides), strict=True):
        rows = Image.fromarray(image).resize((size[1], len(image)), Image.Resampling.BILINEAR)
        expected = rows.resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found, np.asarray(expected), err_msg=f"{image.shape} to {size}")
        np.testing.assert_array_equal(found, resize(image, tuple(map(int, size))))
