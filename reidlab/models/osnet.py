"""OSNet, the omni-scale network (arXiv 1905.00953), and its IBN and AIN variants (arXiv 1910.06827).

Parameters are named as in the authors' published checkpoints, so that these load as they are.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
from torch import Tensor, nn

from reidlab.models.heads import ReIdNetwork, one_of
from reidlab.models.padding import same

InstanceNorm = partial(nn.InstanceNorm2d, affine=True)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    norm=nn.BatchNorm2d,
    relu=True,
    padding: str = "symmetric",
):
    """Convolution without bias, norm and ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: its side.
        stride: of the convolution.
        norm: takes the number of channels; None for none.
        relu: whether a ReLU follows.
        padding: one of `PADDINGS`; it keeps the size at stride 1.
    """
    pad, amount = same(kernel, stride, padding)
    layers: OrderedDict[str, nn.Module] = OrderedDict(pad)
    layers["conv"] = nn.Conv2d(in_channels, out_channels, kernel, stride, amount, bias=False)
    if norm:
        layers["bn"] = norm(out_channels)
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def lite_conv(channels: int, depthwise_first: bool = False) -> nn.Sequential:
    """Lite 3x3: a linear 1x1, then a depthwise 3x3 (section 3.1); or the other way round, as in MobileNet."""
    pointwise = nn.Conv2d(channels, channels, 1, bias=False)
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    first, second = (depthwise, pointwise) if depthwise_first else (pointwise, depthwise)
    return nn.Sequential(
        OrderedDict(conv1=first, conv2=second, bn=nn.BatchNorm2d(channels), relu=nn.ReLU(inplace=True))
    )


CONVOLUTIONS: dict[str, Callable[[int], nn.Module]] = {
    "lite": lite_conv,
    "depthwise-first": partial(lite_conv, depthwise_first=True),
    "full": lambda channels: conv_norm(channels, channels, kernel=3),
}  # what a stream is made of: the paper's, and two to compare it with


class ChannelGate(nn.Module):
    """The aggregation gate: scales each channel by a function of the image's channel averages (section 3.2)."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each channel times its gate in (0, 1)."""
        return maps * self.fc2(self.fc1(self.pool(maps)).relu()).sigmoid()


class OmniScaleBlock(nn.Module):
    """Reduce, four streams that see 3 to 9 pixels, their sum through one shared gate, expand, add (section 3.2).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        instance_norm: None, "after" the sum with the identity (IBN), or "inside" the residual in place of BN (AIN).
        numbered: name the streams `conv2.0` to `conv2.3`, as AIN checkpoints do, instead of `conv2a` to `conv2d`.
        convolution: of the streams, a key of `CONVOLUTIONS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        instance_norm: str | None = None,
        numbered: bool = False,
        convolution: str = "lite",
    ):
        super().__init__()
        self.numbered, self.norm_inside = numbered, instance_norm == "inside"
        mid = out_channels // 4
        self.conv1 = conv_norm(in_channels, mid)
        streams = [nn.Sequential(*(CONVOLUTIONS[convolution](mid) for _ in range(depth))) for depth in (1, 2, 3, 4)]
        if numbered:
            self.conv2 = nn.ModuleList(nn.Sequential(OrderedDict(layers=stream)) for stream in streams)
        else:
            self.conv2a, self.conv2b, self.conv2c, self.conv2d = streams[0][0], *streams[1:]
        self.gate = ChannelGate(mid)
        self.conv3 = conv_norm(mid, out_channels, norm=None if self.norm_inside else nn.BatchNorm2d, relu=False)
        same = in_channels == out_channels
        self.downsample = nn.Identity() if same else conv_norm(in_channels, out_channels, relu=False)
        self.IN = InstanceNorm(out_channels) if instance_norm else nn.Identity()

    @property
    def streams(self) -> Sequence[nn.Module]:
        """The four, smallest receptive field first."""
        return tuple(self.conv2) if self.numbered else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        reduced = self.conv1(maps)
        residual = self.conv3(reduce(torch.add, (self.gate(stream(reduced)) for stream in self.streams)))
        identity = self.downsample(maps)
        return (self.IN(residual) + identity if self.norm_inside else self.IN(residual + identity)).relu_()


class OSNet(ReIdNetwork):
    """OSNet of any width, for images of any size: (B, 3, H, W) -> (B, channels[3], H / 16, W / 16) -> head.

    Args:
        channels: of conv1 to conv4 (table 1).
        variant: "plain"; "ibn", instance norm in conv1 and conv2; "ain", instance norm where the architecture search of
            arXiv 1910.06827 put it (its published networks).
        num_classes: 0 for no classifier.
        convolution: "lite"; for comparison "depthwise-first", its two halves swapped, or "full", a plain 3x3.
        padding: of the stem, one of `PADDINGS`.
        head: the options of `ReIdNetwork.add_head`.
    """

    def __init__(
        self,
        channels: tuple[int, int, int, int],
        variant: str = "plain",
        num_classes: int = 0,
        convolution: str = "lite",
        padding: str = "symmetric",
        **head,
    ):
        super().__init__()
        one_of("variant", variant, ("plain", "ibn", "ain"))
        one_of("convolution", convolution, tuple(CONVOLUTIONS))
        norm2, norm3, norm4 = {
            "plain": ((None, None), (None, None), (None, None)),
            "ibn": (("after", "after"), (None, None), (None, None)),
            "ain": (("inside", "inside"), (None, "inside"), ("inside", None)),
        }[variant]
        ain = variant == "ain"

        def blocks(in_channels: int, out_channels: int, norms: tuple[str | None, str | None]) -> nn.Sequential:
            first, second = norms
            return nn.Sequential(
                OmniScaleBlock(in_channels, out_channels, first, ain, convolution),
                OmniScaleBlock(out_channels, out_channels, second, ain, convolution),
            )

        def halve(width: int) -> nn.Sequential:
            return nn.Sequential(conv_norm(width, width), nn.AvgPool2d(2))

        c1, c2, c3, c4 = channels
        norm1 = nn.BatchNorm2d if variant == "plain" else InstanceNorm
        self.conv1 = conv_norm(3, c1, kernel=7, stride=2, norm=norm1, padding=padding)
        pad, amount = same(3, 2, padding)
        pool = nn.MaxPool2d(3, stride=2, padding=amount)
        self.maxpool = nn.Sequential(OrderedDict(**pad, pool=pool)) if pad else pool
        self.conv2 = blocks(c1, c2, norm2)
        self.conv3 = blocks(c2, c3, norm3)
        self.conv4 = blocks(c3, c4, norm4)
        self.conv5 = conv_norm(c4, c4)
        if ain:
            self.pool2, self.pool3 = halve(c2), halve(c3)
            self.stages = ("conv1", "maxpool", "conv2", "pool2", "conv3", "pool3", "conv4", "conv5")
        else:
            self.conv2.append(halve(c2))
            self.conv3.append(halve(c3))
            self.stages = ("conv1", "maxpool", "conv2", "conv3", "conv4", "conv5")
        self.add_head(c4, num_classes, **head)


osnet_x1_0 = partial(OSNet, (64, 256, 384, 512))
osnet_x0_75 = partial(OSNet, (48, 192, 288, 384))
osnet_x0_5 = partial(OSNet, (32, 128, 192, 256))
osnet_x0_25 = partial(OSNet, (16, 64, 96, 128))
osnet_ibn_x1_0 = partial(osnet_x1_0, variant="ibn")
osnet_ain_x1_0 = partial(osnet_x1_0, variant="ain")
osnet_ain_x0_75 = partial(osnet_x0_75, variant="ain")
osnet_ain_x0_5 = partial(osnet_x0_5, variant="ain")
osnet_ain_x0_25 = partial(osnet_x0_25, variant="ain")
