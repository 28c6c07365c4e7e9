"""Color histograms of horizontal stripes, a baseline without learning."""

import torch
from torch import Tensor, nn

from reidlab.models.heads import Output


class ColorHistogram(nn.Module):
    """A joint HSV histogram per horizontal stripe; euclidean distances of embeddings are Hellinger distances.

    Expects RGB in [0, 1] (mean 0, std 1), as its configuration says. The embedding has unit length and
    `stripes * product(bins)` values. There is nothing to train: `num_classes` is accepted and logits are None.
    """

    def __init__(self, stripes: int = 6, bins: tuple[int, int, int] = (8, 4, 4), num_classes: int = 0):
        super().__init__()
        self.stripes, self.bins = stripes, tuple(bins)
        self.feat_dim = stripes * self.bins[0] * self.bins[1] * self.bins[2]

    def forward(self, image: Tensor) -> Output:
        """(B, 3, H, W) in [0, 1] -> square roots of each stripe's shares, (B, stripes * product(bins))."""
        batch, _, height, _ = image.shape
        hue_bins, saturation_bins, value_bins = self.bins
        levels = torch.tensor(self.bins, device=image.device).view(1, 3, 1, 1)
        hue, saturation, value = torch.minimum((rgb_to_hsv(image) * levels).long(), levels - 1).unbind(1)  # (B, H, W)
        stripe = torch.arange(height, device=image.device).view(1, height, 1) * self.stripes // height
        cell = ((stripe * hue_bins + hue) * saturation_bins + saturation) * value_bins + value
        counts = image.new_zeros(batch, self.feat_dim).scatter_add_(
            1, cell.flatten(1), torch.ones_like(image[:, 0]).flatten(1)
        )
        per_stripe = counts.view(batch, self.stripes, -1)
        shares = per_stripe / per_stripe.sum(2, keepdim=True).clamp(min=1)
        return Output((shares / self.stripes).sqrt().flatten(1), None)


def rgb_to_hsv(image: Tensor) -> Tensor:
    """(B, 3, H, W) RGB -> HSV, all in [0, 1]; gray has hue 0. Values outside [0, 1] are clipped."""
    image = image.clamp(0, 1)
    value, channel = image.max(1)
    chroma = value - image.amin(1)
    red, green, blue = image.unbind(1)
    sectors = torch.stack((green - blue, blue - red, red - green), 1).gather(1, channel.unsqueeze(1)).squeeze(1)
    hue = (sectors / chroma.clamp(min=1e-12) + 2 * channel) / 6 % 1  # of the pure colors: 0, 1/3, 2/3
    return torch.stack((hue, chroma / value.clamp(min=1e-12), value), 1)
