"""Crops of a camera's frame: colors by hand and by PIL, sizes as PIL resizes them."""

import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host import SANITIZERS, compile_sources, needs_gcc
from PIL import Image

pytestmark = needs_gcc
C = Path(str(files("reidlab.deploy") / "c"))
HOST = Path(__file__).with_name("host_camera.c")
RGB888, RGB565, RGB565_BIG, YUYV, UYVY = range(5)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    place = tmp_path_factory.mktemp("camera") / "host"
    compile_sources("-O2", *SANITIZERS, f"-I{C}", C / "reid_resize.c", C / "reid_camera.c", HOST, "-o", place)
    return place


def crop(host, rows, width, form, box, size, is_limited=0):
    """The crop (left, top, width, height) of a frame's rows (H, stride) uint8, resized."""
    head = np.array([width, *rows.shape, form, is_limited, *box, *size], np.int32)
    done = subprocess.run([host], input=head.tobytes() + rows.tobytes(), capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr.decode()[-1000:])
    return np.frombuffer(done.stdout, np.uint8).reshape(*size, 3)


def resized(rgb, size):
    return np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR))


def rgb565(values, big=False):
    """16-bit pixels (H, W) as rows, and as RGB: 5 and 6 bits widened by their own upper bits."""
    rows = values.astype(">u2" if big else "<u2").view(np.uint8).reshape(len(values), -1)
    r, g, b = values >> 11, values >> 5 & 63, values & 31
    return rows, np.stack([r << 3 | r >> 2, g << 2 | g >> 4, b << 3 | b >> 2], -1).astype(np.uint8)


@pytest.mark.parametrize("big", [False, True])
def test_rgb565_is_cropped_and_resized_as_in_training(host, big):
    values = np.random.default_rng(0).integers(0, 1 << 16, (90, 120), np.uint16)
    rows, rgb = rgb565(values, big)
    padded = np.pad(rows, ((0, 0), (0, 16)))
    for left, top, width, height in [(0, 0, 120, 90), (13, 7, 41, 77), (119, 89, 1, 1), (3, 0, 64, 64)]:
        found = crop(host, padded, 120, RGB565_BIG if big else RGB565, (left, top, width, height), (64, 32))
        np.testing.assert_array_equal(found, resized(rgb[top : top + height, left : left + width], (64, 32)))


def test_rgb888(host):
    rgb = np.random.default_rng(0).integers(0, 256, (50, 30, 3), np.uint8)
    found = crop(host, rgb.reshape(50, 90), 30, RGB888, (5, 6, 20, 40), (32, 16))
    np.testing.assert_array_equal(found, resized(rgb[6:46, 5:25], (32, 16)))


@pytest.mark.parametrize("form", [YUYV, UYVY])
@pytest.mark.parametrize("left", [0, 5])
def test_full_range_yuv_is_that_of_jpeg(host, form, left):
    random = np.random.default_rng(0)
    luma, chroma = random.integers(0, 256, (40, 60), np.uint8), random.integers(0, 256, (40, 30, 2), np.uint8)
    pairs = [luma[:, ::2], chroma[..., 0], luma[:, 1::2], chroma[..., 1]]
    order = [0, 1, 2, 3] if form == YUYV else [1, 0, 3, 2]
    rows = np.stack([pairs[i] for i in order], -1).reshape(40, 120)
    ycc = np.concatenate([luma[..., None], chroma.repeat(2, axis=1)], -1)
    expected = np.asarray(Image.fromarray(ycc, "YCbCr").convert("RGB"))[3:33, left : left + 25]
    found = crop(host, rows, 60, form, (left, 3, 25, 30), (30, 25))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_limited_range_yuv_has_black_at_16_and_white_at_235(host):
    rows = np.array([[16, 128, 235, 128, 81, 90, 81, 240]], np.uint8)  # black, white, twice the red of BT.601
    found = crop(host, rows, 4, YUYV, (0, 0, 4, 1), (1, 4), is_limited=1)
    expected = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [255, 0, 0]]
    assert np.abs(found[0].astype(int) - expected).max() <= 1


def test_a_box_is_clipped_to_the_frame(host):
    rows, rgb = rgb565(np.random.default_rng(0).integers(0, 1 << 16, (30, 20), np.uint16))
    found = crop(host, rows, 20, RGB565, (-5, 10, 15, 99), (16, 8))
    np.testing.assert_array_equal(found, resized(rgb[10:, :10], (16, 8)))


def test_a_box_outside_of_the_frame_is_refused(host):
    rows, _ = rgb565(np.zeros((30, 20), np.uint16))
    head = np.array([20, *rows.shape, RGB565, 0, 25, 0, 5, 5, 16, 8], np.int32)
    assert subprocess.run([host], input=head.tobytes() + rows.tobytes()).returncode == 4
