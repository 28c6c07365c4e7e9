"""Augmentations of a whole batch as tensor operations, so that they run where the batch already is.

Every module maps images (B, 3, H, W), float in [0, 1], to the same shape and range and treats each image of the batch
differently; flip, crop and erasing take uint8 images too, a quarter of the memory to move, and return those. Random
numbers are drawn on the host, from torch's global generator: no device is waited for, and the same seed gives the same
batches.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _per_image(values: Tensor) -> Tensor:
    """Shape (B,) -> (B, 1, 1, 1), to broadcast over images."""
    return values[:, None, None, None]


def _uniform(shape: int | tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape) * (high - low) + low


def _shift(by: int, length: int) -> tuple[slice, slice]:
    """Target and source of a side's pixels when it is shifted by a number of pixels."""
    by = max(-length, min(by, length))
    return slice(max(by, 0), length + min(by, 0)), slice(max(-by, 0), length - max(by, 0))


class Augment(nn.Sequential):
    """Named transforms in the order given; one that is None is left out, so that a config can switch any of them off.

    Example: `Augment(flip=RandomHorizontalFlip(), erasing=None)`.
    """

    def __init__(self, **transforms: nn.Module | None) -> None:
        super().__init__(OrderedDict((name, module) for name, module in transforms.items() if module is not None))

    def forward(self, image: Tensor) -> Tensor:
        """The images after all transforms; uint8 ones become float before the first that needs it."""
        for transform in self:
            if not (image.is_floating_point() or isinstance(transform, BYTE_TRANSFORMS)):
                image = image.float() / 255
            image = transform(image)
        return image


class Normalize(nn.Module):
    """(image - mean) / std per channel, of float images in [0, 1] or uint8 ones in [0, 255]; the last step of all.

    The result is float32 with channels last in memory.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """The images, zero where they had the mean."""
        batch, channels, height, width = image.shape
        scale = 1 / (self.std if image.is_floating_point() else 255 * self.std)
        scale, shift = (value.flatten().repeat(width) for value in (scale, -self.mean / self.std))  # (W * C,)
        lines = image.permute(0, 2, 3, 1).reshape(batch, height, width * channels)  # long rows: vector instructions
        pixels = lines.to(torch.float32, copy=True)
        torch.addcmul(shift, pixels, scale, out=pixels)
        return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)


class RandomHorizontalFlip(nn.Module):
    """Mirrors each image left-right with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, image: Tensor) -> Tensor:
        """Each image as it was, or mirrored."""
        flipped = image.clone()
        for row in (torch.rand(len(image)) < self.p).nonzero().flatten().tolist():
            flipped[row] = image[row].flip(-1)
        return flipped


class RandomPadCrop(nn.Module):
    """Shifts each image by up to `padding` in both directions; black comes in from the edges.

    Equal to padding all sides and cutting a random window of the old size.

    Args:
        padding: pixels; below 1 a share of the height, so that crops of all sizes are shifted alike.
    """

    def __init__(self, padding: float = 10) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, image: Tensor) -> Tensor:
        """Each image, shifted."""
        batch, _, height, width = image.shape
        shifted = torch.zeros_like(image)
        most = round(self.padding * height) if self.padding < 1 else int(self.padding)
        for row, (down, right) in enumerate(torch.randint(-most, most + 1, (batch, 2)).tolist()):
            (to_y, from_y), (to_x, from_x) = _shift(down, height), _shift(right, width)
            shifted[row, :, to_y, to_x] = image[row, :, from_y, from_x]
        return shifted


class RandomZoomCrop(nn.Module):
    """Enlarges an image with probability p, and cuts a random window of the old size; torchreid's "random crop".

    Args:
        p: probability for each image.
        scale: of the sides.
    """

    def __init__(self, p: float = 0.5, scale: float = 1.125) -> None:
        super().__init__()
        self.p, self.scale = p, scale

    def forward(self, image: Tensor) -> Tensor:
        """Each image as it was, or a part of it, enlarged."""
        batch, _, height, width = image.shape
        high, wide = round(height * self.scale), round(width * self.scale)
        top = torch.randint(high - height + 1, (batch,)).tolist()
        left = torch.randint(wide - width + 1, (batch,)).tolist()
        cropped = image.clone()
        for row in (torch.rand(batch) < self.p).nonzero().flatten().tolist():
            large = F.interpolate(image[row : row + 1], (high, wide), mode="bilinear", align_corners=False)[0]
            cropped[row] = large[:, top[row] : top[row] + height, left[row] : left[row] + width]
        return cropped


class ColorJitter(nn.Module):
    """Brightness, contrast, saturation and hue, changed in this order by amounts drawn for each image.

    Args:
        brightness: blending with black, by a factor from [1 - brightness, 1 + brightness].
        contrast: blending with the mean gray, likewise.
        saturation: blending with the image's own gray, likewise.
        hue: rotation of the hue by a share of the full circle from [-hue, hue].
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def forward(self, image: Tensor) -> Tensor:
        """Each image in other colors."""
        if self.brightness:
            image = (image * self._factor(image, self.brightness)).clamp_(0, 1)
        if self.contrast:
            image = self._blend(image, gray(image).mean((-2, -1), keepdim=True), self.contrast)
        if self.saturation:
            image = self._blend(image, gray(image), self.saturation)
        if self.hue:
            turn = _uniform(len(image), -self.hue, self.hue)
            image = turn_hue(image, turn.to(image.device, non_blocking=True))
        return image

    def _blend(self, image: Tensor, other: Tensor, amount: float) -> Tensor:
        return torch.lerp(other, image, self._factor(image, amount)).clamp_(0, 1)

    @staticmethod
    def _factor(image: Tensor, amount: float) -> Tensor:
        factor = _uniform(len(image), max(0.0, 1 - amount), 1 + amount)
        return _per_image(factor.to(image.device, non_blocking=True))


class RandomErasing(nn.Module):
    """Covers a random rectangle of an image, to imitate occlusion.

    A rectangle that doesn't fit is drawn again, up to ten times. Zhong et al., arXiv 1708.04896, algorithm 1.

    Args:
        p: probability for each image.
        area: range of the rectangle's share of the image.
        aspect: range of its height / width, log-uniform.
        value: its color in [0, 1], one number or three; by default ImageNet's mean, which normalization turns into 0.
    """

    attempts = 10
    value: Tensor

    def __init__(
        self,
        p: float = 0.5,
        area: Sequence[float] = (0.02, 0.4),
        aspect: Sequence[float] = (0.3, 1 / 0.3),
        value: float | Sequence[float] = (0.485, 0.456, 0.406),
    ) -> None:
        super().__init__()
        self.p, self.area, self.aspect = p, tuple(area), tuple(aspect)
        self.register_buffer("value", torch.tensor(value, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Each image as it was, or with one rectangle covered."""
        batch, _, height, width = image.shape
        draws = batch, self.attempts
        area = _uniform(draws, *self.area) * height * width
        aspect = _uniform(draws, *map(math.log, self.aspect)).exp()
        high, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (high >= 1) & (wide >= 1) & (high < height) & (wide < width)
        first = fits.int().argmax(1, keepdim=True)
        high, wide = high.gather(1, first).squeeze(1), wide.gather(1, first).squeeze(1)  # (B,)
        top = (torch.rand(batch) * (height - high + 1)).floor()
        left = (torch.rand(batch) * (width - wide + 1)).floor()
        chosen = fits.any(1) & (torch.rand(batch) < self.p)
        edges = torch.stack([top, top + high, left, left + wide], 1).long()  # (B, 4)
        value = self.value if image.is_floating_point() else (255 * self.value).round().to(image.dtype)
        erased = image.clone()
        for row in chosen.nonzero().flatten().tolist():
            first_row, last_row, first_column, last_column = edges[row].tolist()
            erased[row, :, first_row:last_row, first_column:last_column] = value
        return erased


BYTE_TRANSFORMS = (RandomHorizontalFlip, RandomPadCrop, RandomErasing)


def gray(image: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of RGB images, with the weights of ITU-R BT.601."""
    red, green, blue = image.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def turn_hue(image: Tensor, turn: Tensor) -> Tensor:
    """Each image's colors turned by turn (B,) of the full hue circle, at the same saturation and value (HSV)."""
    red, green, blue = image.unbind(1)  # (B, H, W)
    value, brightest = image.max(1)
    chroma = value - image.amin(1)
    safe = chroma.clamp_min(1e-12)
    sextant = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1)
    hue = sextant.gather(1, brightest[:, None]).squeeze(1) + 6 * turn[:, None, None]
    shift = (hue[:, None] + hue.new_tensor([5.0, 3.0, 1.0])[:, None, None]) % 6  # (B, 3, H, W)
    return value[:, None] - chroma[:, None] * torch.minimum(shift, 4 - shift).clamp(0, 1)
