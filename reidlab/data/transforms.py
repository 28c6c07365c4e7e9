"""Augmentations of a whole batch as tensor operations, so that they run where the batch already is.

Every module maps images (B, 3, H, W), float in [0, 1], to the same shape and range and treats each image of the batch
differently. The randomness is torch's global generator: reseed it and the same batches come out.
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


def _uniform(count: int, low: float, high: float, like: Tensor) -> Tensor:
    return torch.rand(count, device=like.device) * (high - low) + low


class Augment(nn.Sequential):
    """Named transforms in the order given; one that is None is left out, so that a config can switch any of them off.

    Example: `Augment(flip=RandomHorizontalFlip(), erasing=None)`.
    """

    def __init__(self, **transforms: nn.Module | None) -> None:
        super().__init__(OrderedDict((name, module) for name, module in transforms.items() if module is not None))


class Normalize(nn.Module):
    """(image - mean) / std per channel; the last step before the network."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """The images, zero where they had the mean."""
        return (image - self.mean) / self.std


class RandomHorizontalFlip(nn.Module):
    """Mirrors each image left-right with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, image: Tensor) -> Tensor:
        """Each image as it was, or mirrored."""
        flip = torch.rand(len(image), device=image.device) < self.p
        return torch.where(_per_image(flip), image.flip(-1), image)


class RandomPadCrop(nn.Module):
    """Shifts each image by up to `padding` pixels in both directions; black comes in from the edges.

    Equal to padding all sides and cutting a random window of the old size.
    """

    def __init__(self, padding: int = 10) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, image: Tensor) -> Tensor:
        """Each image, shifted."""
        batch, channels, height, width = image.shape
        padded = F.pad(image, [self.padding] * 4)
        top, left = torch.randint(2 * self.padding + 1, (2, batch, 1), device=image.device)
        rows = top + torch.arange(height, device=image.device)  # (B, H)
        columns = left + torch.arange(width, device=image.device)  # (B, W)
        rows = rows[:, None, :, None].expand(batch, channels, height, padded.shape[-1])
        columns = columns[:, None, None, :].expand(batch, channels, height, width)
        return padded.gather(2, rows).gather(3, columns)


class ColorJitter(nn.Module):
    """Brightness, contrast, saturation and hue, changed in this order by amounts drawn for each image.

    The first three are factors from [1 - amount, 1 + amount] (blending with black, with the mean grey and with the
    image's own grey); hue is a turn from [-hue, hue], where 1 is the full circle.
    """

    def __init__(
        self, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0, hue: float = 0.0
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def forward(self, image: Tensor) -> Tensor:
        """Each image in other colours."""
        if self.brightness:
            image = self._blend(image, torch.zeros_like(image[:, :1]), self.brightness)
        if self.contrast:
            image = self._blend(image, grey(image).mean((-2, -1), keepdim=True), self.contrast)
        if self.saturation:
            image = self._blend(image, grey(image), self.saturation)
        if self.hue:
            image = turn_hue(image, _uniform(len(image), -self.hue, self.hue, image))
        return image

    @staticmethod
    def _blend(image: Tensor, other: Tensor, amount: float) -> Tensor:
        factor = _per_image(_uniform(len(image), max(0.0, 1 - amount), 1 + amount, image))
        return torch.lerp(other.expand_as(image), image, factor).clamp(0, 1)


class RandomErasing(nn.Module):
    """Covers a random rectangle of each image, with probability p, to imitate occlusion.

    `area` is the range of the rectangle's share of the image, `aspect` that of height / width (log-uniform), `value`
    the colour in [0, 1] (one number or three; the default is ImageNet's mean, which normalisation turns into 0). A
    rectangle that doesn't fit is drawn again, up to ten times. Zhong et al., arXiv 1708.04896, algorithm 1.
    """

    attempts = 10

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
        draws = batch * self.attempts
        area = _uniform(draws, *self.area, image) * height * width
        aspect = _uniform(draws, *map(math.log, self.aspect), image).exp()
        high = (area * aspect).sqrt().round().view(batch, self.attempts)
        wide = (area / aspect).sqrt().round().view(batch, self.attempts)
        fits = (high >= 1) & (wide >= 1) & (high < height) & (wide < width)
        first = fits.int().argmax(1, keepdim=True)
        high, wide = high.gather(1, first), wide.gather(1, first)  # (B, 1)
        top = (torch.rand_like(high) * (height - high + 1)).floor()
        left = (torch.rand_like(wide) * (width - wide + 1)).floor()
        rows, columns = (torch.arange(length, device=image.device) for length in (height, width))
        inside_rows = (rows >= top) & (rows < top + high)  # (B, H)
        inside_columns = (columns >= left) & (columns < left + wide)  # (B, W)
        erased = fits.any(1) & (torch.rand(batch, device=image.device) < self.p)
        covered = _per_image(erased) & inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return torch.where(covered, self.value, image)


def grey(image: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of RGB images, with the weights of ITU-R BT.601."""
    red, green, blue = image.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def turn_hue(image: Tensor, turn: Tensor) -> Tensor:
    """Each image's colours turned by turn (B,) of the full hue circle, at the same saturation and value (HSV)."""
    red, green, blue = image.unbind(1)  # (B, H, W)
    value, brightest = image.max(1)
    chroma = value - image.amin(1)
    safe = chroma.clamp_min(1e-12)
    sextant = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], 1)
    hue = sextant.gather(1, brightest[:, None]).squeeze(1) + 6 * turn[:, None, None]
    shift = (hue[:, None] + hue.new_tensor([5.0, 3.0, 1.0])[:, None, None]) % 6  # (B, 3, H, W)
    return value[:, None] - chroma[:, None] * torch.minimum(shift, 4 - shift).clamp(0, 1)
