"""Simulated int8 in floating point, to measure what a quantized file will compute, and to train it."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reidlab.export.grid import (
    HIGH,
    LOW,
    Grid,
    fixed_grids,
    grid_of,
    grid_owners,
    round_weights,
    shared_ranges,
    weight_scales,
    with_float_only,
)
from reidlab.export.ranges import Range
from reidlab.export.steps import ACTIVATIONS, IMAGE, Step, StepNetwork


def fake_quantized(step: Step, inputs: list[Tensor], grid: Grid, per_channel: bool = True) -> Tensor:
    """A step's output with its weights and itself fake-quantized."""
    if step.kind != "conv":
        return grid.round(step(*inputs))
    weight = round_weights(step.weight, weight_scales(step.weight, per_channel))
    return grid.round(ACTIVATIONS[step.activation](step.convolve(inputs[0], weight)))


@dataclass(frozen=True)
class QATOptions:
    """The recipe of quantization-aware training.

    Args:
        epochs: of training.
        lr: of the weights, in units of each tensor's root mean square.
        range_lr: of the logarithms of the ranges' ends.
        seed: of the order of the images and of their augmentation.
        accelerator: of Lightning's trainer.
    """

    epochs: int = 3
    lr: float = 1e-3
    range_lr: float = 1e-2
    seed: int = 0
    accelerator: str = "cpu"


class Simulation(nn.Module):
    """A network in simulated int8, pixels (B, 3, H, W) in [0, 1] -> embeddings (B, D), that can be trained.

    Each range is learned as the logarithms of factors on its ends, so that one learning rate suits all; their gradient
    is that of learned step sizes (LSQ, arXiv 1902.08153, section 2.1).

    Args:
        network: the float network, which is copied.
        ranges: of its activations.
        symmetric: zero points of 0, as in the symmetric .onnx.
        per_channel: a scale for each output channel of the weights.
        float_steps: names of steps that stay float.
    """

    ends: Tensor

    def __init__(
        self,
        network: StepNetwork,
        ranges: Mapping[str, Range],
        symmetric: bool = False,
        per_channel: bool = True,
        float_steps: Collection[str] = (),
    ):
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.symmetric, self.per_channel = symmetric, per_channel
        self.float_steps = with_float_only(network, float_steps)
        integer = [step for step in network.steps if step.name not in self.float_steps]
        self.rounded = {name for step in integer for name in (step.name, *step.inputs)}
        self.owners = grid_owners(network, symmetric)
        self.names = sorted(set(self.owners.values()) - {IMAGE})
        shared = shared_ranges(network, ranges, symmetric)
        self.register_buffer("ends", torch.tensor([shared[name] for name in self.names]))  # (tensors, 2)
        self.log_factors = nn.Parameter(torch.zeros_like(self.ends))

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the embeddings."""
        grids = self._grids()

        def call(step: Step, inputs: list[Tensor]) -> Tensor:
            if step.name not in self.float_steps:
                return fake_quantized(step, inputs, grids[step.name], self.per_channel)
            return grids[step.name].round(step(*inputs)) if step.name in self.rounded else step(*inputs)

        return self.network(grids[IMAGE].round(pixels) if IMAGE in self.rounded else pixels, call)

    def ranges(self) -> dict[str, Range]:
        """The present range of each tensor."""
        ends = dict(zip(self.names, (self.ends * self.log_factors.exp()).tolist(), strict=True))
        return {name: Range(*ends.get(first, (0.0, 1.0))) for name, first in self.owners.items()}

    def _grids(self) -> dict[str, Grid]:
        low, high = (self.ends * self.log_factors.exp()).unbind(1)
        if self.symmetric:
            scale, zero_point = torch.maximum(-low, high) / HIGH, torch.zeros_like(low)
        else:
            scale = (high - low) / (HIGH - LOW)
            zero_point = (LOW - low / scale).round().clamp(LOW, HIGH).detach()
        known = dict(zip(self.names, map(Grid, scale, zero_point), strict=True))
        known[IMAGE] = grid_of(Range(0.0, 1.0), self.symmetric)
        return {name: known[first] for name, first in self.owners.items()} | fixed_grids(self.network, self.symmetric)


def relative_error(embeddings: Tensor, target: Tensor) -> Tensor:
    """Mean squared distance of embeddings (B, D) to `target` (B, D), divided by the variance of `target`."""
    variance = (target - target.mean(0)).square().sum(1).mean()
    return (embeddings - target).square().sum(1).mean() / variance.clamp(1e-12)
