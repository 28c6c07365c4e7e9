"""Changes of the float weights that lower their quantization error: cross-layer equalization and bias correction.

Both are of Nagel et al., "Data-free quantization through weight equalization and bias correction" (arXiv 1906.04721).
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from reidlab.export.grid import round_weights, weight_scales

Layer = nn.Conv2d | nn.Linear
HOMOGENEOUS = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d)  # f(s x) = s f(x) for s > 0


def equalize(graph: fx.GraphModule, sweeps: int = 20) -> int:
    """Balance the weights' ranges, channel by channel, between layers that follow each other; in place.

    A channel is divided by s in the first layer and multiplied by s in the second, where
    s = sqrt(range in the first * range in the second) / range in the second (equation 11), which leaves what the
    network computes as it is. Returns how many pairs were balanced.
    """
    pairs = consecutive_layers(graph)
    for _ in range(sweeps):
        for first, second in pairs:
            scale = (_output_ranges(first) / _input_ranges(second).clamp(min=1e-8)).sqrt()
            scale = torch.where(_output_ranges(first) * _input_ranges(second) > 0, scale, 1.0)
            first.weight.data /= scale.view(-1, *[1] * (first.weight.ndim - 1))
            if first.bias is not None:
                first.bias.data /= scale
            if _is_depthwise(second):
                second.weight.data *= scale.view(-1, 1, 1, 1)
            else:
                second.weight.data *= scale.view(1, -1, *[1] * (second.weight.ndim - 2))
    return len(pairs)


def consecutive_layers(graph: fx.GraphModule) -> list[tuple[Layer, Layer]]:
    """Pairs of layers, each called once; the second alone reads the first, through ReLU and pooling at most."""
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.graph.nodes:
        second = _layer(graph, node, calls)
        if second is None or (_groups(second) > 1 and not _is_depthwise(second)):
            continue
        source = node.args[0]
        while _is_homogeneous(graph, source) and len(source.users) == 1:
            source = source.args[0]
        first = _layer(graph, source, calls)
        if first is not None and len(source.users) == 1 and len(_output_ranges(first)) == len(_input_ranges(second)):
            pairs.append((first, second))
    return pairs


@torch.no_grad()
def correct_biases(graph: fx.GraphModule, batches: Iterable[np.ndarray], per_channel: bool = True) -> None:
    """Subtract from each bias the shift of the layer's mean output by int8 weights; in place (section 4.2).

    `batches` are pixels (B, H, W, 3) in [0, 1]. The mean of a layer's input is taken from the float network.
    """
    means = _InputMeans(graph)
    for batch in batches:
        means.run(torch.from_numpy(batch).permute(0, 3, 1, 2))
    for name, (total, count) in means.seen.items():
        layer = graph.get_submodule(name)
        assert isinstance(layer, Layer)  # `_InputMeans` sees no other modules
        error = round_weights(layer.weight, weight_scales(layer.weight, per_channel)) - layer.weight
        shift = _apply(layer, error, (total / count).unsqueeze(0))
        shift = shift.mean((2, 3))[0] if shift.ndim == 4 else shift[0]
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros_like(shift), requires_grad=False)
        layer.bias.data -= shift


class _InputMeans(fx.Interpreter):
    """Runs the graph and keeps, for each layer, the sum over images of its input and their count."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self.seen: dict[str, tuple[Tensor, int]] = {}

    def call_module(self, target, args, kwargs):
        """Call the layer and keep its input's sum."""
        if isinstance(self.fetch_attr(target), Layer):
            total, count = self.seen.get(target, (0.0, 0))
            self.seen[target] = total + args[0].sum(0), count + len(args[0])
        return super().call_module(target, args, kwargs)


def _apply(layer: Layer, weight: Tensor, given: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(given, weight)
    return functional.conv2d(given, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _layer(graph: fx.GraphModule, node: fx.Node, calls: Counter) -> Layer | None:
    if not isinstance(node, fx.Node) or node.op != "call_module" or calls[node.target] > 1:
        return None
    module = graph.get_submodule(str(node.target))
    return module if isinstance(module, Layer) else None


def _is_homogeneous(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), HOMOGENEOUS)
    return node.op == "call_method" and node.target in ("relu", "flatten")


def _groups(layer: Layer) -> int:
    return getattr(layer, "groups", 1)


def _is_depthwise(layer: Layer) -> bool:
    return _groups(layer) > 1 and layer.groups == layer.in_channels == layer.out_channels


def _output_ranges(layer: Layer) -> Tensor:
    return layer.weight.abs().flatten(1).amax(1)


def _input_ranges(layer: Layer) -> Tensor:
    if _is_depthwise(layer):
        return _output_ranges(layer)
    return layer.weight.abs().transpose(0, 1).flatten(1).amax(1)
