import numpy as np
import pytest
import torch

from reidlab.export.grid import (
    FRACTION,
    Grid,
    activation_grids,
    grid_of,
    round_weights,
    safe_scales,
    weight_scales,
    with_float_only,
)
from reidlab.export.ranges import Range


def test_a_grid_spans_its_range_and_has_a_code_for_zero():
    grid = grid_of(Range(-1.0, 3.0))
    codes = np.arange(-128, 128)
    values = grid.scale * (codes - grid.zero_point)
    assert 0.0 in values and values[0] == pytest.approx(-1, abs=grid.scale) and values[-1] == pytest.approx(3, abs=0.01)
    assert grid_of(Range(-1.0, 3.0), symmetric=True) == Grid(3 / 127, 0)


def test_rounding_is_to_the_nearest_code_and_saturates():
    grid = Grid(0.5, -3)
    values = torch.tensor([0.2, 0.3, -0.26, 1000.0, -1000.0])
    assert grid.round(values).tolist() == [0.0, 0.5, -0.5, 65.0, -62.5]


def test_gradients_pass_inside_the_range_and_train_the_scale_outside():
    values, scale = torch.tensor([0.3, 9.0], requires_grad=True), torch.tensor(0.01, requires_grad=True)
    Grid(scale, 0).round(values).sum().backward()
    assert values.grad.tolist() == [1.0, 0.0]
    assert scale.grad.item() == pytest.approx(127, abs=0.5)  # the value outside grows with the scale


def test_weights_are_rounded_by_the_channel_or_by_the_tensor():
    weight = torch.tensor([[1.0, -127.0], [0.01, 0.0127]])
    each = round_weights(weight, weight_scales(weight))
    assert each[1].tolist() == pytest.approx([0.01, 0.0127], abs=1e-6)
    assert round_weights(weight, weight_scales(weight, per_channel=False))[1].tolist() == [0.0, 0.0]


def test_scales_never_break_a_kernels_bounds():
    scales, bias = torch.tensor([1e-12, 0.01]), torch.tensor([5.0, 0.1])
    given, made = Grid(0.1, 0), Grid(0.2, 0)
    safe = safe_scales(scales, bias, given, made)
    assert safe[1] == scales[1]
    assert bias[0] / (given.scale * safe[0]) < 2**31 and given.scale * safe[0] / made.scale > 2**-32


def test_what_tflite_copies_shares_a_grid_and_sigmoids_have_the_prescribed_one(steps, ranges):
    grids, symmetric = activation_grids(steps, ranges), activation_grids(steps, ranges, symmetric=True)
    pool = next(step for step in steps.steps if step.kind == "max_pool")
    assert grids[pool.name] == grids[pool.inputs[0]]
    assert grids["sigmoid_1"] == FRACTION != symmetric["sigmoid_1"] and {g.zero_point for g in symmetric.values()} == {
        0
    }
    assert grids["image"] == Grid(1 / 255, -128)


def test_steps_between_float_ones_are_float(steps):
    gate = ["network.conv2.gate.fc1", "sigmoid_1"]
    assert with_float_only(steps) == set()
    assert with_float_only(steps, gate) == {*gate, "network.conv2.gate.fc2"}
