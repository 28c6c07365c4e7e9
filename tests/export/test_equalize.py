import numpy as np
import pytest
import torch
from small_net import SmallNet, unsettle
from torch import nn

from reidlab.export.equalize import consecutive_layers, correct_biases, equalize
from reidlab.export.folding import deployable
from reidlab.export.grid import round_weights, weight_scales
from reidlab.models.heads import Output


@pytest.fixture
def graph():
    torch.manual_seed(0)
    return deployable(unsettle(SmallNet()), [0] * 3, [1] * 3)


@pytest.fixture
def pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def make_hard(graph, first, second):
    """Scale channels of consecutive layers against each other: the same function, weights of a thousandfold range."""
    factors = torch.logspace(-1.5, 1.5, len(first.weight)).view(-1, 1, 1, 1)
    first.weight.data *= factors
    if first.bias is not None:
        first.bias.data *= factors.flatten()
    second.weight.data /= factors.view(1, -1, 1, 1) if second.groups == 1 else factors


def rounded_error(graph, pixels, per_channel):
    """How far the embeddings move when all weights are rounded to int8."""
    expected = graph(pixels)
    kept = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    for module in graph.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = round_weights(module.weight, weight_scales(module.weight, per_channel))
    error = (graph(pixels) - expected).norm() / expected.norm()
    graph.load_state_dict(kept)
    return float(error)


def test_equalized_networks_compute_the_same(graph, pixels):
    expected = graph(pixels)
    assert equalize(graph) > 10
    assert torch.allclose(graph(pixels), expected, atol=1e-5)


def test_equalization_undoes_what_makes_per_tensor_rounding_hard(graph, pixels):
    easy = rounded_error(graph, pixels, per_channel=False)
    for first, second in consecutive_layers(graph)[1:4]:
        make_hard(graph, first, second)
    hard = rounded_error(graph, pixels, per_channel=False)
    equalize(graph)
    assert hard > 3 * easy and rounded_error(graph, pixels, per_channel=False) < 1.5 * easy


def test_balanced_layers_have_equal_ranges_on_both_sides(graph):
    equalize(graph, sweeps=100)
    first, second = consecutive_layers(graph)[-1]
    assert second.groups == len(second.weight)  # depthwise: a channel's inputs are its own
    ranges = [layer.weight.abs().flatten(1).amax(1) for layer in (first, second)]
    assert torch.allclose(*ranges, rtol=0.05)


def test_layers_with_more_than_one_reader_or_several_calls_are_left_alone(graph):
    names = {id(module): name for name, module in graph.named_modules()}
    pairs = {(names[id(a)], names[id(b)]) for a, b in consecutive_layers(graph)}
    assert ("network.conv2.conv2a.conv1", "network.conv2.conv2a.conv2") in pairs
    assert not any("gate" in name for pair in pairs for name in pair)  # called four times
    assert not any(first == "network.conv2.conv1.conv" for first, _ in pairs)  # read by four streams


def test_a_bias_takes_up_the_mean_shift_of_rounding(images):
    class OneLayer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, image):
            return Output(self.conv(image).mean((2, 3)), None)

    torch.manual_seed(0)
    graph = deployable(OneLayer(), [0] * 3, [1] * 3)
    graph.network.conv.weight.data[:, :, 0, 0] *= 50
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    expected = graph(pixels).mean(0)
    correct_biases(graph, np.split(images.astype(np.float32) / 255, 3))
    graph.network.conv.weight.data = round_weights(graph.network.conv.weight, weight_scales(graph.network.conv.weight))
    assert torch.allclose(graph(pixels).mean(0), expected, atol=1e-5)
