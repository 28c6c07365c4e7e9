"""A network as a graph of layers, and the pairs of layers of two networks that compute the same."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from reidlab.errors import InputError
from reidlab.models.heads import Output

WEIGHTED = ("conv", "norm")


@dataclass(eq=False)
class Layer:
    """One operation of a network.

    Args:
        kind: conv (a linear layer is one of 1x1), norm, relu, relu6, sigmoid, softmax, add, mul, max_pool,
            average_pool, mean or image.
        name: of the layer; calls of one layer share it.
        inputs: what it reads.
        options: what decides on its function beside the weights: kernel, stride, pads (left, right, top, bottom),
            dilation, depthwise.
        module: what the layer is made of.
    """

    kind: str
    name: str = ""
    inputs: list["Layer"] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    module: Any = None

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.options.get("kernel", ())))
        stride = max(self.options.get("stride", (1,)))
        pads = self.options.get("pads", ())
        details = [sizes, "depthwise" if self.options.get("depthwise") else "", f"/{stride}" if stride > 1 else ""]
        details += [f"padded {list(pads)}" if any(pads) else "", f"of {len(self.inputs)}" if self.kind == "add" else ""]
        return " ".join([self.kind, *filter(None, details)])


def trace(network: nn.Module) -> tuple[Layer, Layer | None]:
    """The layers that a network's embedding and its class scores come from, in evaluation mode.

    Raises InputError for an operation that Keras's networks here don't have.
    """
    network = copy.deepcopy(network).cpu().eval()
    try:
        graph = fx.symbolic_trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise InputError(f"{type(network).__name__}: has no Keras form ({str(error).splitlines()[0]})") from error
    known: dict[fx.Node, Layer] = {}
    for node in graph.graph.nodes:
        if node.target is Output:
            embedding, logits = node.args
            return known[embedding], None if logits is None else known[logits]
        known[node] = _read(graph, node, [known[given] for given in node.all_input_nodes])
    raise InputError(f"{type(network).__name__}: has no Keras form (it doesn't return an Output)")


def _read(graph: fx.GraphModule, node: fx.Node, inputs: list[Layer]) -> Layer:
    """The layer of one node; what changes no value is the layer before it."""
    name = str(node.target) if isinstance(node.target, str) else node.target.__name__
    if node.op == "placeholder":
        return Layer("image")
    if node.op == "call_module":
        module = graph.get_submodule(name)
        reader = next((read for kinds, read in MODULES.items() if isinstance(module, kinds)), None)
        if reader is not None:
            return reader(name, inputs, module)
        name = type(module).__name__
    elif (kind := name.strip("_").removeprefix("i")) in FUNCTIONS:
        return inputs[0] if kind == "flatten" else Layer(kind, inputs=inputs)
    raise InputError(f"{node.name}: {name} has no Keras form; choose a network of plain layers")


def behind_pad(inputs: list[Layer], pads: tuple[int, ...]) -> tuple[list[Layer], tuple[int, ...]]:
    """A layer's inputs and pads, those of a padding layer before it added."""
    if inputs[0].kind != "pad":
        return inputs, pads
    return inputs[0].inputs, tuple(a + b for a, b in zip(inputs[0].options["pads"], pads, strict=True))


def _conv(name: str, inputs: list[Layer], module: nn.Conv2d) -> Layer:
    padding = module.padding
    if module.groups not in (1, module.in_channels) or module.padding_mode != "zeros" or isinstance(padding, str):
        raise InputError(f"{name}: its groups or its padding have no Keras form")
    inputs, pads = behind_pad(inputs, _around(padding))
    return Layer("conv", name, inputs, window(module.kernel_size, module.stride, pads) | {
        "dilation": tuple(module.dilation), "depthwise": module.groups > 1,
    }, module)  # fmt: skip


def _pool(name: str, inputs: list[Layer], module: nn.MaxPool2d | nn.AvgPool2d) -> Layer:
    if getattr(module, "dilation", 1) != 1 or module.ceil_mode:
        raise InputError(f"{name}: its dilation or its ceil_mode has no Keras form")
    kind = "max_pool" if isinstance(module, nn.MaxPool2d) else "average_pool"
    inputs, pads = behind_pad(inputs, _around(module.padding))
    return Layer(kind, name, inputs, window(module.kernel_size, module.stride, pads))


def window(kernel: Any, stride: Any, pads: tuple[int, ...]) -> dict[str, Any]:
    """Options of a layer that moves over maps."""
    return {"kernel": _pair(kernel), "stride": _pair(stride), "pads": pads}


def linear(name: str, inputs: list[Layer], module: Any) -> Layer:
    """A linear layer of pooled features as the convolution that it is."""
    return Layer("conv", name, inputs, window(1, 1, (0, 0, 0, 0)) | {"dilation": (1, 1), "depthwise": False}, module)


def _mean(name: str, inputs: list[Layer], module: nn.AdaptiveAvgPool2d) -> Layer:
    if module.output_size not in (1, (1, 1)):
        raise InputError(f"{name}: pooling to {module.output_size} has no Keras form")
    return Layer("mean", name, inputs)


def _plain(kind: str) -> Callable[..., Layer]:
    return lambda name, inputs, module: Layer(kind, name, inputs, module=module if kind in WEIGHTED else None)


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _around(padding: int | tuple[int, ...]) -> tuple[int, ...]:
    high, wide = _pair(padding)
    return (wide, wide, high, high)


FUNCTIONS = ("add", "mul", "relu", "relu6", "sigmoid", "flatten")
MODULES: dict[type | tuple[type, ...], Callable[..., Layer]] = {
    nn.Conv2d: _conv,
    nn.Linear: linear,
    (nn.BatchNorm2d, nn.BatchNorm1d): _plain("norm"),
    (nn.MaxPool2d, nn.AvgPool2d): _pool,
    nn.AdaptiveAvgPool2d: _mean,
    nn.ZeroPad2d: lambda name, inputs, pad: Layer("pad", name, inputs, {"pads": tuple(pad.padding)}),
    nn.ReLU6: _plain("relu6"),
    nn.ReLU: _plain("relu"),
    nn.Sigmoid: _plain("sigmoid"),
    (nn.Flatten, nn.Identity, nn.Dropout): lambda name, inputs, module: inputs[0],
}


class Pairing:
    """Pairs each layer of one network with the layer of another that does the same at the same place.

    The graphs are walked from their outputs back to the image; an addition or multiplication may have its operands the
    other way round. `difference` are the two layers nearest to the image where they came apart.
    """

    def __init__(self) -> None:
        self.tried: dict[tuple[Layer, Layer], list[Layer] | None] = {}  # the order of the other's operands that fits
        self.difference: tuple[Layer, Layer] | None = None
        self._deepest = -1

    def fits(self, mine: Layer, theirs: Layer, depth: int = 0) -> bool:
        """Whether both compute the same of the image, but for their weights."""
        if (mine, theirs) in self.tried:
            return self.tried[mine, theirs] is not None
        self.tried[mine, theirs] = None
        alike = (mine.kind, mine.options, len(mine.inputs)) == (theirs.kind, theirs.options, len(theirs.inputs))
        if not alike and depth > self._deepest:
            self._deepest, self.difference = depth, (mine, theirs)
        orders = [theirs.inputs, theirs.inputs[::-1]] if mine.kind in ("add", "mul") else [theirs.inputs]
        for order in orders if alike else []:
            if all(self.fits(a, b, depth + 1) for a, b in zip(mine.inputs, order, strict=True)):
                self.tried[mine, theirs] = order
                return True
        return False

    def pairs(self, mine: Layer, theirs: Layer) -> dict[str, Layer]:
        """The other's layer for each of mine with weights, by name; InputError where they are shared differently."""
        found: dict[str, Layer] = {}
        mine_of: dict[str, str] = {}
        for a, b in self._walk(mine, theirs):
            if a.kind not in WEIGHTED:
                continue
            if found.setdefault(a.name, b).name != b.name or mine_of.setdefault(b.name, a.name) != a.name:
                raise InputError(f"{a.name} is one layer in one of the networks and several in the other")
        return found

    def _walk(self, mine: Layer, theirs: Layer) -> Iterator[tuple[Layer, Layer]]:
        seen, waiting = set(), [(mine, theirs)]
        while waiting:
            pair = waiting.pop()
            if pair not in seen:
                seen.add(pair)
                yield pair
                waiting += zip(pair[0].inputs, self.tried[pair] or [], strict=True)
