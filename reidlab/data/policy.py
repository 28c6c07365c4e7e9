"""TrivialAugment: one random operation for each image, at a random strength; as good as learned policies."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlab.data.transforms import gray


class TrivialAugment(nn.Module):
    """Each image gets one operation, drawn uniformly, at a uniform strength: (B, 3, H, W) in [0, 1] to the same.

    `strength` scales all ranges, 1 being the paper's: colors within a factor of 1 +- 0.9, rotation 30 degrees, shear
    0.3, shift a tenth of a side, posterizing to 4 bits, solarizing from any brightness. Without equalization, which is
    no batched operation. With probability 1 - `p` an image stays as it is, which is faster. Müller & Hutter 2021, arXiv
    2103.10158, algorithm 1 with the RandAugment ranges.
    """

    def __init__(self, strength: float = 1.0, p: float = 1.0) -> None:
        super().__init__()
        self.strength, self.p = strength, p

    def forward(self, image: Tensor) -> Tensor:
        """Each image after its operation; random numbers are drawn on the host, so that no device is waited for."""
        choice = torch.randint(len(OPERATIONS), (len(image),))
        if self.p < 1:
            choice[torch.rand(len(image)) >= self.p] = -1
        amount = (torch.rand(len(image)) * 2 - 1) * self.strength
        result = image.clone()
        for number, operation in enumerate(OPERATIONS):
            rows = (choice == number).nonzero().squeeze(1)
            if len(rows):
                strengths = amount[rows].to(image.device, non_blocking=True)[:, None, None, None]
                rows = rows.to(image.device, non_blocking=True)
                result[rows] = operation(image[rows], strengths).clamp(0, 1)
        return result


def identity(image: Tensor, amount: Tensor) -> Tensor:
    """The images as they are."""
    return image


def autocontrast(image: Tensor, amount: Tensor) -> Tensor:
    """Each channel stretched to [0, 1]; a flat one stays."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    return torch.where(high > low, (image - low) / (high - low).clamp_min(1e-6), image)


def brightness(image: Tensor, amount: Tensor) -> Tensor:
    """Darker (amount < 0) or lighter."""
    return image * (1 + 0.9 * amount)


def contrast(image: Tensor, amount: Tensor) -> Tensor:
    """Towards the mean gray or away from it."""
    return torch.lerp(gray(image).mean((-2, -1), keepdim=True).expand_as(image), image, 1 + 0.9 * amount)


def saturation(image: Tensor, amount: Tensor) -> Tensor:
    """Towards gray or away from it."""
    return torch.lerp(gray(image).expand_as(image), image, 1 + 0.9 * amount)


def sharpness(image: Tensor, amount: Tensor) -> Tensor:
    """Towards a 3x3 smoothing or away from it."""
    kernel = image.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = F.conv2d(F.pad(image, [1] * 4, mode="replicate"), kernel.expand(3, 1, 3, 3), groups=3)
    return torch.lerp(smooth, image, 1 + 0.9 * amount)


def posterize(image: Tensor, amount: Tensor) -> Tensor:
    """Fewer bits a channel: 8 at amount 0, 4 at +-1."""
    step = 2 ** (4 * amount.abs()).round()
    return (image * 255 / step).floor() * step / 255


def solarize(image: Tensor, amount: Tensor) -> Tensor:
    """Negative where brighter than 1 - |amount|."""
    return torch.where(image > 1 - amount.abs(), 1 - image, image)


def rotate(image: Tensor, amount: Tensor) -> Tensor:
    """Turned by up to 30 degrees."""
    angle, stretch = amount.flatten() * math.radians(30), image.shape[2] / image.shape[3]
    sine, zero = angle.sin(), torch.zeros_like(angle)
    return _affine(image, [[angle.cos(), -sine * stretch, zero], [sine / stretch, angle.cos(), zero]])


def shear_x(image: Tensor, amount: Tensor) -> Tensor:
    """Leaning to a side."""
    slant, zero = 0.3 * amount.flatten() * image.shape[2] / image.shape[3], torch.zeros_like(amount.flatten())
    return _affine(image, [[zero + 1, slant, zero], [zero, zero + 1, zero]])


def shear_y(image: Tensor, amount: Tensor) -> Tensor:
    """One side higher than the other."""
    slant, zero = 0.3 * amount.flatten() * image.shape[3] / image.shape[2], torch.zeros_like(amount.flatten())
    return _affine(image, [[zero + 1, zero, zero], [slant, zero + 1, zero]])


def translate_x(image: Tensor, amount: Tensor) -> Tensor:
    """Shifted by up to a tenth of the width."""
    shift, zero = 0.2 * amount.flatten(), torch.zeros_like(amount.flatten())
    return _affine(image, [[zero + 1, zero, shift], [zero, zero + 1, zero]])


def translate_y(image: Tensor, amount: Tensor) -> Tensor:
    """Shifted by up to a tenth of the height."""
    shift, zero = 0.2 * amount.flatten(), torch.zeros_like(amount.flatten())
    return _affine(image, [[zero + 1, zero, zero], [zero, zero + 1, shift]])


OPERATIONS = (
    identity, autocontrast, brightness, contrast, saturation, sharpness, posterize, solarize,
    rotate, shear_x, shear_y, translate_x, translate_y,
)  # fmt: skip


def _affine(image: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    """The images (B, 3, H, W) resampled at matrix (2 x 3 of (B,)) times (x, y, 1) in [-1, 1]; black comes in."""
    theta = torch.stack([torch.stack(row, 1) for row in matrix], 1)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, align_corners=False)
