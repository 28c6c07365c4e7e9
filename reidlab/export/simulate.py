"""A network that computes with int8 codes' values in floating point: to measure, and to train, what files will do."""

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from reidlab.export.grid import (
    HIGH,
    LOW,
    Grid,
    fixed_grids,
    leaders,
    round_weights,
    shared_ranges,
    weight_scales,
    with_float_only,
)
from reidlab.export.ranges import Range
from reidlab.export.steps import ACTIVATIONS, IMAGE, Step, StepNetwork


def with_codes(step: Step, inputs: list[Tensor], grid: Grid, per_channel: bool = True) -> Tensor:
    """What a step makes in int8: of rounded weights, and rounded itself."""
    if step.kind != "conv":
        return grid.round(step(*inputs))
    weight = round_weights(step.weight, weight_scales(step.weight, per_channel))
    return grid.round(ACTIVATIONS[step.activation](step.convolve(*inputs, weight)))


class Simulation(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] -> embeddings (B, D) by int8 codes, whose ranges and weights can be trained.

    Each range is learned as factors of its ends, so that one learning rate suits all; the gradient to them is that of
    learned step sizes (LSQ, arXiv 1902.08153, section 2.1). `symmetric`, `per_channel` and `float_steps` are those of
    the files.
    """

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
        self.rounded = {name for step in integer for name in (step.name, *step.inputs)} - {IMAGE}
        self.leader = leaders(network, symmetric)
        self.names = sorted(set(self.leader.values()) - {IMAGE})
        shared = shared_ranges(network, ranges, symmetric)
        self.register_buffer("ends", torch.tensor([shared[name] for name in self.names]))  # (tensors, 2)
        self.log_factors = nn.Parameter(torch.zeros_like(self.ends))

    def forward(self, pixels: Tensor) -> Tensor:
        """The embeddings."""
        grids = self._grids()

        def call(step: Step, inputs: list[Tensor]) -> Tensor:
            if step.name not in self.float_steps:
                return with_codes(step, inputs, grids[step.name], self.per_channel)
            return grids[step.name].round(step(*inputs)) if step.name in self.rounded else step(*inputs)

        return self.network(pixels, call)

    def ranges(self) -> dict[str, Range]:
        """Those of all tensors, as they have become."""
        ends = dict(zip(self.names, (self.ends * self.log_factors.exp()).tolist(), strict=True))
        return {name: Range(*ends.get(first, (0.0, 1.0))) for name, first in self.leader.items()}

    def _grids(self) -> dict[str, Grid]:
        low, high = (self.ends * self.log_factors.exp()).unbind(1)
        if self.symmetric:
            scale, zero_point = torch.maximum(-low, high) / HIGH, torch.zeros_like(low)
        else:
            scale = (high - low) / (HIGH - LOW)
            zero_point = (LOW - low / scale).round().clamp(LOW, HIGH).detach()
        known = dict(zip(self.names, map(Grid, scale, zero_point), strict=True))
        return {name: known.get(first) for name, first in self.leader.items()} | fixed_grids(
            self.network, self.symmetric
        )
