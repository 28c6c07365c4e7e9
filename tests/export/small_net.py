"""A network that converts in seconds."""

import torch

from reidlab.models.heads import ReIdNetwork
from reidlab.models.osnet import OmniScaleBlock, conv_norm

SIZE = (32, 16)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class SmallNet(ReIdNetwork):
    """One of everything that OSNet is made of: stem, max-pool, a block whose gates squeeze to 1 channel, projection."""

    def __init__(self, feat_dim=24, num_classes=5):
        super().__init__()
        self.conv1 = conv_norm(3, 8, kernel=7, stride=2)
        self.maxpool = torch.nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = OmniScaleBlock(8, 64)
        self.stages = ("conv1", "maxpool", "conv2")
        self.add_head(64, num_classes, feat_dim=feat_dim)


def unsettle(network):
    """Batch norms as training leaves them, so that folding them is no identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return network.eval()
