"""The features of the networks that ST publishes figures for: python benchmarks/stm32_networks.py

Builds each one with random weights, writes its int8 .tflite and sums up its operators into data/stm32_networks.csv.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor, nn

from reidlab.config import CLONE
from reidlab.deploy.features import features, kinds_of
from reidlab.deploy.tflite_graph import Graph, parse_graph
from reidlab.errors import refusing
from reidlab.export import tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps
from reidlab.models import FDMobileNet, MobileNetV2, Output, osnet_x0_25, osnet_x1_0, st_fdmobilenet_v1

TABLE = CLONE / "data" / "stm32_networks.csv"


class Classifier(nn.Module):
    """Layers, global average pooling and a linear layer: (B, 3, H, W) -> class scores."""

    def __init__(self, layers: nn.Module, features: int, classes: int):
        super().__init__()
        self.layers, self.classify = layers, nn.Linear(features, classes)

    def forward(self, image: Tensor) -> Output:
        """The scores, in the embedding's place."""
        return Output(self.classify(self.layers(image).mean((2, 3))), None)


def conv(given: int, made: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and ReLU; folded batch norms leave a bias."""
    return nn.Sequential(nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups), nn.ReLU())


def mobilenet(alpha: float, classes: int) -> Classifier:
    """MobileNet v1 (arXiv 1704.04861, table 1)."""
    widths = [int(alpha * base) for base in (32, 64, 128, 128, 256, 256, *6 * [512], 1024, 1024)]
    strides = (1, 2, 1, 2, 1, 2, *5 * [1], 2, 1)
    layers = [conv(3, widths[0], stride=2)]
    for given, made, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [conv(given, given, stride=stride, groups=given), conv(given, made, 1)]
    return Classifier(nn.Sequential(*layers), widths[-1], classes)


class Fire(nn.Module):
    """A squeeze 1x1 and two expansions, 1x1 and 3x3, side by side."""

    def __init__(self, given: int, squeezed: int, made: int):
        super().__init__()
        self.squeeze, self.one, self.three = (
            conv(given, squeezed, 1), conv(squeezed, made // 2, 1), conv(squeezed, made // 2, 3),
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        """Both expansions of the squeezed maps."""
        squeezed = self.squeeze(maps)
        return torch.cat([self.one(squeezed), self.three(squeezed)], 1)


def squeezenet(classes: int) -> Classifier:
    """SqueezeNet v1.1 (arXiv 1602.07360, and its authors' later revision)."""
    layers = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2), Fire(64, 16, 128), Fire(128, 16, 128)]
    layers += [nn.MaxPool2d(3, 2), Fire(128, 32, 256), Fire(256, 32, 256), nn.MaxPool2d(3, 2)]
    layers += [Fire(256, 48, 384), Fire(384, 48, 384), Fire(384, 64, 512), Fire(512, 64, 512)]
    network = Classifier(nn.Sequential(*layers), 512, classes)
    network.layers.append(nn.Conv2d(512, classes, 1))
    network.classify = nn.Identity()
    return network


class Residual(nn.Module):
    """Two convolutions 3x3 beside the identity, or beside a 1x1 where the shape changes."""

    def __init__(self, given: int, made: int):
        super().__init__()
        stride = made // given
        self.first, self.second = conv(given, made, stride=stride), nn.Conv2d(made, made, 3, 1, 1)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(given, made, 1, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """The sum, through ReLU."""
        return torch.relu(self.second(self.first(maps)) + self.shortcut(maps))


def resnet(depth: int, classes: int) -> Classifier:
    """ResNet v1 for 32 x 32 images (arXiv 1512.03385, section 4.2), depth 6n + 2."""
    widths = [16] + [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
    blocks = [Residual(given, made) for given, made in pairwise(widths)]
    return Classifier(nn.Sequential(conv(3, 16), *blocks), 64, classes)


CLASSES = {"tf_flowers": 5, "imagenet": 1000, "food101": 101, "cifar10": 10, "cifar100": 100, "DeepSportradar": 0,
           "coco_person": 2}  # fmt: skip
BUILDERS: dict[str, Callable[[str, int], nn.Module]] = {
    "osnet": lambda alpha, _: (osnet_x1_0 if alpha == "1.00" else osnet_x0_25)(num_classes=0, feat_dim=None),
    "fdmobilenet": lambda alpha, classes: Classifier(_trunk(float(alpha)), int(1024 * float(alpha)), classes),
    "st_fdmobilenet_v1": lambda _, classes: Classifier(_trunk(None), 256, classes),
    "mobilenetv1": lambda alpha, classes: mobilenet(float(alpha), classes),
    "mobilenetv2": lambda alpha, classes: mobilenetv2(float(alpha), classes),
    "squeezenetv1.1": lambda _, classes: squeezenet(classes),
    "resnetv1": lambda _, classes: resnet(32 if classes == 100 else 8, classes),
}


def mobilenetv2(alpha: float, classes: int) -> nn.Module:
    """MobileNet v2, with a linear layer where there are classes."""
    network = MobileNetV2(alpha)
    return Classifier(network.features, network.feat_dim, classes) if classes else network


def _trunk(alpha: float | None) -> nn.Sequential:
    network = st_fdmobilenet_v1() if alpha is None else FDMobileNet(alpha)
    return nn.Sequential(*(getattr(network, stage) for stage in network.stages))


def int8_file(network: nn.Module, size: tuple[int, int]) -> bytes:
    """The int8 .tflite of a network, its batch norms and ranges those of random images."""
    images = torch.rand((4, *size, 3), generator=torch.Generator().manual_seed(0))
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(images.permute(0, 3, 1, 2))
    steps = as_steps(deployable(network.eval(), [0.0] * 3, [1.0] * 3), size)
    return tflite.integer_file(steps, observe(steps.arrays, [images.numpy()], "minmax"), {"model": "footprint"})


def graph_of(family: str, alpha: str, dataset: str, resolution: str) -> Graph:
    """The int8 file of a published network, read back."""
    torch.manual_seed(0)
    height, width, _ = map(int, resolution.split("x"))
    network = BUILDERS[family](alpha, CLASSES[dataset])
    return parse_graph(int8_file(network, (height, width)))


def row_of(graph: Graph) -> dict[str, object]:
    """A network's row of the table."""
    found = features(graph)
    return {"macs": found.macs, **asdict(found), "kinds": " ".join(sorted(kinds_of(graph)))}


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    columns = ["family", "alpha", "dataset", "resolution"]
    published = pd.read_csv(CLONE / "data" / "stm32_published.csv", dtype=str, keep_default_na=False)
    colored = published[published["resolution"].str.endswith("x3")]  # as all that this project makes
    networks = colored[columns].drop_duplicates().sort_values(columns)
    rows = [key | row_of(graph_of(**key)) for key in networks.to_dict("records")]
    pd.DataFrame(rows).to_csv(TABLE, index=False)
    print(f"{TABLE}: {len(rows)} networks")


if __name__ == "__main__":
    with refusing():
        main()
