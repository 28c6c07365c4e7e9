import pytest
import torch

from reidlab.data import RandomResizedCrop


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def ramp(batch, height, width):
    """Images whose red is the row and whose green is the column, in pixels."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).float().expand(batch, 3, height, width)


def test_windows_have_the_drawn_area_and_aspect():
    crop = RandomResizedCrop((32, 32), area=(0.3, 0.6), aspect=(0.5, 2.0))
    cropped = crop(ramp(400, 100, 200))
    extent = cropped.amax((2, 3)) - cropped.amin((2, 3))  # of rows and columns; the resize keeps pixel centers inside
    tall, wide = (extent[:, 0] * 32 / 31) / 100, (extent[:, 1] * 32 / 31) / 200
    shares, aspects = tall * wide, wide / tall
    assert 0.25 < shares.min() < 0.35 and 0.55 < shares.max() < 0.65
    assert 0.45 < aspects.min() < 0.65 and 1.6 < aspects.max() < 2.2
    assert shares.mean() == pytest.approx(0.45, abs=0.02)
    assert aspects.log().mean() == pytest.approx(0, abs=0.06)


def test_windows_are_everywhere_in_the_image():
    middle = RandomResizedCrop((8, 8), area=(0.2, 0.3))(ramp(300, 64, 64))[:, :2].mean((2, 3))
    assert (middle.amin(0) < 22).all() and (middle.amax(0) > 42).all()


def test_the_whole_image_is_resized_as_it_is():
    image = torch.rand(3, 3, 40, 40)
    expected = torch.nn.functional.interpolate(image, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(RandomResizedCrop((16, 16), area=(1, 1), aspect=(1, 1))(image), expected)


def test_bytes_stay_bytes_and_the_seed_fixes_them():
    image, crop = torch.randint(0, 256, (5, 3, 40, 50), dtype=torch.uint8), RandomResizedCrop((16, 24))
    torch.manual_seed(3)
    first = crop(image)
    torch.manual_seed(3)
    assert torch.equal(first, crop(image)) and first.dtype == torch.uint8 and first.shape == (5, 3, 16, 24)
    assert not torch.equal(first, crop(image))


def test_mirrored_windows_are_the_same_part_of_the_mirrored_image():
    image, crop = torch.rand(40, 3, 30, 50), RandomResizedCrop((16, 24), flip=0.5)
    windows = crop.draw(image)
    mirrored = windows[:, 3] < 0
    assert 8 < mirrored.sum() < 32
    left, wide = windows[:, 1], windows[:, 3]
    as_drawn = torch.stack([windows[:, 0], torch.minimum(left, left + wide), windows[:, 2], wide.abs()], 1)
    expected = crop(image, as_drawn)
    expected[mirrored] = expected[mirrored].flip(-1)
    torch.testing.assert_close(crop(image, windows), expected)
