"""MixStyle: train on mixed styles, for networks that transfer to other cameras."""

import torch
from torch import Tensor, nn


class MixStyle(nn.Module):
    """Mix each image's channel means and deviations with those of another of the batch, in training only.

    `p` is the probability of mixing a batch, `alpha` of Beta(alpha, alpha) that the weights are drawn from.
    Source: arXiv 2104.02008, section 3.2, with its random shuffle as the source of the other style.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.1, eps: float = 1e-6):
        super().__init__()
        self.p, self.alpha, self.eps = p, alpha, eps

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; the gradient takes the styles as constants."""
        if not self.training or torch.rand(()) >= self.p:
            return maps
        batch = len(maps)
        deviation, mean = torch.std_mean(maps.detach(), (2, 3), correction=0, keepdim=True)  # (B, C, 1, 1)
        deviation = deviation + self.eps
        weight = torch.distributions.Beta(self.alpha, self.alpha).sample((batch, 1, 1, 1)).to(maps)
        other = torch.randperm(batch).to(maps.device)
        mixed_mean = torch.lerp(mean[other], mean, weight)
        mixed_deviation = torch.lerp(deviation[other], deviation, weight)
        return (maps - mean) / deviation * mixed_deviation + mixed_mean
