import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from reidlab.data.transforms import (
    Augment,
    ColorJitter,
    Normalize,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPadCrop,
    RandomZoomCrop,
    turn_hue,
)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(40, 3, 24, 12)


def all_transforms():
    jitter = ColorJitter(0.2, 0.2, 0.2, 0.1)
    return [RandomHorizontalFlip(), RandomPadCrop(4), RandomZoomCrop(), jitter, RandomErasing()]


@pytest.mark.parametrize("transform", all_transforms(), ids=lambda t: type(t).__name__)
def test_follows_the_global_seed_and_leaves_its_input_alone(transform, images):
    before = images.clone()
    torch.manual_seed(1)
    first = transform(images)
    torch.manual_seed(1)
    assert torch.equal(transform(images), first)
    assert not torch.equal(transform(images), first)
    assert torch.equal(images, before)
    assert first.shape == images.shape and first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("transform", [RandomHorizontalFlip(), RandomPadCrop(4), RandomErasing()])
def test_bytes_come_out_as_floats_do(transform, images):
    pixels = (images * 255).byte()
    torch.manual_seed(1)
    floats = transform(pixels / 255)
    torch.manual_seed(1)
    assert torch.equal(transform(pixels), (floats * 255).round().byte())


def test_flip_mirrors_some_images_whole(images):
    flipped = RandomHorizontalFlip(0.5)(images)
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(flipped, images, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 5 < sum(mirrored) < 35
    assert torch.equal(RandomHorizontalFlip(0)(images), images)
    assert torch.equal(RandomHorizontalFlip(1)(images), images.flip(-1))


def test_pad_crop_equals_cutting_a_window_of_each_padded_image(images):
    cropped, padding = RandomPadCrop(3)(images), 3
    offsets = set()
    for new, old in zip(cropped, images, strict=True):
        padded = torch.zeros(3, 24 + 2 * padding, 12 + 2 * padding)
        padded[:, padding:-padding, padding:-padding] = old
        windows = [(y, x) for y in range(7) for x in range(7) if torch.equal(padded[:, y : y + 24, x : x + 12], new)]
        assert len(windows) == 1
        offsets.add(windows[0])
    assert len(offsets) > 15
    assert torch.equal(RandomPadCrop(0)(images), images)


def test_a_shift_may_be_a_share_of_the_height(images):
    """0.125 of 24 pixels is 3, of an image twice as large 6."""
    for scale, padding in ((1, 3), (2, 6)):
        large = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        torch.manual_seed(1)
        shifted = RandomPadCrop(0.125)(large)
        torch.manual_seed(1)
        assert torch.equal(shifted, RandomPadCrop(padding)(large))


def test_zoom_crop_equals_cutting_a_window_of_what_pil_enlarges(images):
    """To a level of PIL's rounding; 24 x 12 becomes 27 x 14, which has 4 x 3 windows."""
    pixels = (images * 255).round()
    cropped = RandomZoomCrop(p=0.5, scale=1.125)(pixels / 255) * 255
    offsets = set()
    for new, old in zip(cropped, pixels, strict=True):
        if torch.equal((old / 255) * 255, new):
            offsets.add(None)
            continue
        large = Image.fromarray(old.byte().permute(1, 2, 0).numpy()).resize((14, 27), Image.Resampling.BILINEAR)
        large = torch.from_numpy(np.array(large)).permute(2, 0, 1)
        windows = {(y, x): large[:, y : y + 24, x : x + 12] for y in range(4) for x in range(3)}
        near = [place for place, window in windows.items() if (window - new).abs().max() < 1.5]
        assert len(near) == 1
        offsets.add(near[0])
    assert None in offsets and len(offsets) > 6
    assert torch.equal(RandomZoomCrop(0)(images), images)


def slow_jitter(image, brightness, contrast, saturation):
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    image = (image * brightness).clamp(0, 1)
    image = (image * contrast + (image * luma).sum(0).mean() * (1 - contrast)).clamp(0, 1)
    return (image * saturation + (image * luma).sum(0) * (1 - saturation)).clamp(0, 1)


def test_color_jitter_equals_a_loop_over_images(images):
    torch.manual_seed(3)
    jittered = ColorJitter(0.4, 0.3, 0.2)(images)
    torch.manual_seed(3)
    factors = [torch.rand(40) * 2 * amount + 1 - amount for amount in (0.4, 0.3, 0.2)]
    expected = torch.stack([slow_jitter(image, *own) for image, *own in zip(images, *factors, strict=True)])
    torch.testing.assert_close(jittered, expected)
    assert torch.equal(ColorJitter()(images), images)


def test_hue_equals_the_standard_library_pixel_by_pixel(images):
    few = images[:4, :, :5, :5].clone()
    few[0, :, 0, 0] = 0.5  # gray, black and white have no hue to turn
    few[0, :, 0, 1] = 0.0
    few[0, :, 0, 2] = 1.0
    turn = torch.tensor([0.0, 0.3, -0.45, 0.9])
    expected = few.clone()
    for b in range(4):
        for y in range(5):
            for x in range(5):
                hue, saturation, value = colorsys.rgb_to_hsv(*few[b, :, y, x].tolist())
                expected[b, :, y, x] = torch.tensor(colorsys.hsv_to_rgb((hue + turn[b].item()) % 1, saturation, value))
    torch.testing.assert_close(turn_hue(few, turn), expected, atol=1e-5, rtol=0)


def test_erasing_covers_one_rectangle_within_its_limits():
    torch.manual_seed(0)
    images = torch.rand(300, 3, 64, 32)
    erased = RandomErasing(p=0.6, area=(0.05, 0.3), aspect=(0.5, 2.0), value=(2.0, 3.0, 4.0))(images)
    hit = 0
    for new, old in zip(erased, images, strict=True):
        changed = (new != old).all(0)
        if not changed.any():
            assert torch.equal(new, old)
            continue
        hit += 1
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        assert changed[top:bottom, left:right].all() and changed.sum() == (bottom - top) * (right - left)
        assert torch.equal(new[:, top, left], torch.tensor([2.0, 3.0, 4.0]))
        assert 0.04 < changed.float().mean() < 0.33
        assert 0.4 < (bottom - top) / (right - left) < 2.6
    assert 140 < hit < 220


def test_erasing_reaches_every_corner():
    torch.manual_seed(0)
    erased = RandomErasing(p=1, value=2.0)(torch.zeros(2000, 3, 16, 8)) == 2
    assert erased.any(0).all()


def test_a_rectangle_that_never_fits_erases_nothing(images):
    assert torch.equal(RandomErasing(p=1, area=(4.0, 5.0))(images), images)


def test_normalize():
    image = torch.rand(2, 3, 4, 5)
    normalized = Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])(image)
    assert normalized[1, 2, 3, 4] == pytest.approx((image[1, 2, 3, 4].item() - 0.3) / 0.7, abs=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bytes_are_normalized_as_floats_are(memory_format):
    pixels = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8).contiguous(memory_format=memory_format)
    normalize = Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    torch.testing.assert_close(normalize(pixels), normalize(pixels / 255))
    assert normalize(pixels).is_contiguous(memory_format=torch.channels_last)


def test_augment_turns_bytes_into_floats_where_a_step_needs_them(images):
    pixels = (images * 255).byte()
    assert Augment(flip=RandomHorizontalFlip(1), erasing=RandomErasing())(pixels).dtype == torch.uint8
    jittered = Augment(flip=RandomHorizontalFlip(1), jitter=ColorJitter(0.2), erasing=RandomErasing(p=0))
    torch.manual_seed(0)
    expected = jittered(pixels / 255)
    torch.manual_seed(0)
    torch.testing.assert_close(jittered(pixels), expected)


def test_augment_leaves_out_what_is_none(images):
    augment = Augment(flip=RandomHorizontalFlip(1), erasing=None, crop=RandomPadCrop(0))
    assert [name for name, _ in augment.named_children()] == ["flip", "crop"]
    assert torch.equal(augment(images), images.flip(-1))
    assert torch.equal(Augment(flip=None)(images), images)
