"""Random resized crops, the augmentation that matters most for few images."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomResizedCrop(nn.Module):
    """A random window of each image, resized to `size`: (B, 3, h, w) uint8 or float -> (B, 3, *size), the same type.

    A side of the window that is longer than the image's is cut to it. Random numbers are drawn on the host. Szegedy et
    al., arXiv 1409.4842, section 6.

    Args:
        size: height and width of the result.
        area: range of the window's area, uniform, as a share of the image's.
        aspect: range of its aspect (width / height, relative to the image's), log-uniform.
        flip: probability of mirroring it left-right.
    """

    def __init__(
        self,
        size: Sequence[int],
        area: Sequence[float] = (0.25, 1.0),
        aspect: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.area, self.aspect, self.flip = tuple(size), tuple(area), tuple(aspect), flip

    def draw(self, image: Tensor) -> Tensor:
        """A window of each image: top, left, height and width in pixels (B, 4), integer.

        A mirrored window has its right edge as left, where its first column comes from, and a negative width.
        """
        batch, _, height, width = image.shape
        low, high = self.area
        area = torch.rand(batch) * (high - low) + low
        low, high = map(math.log, self.aspect)
        aspect = (torch.rand(batch) * (high - low) + low).exp()
        tall = ((area / aspect).sqrt().clamp(max=1) * height).round().clamp(min=1)  # (B,)
        wide = ((area * aspect).sqrt().clamp(max=1) * width).round().clamp(min=1)
        top = (torch.rand(batch) * (height - tall + 1)).floor()
        left = (torch.rand(batch) * (width - wide + 1)).floor()
        if self.flip:
            mirrored = torch.rand(batch) < self.flip
            left, wide = torch.where(mirrored, left + wide, left), torch.where(mirrored, -wide, wide)
        return torch.stack([top, left, tall, wide], 1).int()

    def forward(self, image: Tensor, windows: Tensor | None = None, size: Sequence[int] | None = None) -> Tensor:
        """Each image's window, by default one drawn now, antialiased; at another `size` where that is given."""
        windows = self.draw(image) if windows is None else windows
        resized = []
        for i, (y, x, h, w) in enumerate(windows.tolist()):
            part = image[i : i + 1, :, y : y + h, min(x, x + w) : max(x, x + w)]
            part = F.interpolate(part, size or self.size, mode="bilinear", antialias=True)
            resized.append(part.flip(-1) if w < 0 else part)
        return torch.cat(resized)
