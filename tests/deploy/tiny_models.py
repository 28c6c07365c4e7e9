"""Hand-made int8 .tflite files of a few operators, and the reference kernels' answer to them."""

from dataclasses import dataclass, field

import flatbuffers
import numpy as np
from ai_edge_litert import interpreter
from ai_edge_litert import schema_py_generated as schema

OPTIONS = {
    "CONV_2D": schema.Conv2DOptionsT,
    "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptionsT,
    "FULLY_CONNECTED": schema.FullyConnectedOptionsT,
    "ADD": schema.AddOptionsT,
    "MUL": schema.MulOptionsT,
    "MEAN": schema.ReducerOptionsT,
    "MAX_POOL_2D": schema.Pool2DOptionsT,
    "AVERAGE_POOL_2D": schema.Pool2DOptionsT,
    "SOFTMAX": schema.SoftmaxOptionsT,
    "RESHAPE": schema.ReshapeOptionsT,
    "SHAPE": schema.ShapeOptionsT,
    "STRIDED_SLICE": schema.StridedSliceOptionsT,
    "CONCATENATION": schema.ConcatenationOptionsT,
    "SUB": schema.SubOptionsT,
    "SPLIT": schema.SplitOptionsT,
    "SPLIT_V": schema.SplitVOptionsT,
    "UNPACK": schema.UnpackOptionsT,
    "LEAKY_RELU": schema.LeakyReluOptionsT,
    "GELU": schema.GeluOptionsT,
    "REDUCE_MAX": schema.ReducerOptionsT,
    "RESIZE_NEAREST_NEIGHBOR": schema.ResizeNearestNeighborOptionsT,
    "SPACE_TO_BATCH_ND": schema.SpaceToBatchNDOptionsT,
    "BATCH_TO_SPACE_ND": schema.BatchToSpaceNDOptionsT,
}
VERSIONS = {
    "RESHAPE": 1, "SHAPE": 1, "UNPACK": 2, "LEAKY_RELU": 2, "HARD_SWISH": 1, "PRELU": 1, "RELU": 2, "RELU6": 2,
    "GELU": 2, "RELU_N1_TO_1": 1, "ABS": 2, "EXP": 2, "TRANSPOSE": 2, "SPLIT_V": 2, "SQUARED_DIFFERENCE": 2,
    "EXPAND_DIMS": 1, "SQUEEZE": 1, "SPACE_TO_BATCH_ND": 2, "BATCH_TO_SPACE_ND": 2,
}  # fmt: skip
TYPES = {"uint8": schema.TensorType.UINT8, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32,
         "float32": schema.TensorType.FLOAT32}  # fmt: skip


@dataclass
class TinyModel:
    """Builds a one-subgraph model; every method returns the index of the tensor that it made."""

    model: schema.ModelT = field(default_factory=schema.ModelT)

    def __post_init__(self):
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]

    def tensor(self, shape, scale=None, zero_point=0, dtype="int8", data=None, axis=0) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"t{len(self.graph.tensors)}", shape, TYPES[dtype], 0
        if scale is not None:
            quantization = tensor.quantization = schema.QuantizationParametersT()
            quantization.scale = np.atleast_1d(np.float32(scale))
            quantization.zeroPoint = np.full(len(quantization.scale), zero_point, np.int64)
            quantization.quantizedDimension = axis
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(data, dtype).tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, name: str, inputs: list[int], *outputs: int, **options) -> int:
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), VERSIONS.get(name, 3)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.model.operatorCodes), inputs, [*outputs]
        if name in OPTIONS:
            operator.builtinOptions = OPTIONS[name]()
            kind = OPTIONS[name].__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            vars(operator.builtinOptions).update(options)
        self.model.operatorCodes.append(code)
        self.graph.operators.append(operator)
        return outputs[0]

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _pair(kernel: int | tuple[int, int]) -> tuple[int, int]:
    return (kernel, kernel) if isinstance(kernel, int) else kernel


def reference(content: bytes, images: np.ndarray) -> np.ndarray:
    """Outputs of the reference kernels for images (N, H, W, C), one by one."""
    runner = interpreter.Interpreter(
        model_content=content, experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_REF
    )
    runner.allocate_tensors()
    source, target = runner.get_input_details()[0]["index"], runner.get_output_details()[0]["index"]
    results = []
    for image in images:
        runner.set_tensor(source, image[None])
        runner.invoke()
        results.append(runner.get_tensor(target)[0])
    return np.stack(results)


class RandomNetwork(TinyModel):
    """A model whose layers have random weights and scales; each method adds one and returns its output tensor.

    Activations are int8 with scales near what the layer produces, so that codes spread and few saturate.
    """

    def __init__(self, seed: int, height: int, width: int, channels: int):
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.image = self.tensor([1, height, width, channels], 1 / 255, 0, "uint8")
        self.shapes = {self.image: (height, width, channels)}
        self.scales = {}

    def activation(self, shape: tuple[int, ...], scale: float, zero_point: int | None = None, flat=False) -> int:
        zero_point = int(self.random.integers(-128, 128)) if zero_point is None else zero_point
        index = self.tensor([1, shape[2]] if flat else [1, *shape], scale, zero_point)
        self.shapes[index], self.scales[index] = shape, (scale, zero_point)
        return index

    def pixels(self) -> int:
        """The image as int8."""
        return self.op("QUANTIZE", [self.image], self.activation(self.shapes[self.image], 1 / 255, -128))

    def conv(self, source: int, channels: int, kernel: int | tuple[int, int] = 1, stride=1, same=True, relu=False,
             depthwise=False, bias=True, spread=2.0, scale=None, per_channel=True, dilation=1) -> int:  # fmt: skip
        """Convolution; `spread` is how far channel scales lie apart, as a power of two."""
        inputs, (rows, columns) = self.shapes[source][2], _pair(kernel)
        shape = [1, rows, columns, channels] if depthwise else [channels, rows, columns, inputs]
        values = self.random.integers(-127, 128, shape)
        in_scale = self.scales[source][0]
        count = channels if per_channel else 1
        taps = rows * columns * (1 if depthwise else inputs)
        weight_scales = np.float32(0.01 / np.sqrt(taps) * 2 ** self.random.uniform(-spread, 0, count))
        weights = self.tensor(shape, weight_scales, 0, data=values, axis=3 if depthwise else 0)
        offsets = self.random.integers(-2000, 2000, channels) if bias else np.zeros(channels)
        biases = self.tensor([channels], np.float32(in_scale) * weight_scales, 0, "int32", offsets)
        (down, across), (apart_h, apart_w) = _pair(stride), _pair(dilation)
        window = (rows - 1) * apart_h + 1, (columns - 1) * apart_w + 1
        target = self._windowed(source, channels, window, stride, same, scale or in_scale, -128 if relu else None)
        options = {"padding": 0 if same else 1, "strideW": across, "strideH": down, "dilationWFactor": apart_w,
                   "dilationHFactor": apart_h, "fusedActivationFunction": int(relu)}  # fmt: skip
        if depthwise:
            options["depthMultiplier"] = channels // inputs
        return self.op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [source, weights, biases], target, **options)

    def every_code(self, scale: float, zero_point: int) -> int:
        """The image's first channel, its codes as they are, but with another scale and zero point."""
        height, width, channels = self.shapes[self.image]
        pixels = self.pixels()
        weight_scale = np.float32(scale * 255 / 127)
        weights = self.tensor([1, 1, 1, channels], weight_scale, 0, data=[127] + [0] * (channels - 1))
        bias = self.tensor([1], weight_scale / 255, 0, "int32", [-127 * (128 + zero_point)])
        options = {"padding": 1, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
        return self.op(
            "CONV_2D", [pixels, weights, bias], self.activation((height, width, 1), scale, zero_point), **options
        )

    def _windowed(self, source, channels, kernel, stride, same, scale, zero_point) -> int:
        height, width, _ = self.shapes[source]
        taps = zip((height, width), _pair(kernel), _pair(stride), strict=True)
        size = [-(-n // step) if same else (n - k) // step + 1 for n, k, step in taps]
        return self.activation((*size, channels), scale, zero_point)

    def pool(self, source: int, name: str, kernel: int | tuple[int, int], stride, same: bool) -> int:
        target = self._windowed(source, self.shapes[source][2], kernel, stride, same, *self.scales[source])
        (rows, columns), (down, across) = _pair(kernel), _pair(stride)
        options = {"strideW": across, "strideH": down, "filterWidth": columns, "filterHeight": rows}
        return self.op(name, [source], target, padding=0 if same else 1, fusedActivationFunction=0, **options)

    def add(self, a: int, b: int, scale: float, relu=False) -> int:
        target = self.activation(self.shapes[a], scale, -128 if relu else None)
        return self.op("ADD", [a, b], target, fusedActivationFunction=int(relu))

    def mul(self, a: int, b: int, scale: float) -> int:
        return self.op("MUL", [a, b], self.activation(self.shapes[a], scale), fusedActivationFunction=0)

    def prelu(self, source: int, scale: float) -> int:
        """PRELU with a slope of each channel."""
        channels = self.shapes[source][2]
        slopes = self.tensor([1, 1, channels], 0.004, -7, data=self.random.integers(-128, 128, channels))
        return self.op("PRELU", [source, slopes], self.activation(self.shapes[source], scale))

    def mean(self, source: int, scale: float, flat=False) -> int:
        axes = self.tensor([2], dtype="int32", data=[1, 2])
        target = self.activation((1, 1, self.shapes[source][2]), scale, flat=flat)
        return self.op("MEAN", [source, axes], target, keepDims=not flat)

    def curve(self, source: int, name: str, **options) -> int:
        """LOGISTIC or SOFTMAX."""
        target = self.activation(self.shapes[source], 1 / 256, -128, flat=name == "SOFTMAX")
        return self.op(name, [source], target, **options)

    def pad(self, source: int, amount: int | tuple[int, int, int, int], value: int | None = None) -> int:
        """PAD by an amount on every side, or by (top, bottom, left, right); PADV2 with a stored value."""
        height, width, channels = self.shapes[source]
        top, bottom, left, right = (amount,) * 4 if isinstance(amount, int) else amount
        amounts = self.tensor([4, 2], dtype="int32", data=[[0, 0], [top, bottom], [left, right], [0, 0]])
        padded = height + top + bottom, width + left + right, channels
        target = self.activation(padded, *self.scales[source])
        if value is None:
            return self.op("PAD", [source, amounts], target)
        constant = self.tensor([], *self.scales[source], data=np.int8(value))
        return self.op("PADV2", [source, amounts, constant], target)

    def dense(self, source: int, outputs: int, scale: float) -> int:
        inputs, in_scale = self.shapes[source][2], self.scales[source][0]
        weight_scale = np.float32(0.02 / np.sqrt(inputs))
        weights = self.tensor(
            [outputs, inputs], weight_scale, 0, data=self.random.integers(-127, 128, (outputs, inputs))
        )
        offsets = self.random.integers(-2000, 2000, outputs)
        bias = self.tensor([outputs], np.float32(in_scale) * weight_scale, 0, "int32", offsets)
        target = self.activation((1, 1, outputs), scale, flat=True)
        return self.op("FULLY_CONNECTED", [source, weights, bias], target, fusedActivationFunction=0)

    def lite(self, source: int, channels: int) -> int:
        """OSNet's Lite 3x3."""
        return self.conv(self.conv(source, channels, bias=False), channels, 3, depthwise=True, relu=True)

    def omni_scale(self, source: int, channels: int) -> int:
        """OSNet's block: streams, one gate for each, their sum, and a residual connection."""
        reduced = self.conv(source, channels // 4, relu=True)
        total = None
        for depth in (1, 2, 3, 4):
            stream = reduced
            for _ in range(depth):
                stream = self.lite(stream, channels // 4)
            squeezed = self.conv(self.mean(stream, self.scales[stream][0] / 4), 1, relu=True)
            opened = self.conv(squeezed, channels // 4, depthwise=True)
            gated = self.mul(stream, self.curve(opened, "LOGISTIC"), self.scales[stream][0])
            total = gated if total is None else self.add(total, gated, self.scales[gated][0] * 1.3)
        expanded = self.conv(total, channels)
        same = self.shapes[source][2] == channels
        identity = source if same else self.conv(source, channels)
        return self.add(expanded, identity, self.scales[expanded][0] * 1.5, relu=True)

    def content(self, output: int) -> bytes:
        """The file, with a float32 output."""
        shape = self.graph.tensors[output].shape
        target = self.tensor(list(shape), dtype="float32")
        return self.finish([self.image], [self.op("DEQUANTIZE", [output], target)])

    def images(self, count: int) -> np.ndarray:
        """Random images; the first are black and white."""
        images = self.random.integers(0, 256, (count, *self.shapes[self.image]), np.uint8)
        images[0], images[1:2] = 0, 255
        return images
