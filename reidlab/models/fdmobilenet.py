"""FD-MobileNet, fast downsampling for devices of a few MMACs (arXiv 1802.03750), and ST's FdMobileNet v1."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn

from reidlab.models.heads import ReIdNetwork, one_of
from reidlab.models.osnet import conv_norm
from reidlab.models.padding import same

BASE_CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 1024)  # of the stem, then of each block
STRIDES = (2, 2, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)
DEPTHWISE = (
    "linear",  # a bias alone, as ST has it
    "linear_bn",  # BN, which folds into that bias: the same network when deployed, learned in fewer epochs
    "norm",  # BN and ReLU, as in the paper
)
ST_V1_ALPHAS = (0.5, 0.75, 0.625, 0.5, 0.375, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25)


def separable(in_channels: int, out_channels: int, stride: int, depthwise: str, padding: str) -> nn.Sequential:
    """Depthwise 3x3 with its norm and activation, then 1x1, BN, ReLU.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: of the depthwise convolution.
        depthwise: what follows it, see `DEPTHWISE`.
        padding: one of `PADDINGS`.
    """
    bias = depthwise == "linear"
    pad, amount = same(3, stride, padding)
    layers: OrderedDict[str, nn.Module] = OrderedDict(pad)
    layers["depthwise"] = nn.Conv2d(in_channels, in_channels, 3, stride, amount, groups=in_channels, bias=bias)
    if not bias:
        layers["depthwise_bn"] = nn.BatchNorm2d(in_channels)
    if depthwise == "norm":
        layers["depthwise_relu"] = nn.ReLU(inplace=True)
    layers["pointwise"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    layers |= {"bn": nn.BatchNorm2d(out_channels), "relu": nn.ReLU(inplace=True)}
    return nn.Sequential(layers)


class FDMobileNet(ReIdNetwork):
    """A convolution and eleven separable ones, 1/32 of the side after the seventh: (B, 3, H, W) -> head.

    - `alpha`: width, one factor for all layers or one for each; channels are `int(base * alpha)`
    - `depthwise`: what follows a depthwise convolution, see `DEPTHWISE`
    - `padding`: one of `PADDINGS`
    - `head`: the options of `ReIdNetwork.add_head`; by default the embedding is the pooled feature itself
    """

    def __init__(
        self,
        alpha: float | Sequence[float] = 1.0,
        depthwise: str = "linear",
        num_classes: int = 0,
        padding: str = "symmetric",
        **head,
    ):
        super().__init__()
        one_of("depthwise", depthwise, DEPTHWISE)
        alphas = [alpha] * len(BASE_CHANNELS) if isinstance(alpha, int | float) else alpha
        widths = [int(base * width) for base, width in zip(BASE_CHANNELS, alphas, strict=True)]
        self.stem = conv_norm(3, widths[0], kernel=3, stride=STRIDES[0], padding=padding)
        self.stages = ("stem", *(f"block{number}" for number in range(1, len(widths))))
        for name, before, after, stride in zip(self.stages[1:], widths, widths[1:], STRIDES[1:], strict=False):
            setattr(self, name, separable(before, after, stride, depthwise, padding))
        self.add_head(widths[-1], num_classes, **{"feat_dim": None, **head})


fdmobilenet_x1_0 = partial(FDMobileNet, 1.0)
fdmobilenet_x0_75 = partial(FDMobileNet, 0.75)
fdmobilenet_x0_5 = partial(FDMobileNet, 0.5)
fdmobilenet_x0_25 = partial(FDMobileNet, 0.25)
st_fdmobilenet_v1 = partial(FDMobileNet, ST_V1_ALPHAS)
