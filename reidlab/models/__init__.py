"""Networks for re-identification, and loading other people's weights into them."""

from reidlab.models.color_histogram import ColorHistogram
from reidlab.models.complexity import Complexity, complexity
from reidlab.models.heads import Output, ReIdNetwork
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
from reidlab.models.weights import LoadReport, load_weights, read_weights

__all__ = [
    "ColorHistogram",
    "Complexity",
    "LoadReport",
    "OSNet",
    "Output",
    "ReIdNetwork",
    "complexity",
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
]
