"""A .tflite file as a typed graph: operators, tensors, quantization, constants, producers and consumers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.number_types import Uint8Flags

from reidlab.errors import InputError
from reidlab.export import flatbuffer
from reidlab.files import read_bytes

DTYPES = ("float32", "float16", "int32", "uint8", "int64", "bool", "int16", "int8")
ACTIVATIONS = {code: name for name, code in vars(schema.ActivationFunctionType).items() if not name.startswith("_")}
WITH_OPTIONS = (
    "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "SOFTMAX",
    "CONCATENATION", "STRIDED_SLICE", "UNPACK", "LEAKY_RELU", "GELU", "RESIZE_NEAREST_NEIGHBOR",
)  # fmt: skip
OPTIONS = {  # name in the schema -> name in `Op.options`
    "padding": "padding", "strideW": "stride_w", "strideH": "stride_h", "dilationWFactor": "dilation_w",
    "dilationHFactor": "dilation_h", "filterWidth": "filter_w", "filterHeight": "filter_h", "beta": "beta",
    "depthMultiplier": "depth_multiplier", "weightsFormat": "weights_format", "fusedActivationFunction": "activation",
    "alignCorners": "align_corners", "halfPixelCenters": "half_pixel", "axis": "axis", "alpha": "alpha",
    "approximate": "approximate", "beginMask": "begin_mask", "endMask": "end_mask", "ellipsisMask": "ellipsis_mask",
    "newAxisMask": "new_axis_mask", "shrinkAxisMask": "shrink_axis_mask",
}  # fmt: skip
CUSTOM_CODE, NAME = 6, 10  # slots of strings in the tables of an operator code and of a tensor
LARGEST_TENSOR_BYTES = 1 << 30
COMPILED = ("ethos-u", "edgetpu-custom-op")
WEIGHT_AXES = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 2}


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point), one pair for the tensor or one per slice along `axis`."""

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph; `data` is set where it is a constant, `is_variable` where it lives on between calls."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: np.ndarray | None = field(default=None, repr=False)
    is_variable: bool = False

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

    def leading_to(self, place: int) -> "Graph":
        """The part that computes one of the outputs, which becomes the only one."""
        needed, ops = {self.outputs[place]}, []
        for op in reversed(self.ops):
            if needed.intersection(op.outputs):
                needed.update(op.inputs)
                ops.append(op)
        return replace(self, ops=ops[::-1], outputs=(self.outputs[place],))

    def where(self, op: Op) -> str:
        """The name of an operator in error messages."""
        return f"{self.name}: op {op.index} {op.kind}"


def read_graph(file: Path, place: int | None = None) -> Graph:
    """Read a .tflite file; InputError names the operator, tensor or offset that can't be used.

    `place`: of the only output that is wanted, among several.
    """
    graph = parse_graph(read_bytes(file), Path(file).name)
    return graph if place is None else graph.leading_to(place)


def parse_graph(content: bytes, name: str = "model.tflite") -> Graph:
    """Parse the content of a .tflite file; InputError for any damage that makes it unreadable."""
    try:
        graph = _Reader(content, name).graph()
    except InputError:
        raise
    except Exception as error:  # damaged offsets make the generated reader fail in arbitrary ways
        raise InputError(
            f"{name}: damaged, a table or vector lies outside of its {len(content)} bytes; copy or convert it again"
        ) from error
    _check(graph)
    return graph


class _Reader:
    """Reads the tables of a .tflite file one by one.

    All vectors together can't be longer than the file: this bounds time and memory whatever the bytes say.
    """

    def __init__(self, content: bytes, name: str):
        self.content, self.name, self.unread = content, name, len(content)
        self.model = flatbuffer.root(content, name)

    def graph(self) -> Graph:
        """The only subgraph; InputError where there are others."""
        if (count := self.model.SubgraphsLength()) != 1:
            raise InputError(f"{self.name}: {count} subgraphs; export the model as one")
        (graph,) = self._tables(self.model, "Subgraphs")
        kinds = [self._kind(code) for code in self._tables(self.model, "OperatorCodes")]
        constants = list(self._tables(self.model, "Buffers"))
        tensors = [self._tensor(i, table, constants) for i, table in enumerate(self._tables(graph, "Tensors"))]
        ops = [self._op(i, table, kinds) for i, table in enumerate(self._tables(graph, "Operators"))]
        return Graph(self.name, tensors, ops, self._indices(graph, "Inputs"), self._indices(graph, "Outputs"))

    def _spend(self, size: int) -> None:
        self.unread -= size
        if self.unread < 0:
            raise InputError(f"{self.name}: its vectors are longer than its {len(self.content)} bytes; it is damaged")

    def _tables(self, table: Any, field: str) -> Iterator[Any]:
        """The tables of a vector."""
        count = getattr(table, f"{field}Length")()
        self._spend(4 * count)
        yield from map(getattr(table, field), range(count))

    def _numbers(self, table: Any, field: str) -> np.ndarray:
        """A vector of numbers, as a view of the file; empty where it is absent."""
        found = getattr(table, f"{field}AsNumpy")()
        if not isinstance(found, np.ndarray):
            return np.empty(0, np.int64)
        self._spend(found.nbytes)
        return found

    def _indices(self, table: Any, field: str) -> tuple[int, ...]:
        return tuple(self._numbers(table, field).tolist())

    def _text(self, table: Any, slot: int) -> str:
        """A string by its slot; the generated methods would cut one that is longer than the file."""
        if not (offset := table._tab.Offset(slot)):
            return ""
        raw = table._tab.GetVectorAsNumpy(Uint8Flags, offset).tobytes()
        self._spend(len(raw))
        return raw.decode(errors="replace")

    def _kind(self, code: schema.OperatorCode) -> str:
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if number == schema.BuiltinOperator.CUSTOM:
            return self._text(code, CUSTOM_CODE) or "CUSTOM"
        return flatbuffer.OPERATORS.get(number, f"OPERATOR_{number}")

    def _tensor(self, index: int, table: schema.Tensor, constants: list[schema.Buffer]) -> Tensor:
        where = f"{self.name}: tensor {index}"
        dtype = flatbuffer.TENSOR_TYPES.get(table.Type(), str(table.Type())).lower()
        if dtype not in DTYPES:
            raise InputError(f"{where} has element type {dtype}, which is not supported")
        shape = self._indices(table, "Shape")
        if min(shape, default=1) < 0 or math.prod(shape) * np.dtype(dtype).itemsize > LARGEST_TENSOR_BYTES:
            raise InputError(f"{where} has shape {list(shape)}; shapes must be known and below 1 GiB")
        number = table.Buffer()
        if number >= max(len(constants), 1):
            raise InputError(f"{where} uses buffer {number} of {len(constants)}; the file is damaged")
        raw = self._constant(constants[number]) if constants else b""
        if len(raw) not in (0, math.prod(shape) * np.dtype(dtype).itemsize):
            raise InputError(f"{where} holds {len(raw)} bytes, which don't fit its shape {list(shape)} of {dtype}")
        data = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape) if len(raw) else None
        quantization = self._quantization(table, where, shape)
        return Tensor(index, self._text(table, NAME), shape, dtype, quantization, data, table.IsVariable())

    def _constant(self, table: schema.Buffer) -> bytes | np.ndarray:
        """A buffer's bytes, which files over 2 GB keep behind the flatbuffer (offsets 0 and 1 mean: they do not)."""
        offset, size = table.Offset(), table.Size()
        if offset <= 1:
            return b"" if table.DataIsNone() else table.DataAsNumpy()  # a view: tensors may share it
        if offset + size > len(self.content):
            raise InputError(f"{self.name}: {size} bytes at offset {offset} lie outside of the file; copy it again")
        return self.content[offset : offset + size]

    def _quantization(self, table: schema.Tensor, where: str, shape: tuple[int, ...]) -> Quantization | None:
        inner = table.Quantization()
        scale = self._numbers(inner, "Scale") if inner else np.empty(0)
        if not scale.size:
            return None
        zero_point = self._numbers(inner, "ZeroPoint")
        zero_point = zero_point if zero_point.size else np.zeros(1, np.int64)
        axis, problem = inner.QuantizedDimension() if len(shape) > 1 else 0, None  # files name others for biases
        if not np.all(np.isfinite(scale) & (scale > 0)):
            problem = "scales that are not finite and positive"
        elif scale.size > 1 and not (0 <= axis < len(shape) and shape[axis] == scale.size):
            problem = f"{scale.size} scales along axis {axis} of shape {list(shape)}"
        elif zero_point.size not in (1, scale.size):
            problem = f"{zero_point.size} zero points for {scale.size} scales"
        if problem:
            raise InputError(f"{where} has {problem}; quantize the model again")
        return Quantization(scale, np.broadcast_to(zero_point, scale.shape), axis)

    def _op(self, index: int, table: schema.Operator, kinds: list[str]) -> Op:
        code = table.OpcodeIndex()
        if code >= len(kinds):
            raise InputError(f"{self.name}: op {index} uses operator code {code} of {len(kinds)}")
        kind = kinds[code]
        options = self._options(kind, table.BuiltinOptions()) if kind in WITH_OPTIONS else {}
        return Op(index, kind, self._indices(table, "Inputs"), self._indices(table, "Outputs"), options)

    def _options(self, kind: str, table: Any) -> dict[str, Any]:
        """The options of an operator; the schema's defaults where they are absent."""
        options = getattr(schema, f"{flatbuffer.OPTIONS[kind]}T")
        found = options() if table is None else options.InitFromBuf(table.Bytes, table.Pos)
        named = {name: getattr(found, theirs) for theirs, name in OPTIONS.items() if hasattr(found, theirs)}
        if "activation" in named:
            named["activation"] = ACTIVATIONS.get(named["activation"], str(named["activation"]))
        if "padding" in named:
            named["padding"] = "SAME" if named["padding"] == schema.Padding.SAME else "VALID"
        return named


def _check(graph: Graph) -> None:
    """Every operator reads what exists before it, and what its kind needs; nothing is written twice."""
    for label, indices in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if not indices or not all(0 <= tensor < len(graph.tensors) for tensor in indices):
            raise InputError(f"{graph.name}: the graph's {label} {list(indices)} are not among its tensors")
    constant = (tensor.index for tensor in graph.tensors if tensor.data is not None or tensor.is_variable)
    ready = {*graph.inputs, -1, *constant}
    for op in graph.ops:
        if op.kind in COMPILED:
            raise InputError(
                f"{graph.where(op)} is compiled for an accelerator; give the file that its compiler was given"
            )
        for tensor in op.inputs:
            if tensor not in ready:
                raise InputError(f"{graph.where(op)} reads tensor {tensor} before anything writes it")
        if not op.outputs:
            raise InputError(f"{graph.where(op)} writes nothing")
        needed = op.inputs[: 2 if op.kind in WEIGHT_AXES else 1]
        if min(needed, default=-1) < 0 or len(needed) <= (op.kind in WEIGHT_AXES):
            raise InputError(f"{graph.where(op)} reads {list(op.inputs)}, less than it needs; the file is damaged")
        for tensor in op.outputs:
            if not 0 <= tensor < len(graph.tensors) or tensor in ready:
                raise InputError(f"{graph.where(op)} writes tensor {tensor}, which is absent or already written")
            ready.add(tensor)
        if op.kind in WEIGHT_AXES:
            weights, output = (graph.tensors[tensor].shape for tensor in (op.inputs[1], op.outputs[0]))
            if len(weights) != WEIGHT_AXES[op.kind] or not output:
                why = "damaged" if output else "of unknown sizes; convert it with fixed ones"
                raise InputError(f"{graph.where(op)} has weights {list(weights)} and writes {list(output)}, {why}")
    for tensor in graph.outputs:
        if tensor not in ready:
            raise InputError(f"{graph.name}: output tensor {tensor} is never written")
