"""A deployable network as a list of steps: operations that every format has."""

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.fx.passes.shape_prop import ShapeProp

from reidlab.errors import InputError

IMAGE = "image"
ACTIVATIONS = {"": lambda value: value, "relu": F.relu, "relu6": F.relu6}
FUSING = ("conv", "add", "mul", "instance_norm")  # kinds that every format fuses an activation into
OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "conv": lambda step, x: step.convolve(x, step.weight),
    "instance_norm": lambda step, x: F.instance_norm(x, weight=step.weight, bias=step.bias, eps=step.eps),
    "max_pool": lambda step, x: F.max_pool2d(x, step.kernel, step.stride, step.padding, ceil_mode=step.ceil_mode),
    "average_pool": lambda step, x: F.avg_pool2d(x, step.kernel, step.stride),
    "mean": lambda step, x: x.mean((2, 3), keepdim=True),
    "add": lambda step, x, y: x + y,
    "mul": lambda step, x, y: x * y,
    "sigmoid": lambda step, x: x.sigmoid(),
    "softmax": lambda step, x: x.softmax(1),
    "activation": lambda step, x: x,
    "concat": lambda step, *x: torch.cat(x, 1),
    "slice": lambda step, x: x[:, step.start : step.stop],
    "at_least": lambda step, x: x.clamp(min=step.bound),
    "power": lambda step, x: x.pow(step.exponent),
}


class Step(nn.Module):
    """One operation on feature maps (B, C, H, W), and the activation fused into it.

    Args:
        kind: one of `OPERATIONS`.
        name: of its output: the layer's, or the kind's, with a number where there are several.
        layer: the name without the number; steps of one layer share their weights.
        inputs: names of the tensors that it reads.
        shape: (C, H, W) of its output.
        options: attributes of its kind, such as `stride`.
    """

    weight: Tensor
    bias: Tensor | None
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]  # above and on the left
    after: tuple[int, int]  # below and on the right
    dilation: tuple[int, int]
    groups: int
    ceil_mode: bool
    eps: float
    start: int
    stop: int
    bound: float
    exponent: float

    def __init__(self, kind: str, name: str, layer: str, inputs: Sequence[str], shape: Sequence[int], **options):
        super().__init__()
        self.kind, self.name, self.layer, self.activation = kind, name, layer, ""
        self.inputs, self.shape = list(inputs), tuple(shape)
        for option, value in options.items():
            plain = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
            setattr(self, option, nn.Parameter(value, requires_grad=False) if plain else value)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the output."""
        return ACTIVATIONS[self.activation](OPERATIONS[self.kind](self, *inputs))

    def convolve(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Convolve with other weights than its own, without the activation."""
        if self.after == self.padding:
            return F.conv2d(maps, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        (top, left), (bottom, right) = self.padding, self.after
        padded = F.pad(maps, (left, right, top, bottom))
        return F.conv2d(padded, weight, self.bias, self.stride, 0, self.dilation, self.groups)

    @property
    def is_depthwise(self) -> bool:
        """Whether it is a depthwise convolution."""
        return self.kind == "conv" and 1 < self.groups == len(self.weight)


Call = Callable[[Step, list[Tensor]], Tensor]


def plainly(step: Step, inputs: list[Tensor]) -> Tensor:
    """Call a step; the default of `StepNetwork`."""
    return step(*inputs)


class StepNetwork(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] -> embeddings (B, D), one step after the other, each called by `call`."""

    steps: Sequence[Step]

    def __init__(self, steps: Iterable[Step], output: str, size: Sequence[int]):
        super().__init__()
        self.steps = cast(Sequence[Step], nn.ModuleList(steps))  # torch's list doesn't say of which modules it is
        self.output, self.size = output, tuple(size)

    def forward(self, pixels: Tensor, call: Call = plainly) -> Tensor:
        """Compute the embeddings."""
        return next(value for name, value in self.tensors(pixels, call) if name == self.output).flatten(1)

    def tensors(self, pixels: Tensor, call: Call = plainly) -> Iterator[tuple[str, Tensor]]:
        """Name and value of the image and of each step's output, in order; each is freed after its last use."""
        needed = Counter(name for step in self.steps for name in step.inputs)
        values = {IMAGE: pixels}
        yield IMAGE, pixels
        for step in self.steps:
            values[step.name] = call(step, [values[name] for name in step.inputs])
            yield step.name, values[step.name]
            for name in step.inputs:
                needed[name] -= 1
                if not needed[name]:
                    del values[name]

    @torch.no_grad()
    def arrays(self, pixels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The embeddings as arrays, of pixels (B, H, W, 3) float32."""
        for name, value in self.tensors(torch.from_numpy(pixels).permute(0, 3, 1, 2)):
            yield name, value.numpy()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(C, H, W) of every tensor, by name."""
        return {IMAGE: (3, *self.size)} | {step.name: step.shape for step in self.steps}


def as_steps(graph: fx.GraphModule, size: Sequence[int]) -> StepNetwork:
    """A deployable graph (see `folding`) for images of `size`; InputError names an operation that has no step.

    Linear layers become convolutions, batch norms that couldn't be folded 1x1 depthwise convolutions.
    """
    try:
        ShapeProp(graph).propagate(torch.zeros(1, 3, *size))
    except Exception as error:  # torch's own, of any kind
        raise InputError(f"the network can't be run on images of {tuple(size)}: {_first_line(error)}") from error
    reader = _Reader(graph)
    for node in graph.graph.nodes:
        reader.read(node)
    output = _fuse_activations(reader.steps, reader.output)
    return StepNetwork(reader.steps, output, size).eval()


def _fuse_activations(steps: list[Step], output: str) -> str:
    """Fuse each activation into the step before it, where formats have one operator for both.

    Returns the name of the output afterwards.
    """
    made_by = {step.name: step for step in steps}
    uses = Counter(name for step in steps for name in step.inputs) + Counter([output])
    for step in [step for step in steps if step.kind == "activation"]:
        source = made_by.get(step.inputs[0])
        if source is None or source.kind not in FUSING or source.activation or uses[source.name] > 1:
            continue
        source.activation = step.activation
        steps.remove(step)
        for other in steps:
            other.inputs = [source.name if name == step.name else name for name in other.inputs]
        output = source.name if output == step.name else output
    return output


class _Reader:
    """Reads the nodes of a graph in order; `known` maps each to a tensor's name or a constant."""

    def __init__(self, graph: fx.GraphModule):
        self.graph, self.output = graph, ""
        self.steps: list[Step] = []
        self.known: dict[fx.Node, Any] = {}
        self.pads: dict[fx.Node, tuple[int, int, int, int]] = {}  # left, right, top, bottom: of the layer behind it
        self.seen: Counter[str] = Counter()

    def read(self, node: fx.Node) -> None:
        """Turn one node into a step, a constant or an alias of a tensor."""
        if node.op == "placeholder":
            self.known[node] = IMAGE
        elif node.op == "get_attr":
            self.known[node] = _attribute(self.graph, str(node.target))
        elif node.op == "output":
            self.output = self.value(node, 0, "output")
            self.require(_maps(node.args[0])[1:] == (1, 1), node, "an embedding that is a map")
        elif node.op == "call_module":
            module = self.graph.get_submodule(str(node.target))
            reader = next((read for kinds, read in MODULES.items() if isinstance(module, kinds)), None)
            if reader is None:
                raise self.refusal(node, type(module).__name__)
            self.known[node] = reader(self, node, module)
        elif not any(isinstance(self.known[given], str) for given in node.all_input_nodes):
            self.known[node] = self._compute(node)
        else:
            name = node.target if isinstance(node.target, str) else node.target.__name__
            reader = FUNCTIONS.get(name.rstrip("_"))
            if reader is None:
                raise self.refusal(node, name)
            self.known[node] = reader(self, node)

    def add(self, node: fx.Node, kind: str, *inputs: Argument, **options) -> str:
        """Append a step that computes a node's value; returns its name."""
        layer = str(node.target) if "weight" in options else kind
        self.seen[layer] += 1
        name = f"{layer}_{self.seen[layer]}" if self.seen[layer] > 1 or layer == kind else layer
        sources: list[Any] = [self.known.get(given) if isinstance(given, fx.Node) else given for given in inputs]
        self.require(all(isinstance(source, str) for source in sources), node, f"{kind} of a constant")
        padded = kind not in ("conv", "max_pool") and any(given in self.pads for given in inputs)
        self.require(not padded, node, f"{kind} of padded maps")
        self.steps.append(Step(kind, name, layer, sources, _maps(node), **options))
        return name

    def value(self, node: fx.Node, position: int, key: str, default: Argument = None) -> Any:
        """An argument of a call; a node's constant."""
        given = node.args[position] if len(node.args) > position else node.kwargs.get(key, default)
        return self.known[given] if isinstance(given, fx.Node) else given

    def require(self, holds: bool, node: fx.Node, what: str) -> None:
        """InputError for the node unless a condition holds."""
        if not holds:
            raise self.refusal(node, what)

    def _compute(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda given: self.known[given])
        if isinstance(node.target, str):  # a method
            return getattr(args[0], node.target)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)

    def refusal(self, node: fx.Node, what: str) -> InputError:
        return InputError(f"{node.name}: {what} has no counterpart in TFLite and int8; replace that operation")


def _conv(read: _Reader, node: fx.Node, layer: nn.Conv2d) -> str:
    read.require(layer.padding_mode == "zeros" and not isinstance(layer.padding, str), node, "its kind of padding")
    read.require(layer.groups in (1, layer.in_channels), node, "convolution in groups")
    read.require(layer.groups == 1 or layer.in_channels == layer.out_channels, node, "a depth multiplier")
    window = {name: getattr(layer, name) for name in ("stride", "dilation", "groups")}
    padding, after = _padding(read, node, _pair(cast(tuple[int, int], layer.padding)))
    window |= {"padding": padding, "after": after}
    return read.add(node, "conv", node.args[0], weight=layer.weight, bias=layer.bias, **window)


def _padding(read: _Reader, node: fx.Node, own: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Padding above and on the left, below and on the right: the layer's own, and that of a `ZeroPad2d` before it."""
    left, right, top, bottom = read.pads.get(cast(fx.Node, node.args[0]), (0, 0, 0, 0))
    return (own[0] + top, own[1] + left), (own[0] + bottom, own[1] + right)


def _zero_pad(read: _Reader, node: fx.Node, pad: nn.ZeroPad2d) -> str:
    """No step: the convolution or pooling behind it pads."""
    read.require(min(pad.padding) >= 0, node, "cropping by padding")
    read.pads[node] = pad.padding
    return read.value(node, 0, "input")


def _linear(read: _Reader, node: fx.Node, layer: nn.Linear) -> str:
    """A convolution over the whole of the feature maps that were flattened."""
    maps = next(step.shape for step in read.steps if step.name == read.value(node, 0, "input"))
    weight = layer.weight.reshape(layer.out_features, *maps)
    return read.add(node, "conv", node.args[0], weight=weight, bias=layer.bias, **POINTWISE)


def _batch_norm(read: _Reader, node: fx.Node, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> str:
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise read.refusal(node, "batch norm without running statistics")
    scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    bias = -mean * scale + (0 if norm.bias is None else norm.bias)
    scale = scale.detach().view(-1, 1, 1, 1)
    return read.add(node, "conv", node.args[0], weight=scale, bias=bias.detach(), **POINTWISE | {"groups": len(scale)})


def _instance_norm(read: _Reader, node: fx.Node, norm: nn.InstanceNorm2d) -> str:
    read.require(not norm.track_running_stats, node, "instance norm with running statistics")
    plain = torch.ones(_maps(node)[0])
    weight, bias = (plain, torch.zeros_like(plain)) if norm.weight is None else (norm.weight, norm.bias)
    return read.add(node, "instance_norm", node.args[0], weight=weight, bias=bias, eps=norm.eps)


def _pool(read: _Reader, node: fx.Node, pool: nn.MaxPool2d | nn.AvgPool2d) -> str:
    kernel, stride, padding = map(_pair, (pool.kernel_size, pool.stride, pool.padding))
    averages = isinstance(pool, nn.AvgPool2d)
    read.require(getattr(pool, "dilation", 1) == 1, node, "pooling with dilation")
    read.require(not averages or (padding == (0, 0) and not pool.ceil_mode), node, "padded average pooling")
    kind, ceil_mode = "average_pool" if averages else "max_pool", pool.ceil_mode
    if node.args[0] in read.pads:  # a window may end behind the maps in any case, if it begins on them
        padding, after = _padding(read, node, padding)
        behind = all(a in (b, b + 1) and a < step for a, b, step in zip(after, padding, stride, strict=True))
        non_negative = any(step.activation for step in read.steps if step.name == read.value(node, 0, "input"))
        read.require(behind and non_negative, node, "its kind of padding")
        ceil_mode = ceil_mode or after != padding
    return read.add(node, kind, node.args[0], kernel=kernel, stride=stride, padding=padding, ceil_mode=ceil_mode)


def _global_pool(read: _Reader, node: fx.Node, pool: nn.AdaptiveAvgPool2d) -> str:
    read.require(pool.output_size in (1, (1, 1), [1, 1]), node, f"pooling to {pool.output_size} parts")
    return read.add(node, "mean", node.args[0])


def _mean(read: _Reader, node: fx.Node) -> str:
    axes = read.value(node, 1, "dim")
    over_map = isinstance(axes, tuple | list) and {axis % 4 for axis in axes} == {2, 3}
    read.require(over_map, node, "a mean other than over the map")
    return read.add(node, "mean", node.args[0])


def _activation(kind: str):
    def read_activation(read: _Reader, node: fx.Node, *_) -> str:
        name = read.add(node, "activation", node.args[0])
        read.steps[-1].activation = kind
        return name

    return read_activation


def _softmax(read: _Reader, node: fx.Node, layer: nn.Softmax | None = None) -> str:
    axis = layer.dim if layer else read.value(node, 1, "dim")
    read.require(axis in (1, -1) and _maps(node)[1:] == (1, 1), node, "a softmax other than over class scores")
    return read.add(node, "softmax", node.args[0])


def _concat(read: _Reader, node: fx.Node) -> str:
    read.require(read.value(node, 1, "dim", 0) in (1, -3), node, "joining other than channels")
    return read.add(node, "concat", *read.value(node, 0, "tensors"))


def _slice(read: _Reader, node: fx.Node) -> str:
    index = read.value(node, 1, "index")
    whole = isinstance(index, tuple) and len(index) == 2 and index[0] == slice(None) and isinstance(index[1], slice)
    read.require(whole and index[1].step in (None, 1), node, "indexing other than a slice of channels")
    start, stop, _ = index[1].indices(_maps(node.args[0])[0])
    return read.add(node, "slice", node.args[0], start=start, stop=stop)


def _clamp(read: _Reader, node: fx.Node) -> str:
    low, high = read.value(node, 1, "min"), read.value(node, 2, "max")
    if (low, high) == (0, 6):
        return _activation("relu6")(read, node)
    read.require(high is None and low is not None, node, "clamping from above")
    return read.add(node, "at_least", node.args[0], bound=float(low))


def _power(read: _Reader, node: fx.Node) -> str:
    return read.add(node, "power", node.args[0], exponent=float(read.value(node, 1, "exponent")))


def _flatten(read: _Reader, node: fx.Node, *_) -> str:
    """No step: feature maps aren't flattened, since a linear layer is a convolution over them."""
    return read.value(node, 0, "input")


def _two(kind: str):
    return lambda read, node: read.add(node, kind, *node.args[:2])


def _alone(kind: str):
    return lambda read, node, *_: read.add(node, kind, node.args[0])


POINTWISE = {"stride": (1, 1), "padding": (0, 0), "after": (0, 0), "dilation": (1, 1), "groups": 1}
MODULES: dict[type | tuple[type, ...], Callable[..., str]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    (nn.BatchNorm2d, nn.BatchNorm1d): _batch_norm,
    nn.InstanceNorm2d: _instance_norm,
    (nn.MaxPool2d, nn.AvgPool2d): _pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.ZeroPad2d: _zero_pad,
    nn.ReLU6: _activation("relu6"),
    nn.ReLU: _activation("relu"),
    nn.Sigmoid: _alone("sigmoid"),
    nn.Softmax: _softmax,
    (nn.Flatten, nn.Identity, nn.Dropout): _flatten,
}
FUNCTIONS: dict[str, Callable[..., str]] = {
    "add": _two("add"),
    "iadd": _two("add"),
    "mul": _two("mul"),
    "imul": _two("mul"),
    "relu": _activation("relu"),
    "relu6": _activation("relu6"),
    "sigmoid": _alone("sigmoid"),
    "softmax": _softmax,
    "cat": _concat,
    "getitem": _slice,
    "clamp": _clamp,
    "pow": _power,
    "mean": _mean,
    "flatten": _flatten,
    "contiguous": _flatten,
}


def _maps(node: Argument) -> tuple[int, ...]:
    """(C, H, W) of a node's value; a vector is a feature map of one pixel."""
    shape = tuple(cast(fx.Node, node).meta["tensor_meta"].shape)
    return (*shape[1:], 1, 1)[:3]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _attribute(graph: fx.GraphModule, path: str) -> Tensor:
    return operator.attrgetter(path)(graph).detach()


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
