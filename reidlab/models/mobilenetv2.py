"""MobileNetV2 (Sandler et al., arXiv 1801.04381): depthwise convolutions between linear bottlenecks.

Parameters are named as in torchvision, so that its weights load as they are; Keras's want `padding="tensorflow"`.
"""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from reidlab.models.efficientnet import divisible_by_8
from reidlab.models.heads import ReIdNetwork
from reidlab.models.padding import same

# expansion, channels, blocks, stride: Table 2
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280  # channels; the last ones aren't fewer in narrower networks


def conv_norm_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, padding: str = "symmetric"
) -> nn.Sequential:
    """Convolution without bias, batch norm and ReLU6.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: its side.
        stride: of the convolution.
        groups: of channels.
        padding: one of `PADDINGS`.
    """
    pad, amount = same(kernel, stride, padding)
    layers: OrderedDict[str, nn.Module] = OrderedDict(pad)
    layers["0"] = nn.Conv2d(in_channels, out_channels, kernel, stride, amount, groups=groups, bias=False)
    layers |= {"1": nn.BatchNorm2d(out_channels), "2": nn.ReLU6(inplace=True)}
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 without activation; a shortcut where the shape stays.

    Args:
        in_channels: of the input.
        channels: of the output.
        stride: of the depthwise convolution.
        expansion: 1 leaves the first 1x1 out.
        padding: one of `PADDINGS`.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int, padding: str = "symmetric"):
        super().__init__()
        inner = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == channels
        expand = [conv_norm_relu6(in_channels, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_norm_relu6(inner, inner, 3, stride, inner, padding),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        return maps + self.conv(maps) if self.shortcut else self.conv(maps)


class MobileNetV2(ReIdNetwork):
    """Seventeen inverted residuals and a wide 1x1: (B, 3, H, W) -> (B, 1280, H / 32, W / 32) -> head.

    - `width`: of all layers but the last; channels are rounded to multiples of 8
    - `padding`: one of `PADDINGS`
    - `head`: the options of `ReIdNetwork.add_head`; by default the embedding is the pooled feature itself
    """

    stages = ("features",)

    def __init__(self, width: float = 1.0, num_classes: int = 0, padding: str = "symmetric", **head):
        super().__init__()
        before = divisible_by_8(STEM * width)
        self.features = nn.Sequential(conv_norm_relu6(3, before, 3, 2, padding=padding))
        for expansion, base, blocks, stride in STAGES:
            channels = divisible_by_8(base * width)
            for block in range(blocks):
                self.features.append(InvertedResidual(before, channels, 1 if block else stride, expansion, padding))
                before = channels
        last = max(LAST, divisible_by_8(LAST * width))
        self.features.append(conv_norm_relu6(before, last, 1))
        self.add_head(last, num_classes, **{"feat_dim": None, **head})


mobilenetv2_x1_0 = partial(MobileNetV2, 1.0)
mobilenetv2_x0_35 = partial(MobileNetV2, 0.35)
