"""Reading and writing .tflite files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from reidlab.errors import InputError
from reidlab.export.metadata import SCHEMA
from reidlab.files import read_bytes
from reidlab.untrusted import check_schema, parse_json

METADATA = "reidlab"
LARGEST_TENSOR = 1 << 30  # elements
GROWS = {  # operators by the place of the sizes, numbers of times or of pixels that they are told
    **{"FILL": 0, "TRANSPOSE_CONV": 0, "SPACE_TO_BATCH_ND": 2},
    **dict.fromkeys(("BROADCAST_TO", "TILE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "ONE_HOT"), 1),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), 1),
}
FILE_IDENTIFIER = b"TFL3"
WITH_BIAS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
TENSOR_TYPES = {code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "MEAN": "ReducerOptions",
    "ADD": "AddOptions", "MUL": "MulOptions",
    "SUB": "SubOptions", "SOFTMAX": "SoftmaxOptions", "RESHAPE": "ReshapeOptions", "PAD": "PadOptions",
    "PADV2": "PadV2Options", "CONCATENATION": "ConcatenationOptions", "SLICE": "SliceOptions", "POW": "PowOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions", "UNPACK": "UnpackOptions",
    "STRIDED_SLICE": "StridedSliceOptions", "LEAKY_RELU": "LeakyReluOptions", "GELU": "GeluOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions", "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
}  # fmt: skip
VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    **dict.fromkeys(("RESHAPE", "RSQRT", "POW", "HARD_SWISH", "PRELU", "RELU_N1_TO_1", "RELU_0_TO_1"), 1),
}  # others: 2, which has int8


class Builder:
    """Builds a model of one subgraph, tensor by tensor and operator by operator; equal constants are stored once."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers, self.model.description = [schema.BufferT()], "reidlab"
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "main"
        self._stored: dict[bytes, int] = {}

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        scale: float | np.ndarray | None = None,
        zero_point: int = 0,
        axis: int = 0,
        data: np.ndarray | None = None,
    ) -> int:
        """Index of a new tensor.

        Args:
            shape: of the tensor.
            dtype: by its name, such as "int8".
            scale: of a quantized tensor; several are those along `axis`.
            zero_point: likewise.
            axis: likewise.
            data: of a constant.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.shape = f"t{len(self.graph.tensors)}", np.array(shape, np.int32)
        tensor.type = getattr(schema.TensorType, dtype.upper())
        tensor.buffer = 0 if data is None else self._store(np.ascontiguousarray(data, dtype).tobytes())
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
            tensor.quantization.zeroPoint = np.full(np.size(scale), zero_point, np.int64)
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def op(self, kind: str, inputs: Sequence[int], output: int, **options) -> int:
        """Append an operator; returns its output."""
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self._code(kind), np.array(inputs, np.int32), np.array([output], "i4")
        if kind in OPTIONS:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, OPTIONS[kind])
            op.builtinOptions = getattr(schema, OPTIONS[kind] + "T")()
            vars(op.builtinOptions).update(options)
        self.graph.operators.append(op)
        return output

    def finish(self, given: int, output: int, names: tuple[str, str], metadata: dict) -> bytes:
        """The file, its input and output named, with JSON metadata."""
        self.graph.inputs, self.graph.outputs = np.array([given], np.int32), np.array([output], np.int32)
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        for side, tensor, name in (("inputs", given, names[0]), ("outputs", output, names[1])):
            self.graph.tensors[tensor].name = name
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor
            setattr(signature, side, [entry])
        self.model.signatureDefs = [signature]
        note = schema.MetadataT()
        note.name, note.buffer = METADATA, self._store(json.dumps(metadata).encode())
        self.model.metadata = [note]
        return write_tflite(self.model)

    def _store(self, data: bytes) -> int:
        if data not in self._stored:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data, np.uint8)
            self.model.buffers.append(buffer)
            self._stored[data] = len(self.model.buffers) - 1
        return self._stored[data]

    def _code(self, kind: str) -> int:
        builtin = getattr(schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if code.builtinCode == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), VERSIONS.get(kind, 2)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


def root(content: bytes, name: str | Path = "model") -> schema.Model:
    """The root table of a .tflite, of which nothing else is read yet; InputError for any other file."""
    if content[4:8] != FILE_IDENTIFIER:
        raise InputError(f"{name}: not a .tflite file, its identifier TFL3 is missing at offset 4; convert the model")
    return schema.Model.GetRootAs(content)


def read_tflite(content: bytes | Path) -> schema.ModelT:
    """Parse a .tflite of one subgraph, with constants that lie behind the flatbuffer brought into it.

    Raises InputError where the file is no .tflite, truncated, or holds several subgraphs.
    """
    name = content if isinstance(content, Path) else "model"
    content = read_bytes(content) if isinstance(content, Path) else bytes(content)
    table = root(content, name)
    try:
        model = schema.ModelT.InitFromObj(table)
        for buffer in model.buffers:
            if buffer.offset > 1:
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        count = len(model.subgraphs)
    except Exception as error:  # damaged offsets make the parser fail in arbitrary ways
        raise InputError(f"{name}: truncated or damaged ({type(error).__name__}); copy or convert it again") from error
    if count != 1:
        raise InputError(f"{name}: has {count} subgraphs, expected one; control flow isn't supported")
    return model


def write_tflite(model: schema.ModelT) -> bytes:
    """Serialize a model."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def operator_name(model: schema.ModelT, op: schema.OperatorT) -> str:
    """The name of an operator, such as `CONV_2D`."""
    code = model.operatorCodes[op.opcodeIndex]
    return OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def operator_names(model: schema.ModelT) -> list[str]:
    """The names of all operators, in the order of execution."""
    return [operator_name(model, op) for op in model.subgraphs[0].operators]


def weight_bytes(model: schema.ModelT) -> int:
    """Bytes of weights and biases, as ST's tools count the weights of a network."""
    tensors = model.subgraphs[0].tensors
    weights = {
        tensors[i].buffer
        for op in model.subgraphs[0].operators
        if operator_name(model, op) in WITH_BIAS
        for i in op.inputs[1:]
        if i >= 0
    }
    return sum(len(model.buffers[buffer].data) for buffer in weights)


def metadata(model: schema.ModelT, name: str | Path = "model") -> dict:
    """The metadata that `Builder.finish` attached; empty for other people's files."""
    for entry in model.metadata or []:
        if entry.name == METADATA.encode():
            try:
                return _checked(bytes(model.buffers[entry.buffer].data))
            except (ValueError, TypeError, IndexError) as error:
                raise InputError(f"{name}: its metadata are damaged; copy or convert it again") from error
    return {}


def _checked(content: bytes) -> dict:
    found = parse_json(content)
    check_schema(found, SCHEMA)
    return found


def require_sound(model: schema.ModelT, name: str | Path = "model") -> None:
    """InputError for a model that refers to what it doesn't hold: LiteRT would end the process."""
    (graph,) = model.subgraphs
    try:
        tensors, codes = len(graph.tensors), len(model.operatorCodes)
        used = [*_indices(graph.inputs), *_indices(graph.outputs)]
        read = [i for op in graph.operators for i in _indices(op.inputs)]
        written = [i for op in graph.operators for i in _indices(op.outputs)]
        sound = (
            all(0 <= i < tensors for i in used + written)
            and all(-1 <= i < tensors for i in read)
            and all(0 <= op.opcodeIndex < codes for op in graph.operators)
            and all(0 <= tensor.buffer < len(model.buffers) for tensor in graph.tensors)
            and all(_is_whole(tensor, model.buffers[tensor.buffer].data) for tensor in graph.tensors)
            and all(_is_bounded(model, op) for op in graph.operators)
        )
    except Exception as error:  # as in `read_tflite`
        raise InputError(f"{name}: truncated or damaged ({type(error).__name__}); copy or convert it again") from error
    if not sound:
        raise InputError(f"{name}: damaged, it refers to what it doesn't hold; copy or convert it again")


def _indices(numbers: np.ndarray | Sequence[int] | None) -> list[int]:
    return [] if numbers is None else [int(number) for number in numbers]


def _is_whole(tensor: schema.TensorT, data: np.ndarray | None) -> bool:
    """Whether a tensor has a possible shape, and data, if it has any, of that size."""
    shape = _indices(tensor.shape)
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count > LARGEST_TENSOR or tensor.type not in TENSOR_TYPES:
        return False
    kind = TENSOR_TYPES[tensor.type].lower()
    sized = kind in ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "float64", "bool")
    return data is None or not len(data) or not sized or len(data) == count * np.dtype(kind).itemsize


def _is_bounded(model: schema.ModelT, op: schema.OperatorT) -> bool:
    """Whether what an operator is told to fill or to repeat has a possible size, whatever its output says."""
    code = model.operatorCodes[op.opcodeIndex]
    place = GROWS.get(OPERATORS.get(max(code.builtinCode, code.deprecatedBuiltinCode), ""))
    tensor = model.subgraphs[0].tensors[op.inputs[place]] if place is not None else None
    if tensor is None or (data := model.buffers[tensor.buffer].data) is None or tensor.type not in TENSOR_TYPES:
        return True
    sizes = np.frombuffer(bytes(data), TENSOR_TYPES[tensor.type].lower())
    return math.prod(max(1, int(size)) for size in sizes) <= LARGEST_TENSOR


def read_metadata(file: Path) -> dict:
    """Read the metadata of a file and nothing else, so that damage elsewhere doesn't matter."""
    try:
        model = root(read_bytes(file), file)
        for number in range(model.MetadataLength()):
            entry = model.Metadata(number)
            if entry.Name() == METADATA.encode():
                return _checked(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    except InputError:
        raise
    except Exception as error:  # as in `read_tflite`
        raise InputError(f"{file}: truncated or damaged ({type(error).__name__}); copy or convert it again") from error
    return {}
