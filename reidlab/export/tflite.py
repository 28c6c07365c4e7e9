"""Step networks as TensorFlow Lite: float, and int8 from the pixels to the embedding.

Files take raw uint8 RGB pixels (1, H, W, 3), normalize them, and return float32 or, optionally, int8.
"""

from collections.abc import Collection, Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from reidlab.export.flatbuffer import Builder
from reidlab.export.grid import LOW, activation_grids, safe_scales, weight_scales, with_float_only
from reidlab.export.ranges import Range
from reidlab.export.steps import IMAGE, Step, StepNetwork

OUTPUT = "embedding"
LOWEST = float(np.finfo(np.float32).min)
FUSED = {"": 0, "relu": schema.ActivationFunctionType.RELU, "relu6": schema.ActivationFunctionType.RELU6}


def float_file(network: StepNetwork, metadata: dict) -> bytes:
    """The float .tflite of a step network."""
    return _Writer(network, {}, False, network.shapes).finish(metadata, "float32")


def integer_file(
    network: StepNetwork,
    ranges: Mapping[str, Range],
    metadata: dict,
    per_channel: bool = True,
    output: str = "float32",
    float_steps: Collection[str] = (),
) -> bytes:
    """The full-integer .tflite of a step network: int8 activations and symmetric int8 weights.

    Args:
        network: the float network.
        ranges: of its activations.
        metadata: what the file says of itself.
        per_channel: a scale for each output channel of the weights, or one for the tensor.
        output: "float32", or "int8" with a scale and zero point.
        float_steps: names of steps that stay float (mixed precision), as instance norms and GeM always do.
    """
    return _Writer(network, ranges, per_channel, with_float_only(network, float_steps)).finish(metadata, output)


class _Writer:
    """Writes step after step; a tensor is converted between float and int8 when a step first reads the other type."""

    def __init__(self, network: StepNetwork, ranges: Mapping[str, Range], per_channel: bool, floats: Collection[str]):
        self.network, self.per_channel, self.floats = network, per_channel, floats
        self.grids = activation_grids(network, ranges) if ranges else {}
        self.build = Builder()
        self.made: dict[tuple[str, bool], int] = {}  # name of a tensor, whether float -> its index
        self.pixels = self.build.tensor((1, *network.size, 3), "uint8", 1 / 255)
        self.non_negative = {IMAGE}

    def finish(self, metadata: dict, output: str) -> bytes:
        """Write all steps, then the embedding as a vector."""
        for step in self.network.steps:
            as_float = step.name in self.floats
            made = self._tensor(step.name, as_float)
            WRITERS[step.kind](self, step, [self._get(name, as_float) for name in step.inputs], made, as_float)
            self.made[step.name, as_float] = made
            kept = step.kind in ("max_pool", "average_pool", "slice") and step.inputs[0] in self.non_negative
            if step.activation or kept or step.kind == "sigmoid":
                self.non_negative.add(step.name)
        name = self.network.output
        as_float = output == "float32" and (name, True) in self.made
        vector = self._tensor(name, as_float, vector=True)
        shape = self._constant([-1, self.network.shapes[name][0]])
        self.build.op("RESHAPE", [self._get(name, as_float), shape], vector)
        if output == "float32" and not as_float:
            vector = self.build.op("DEQUANTIZE", [vector], self._tensor(name, True, vector=True))
        return self.build.finish(self.pixels, vector, (IMAGE, OUTPUT), metadata)

    def _tensor(self, name: str, as_float: bool, vector: bool = False, shape: tuple | None = None) -> int:
        """A new tensor with the shape and grid of a step's output."""
        channels, height, width = self.network.shapes[name]
        shape = shape or ((1, channels) if vector else (1, height, width, channels))
        return self.build.tensor(shape, "float32") if as_float else self.build.tensor(shape, "int8", *self.grids[name])

    def _get(self, name: str, as_float: bool) -> int:
        """A step's output as float or int8."""
        if (name, as_float) not in self.made:
            other = self.pixels if name == IMAGE else self.made[name, not as_float]
            kind = "DEQUANTIZE" if as_float else "QUANTIZE"
            self.made[name, as_float] = self.build.op(kind, [other], self._tensor(name, as_float))
        return self.made[name, as_float]

    def _constant(self, values, dtype: str = "int32", **quantization) -> int:
        values = np.asarray(values, dtype)
        return self.build.tensor(values.shape, dtype, data=values, **quantization)

    def conv(self, step: Step, given: list[int], made: int, as_float: bool) -> None:
        """A convolution, or a depthwise one."""
        weight = step.weight.detach()
        order, axis = ((1, 2, 3, 0), 3) if step.is_depthwise else ((0, 2, 3, 1), 0)
        arranged = weight.permute(order).numpy()
        bias = np.zeros(len(weight), np.float32) if step.bias is None else step.bias.detach().numpy()
        if as_float:
            constants = [self._constant(arranged, "float32"), self._constant(bias, "float32")]
        else:
            constants = self._codes(step, arranged, bias, axis)
        (source,), padding = self._pad(step, given, as_float, border=0.0)
        options = {
            "strideH": step.stride[0], "strideW": step.stride[1], "padding": padding,
            "dilationHFactor": step.dilation[0], "dilationWFactor": step.dilation[1],
            "fusedActivationFunction": FUSED[step.activation],
        }  # fmt: skip
        if step.is_depthwise:
            options["depthMultiplier"] = 1
        kind = "DEPTHWISE_CONV_2D" if step.is_depthwise else "CONV_2D"
        self.build.op(kind, [source, *constants], made, **options)

    def _codes(self, step: Step, arranged: np.ndarray, bias: np.ndarray, axis: int) -> list[int]:
        """int8 weights and int32 bias of a convolution."""
        given = self.grids[step.inputs[0]]
        exact = weight_scales(step.weight, self.per_channel)
        safe = safe_scales(exact, step.bias, given, self.grids[step.name])
        scales = (safe if self.per_channel else safe.amax().expand(len(safe))).numpy()
        along = scales if axis == 3 else scales[:, None, None, None]
        weights = np.clip(np.round(arranged / along), -127, 127)
        biases = np.round(bias / (given.scale * scales.astype(np.float64)))
        kept = scales if self.per_channel else scales[:1]
        return [
            self._constant(weights, "int8", scale=kept, axis=axis),
            self._constant(biases, "int32", scale=kept * np.float32(given.scale)),
        ]

    def _pad(self, step: Step, given: list[int], as_float: bool, border: float) -> tuple[list[int], int]:
        """The input with SAME or VALID where that is the padding, otherwise padded by an operator, with VALID."""
        channels, *sizes = self.network.shapes[step.inputs[0]]
        kernel = step.kernel if hasattr(step, "kernel") else step.weight.shape[2:]
        dilation = getattr(step, "dilation", (1, 1))
        amounts, same, before = [], True, getattr(step, "padding", (0, 0))
        for size, made, taps, dilated, stride, ahead in zip(
            sizes, step.shape[1:], kernel, dilation, step.stride, before, strict=True
        ):
            needed = max((made - 1) * stride + (taps - 1) * dilated + 1 - size, 0)
            same &= made == -(-size // stride) and needed // 2 == ahead
            amounts.append([ahead, max(needed - ahead, 0)])
        if not np.any(amounts):
            return given, schema.Padding.VALID
        if same:
            return given, schema.Padding.SAME
        padded = [size + sum(ends) for size, ends in zip(sizes, amounts, strict=True)]
        output = self._tensor(step.inputs[0], as_float, shape=(1, *padded, channels))
        inputs = [*given, self._constant([[0, 0], *amounts, [0, 0]])]
        if border:
            value = (border, "float32") if as_float else (LOW, "int8")
            grid = {} if as_float else self.grids[step.inputs[0]]._asdict()
            inputs.append(self._constant([value[0]], value[1], **grid))
        return [self.build.op("PADV2" if border else "PAD", inputs, output)], schema.Padding.VALID

    def pool(self, step: Step, given: list[int], made: int, as_float: bool) -> None:
        """Max or average pooling; padding never wins a maximum: zero after a ReLU, else the lowest value."""
        border = 0.0 if step.inputs[0] in self.non_negative else LOWEST
        (source,), padding = self._pad(step, given, as_float, border)
        kind = "MAX_POOL_2D" if step.kind == "max_pool" else "AVERAGE_POOL_2D"
        (height, width), (down, right) = step.kernel, step.stride
        window = {"filterHeight": height, "filterWidth": width, "strideH": down, "strideW": right}
        self.build.op(kind, [source], made, padding=padding, **window)

    def mean(self, step: Step, given: list[int], made: int, as_float: bool) -> None:
        """The mean of each channel."""
        self.build.op("MEAN", [*given, self._constant([1, 2])], made, keepDims=True)

    def instance_norm(self, step: Step, given: list[int], made: int, as_float: bool) -> None:
        """(x - mean) / sqrt(mean of squares + eps) * weight + bias, operator by operator."""
        maps = (1, *step.shape[1:], step.shape[0])

        def make(kind: str, *inputs: int, shape=(1, 1, 1, step.shape[0]), **options) -> int:
            return self.build.op(kind, inputs, self.build.tensor(shape, "float32"), **options)

        assert step.bias is not None  # ones and zeros where the layer has none
        weight, bias = (self._constant(values.detach().numpy(), "float32") for values in (step.weight, step.bias))
        axes, eps = self._constant([1, 2]), self._constant([step.eps], "float32")
        centered = make("SUB", *given, make("MEAN", *given, axes, keepDims=True), shape=maps)
        variance = make("MEAN", make("MUL", centered, centered, shape=maps), axes, keepDims=True)
        scale = make("MUL", make("RSQRT", make("ADD", variance, eps)), weight)
        scaled = make("MUL", centered, scale, shape=maps)
        self.build.op("ADD", [scaled, bias], made, fusedActivationFunction=FUSED[step.activation])

    def plain(self, step: Step, given: list[int], made: int, as_float: bool) -> None:
        """An operator with few options."""
        kind, options, constants = step.kind, {}, []
        if kind in ("add", "mul"):
            options["fusedActivationFunction"] = FUSED[step.activation]
        elif kind == "softmax":
            options["beta"] = 1.0
        elif kind == "concat":
            options["axis"] = 3
        elif kind == "slice":
            height, width = step.shape[1:]
            constants = [self._constant([0, 0, 0, step.start]), self._constant([-1, height, width, step.shape[0]])]
        elif kind in ("at_least", "power"):
            constants = [self._constant([step.bound if kind == "at_least" else step.exponent], "float32")]
        operator = step.activation.upper() if kind == "activation" else OPERATORS.get(kind, kind.upper())
        self.build.op(operator, [*given, *constants], made, **options)


OPERATORS = {"sigmoid": "LOGISTIC", "concat": "CONCATENATION", "at_least": "MAXIMUM", "power": "POW"}
WRITERS = {
    "conv": _Writer.conv,
    "max_pool": _Writer.pool,
    "average_pool": _Writer.pool,
    "mean": _Writer.mean,
    "instance_norm": _Writer.instance_norm,
    **dict.fromkeys(
        ("add", "mul", "sigmoid", "softmax", "activation", "concat", "slice", "at_least", "power"), _Writer.plain
    ),
}
