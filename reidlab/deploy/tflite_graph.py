"""A .tflite file as a typed graph: operators, tensors, quantisation, constants and who uses what."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from reidlab.deploy.flatbuffer import Buffer, Table
from reidlab.errors import InputError

DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}
OPERATORS = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE EMBEDDING_LOOKUP FLOOR
FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM
MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND
SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG PADV2
GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG
SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT
UNPACK REDUCE_MIN FLOOR_DIV REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU REVERSE_SEQUENCE
MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5
SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO
RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE
RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX
UNSORTED_SEGMENT_SUM ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT
"""  # in the order of their numbers: BuiltinOperator of the TFLite schema, version 3
# Per operator: option name -> (field number, kind, default) in its options table.
WINDOW = {"padding": (0, "int8", 0), "stride_w": (1, "int32", 0), "stride_h": (2, "int32", 0)}
OPTIONS = {
    "CONV_2D": {
        **WINDOW, "activation": (3, "int8", 0), "dilation_w": (4, "int32", 1), "dilation_h": (5, "int32", 1),
    },
    "DEPTHWISE_CONV_2D": {
        **WINDOW, "depth_multiplier": (3, "int32", 0), "activation": (4, "int8", 0),
        "dilation_w": (5, "int32", 1), "dilation_h": (6, "int32", 1),
    },
    "MAX_POOL_2D": {**WINDOW, "filter_w": (3, "int32", 0), "filter_h": (4, "int32", 0), "activation": (5, "int8", 0)},
    "AVERAGE_POOL_2D": {
        **WINDOW, "filter_w": (3, "int32", 0), "filter_h": (4, "int32", 0), "activation": (5, "int8", 0),
    },
    "FULLY_CONNECTED": {"activation": (0, "int8", 0), "weights_format": (1, "int8", 0)},
    "ADD": {"activation": (0, "int8", 0)},
    "MUL": {"activation": (0, "int8", 0)},
    "SOFTMAX": {"beta": (0, "float32", 0.0)},
}  # fmt: skip
LARGEST_TENSOR_BYTES = 1 << 30


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point), one pair for the tensor or one per slice along `axis`."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph; `data` is set where it is a constant."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: np.ndarray | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Op:
    """One operator: which tensors it reads (-1: an optional one left out) and writes, and its options."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """The first subgraph of a .tflite file, in an executable order."""

    name: str
    tensors: list[Tensor]
    ops: list[Op]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def consumers(self) -> dict[int, list[Op]]:
        """Tensor -> the operators that read it, in order."""
        table: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in dict.fromkeys(op.inputs):
                table.setdefault(tensor, []).append(op)
        return table

    @cached_property
    def producer(self) -> dict[int, Op]:
        """Tensor -> the operator that writes it."""
        return {tensor: op for op in self.ops for tensor in op.outputs}

    @cached_property
    def shape_arithmetic(self) -> set[int]:
        """The operators that work on shapes alone, by index: sizes in the file are fixed, so nothing needs them."""
        known = {tensor.index for tensor in self.tensors if tensor.data is not None}
        found = set()
        for op in self.ops:
            integers = all(self.tensors[tensor].dtype in ("int32", "int64") for tensor in op.outputs)
            if integers and (op.kind == "SHAPE" or known.issuperset(op.inputs)):
                known.update(op.outputs)
                found.add(op.index)
        return found

    def lifetimes(self) -> dict[int, tuple[int, int]]:
        """Activation tensor -> (first, last) position in `ops` at which it must exist; -1 for the graph's inputs."""
        spans = {}
        for tensor in (*self.inputs, *self.producer):
            first = self.producer[tensor].index if tensor in self.producer else -1
            users = [op.index for op in self.consumers.get(tensor, [])]
            last = len(self.ops) if tensor in self.outputs else max(users, default=first)
            spans[tensor] = (first, last)
        return spans

    def where(self, op: Op) -> str:
        """How error messages call an operator."""
        return f"{self.name}: op {op.index} {op.kind}"


def read_tflite(path: Path) -> Graph:
    """Read a .tflite file; InputError names the operator or offset that can't be used."""
    try:
        return parse_tflite(Path(path).read_bytes(), Path(path).name)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error


def parse_tflite(content: bytes, name: str = "model.tflite") -> Graph:
    """The graph in the bytes of a .tflite file."""
    buffer = Buffer(content, name)
    if content[4:8] != b"TFL3":
        raise InputError(f"{name}: no TFL3 identifier at offset 4; this is not a .tflite file")
    model = buffer.root()
    subgraphs = model.tables(2)
    if len(subgraphs) != 1:
        raise InputError(f"{name}: {len(subgraphs)} subgraphs; export the model as one")
    kinds = [_operator_name(code) for code in model.tables(1)]
    constants = model.tables(4)
    tensors = [_tensor(index, table, constants) for index, table in enumerate(subgraphs[0].tables(0))]
    ops = [_op(index, table, kinds) for index, table in enumerate(subgraphs[0].tables(3))]
    inputs, outputs = _indices(subgraphs[0], 1), _indices(subgraphs[0], 2)
    graph = Graph(name, tensors, ops, inputs, outputs)
    _check(graph)
    return graph


def _operator_name(code: Table) -> str:
    number = max(code.scalar(0, "int8"), code.scalar(3, "int32"))
    names = OPERATORS.split()
    if number == names.index("CUSTOM"):
        return code.text(1) or "CUSTOM"
    return names[number] if 0 <= number < len(names) else f"OPERATOR_{number}"


def _indices(table: Table, number: int) -> tuple[int, ...]:
    return tuple(np.frombuffer(table.vector(number, 4), "<i4").tolist())


def _tensor(index: int, table: Table, constants: list[Table]) -> Tensor:
    name, label = table.buffer.name, f"tensor {index}"
    code = table.scalar(1, "int8")
    if code not in DTYPES:
        raise InputError(f"{name}: {label} has element type {code}, which is not supported")
    shape = _indices(table, 0)
    if min(shape, default=1) < 0 or math.prod(shape) * np.dtype(DTYPES[code]).itemsize > LARGEST_TENSOR_BYTES:
        raise InputError(f"{name}: {label} has shape {list(shape)}; shapes must be known and below 1 GiB")
    tensor = Tensor(index, table.text(3), shape, DTYPES[code], _quantization(table, label, shape))
    number = table.scalar(2, "uint32")
    if number >= max(len(constants), 1):
        raise InputError(f"{name}: {label} uses buffer {number} of {len(constants)}; the file is damaged")
    raw = _constant(constants[number]) if constants else b""
    if not raw:
        return tensor
    if len(raw) != tensor.nbytes:
        raise InputError(f"{name}: {label} holds {len(raw)} bytes where its shape needs {tensor.nbytes}")
    data = np.frombuffer(raw, np.dtype(tensor.dtype).newbyteorder("<")).reshape(shape)
    return Tensor(index, tensor.name, shape, tensor.dtype, tensor.quantization, data)


def _constant(table: Table) -> bytes:
    """A buffer's bytes, which large files keep behind the flatbuffer (offsets 0 and 1 mean: they do not)."""
    offset = table.scalar(1, "uint64")
    if offset > 1:
        return table.buffer.span(offset, table.scalar(2, "uint64"))
    return table.vector(0, 1)


def _quantization(table: Table, label: str, shape: tuple[int, ...]) -> Quantization | None:
    inner = table.table(4)
    scale = np.frombuffer(inner.vector(2, 4), "<f4") if inner else np.empty(0)
    if not scale.size:
        return None
    zero_point = np.frombuffer(inner.vector(3, 8), "<i8") if inner.vector(3, 8) else np.zeros(1, np.int64)
    axis = inner.scalar(6, "int32")
    problem = None
    if not np.all(np.isfinite(scale) & (scale > 0)):
        problem = "scales that are not finite and positive"
    elif scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
        problem = f"{scale.size} scales along axis {axis} of shape {list(shape)}"
    elif zero_point.size not in (1, scale.size):
        problem = f"{zero_point.size} zero points for {scale.size} scales"
    if problem:
        raise InputError(f"{table.buffer.name}: {label} has {problem}; quantise the model again")
    return Quantization(scale, np.broadcast_to(zero_point, scale.shape), axis)


def _op(index: int, table: Table, kinds: list[str]) -> Op:
    code = table.scalar(0, "uint32")
    if code >= len(kinds):
        raise InputError(f"{table.buffer.name}: op {index} uses operator code {code} of {len(kinds)}")
    kind, inner = kinds[code], table.table(4)
    options = {
        key: inner.scalar(number, layout, default) if inner else default
        for key, (number, layout, default) in OPTIONS.get(kind, {}).items()
    }
    if "activation" in options:
        options["activation"] = ACTIVATIONS.get(options["activation"], str(options["activation"]))
    if "padding" in options:
        options["padding"] = "SAME" if options["padding"] == 0 else "VALID"
    return Op(index, kind, _indices(table, 1), _indices(table, 2), options)


def _check(graph: Graph) -> None:
    """Every operator reads what exists before it; nothing is written twice."""
    for label, indices in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if not indices or not all(0 <= tensor < len(graph.tensors) for tensor in indices):
            raise InputError(f"{graph.name}: the graph's {label} {list(indices)} are not among its tensors")
    ready = {*graph.inputs, -1, *(tensor.index for tensor in graph.tensors if tensor.data is not None)}
    for op in graph.ops:
        for tensor in op.inputs:
            if tensor not in ready:
                raise InputError(f"{graph.where(op)} reads tensor {tensor} before anything writes it")
        if not op.outputs:
            raise InputError(f"{graph.where(op)} writes nothing")
        for tensor in op.outputs:
            if not 0 <= tensor < len(graph.tensors) or tensor in ready:
                raise InputError(f"{graph.where(op)} writes tensor {tensor}, which is absent or already written")
            ready.add(tensor)
    for tensor in graph.outputs:
        if tensor not in ready:
            raise InputError(f"{graph.name}: output tensor {tensor} is never written")
