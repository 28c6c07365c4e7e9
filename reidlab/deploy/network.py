"""The network of the C executor: nodes, each one kernel call per row, and the tensors between them."""

from dataclasses import dataclass, field

import numpy as np

from reidlab.deploy import arithmetic
from reidlab.deploy.tflite_graph import Graph, Op
from reidlab.errors import InputError


@dataclass(frozen=True)
class Rows:
    """A tensor as rows of pixels."""

    height: int
    row_bytes: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.height * self.row_bytes


@dataclass(frozen=True)
class Node:
    """One kernel call per output row.

    - `params`: the fields of the kernel's C struct; arrays stand for constants that live in flash
    - `window`, `stride`, `pad`: rows of the first input that an output row needs; window 0: all of them at once
    - `trailing`: each byte is read before it is overwritten, so that the output may replace the input
    - `scratch_bytes`: work space of a call
    """

    op: int
    kernel: str
    struct: str
    params: dict
    inputs: tuple[int, ...]
    output: int
    window: int = 1
    stride: int = 1
    pad: int = 0
    trailing: bool = False
    scratch_bytes: int = 0
    macs: int = 0


@dataclass
class Network:
    """Nodes in an executable order; the caller owns the image and the float32 output."""

    image: int
    output: int
    image_shape: tuple[int, int, int]
    embedding_size: int
    nodes: list[Node] = field(default_factory=list)
    rows: dict[int, Rows] = field(default_factory=dict)


class Builder:
    """Collects the nodes of a graph; every refusal names the operator."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[Node] = []
        self.rows: dict[int, Rows] = {}
        self.alias: dict[int, int] = {}  # a tensor that needs no work -> the one that holds its bytes
        self.pixels: set[int] = set()  # tensors that are the uint8 image, read as int8
        self.padded: dict[int, tuple[int, int, int]] = {}  # a PAD's output -> (its input, top, left)
        self._fresh = len(graph.tensors)

    def refuse(self, op: Op, why: str) -> InputError:
        """The error that says why an operator can't be exported."""
        return InputError(f"{self.graph.where(op)}: {why}")

    def shape(self, index: int, op: Op) -> tuple[int, int, int]:
        """(height, width, channels) of a tensor; (1, D) counts as one pixel."""
        shape = self.graph.tensors[index].shape
        if len(shape) == 2:
            shape = (shape[0], 1, 1, shape[1])
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or max(shape) > 0xFFFF or shape[2] * shape[3] > 0xFFFF:
            raise self.refuse(op, f"tensor {index} of shape {list(shape)}; needs a batch of 1, 2 or 4 axes, small rows")
        return shape[1:]

    def quantization(self, index: int, op: Op) -> tuple[np.float32, int]:
        """(scale, zero point) of an int8 activation."""
        tensor = self.graph.tensors[index]
        if tensor.dtype != "int8" or tensor.quantization is None or tensor.quantization.scale.size != 1:
            raise self.refuse(op, f"tensor {index} is {tensor.dtype}, not int8 with one scale; quantize it to int8")
        if tensor.data is not None:
            raise self.refuse(op, f"tensor {index} is constant where an activation is expected")
        zero = int(tensor.quantization.zero_point[0])
        if not -128 <= zero <= 127:
            raise self.refuse(op, f"tensor {index} has zero point {zero}")
        return tensor.quantization.scale[0], zero

    def constant(self, op: Op, position: int, dtype: str) -> np.ndarray | None:
        """The values of a constant input, or None where the operator has none there."""
        index = op.inputs[position] if position < len(op.inputs) else -1
        if index < 0:
            return None
        tensor = self.graph.tensors[index]
        if tensor.data is None or tensor.dtype != dtype:
            raise self.refuse(op, f"input {position} must be constant {dtype}")
        return tensor.data

    def inputs(self, op: Op, count: int) -> tuple[int, ...]:
        """The first `count` input tensors."""
        if len(op.inputs) < count or min(op.inputs[:count], default=0) < 0:
            raise self.refuse(op, f"{len(op.inputs)} inputs where {count} are needed")
        return op.inputs[:count]

    def emit(self, op: Op, kernel: str, struct: str, params: dict, inputs: tuple[int, ...], **how) -> None:
        """Append the node of an operator, and one that clamps where a fused activation asks for it."""
        target = op.outputs[0]
        height, width, channels = self.shape(target, op)
        scale, zero = self.quantization(target, op)
        activation = op.options.get("activation", "NONE")
        if activation not in arithmetic.ACTIVATION_LIMITS:
            raise self.refuse(op, f"fused activation {activation} is not supported")
        low, high = arithmetic.activation_range(activation, scale, zero)
        rows, inner = Rows(height, width * channels), target
        if (low, high) != (-128, 127):
            inner = self._new_tensor()
        sources = tuple(self.alias.get(index, index) for index in inputs)
        if struct != "reid_conv":  # the others don't read uint8: each has a copy of the image, streamed row by row
            sources = tuple(self._signed(op, index) if index in self.pixels else index for index in sources)
        self.append(Node(op.index, kernel, struct, params, sources, inner, **how), rows)
        if inner != target:
            limits = {"low": low, "high": high, "count": rows.row_bytes}
            self.append(Node(op.index, "reid_range_row", "reid_range", limits, (inner,), target, trailing=True), rows)

    def _signed(self, op: Op, image: int) -> int:
        """A tensor of the image's pixels as int8 codes, made by a node of its own."""
        rows, made = self.rows[image], self._new_tensor()
        self.append(Node(op.index, "reid_pixels_row", "reid_pixels", {"count": rows.row_bytes}, (image,), made), rows)
        return made

    def _new_tensor(self) -> int:
        self._fresh += 1
        return self._fresh - 1

    def append(self, node: Node, rows: Rows) -> None:
        """Add a node and the rows that it makes."""
        self.nodes.append(node)
        self.rows[node.output] = rows
