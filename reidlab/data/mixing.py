"""MixUp and CutMix: two images as one, and their classes in proportion."""

import torch
from torch import Tensor, nn


class Mix(nn.Module):
    """Blends each image with another of the batch (MixUp), or pastes a window of the other into it (CutMix).

    A batch is mixed with probability `p`, by one of the two at random; one whose parameter is 0 is left out. The share
    of an image in the mixture is drawn once for the batch from Beta(a, a), where a is `mixup` or `cutmix`.
    Zhang et al., arXiv 1710.09412, equation 1; Yun et al., arXiv 1905.04899, section 3.1.

    Shape: images (B, 3, H, W) -> images, and the share (B, B) that each has of every image of the batch.
    """

    def __init__(self, mixup: float = 0.2, cutmix: float = 1.0, p: float = 0.5) -> None:
        super().__init__()
        self.p = p
        self.ways = [(way, a) for way, a in ((self._blend, mixup), (self._paste, cutmix)) if a]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The images, mixed or as they were; random numbers are drawn on the host."""
        alone = torch.eye(len(image), device=image.device)
        if not self.ways or torch.rand(()) >= self.p:
            return image, alone
        way, a = self.ways[int(torch.randint(len(self.ways), ()))]
        share = _beta(a)
        order = torch.randperm(len(image)).to(image.device, non_blocking=True)
        image, share = way(image, image[order], share)
        return image, share * alone + (1 - share) * alone[order]

    @staticmethod
    def _blend(image: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
        return torch.lerp(other, image, share), share

    @staticmethod
    def _paste(image: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
        """The window may reach over the edge; the share is of what remains."""
        height, width = image.shape[2:]
        tall, wide = ((side * (1 - share) ** 0.5) / 2 for side in (height, width))
        y, x = (float(torch.rand(())) * side for side in (height, width))
        rows = slice(round(max(y - tall, 0)), round(min(y + tall, height)))
        columns = slice(round(max(x - wide, 0)), round(min(x + wide, width)))
        pasted = image.clone()
        pasted[:, :, rows, columns] = other[:, :, rows, columns]
        covered = (rows.stop - rows.start) * (columns.stop - columns.start)
        return pasted, 1 - covered / (height * width)


def _beta(a: float) -> float:
    """A number from Beta(a, a), by torch's global generator."""
    one, two = torch._standard_gamma(torch.full((2,), float(a))).clamp_min(1e-12).tolist()
    return one / (one + two)
