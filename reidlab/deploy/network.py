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
    - `running`: its rows are one row that goes on, of which only the last state counts
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
    running: bool = False
    scratch_bytes: int = 0
    macs: int = 0


@dataclass
class Network:
    """Nodes in an executable order; the caller owns the image and the float32 output.

    - `input_scale`, `input_zero`: a byte of the image stands for input_scale * (byte - input_zero)
    - `views`: a tensor that is another's bytes cut into rows of its own -> that other one, which is held whole
    """

    image: int
    output: int
    image_shape: tuple[int, int, int]
    embedding_size: int
    input_scale: float
    input_zero: int
    nodes: list[Node] = field(default_factory=list)
    rows: dict[int, Rows] = field(default_factory=dict)
    views: dict[int, int] = field(default_factory=dict)

    def base(self, tensor: int) -> int:
        """The tensor whose bytes a tensor is."""
        return self.views.get(tensor, tensor)


ALL_INTEGER = "quantize all of it, by quantize.method=[ptq,equalized,qat]"
READING_PIXELS = ("reid_conv", "reid_transpose")  # structs of kernels that flip the sign of the image's bytes


class Builder:
    """Collects the nodes of a graph; every refusal names the operator."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.nodes: list[Node] = []
        self.rows: dict[int, Rows] = {}
        self.alias: dict[int, int] = {}  # a tensor that needs no work -> the one that holds its bytes
        self.views: dict[int, int] = {}  # see Network
        self.pixels: set[int] = set()  # tensors that are the image of bytes, read as int8
        self.input: tuple[float, int] | None = None  # scale and zero point of the image's bytes
        self.padded: dict[int, tuple[int, int, int]] = {}  # a PAD's output -> (its input, top, left)
        self._fresh = len(graph.tensors)

    def refuse(self, op: Op, why: str) -> InputError:
        """The error that says why an operator can't be exported."""
        return InputError(f"{self.graph.where(op)}: {why}")

    def shape(self, index: int, op: Op) -> tuple[int, int, int]:
        """(height, width, channels) of a tensor; of fewer than 4 axes, the first ones are 1."""
        shape = (1,) * (4 - len(self.graph.tensors[index].shape)) + self.graph.tensors[index].shape
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or max(shape) > 0xFFFF or shape[2] * shape[3] > 0xFFFF:
            raise self.refuse(
                op, f"tensor {index} of shape {list(shape)}; needs a batch of 1, at most 4 axes, small rows"
            )
        return shape[1:]

    def view(self, target: int, source: int, rows: Rows) -> None:
        """Make a tensor the bytes of another one, cut into rows of its own."""
        source = self.alias.get(source, source)
        if self.rows[source] == rows:
            self.alias[target] = source
            return
        self.rows[target], self.views[target] = rows, self.views.get(source, source)
        if source in self.pixels:
            self.pixels.add(target)

    def recut(self, tensor: int, rows: Rows) -> int:
        """A tensor's bytes, cut into other rows."""
        self.view(made := self.new_tensor(), tensor, rows)
        return self.alias.get(made, made)

    def quantization(self, index: int, op: Op) -> tuple[np.float32, int]:
        """(scale, zero point) of an int8 activation; of one in uint8, which only inputs and outputs are, less 128."""
        tensor = self.graph.tensors[index]
        at_an_end = tensor.dtype == "uint8" and index in (*self.graph.inputs, *self.graph.outputs)
        if tensor.dtype == "uint8" and not at_an_end:
            raise self.refuse(op, f"tensor {index} is uint8, the legacy quantization; quantize to int8")
        if not (tensor.dtype == "int8" or at_an_end):
            raise self.refuse(
                op, f"tensor {index} is {tensor.dtype}, not int8; quantize weights and activations to int8"
            )
        if tensor.quantization is None or tensor.quantization.scale.size != 1:
            raise self.refuse(op, f"tensor {index} has no scale, or several; quantize activations with one")
        zero = int(tensor.quantization.zero_point[0]) - 128 * at_an_end
        if not -128 <= zero <= 127:
            raise self.refuse(op, f"tensor {index} has zero point {zero}")
        return tensor.quantization.scale[0], zero

    def constant(self, op: Op, position: int, dtype: str) -> np.ndarray | None:
        """The values of a constant input, or None where the operator has none there."""
        index = op.inputs[position] if position < len(op.inputs) else -1
        if index < 0:
            return None
        tensor = self.graph.tensors[index]
        if tensor.dtype == "uint8" != dtype:
            raise self.refuse(op, f"tensor {index} is uint8, the legacy quantization; quantize to int8")
        if tensor.data is None:
            raise self.refuse(op, f"input {position} must be constant")
        if tensor.dtype != dtype:
            raise self.refuse(op, f"input {position} is {tensor.dtype}, not {dtype}; {ALL_INTEGER}")
        return tensor.data

    def inputs(self, op: Op, count: int) -> tuple[int, ...]:
        """The first `count` input tensors."""
        if len(op.inputs) < count or min(op.inputs[:count], default=0) < 0:
            raise self.refuse(op, f"{len(op.inputs)} inputs where {count} are needed")
        return op.inputs[:count]

    def emit(
        self,
        op: Op,
        kernel: str,
        struct: str,
        params: dict,
        inputs: tuple[int, ...],
        cut: tuple[Rows, Rows] | None = None,
        **how,
    ) -> None:
        """Append the node of an operator, and one that clamps where a fused activation asks for it.

        `cut`: the rows that the kernel takes inputs and output as, where these aren't those of their shapes.
        """
        target = op.outputs[0]
        height, width, channels = self.shape(target, op)
        scale, zero = self.quantization(target, op)
        activation = op.options.get("activation", "NONE")
        if activation not in arithmetic.ACTIVATION_LIMITS:
            raise self.refuse(op, f"fused activation {activation} is not supported")
        low, high = arithmetic.activation_range(activation, scale, zero)
        whole = rows = Rows(height, width * channels)
        if cut:
            inputs, rows = tuple(self.recut(index, cut[0]) for index in inputs), cut[1]
        last = target if rows == whole else self.new_tensor()
        inner = last if (low, high) == (-128, 127) else self.new_tensor()
        sources = tuple(self.source(op, index, as_it_is=struct in READING_PIXELS) for index in inputs)
        self.append(Node(op.index, kernel, struct, params, sources, inner, **how), rows)
        if inner != last:
            limits = {"low": low, "high": high, "count": rows.row_bytes}
            self.append(Node(op.index, "reid_range_row", "reid_range", limits, (inner,), last, trailing=True), rows)
        if last != target:
            self.view(target, last, whole)

    def source(self, op: Op, tensor: int, as_it_is: bool = False) -> int:
        """Input of a node for a tensor: of the image's bytes a copy as int8 codes, or themselves `as_it_is`."""
        tensor = self.alias.get(tensor, tensor)
        if as_it_is or tensor not in self.pixels:
            return tensor
        rows, made = self.rows[tensor], self.new_tensor()
        self.append(Node(op.index, "reid_pixels_row", "reid_pixels", {"count": rows.row_bytes}, (tensor,), made), rows)
        return made

    def new_tensor(self) -> int:
        """The index of a tensor that the graph doesn't have."""
        self._fresh += 1
        return self._fresh - 1

    def append(self, node: Node, rows: Rows) -> None:
        """Add a node and the rows that it makes."""
        self.nodes.append(node)
        self.rows[node.output] = rows
