"""ResNet (arXiv 1512.03385) for re-identification: last stride 1 (arXiv 1903.07071), IBN-a (arXiv 1807.09441).

Parameters are named as in torchvision, so that its ImageNet weights and those trained from them load as they are.
"""

from functools import partial

import torch
from torch import Tensor, nn

from reidlab.models.heads import ReIdNetwork


class IBN(nn.Module):
    """Instance norm on the first half of the channels, which drops appearance; batch norm on the rest (section 3.2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.cut = channels // 2
        self.IN = nn.InstanceNorm2d(self.cut, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.cut)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return torch.cat((self.IN(maps[:, : self.cut]), self.BN(maps[:, self.cut :])), 1)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the size at stride 1.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: its side.
        stride: of the convolution.
    """
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or a projection where the residual changes the shape."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, of ResNet18 and 34.

    Args:
        in_channels: of the input.
        channels: of the output.
        stride: of the first.
        ibn: IBN-a in the place of the first norm.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, ibn: bool = False):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = IBN(channels) if ibn else nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, channels, H / stride, W / stride)."""
        residual = self.bn1(self.conv1(maps)).relu_()
        return (self.bn2(self.conv2(residual)) + self.downsample(maps)).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels, of ResNet50 and 101.

    Args:
        in_channels: of the input.
        channels: inside; the output has four times as many.
        stride: of the 3x3.
        ibn: IBN-a in the place of the first norm.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, ibn: bool = False):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = IBN(channels) if ibn else nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.downsample = shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * channels, H / stride, W / stride)."""
        residual = self.bn1(self.conv1(maps)).relu_()
        residual = self.bn2(self.conv2(residual)).relu_()
        return (self.bn3(self.conv3(residual)) + self.downsample(maps)).relu_()


class ResNet(ReIdNetwork):
    """ResNet of any depth: (B, 3, H, W) -> (B, 512 * expansion, H / 16, W / 16) -> head; H / 32 with last stride 2.

    Args:
        block: of all layers.
        depths: number of blocks in layer1 to layer4.
        last_stride: of layer4; 1 keeps twice the resolution for no more parameters.
        ibn: IBN-a, in layer1 to layer3.
        stem_relu: False as TAO's ReIdentificationNet was trained, without ReLU after the stem's BN.
        stem_ceil_mode: True as in later versions of fast-reid: the stem's pooling has no padding, and its last windows
            end outside of the maps.
        num_classes: 0 for no classifier.
        head: the options of `ReIdNetwork.add_head`.
    """

    stages = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        last_stride: int = 1,
        ibn: bool = False,
        stem_relu: bool = True,
        stem_ceil_mode: bool = False,
        num_classes: int = 0,
        **head,
    ):
        super().__init__()
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True) if stem_relu else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=0 if stem_ceil_mode else 1, ceil_mode=stem_ceil_mode)

        def layer(in_channels: int, channels: int, depth: int, stride: int, ibn: bool) -> nn.Sequential:
            widths = [in_channels] + [channels * block.expansion] * (depth - 1)
            strides = [stride] + [1] * (depth - 1)
            return nn.Sequential(*(block(w, channels, s, ibn) for w, s in zip(widths, strides, strict=True)))

        self.layer1 = layer(64, 64, depths[0], 1, ibn)
        self.layer2 = layer(64 * block.expansion, 128, depths[1], 2, ibn)
        self.layer3 = layer(128 * block.expansion, 256, depths[2], 2, ibn)
        self.layer4 = layer(256 * block.expansion, 512, depths[3], last_stride, False)
        self.add_head(512 * block.expansion, num_classes, **head)


resnet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3))
resnet18_ibn_a = partial(resnet18, ibn=True)
resnet34_ibn_a = partial(resnet34, ibn=True)
resnet50_ibn_a = partial(resnet50, ibn=True)
resnet101_ibn_a = partial(resnet101, ibn=True)
