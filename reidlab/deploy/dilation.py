"""Convolutions between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, as converters write dilated ones, as what they are."""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from reidlab.deploy.tflite_graph import Graph, Op, Tensor
from reidlab.errors import InputError

KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D")
RESHAPES = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")


def dilated(graph: Graph) -> Graph:
    """The graph with PAD and a dilated convolution in place of every group that is exactly that."""
    for op in graph.ops:
        if op.kind == "SPACE_TO_BATCH_ND":
            with suppress(InputError):
                graph = as_dilated(graph, op)
    return graph


def as_dilated(graph: Graph, start: Op) -> Graph:
    """The graph without a SPACE_TO_BATCH_ND and what belongs to it; InputError says why the group isn't that.

    Each of block x block images in the batch has every block-th pixel: a window over neighbors there is one over pixels
    that lie `block` apart. What BATCH_TO_SPACE_ND crops needn't be padded before.
    """
    group = _group(graph, start)
    (convolution,), end = [op for op in group if op.kind in KINDS], group[-1]
    block, pads = (_of_space(graph, start, position) for position in (1, 2))
    end_block, crops = (_of_space(graph, end, position) for position in (1, 2))
    amounts, options = pads - crops, convolution.options
    if (block != end_block).any():
        raise _refusal(graph, end, "undoes another block than the one before the convolution")
    if options["padding"] != "VALID" or (options["stride_h"], options["stride_w"]) != (1, 1):
        raise _refusal(graph, convolution, "strides, or padding SAME, between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND")
    if amounts.min() < 0:
        raise _refusal(graph, end, "crops more than was padded before")
    source, target = graph.tensors[start.inputs[0]], graph.tensors[end.outputs[0]]
    for first, second in ((source, start.outputs[0]), (target, convolution.outputs[0])):
        if not _share_scale(first, graph.tensors[second]):
            raise _refusal(graph, start, "another scale within the batch than outside")
    count, rank = len(graph.tensors), len(source.shape)
    size = np.add([1] * (4 - rank) + [*source.shape], [0, *amounts.sum(1), 0])
    padding = np.array([[0, 0], *amounts, [0, 0]], np.int32)
    tensors = [
        *graph.tensors,
        replace(source, index=count, name=f"{source.name} padded", shape=tuple(size.tolist())),
        Tensor(count + 1, f"{source.name} padding", padding.shape, "int32", data=padding),
    ]
    apart = {
        f"dilation_{axis}": int(step) * options[f"dilation_{axis}"] for axis, step in zip("hw", block, strict=True)
    }
    made = {
        start.index: Op(start.index, "PAD", (source.index, count + 1), (count,)),
        convolution.index: replace(
            convolution, inputs=(count, *convolution.inputs[1:]), outputs=end.outputs, options=options | apart
        ),
    }
    dropped = {op.index for op in group} - made.keys()
    ops = [made.get(op.index, op) for op in graph.ops if op.index not in dropped]
    return replace(graph, tensors=tensors, ops=ops)


def _group(graph: Graph, start: Op) -> list[Op]:
    """Operators from a SPACE_TO_BATCH_ND to BATCH_TO_SPACE_ND, with one convolution in it."""
    group = [start]
    while (op := group[-1]).kind != "BATCH_TO_SPACE_ND":
        users = graph.consumers.get(op.outputs[0], [])
        if len(users) != 1 or op.outputs[0] in graph.outputs:
            raise _refusal(graph, start, "what it makes has several uses before it is undone")
        (op,) = users
        if op.kind in RESHAPES and _pixels(graph, op.inputs[0]) != _pixels(graph, op.outputs[0]):
            raise _refusal(graph, op, "other pixels between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND")
        if op.kind not in (*KINDS, *RESHAPES, "BATCH_TO_SPACE_ND"):
            raise _refusal(graph, op, "not a dilated convolution between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND")
        group.append(op)
    if sum(op.kind in KINDS for op in group) != 1:
        raise _refusal(graph, start, "not one convolution between it and BATCH_TO_SPACE_ND")
    return group


def _pixels(graph: Graph, tensor: int) -> tuple[int, ...]:
    """(height, width, channels) of each image of a batch."""
    shape = graph.tensors[tensor].shape[1:]
    return (1,) * (3 - len(shape)) + shape


def _of_space(graph: Graph, op: Op, position: int) -> np.ndarray:
    """A constant input of an operator, for height and width: block (2,), or numbers of pixels (2, 2)."""
    data, rank = graph.tensors[op.inputs[position]].data, len(graph.tensors[op.inputs[0]].shape)
    if data is None or not 3 <= rank <= 4 or not 1 <= len(data) <= rank - 2 or data.min() < (position == 1):
        raise _refusal(graph, op, "needs a constant block and constant numbers of pixels, for height and width alone")
    found = np.ones(2, int) if position == 1 else np.zeros((2, 2), int)
    found[4 - rank : 4 - rank + len(data)] = data
    return found


def _share_scale(first: Tensor, second: Tensor) -> bool:
    a, b = first.quantization, second.quantization
    return bool(a and b and np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point))


def _refusal(graph: Graph, op: Op, why: str) -> InputError:
    return InputError(f"{graph.where(op)}: {why}")
