"""Quantization grids: the scale and zero point of a range of values, for files and for their simulation alike."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reidlab.export.ranges import Range
from reidlab.export.steps import IMAGE, StepNetwork

LOW, HIGH = -128, 127
SAME_GRID = ("max_pool", "average_pool", "concat", "slice")  # TFLite's kernels don't rescale
FRACTIONS = ("sigmoid", "softmax")
FLOAT_ONLY = ("instance_norm", "at_least", "power")  # operators that LiteRT has no int8 kernels for, or ones that crash
SMALLEST_RESCALING = 2.0**-24  # kernels reject 2^-32


class Grid(NamedTuple):
    """An affine int8 quantization: real values are `scale * (code - zero_point)`."""

    scale: float
    zero_point: int

    def round(self, values: Tensor) -> Tensor:
        """Fake quantization: the nearest values on the grid; straight-through gradients inside, zero outside."""
        codes = values / self.scale + self.zero_point
        codes = codes.clamp(LOW, HIGH)
        return (codes + (codes.round() - codes).detach() - self.zero_point) * self.scale


FRACTION = Grid(1 / 256, LOW)


def grid_of(values: Range, symmetric: bool = False) -> Grid:
    """The finest grid over a range; the symmetric one has zero point 0, as TensorRT requires."""
    if symmetric:
        return Grid(max(-values.low, values.high) / HIGH, 0)
    scale = (values.high - values.low) / (HIGH - LOW)
    return Grid(scale, int(np.clip(round(LOW - values.low / scale), LOW, HIGH)))


def with_float_only(network: StepNetwork, chosen: Collection[str] = ()) -> set[str]:
    """Names of the steps that stay float: those chosen, those without an integer kernel, and those between such."""
    found = {step.name for step in network.steps if step.kind in FLOAT_ONLY} | {*chosen}
    readers = {name: [step.name for step in network.steps if name in step.inputs] for name in network.shapes}
    for step in network.steps:
        if found.issuperset(step.inputs) and readers[step.name] and found.issuperset(readers[step.name]):
            found.add(step.name)
    return found


def grid_owners(network: StepNetwork, symmetric: bool = False) -> dict[str, str]:
    """Tensor -> the first of the tensors that share its grid, since TFLite's kernels don't rescale between them."""
    owner = {name: name for name in network.shapes}
    for step in network.steps:
        if step.kind in SAME_GRID and not symmetric:
            first, *others = (owner[name] for name in (*step.inputs, step.name))
            owner = {name: first if old in others else old for name, old in owner.items()}
    return owner


def shared_ranges(network: StepNetwork, ranges: Mapping[str, Range], symmetric: bool = False) -> dict[str, Range]:
    """The range of each tensor, the union of ranges where several share a grid; [0, 1] for the image."""
    known, owners = {**ranges, IMAGE: Range(0.0, 1.0)}, grid_owners(network, symmetric)
    united: dict[str, Range] = {}
    for name, first in owners.items():
        low, high = united.get(first, known[name])
        united[first] = Range(min(low, known[name].low), max(high, known[name].high))
    return {name: united[first] for name, first in owners.items()}


def activation_grids(network: StepNetwork, ranges: Mapping[str, Range], symmetric: bool = False) -> dict[str, Grid]:
    """The grid of the image and of each step's output; TFLite's fixed one for sigmoids unless `symmetric`."""
    shared = shared_ranges(network, ranges, symmetric)
    return {name: grid_of(values, symmetric) for name, values in shared.items()} | fixed_grids(network, symmetric)


def fixed_grids(network: StepNetwork, symmetric: bool = False) -> dict[str, Grid]:
    """The grids that TFLite prescribes, by step."""
    return {} if symmetric else {step.name: FRACTION for step in network.steps if step.kind in FRACTIONS}


def weight_scales(weight: Tensor, per_channel: bool = True) -> Tensor:
    """Scales (out,) of symmetric int8 weights (out, ...): one for each output channel, or the same for all."""
    largest = weight.detach().abs().flatten(1).amax(1)
    return ((largest if per_channel else largest.amax().expand(len(weight))) / HIGH).clamp(min=1e-12)


def round_weights(weight: Tensor, scales: Tensor) -> Tensor:
    """Weights (out, ...) fake-quantized to symmetric int8 with scales (out,); straight-through gradients."""
    scales = scales.view(-1, *[1] * (weight.ndim - 1))
    rounded = (weight / scales).round().clamp(-HIGH, HIGH) * scales
    return weight + (rounded - weight).detach()


def safe_scales(scales: Tensor, bias: Tensor | None, given: Grid, made: Grid) -> Tensor:
    """The weights' scales, raised where the int32 bias would overflow or the rescaling factor underflow."""
    least = torch.full_like(scales, SMALLEST_RESCALING * made.scale / given.scale)
    if bias is not None:
        least = torch.maximum(least, bias.detach().abs() / (given.scale * 2.0**30))
    return torch.maximum(scales, least)
