import io

import cv2
import numpy as np
import pytest
from PIL import Image

from reidlab.data.images import decode, read_batch, read_image, resize
from reidlab.errors import InputError


def encoded(mode="RGB", fmt="PNG", size=(40, 24), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 2)).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(pixels[..., 0]))
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "fmt"),
    [*((mode, "PNG") for mode in ("RGB", "L", "1", "P", "LA", "RGBA")), ("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "BMP")],
)
def test_pixels_are_those_of_pil(mode, fmt):
    raw = encoded(mode, fmt)
    assert np.array_equal(decode(raw, "x"), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_chroma_subsampling_is_undone_as_pil_does(subsampling):
    raw = encoded(fmt="JPEG", subsampling=subsampling, quality=80)
    assert np.array_equal(decode(raw, "x"), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))


@pytest.mark.parametrize("shape", [(20, 10), (20, 10, 3)])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, shape):
    eight = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "deep.png"), eight.astype(np.uint16) * 257)
    read = read_image(tmp_path / "deep.png")
    assert np.array_equal(read[..., ::-1] if len(shape) == 3 else read[..., 0], eight)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.7, 0.95])
def test_truncated_files_are_named(tmp_path, fmt, kept):
    raw = encoded(fmt=fmt, size=(200, 100))
    file = tmp_path / "0001_c1.jpg"
    file.write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(InputError, match=r"0001_c1\.jpg: not a readable image") as error:
        read_image(file)
    assert "\n" not in str(error.value)


def test_every_cut_of_a_jpeg_is_noticed():
    raw = encoded(fmt="JPEG", size=(200, 100))
    for cut in range(1, len(raw), 97):
        with pytest.raises(InputError):
            decode(raw[:-cut], "x")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\xff\xd8\xff\xd9", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(file)


def test_bytes_behind_the_end_do_no_harm():
    raw = encoded(fmt="JPEG")
    assert np.array_equal(decode(raw + b"\0maker notes", "x"), decode(raw, "x"))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.jpg: can't be read"):
        read_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *(((height, width), (256, 128)) for height, width in [(128, 64), (128, 48), (101, 47), (61, 33)]),  # enlarged
        *(((height, width), (256, 128)) for height, width in [(300, 150), (517, 251)]),  # shrunk
        *(((height, width), (128, 64)) for height, width in [(300, 40), (64, 400)]),  # both
        *[((16, 125), (130, 190)), ((1, 1), (8, 4)), ((7, 163), (138, 190)), ((33, 21), (264, 84)), ((9, 5), (9, 50))],
    ],
)
def test_resize_equals_pil(old, new):
    pixels = np.random.default_rng(0).integers(0, 256, (*old, 3), dtype=np.uint8)
    image, bilinear, resized = Image.fromarray(pixels), Image.Resampling.BILINEAR, resize(pixels, new)
    expected = np.asarray(image.resize((new[1], old[0]), bilinear).resize(new[::-1], bilinear))  # rows, then columns
    assert np.array_equal(resized, expected) and resized.flags.writeable
    at_once = np.asarray(image.resize(new[::-1], bilinear)).astype(int)  # in an order that depends on the release
    assert np.abs(resized - at_once).max() <= 1


def test_resize_to_the_same_size_changes_nothing(tmp_path, write_image):
    file = write_image(tmp_path / "a.png", size=(64, 32))
    assert np.array_equal(read_image(file, (64, 32)), read_image(file))
    assert read_image(file, (20, 30)).shape == (20, 30, 3)


def test_a_batch_is_its_images(tmp_path, write_image):
    sizes = [(64, 32), (40, 20), (64, 32), (300, 100), (64, 32), (40, 20), (48, 24)]
    files = [write_image(tmp_path / f"{number}.png", size=size) for number, size in enumerate(sizes)]
    assert np.array_equal(read_batch(files, (64, 32)), np.stack([read_image(file, (64, 32)) for file in files]))


@pytest.mark.parametrize(("shape", "reduction"), [((127, 64), 1), ((128, 64), 2), ((300, 127), 2), ((512, 300), 8)])
def test_reduced_decoding_averages_blocks(tmp_path, shape, reduction):
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 4, 3), np.uint8), shape[::-1])
    file = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(file, quality=95, subsampling=0)
    reduced = read_batch([file], (64, 32), reduced=True)[0]
    means = Image.fromarray(decode(file.read_bytes(), "x")).reduce(reduction)
    expected = np.asarray(means.resize((32, 64), Image.Resampling.BILINEAR))
    assert np.abs(reduced.astype(int) - expected).max() <= 3
    assert np.array_equal(reduced, read_image(file, (64, 32))) == (reduction == 1)


def test_only_jpeg_is_reduced(tmp_path, write_image):
    for name in ("a.png", "b.bmp"):
        file = write_image(tmp_path / name, size=(256, 128))
        assert np.array_equal(read_batch([file], (64, 32), reduced=True)[0], read_image(file, (64, 32)))
