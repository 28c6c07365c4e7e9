"""int8 codes: which scale and zero point a range of values gets, for files and for their simulation alike."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reidlab.export.ranges import Range
from reidlab.export.steps import IMAGE, StepNetwork

LOW, HIGH = -128, 127
SAME_GRID = ("max_pool", "average_pool", "concat", "slice")  # TFLite's kernels copy codes
FRACTIONS = ("sigmoid", "softmax")
FLOAT_ONLY = ("instance_norm", "at_least", "power")  # LiteRT's int8 kernels lack, or crash on, what these need
SMALLEST_RESCALING = 2.0**-24  # kernels refuse 2^-32


class Grid(NamedTuple):
    """Real values are `scale * (code - zero_point)` for codes of int8."""

    scale: float
    zero_point: int

    def round(self, values: Tensor) -> Tensor:
        """The nearest values that have a code; gradients pass as if they were the values' own, zero outside."""
        codes = values / self.scale + self.zero_point
        codes = codes.clamp(LOW, HIGH)
        return (codes + (codes.round() - codes).detach() - self.zero_point) * self.scale


FRACTION = Grid(1 / 256, LOW)


def grid_of(values: Range, symmetric: bool = False) -> Grid:
    """The finest grid over a range; the symmetric one has its zero at code 0, as TensorRT wants it."""
    if symmetric:
        return Grid(max(-values.low, values.high) / HIGH, 0)
    scale = (values.high - values.low) / (HIGH - LOW)
    return Grid(scale, int(np.clip(round(LOW - values.low / scale), LOW, HIGH)))


def with_float_only(network: StepNetwork, chosen: Collection[str] = ()) -> set[str]:
    """Names of the steps that stay float: those chosen, those that no integer kernel does, and those between them."""
    found = {step.name for step in network.steps if step.kind in FLOAT_ONLY} | {*chosen}
    readers = {name: [step.name for step in network.steps if name in step.inputs] for name in network.shapes}
    for step in network.steps:
        if found.issuperset(step.inputs) and readers[step.name] and found.issuperset(readers[step.name]):
            found.add(step.name)
    return found


def leaders(network: StepNetwork, symmetric: bool = False) -> dict[str, str]:
    """Tensor -> the first of those that must share its grid, since TFLite copies their codes into each other."""
    leader = {name: name for name in network.shapes}
    for step in network.steps:
        if step.kind in SAME_GRID and not symmetric:
            first, *others = (leader[name] for name in (*step.inputs, step.name))
            leader = {name: first if old in others else old for name, old in leader.items()}
    return leader


def shared_ranges(network: StepNetwork, ranges: Mapping[str, Range], symmetric: bool = False) -> dict[str, Range]:
    """The ranges, those of tensors that share a grid united; the image's is [0, 1]."""
    known, united, leader = {**ranges, IMAGE: Range(0.0, 1.0)}, {}, leaders(network, symmetric)
    for name, first in leader.items():
        low, high = united.get(first, known[name])
        united[first] = Range(min(low, known[name].low), max(high, known[name].high))
    return {name: united[first] for name, first in leader.items()}


def activation_grids(network: StepNetwork, ranges: Mapping[str, Range], symmetric: bool = False) -> dict[str, Grid]:
    """The grid of the image and of every step's tensor; sigmoids have TFLite's fixed one unless `symmetric`."""
    shared = shared_ranges(network, ranges, symmetric)
    return {name: grid_of(values, symmetric) for name, values in shared.items()} | fixed_grids(network, symmetric)


def fixed_grids(network: StepNetwork, symmetric: bool = False) -> dict[str, Grid]:
    """Those that TFLite prescribes."""
    return {} if symmetric else {step.name: FRACTION for step in network.steps if step.kind in FRACTIONS}


def weight_scales(weight: Tensor, per_channel: bool = True) -> Tensor:
    """Scales (out,) of symmetric int8 weights (out, ...): one for each output channel, or the same for all."""
    largest = weight.detach().abs().flatten(1).amax(1)
    return ((largest if per_channel else largest.amax().expand(len(weight))) / HIGH).clamp(min=1e-12)


def round_weights(weight: Tensor, scales: Tensor) -> Tensor:
    """What symmetric int8 with scales (out,) makes of weights (out, ...); gradients pass unchanged."""
    scales = scales.view(-1, *[1] * (weight.ndim - 1))
    rounded = (weight / scales).round().clamp(-HIGH, HIGH) * scales
    return weight + (rounded - weight).detach()


def safe_scales(scales: Tensor, bias: Tensor | None, given: Grid, made: Grid) -> Tensor:
    """The weights' scales, raised where they are so small that the int32 bias or the rescaling would not fit."""
    least = torch.full_like(scales, SMALLEST_RESCALING * made.scale / given.scale)
    if bias is not None:
        least = torch.maximum(least, bias.detach().abs() / (given.scale * 2.0**30))
    return torch.maximum(scales, least)
