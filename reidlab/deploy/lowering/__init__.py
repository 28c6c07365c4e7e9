"""Lowering a .tflite graph to nodes of C kernels; padding and the image's sign are absorbed by their consumers."""

from reidlab.deploy.dilation import as_dilated, dilated
from reidlab.deploy.lowering import convolutions, elementwise, pooling, shapes
from reidlab.deploy.network import Builder, Network, Rows
from reidlab.deploy.tflite_graph import WEIGHT_AXES, Graph, Op, Tensor
from reidlab.errors import InputError

HANDLERS = convolutions.HANDLERS | elementwise.HANDLERS | shapes.HANDLERS | pooling.HANDLERS
RECURRENT = "recurrent, its state lives on between calls: only feed-forward networks are exported"
NORMALIZED = "part of an instance normalization, which the C export does not do; take a network without it"
UNSUPPORTED = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": RECURRENT, "LSTM": RECURRENT, "SVDF": RECURRENT, "RNN": RECURRENT,
    "UNIDIRECTIONAL_SEQUENCE_RNN": RECURRENT, "VAR_HANDLE": RECURRENT, "CALL_ONCE": RECURRENT,
    "SQUARED_DIFFERENCE": NORMALIZED, "RSQRT": NORMALIZED,
}  # fmt: skip


def lower(graph: Graph) -> Network:
    """Lower an int8 graph of one input and one output; InputError names what can't be exported."""
    if len(graph.inputs) > 1:
        raise InputError(f"{graph.name}: takes {len(graph.inputs)} inputs; export it with the image alone")
    if len(graph.outputs) > 1:
        raise InputError(f"{graph.name}: {len(graph.outputs)} outputs; choose one by model=FILE evaluate.output=NAME")
    graph = dilated(graph)
    build, image = Builder(graph), graph.tensors[graph.inputs[0]]
    height, width, channels = _begin(build, image)
    working = [op for op in graph.ops if op.index not in graph.shape_arithmetic]
    for op in working:
        if op.kind in WEIGHT_AXES:
            build.constant(op, 1, "int8")
        if op.kind == "SPACE_TO_BATCH_ND":
            as_dilated(graph, op)  # raises the reason why it is still there
        if op.kind not in HANDLERS:
            raise build.refuse(op, UNSUPPORTED.get(op.kind, "not supported by the C export"))
        if op.kind not in WEIGHT_AXES and -1 in op.inputs:
            raise build.refuse(op, "lacks an input; the file is damaged")
    for op in working:
        HANDLERS[op.kind](build, op)
    output = _finish(build)
    size, (scale, zero) = build.rows[output].nbytes // 4, build.input or (1.0, 0)
    shape = height, width, channels
    return Network(image.index, output, shape, size, scale, zero, build.nodes, build.rows, build.views)


def _begin(build: Builder, image: Tensor) -> tuple[int, int, int]:
    """Take the image as bytes: codes of uint8, those of int8 plus 128, or those that a QUANTIZE makes of float32."""
    users = build.graph.consumers.get(image.index, [])
    if image.dtype == "float32" and any(op.kind != "QUANTIZE" for op in users):
        raise InputError(
            f"{build.graph.name}: a float32 network, or one with int8 weights alone; quantize activations too"
        )
    if image.dtype not in ("uint8", "int8", "float32"):
        raise InputError(f"{build.graph.name}: input is {image.dtype}; quantize activations to int8")
    height, width, channels = build.shape(image.index, Op(0, "input", (), ()))
    build.rows[image.index] = Rows(height, width * channels)
    if image.dtype == "int8":
        build.pixels.add(image.index)
    if image.dtype != "float32" and image.quantization is not None:
        zero = int(image.quantization.zero_point[0])
        build.input = float(image.quantization.scale[0]), zero + 128 * (image.dtype == "int8")
    return height, width, channels


def _finish(build: Builder) -> int:
    """Turn an int8 output into float32; returns the output tensor."""
    graph = build.graph
    last = build.alias.get(graph.outputs[0], graph.outputs[0])
    tensor = graph.tensors[graph.outputs[0]]
    if last not in build.rows or build.views.get(last, last) == graph.inputs[0]:
        raise InputError(f"{graph.name}: the output is not computed from the input")
    if tensor.dtype == "float32":
        return last
    elementwise.dequantize(build, Op(graph.ops[-1].index + 1, "DEQUANTIZE", (tensor.index,), (-1,)))
    return -1
