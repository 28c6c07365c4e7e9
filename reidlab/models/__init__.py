"""Networks for re-identification and classification, their cost, and loading published weights."""

from reidlab.models.color_histogram import ColorHistogram
from reidlab.models.complexity import Block, Complexity, blocks, check_size, complexity
from reidlab.models.efficientnet import (
    EfficientNetLite,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from reidlab.models.fdmobilenet import (
    FDMobileNet,
    fdmobilenet_x0_5,
    fdmobilenet_x0_25,
    fdmobilenet_x0_75,
    fdmobilenet_x1_0,
    st_fdmobilenet_v1,
)
from reidlab.models.heads import Confidences, GeM, Output, ReIdNetwork
from reidlab.models.mixstyle import MixStyle
from reidlab.models.osnet import (
    OSNet,
    osnet_ain_x0_5,
    osnet_ain_x0_25,
    osnet_ain_x0_75,
    osnet_ain_x1_0,
    osnet_ibn_x1_0,
    osnet_x0_5,
    osnet_x0_25,
    osnet_x0_75,
    osnet_x1_0,
)
from reidlab.models.resnet import (
    ResNet,
    resnet18,
    resnet18_ibn_a,
    resnet34,
    resnet34_ibn_a,
    resnet50,
    resnet50_ibn_a,
    resnet101,
    resnet101_ibn_a,
)
from reidlab.models.weights import LoadReport, load_weights, read_weights, recognize

__all__ = [
    "Block",
    "ColorHistogram",
    "Complexity",
    "Confidences",
    "EfficientNetLite",
    "FDMobileNet",
    "GeM",
    "LoadReport",
    "MixStyle",
    "OSNet",
    "Output",
    "ReIdNetwork",
    "ResNet",
    "blocks",
    "check_size",
    "complexity",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "fdmobilenet_x0_5",
    "fdmobilenet_x0_25",
    "fdmobilenet_x0_75",
    "fdmobilenet_x1_0",
    "load_weights",
    "osnet_ain_x0_5",
    "osnet_ain_x0_25",
    "osnet_ain_x0_75",
    "osnet_ain_x1_0",
    "osnet_ibn_x1_0",
    "osnet_x0_5",
    "osnet_x0_25",
    "osnet_x0_75",
    "osnet_x1_0",
    "read_weights",
    "recognize",
    "resnet18",
    "resnet18_ibn_a",
    "resnet34",
    "resnet34_ibn_a",
    "resnet50",
    "resnet50_ibn_a",
    "resnet101",
    "resnet101_ibn_a",
    "st_fdmobilenet_v1",
]
