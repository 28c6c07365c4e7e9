"""The network as it is deployed: pixels in, embedding out, batch norms folded, one flat graph to edit."""

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from reidlab.errors import InputError


class PixelsToEmbedding(nn.Module):
    """A network that normalizes its input: RGB pixels (B, 3, H, W) in [0, 1] -> embeddings (B, D), no class scores.

    The normalization is a 1x1 depthwise convolution, which unlike one folded into the first layer keeps the zeros of
    that layer's padding; it is left out where `mean` is 0 and `std` 1.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        means, stds = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        self.normalize: nn.Module = nn.Identity()
        if means.any() or (stds != 1).any():
            self.normalize = layer = nn.Conv2d(3, 3, 1, groups=3)
            layer.weight = nn.Parameter((1 / stds).view(3, 1, 1, 1))
            layer.bias = nn.Parameter(-means / stds)
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalize, then embed."""
        return self.network(self.normalize(pixels)).embedding


def deployable(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> fx.GraphModule:
    """A copy of the network in evaluation mode as one graph of pixels in [0, 1] -> embedding, with folded batch norms.

    Raises InputError for a network whose forward can't be traced, such as one that computes with its input's shape.
    """
    model = PixelsToEmbedding(copy.deepcopy(network).cpu(), mean, std).eval()
    try:
        graph = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise InputError(
            f"{type(network).__name__}: can't be converted, its forward isn't one fixed sequence of layers "
            f"({str(error).splitlines()[0]}); export a convolutional network"
        ) from error
    graph.graph.eliminate_dead_code()
    fold_batch_norms(graph)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph.eval().requires_grad_(False)


def fold_batch_norms(graph: fx.GraphModule) -> None:
    """Fold each batch norm into the convolution or linear layer before it, in place; drop identities and dropout."""
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        if node.op != "call_module":
            continue
        module, before = graph.get_submodule(node.target), node.args[0]
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            if before.op != "call_module" or calls[before.target] > 1 or len(before.users) > 1:
                continue
            layer = graph.get_submodule(before.target)
            if isinstance(layer, nn.Conv2d):
                graph.set_submodule(before.target, fuse_conv_bn_eval(layer, module))
            elif isinstance(layer, nn.Linear):
                graph.set_submodule(before.target, fuse_linear_bn_eval(layer, module))
            else:
                continue
        elif not isinstance(module, nn.Identity | nn.Dropout):
            continue
        node.replace_all_uses_with(before)
        graph.graph.erase_node(node)
