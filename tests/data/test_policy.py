import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from reidlab.data import TrivialAugment, policy


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(4, 3, 24, 12)


def pillow(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


PILLOW = {
    "brightness": lambda picture, amount: ImageEnhance.Brightness(picture).enhance(1 + 0.9 * amount),
    "contrast": lambda picture, amount: ImageEnhance.Contrast(picture).enhance(1 + 0.9 * amount),
    "saturation": lambda picture, amount: ImageEnhance.Color(picture).enhance(1 + 0.9 * amount),
    "sharpness": lambda picture, amount: ImageEnhance.Sharpness(picture).enhance(1 + 0.9 * amount),
    "posterize": lambda picture, amount: ImageOps.posterize(picture, 8 - round(4 * abs(amount))),
    "solarize": lambda picture, amount: ImageOps.solarize(picture, int((1 - abs(amount)) * 255) + 1),
    "autocontrast": lambda picture, amount: ImageOps.autocontrast(picture),
}


@pytest.mark.parametrize("amount", [-0.61, 0.3])
@pytest.mark.parametrize("name", PILLOW)
def test_colors_change_as_in_pillow(name, amount, images):
    images = (images * 255).round() / 255
    found = getattr(policy, name)(images, torch.full((4, 1, 1, 1), amount)).clamp(0, 1)
    for image, result in zip(images, found, strict=True):
        difference = (result - tensor(PILLOW[name](pillow(image), amount))).abs()
        assert difference[:, 1:-1, 1:-1].max() < 2.5 / 255  # Pillow leaves the border unsharpened, and rounds


def test_geometry():
    image = torch.zeros(1, 3, 20, 20)
    image[:, :, 4:6, 4:6] = 1
    one = torch.ones(1, 1, 1, 1)
    assert torch.allclose(policy.translate_x(image, one)[..., :-2], image[..., 2:], atol=1e-4)
    assert torch.allclose(policy.translate_y(image, one)[..., :-2, :], image[..., 2:, :], atol=1e-4)
    quarter = policy.rotate(image, 3 * one)  # 90 degrees
    assert torch.allclose(quarter, torch.rot90(image, 1, (2, 3)), atol=1e-3)
    tall = torch.rand(1, 3, 40, 20)  # a turn keeps shapes on images that aren't square
    assert torch.allclose(policy.rotate(tall, 6 * one), tall.flip(2, 3), atol=1e-3)
    leaning = policy.shear_x(image, one)[0, 0]
    assert leaning.sum() == pytest.approx(4, rel=0.1) and not torch.allclose(leaning, image[0, 0])
    assert torch.allclose(policy.shear_y(image.mT, one), policy.shear_x(image, one).mT, atol=1e-5)


def test_each_image_gets_its_own_operation_and_the_seed_fixes_all(images):
    augment, batch = TrivialAugment(), images[:1].expand(200, 3, 24, 12)
    torch.manual_seed(3)
    result = augment(batch)
    assert len({tuple(image.flatten()[:50].tolist()) for image in result}) > 100
    assert result.min() >= 0 and result.max() <= 1 and result.shape == batch.shape
    torch.manual_seed(3)
    assert torch.equal(augment(batch), result)
    calm = TrivialAugment(strength=0.0)(batch)
    changed = (calm - batch).abs().amax((1, 2, 3)) > 1e-4
    assert changed.float().mean() < 0.2  # autocontrast has no strength


def test_with_a_probability_the_others_stay_as_they_are():
    torch.manual_seed(0)
    images = torch.rand(600, 3, 8, 8)
    changed = (TrivialAugment(p=0.3)(images) != images).flatten(1).any(1)
    assert 0.2 < changed.float().mean() < 0.32  # one operation of thirteen is the identity
