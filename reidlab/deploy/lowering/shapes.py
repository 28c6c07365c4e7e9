"""Operators that move bytes: other shapes, borders, parts, and tensors joined or repeated."""

import math

import numpy as np

from reidlab.deploy.network import Builder, Node, Rows
from reidlab.deploy.tflite_graph import Op

OPEN_SIZES = "the file leaves sizes open; convert it with a fixed batch of 1"


def _reshape(build: Builder, op: Op) -> None:
    """Cut the bytes into other rows."""
    build.quantization(op.inputs[0], op)
    before, after = (build.graph.tensors[tensor] for tensor in (op.inputs[0], op.outputs[0]))
    if before.size != after.size:
        raise build.refuse(op, f"from {list(before.shape)} to {list(after.shape)}: {OPEN_SIZES}")
    build.view(op.outputs[0], op.inputs[0], _rows(build, op.outputs[0], op))


def _rows(build: Builder, tensor: int, op: Op) -> Rows:
    """A tensor as rows of pixels."""
    height, width, channels = build.shape(tensor, op)
    return Rows(height, width * channels)


def axis_of(build: Builder, op: Op, tensor: int, axis: int) -> int:
    """An axis of a tensor among (batch, height, width, channels)."""
    rank = len(build.graph.tensors[tensor].shape)
    if not -rank <= axis < rank:
        raise build.refuse(op, f"axis {axis} of {rank}; the file is damaged")
    return axis % rank + 4 - rank


def _transpose(build: Builder, op: Op) -> None:
    """A row at a time from the whole input, whose rows are as far apart as those that the output begins its rows in."""
    order, shape = build.constant(op, 1, "int32"), build.graph.tensors[op.inputs[0]].shape
    if order is None or sorted(order.tolist()) != list(range(len(shape))) or shape[0] != 1 < len(shape) < 5 or order[0]:
        raise build.refuse(op, "needs a constant order that leaves the batch in place")
    if build.graph.tensors[op.outputs[0]].shape != tuple(shape[axis] for axis in order):
        raise build.refuse(op, "its output hasn't the shape that its order gives; the file is damaged")
    if [axis for axis in order if shape[axis] > 1] == [axis for axis in range(len(shape)) if shape[axis] > 1]:
        return _reshape(build, op)
    steps = [math.prod(shape[axis + 1 :]) for axis in order[1:].tolist()]
    row, column, channel = [steps[0]] * (4 - len(shape)) + steps
    _, width, channels = build.shape(op.outputs[0], op)
    if row > 0xFFFF:
        raise build.refuse(op, f"rows that lie {row} bytes apart are not supported")
    size = build.graph.tensors[op.inputs[0]].size
    build.quantization(op.inputs[0], op)
    source = build.recut(op.inputs[0], Rows(size // row, row))
    params = {"steps": (column, channel), "width": width, "channels": channels,
              "flip": -128 if source in build.pixels else 0}  # fmt: skip
    build.emit(op, "reid_transpose_row", "reid_transpose", params, (source,), window=0)


def repeated(build: Builder, op: Op, source: int, size: int, times: int, rows: int) -> int:
    """A tensor with each `size` bytes `times`, and each row so made `rows` times, as one row."""
    source, made = build.source(op, source), build.new_tensor()
    before = build.rows[source]
    after = Rows(before.height, before.row_bytes * times * rows)
    if times > 255 or after.row_bytes > 0xFFFF:
        raise build.refuse(op, f"makes rows of {after.row_bytes} bytes; at most 65,535 are supported")
    params = {"bytes": size, "count": before.row_bytes // size, "times": times, "rows": rows}
    build.append(Node(op.index, "reid_repeat_row", "reid_repeat", params, (source,), made), after)
    return made


def _resize_nearest(build: Builder, op: Op) -> None:
    """RESIZE_NEAREST_NEIGHBOR to a multiple: each row becomes several, held as one."""
    (height, width, channels), larger = (build.shape(i, op) for i in (op.inputs[0], op.outputs[0]))
    more, out_width, _ = larger
    rows, times = more // height, out_width // width
    size = build.constant(op, 1, "int32")
    if size is None or size.tolist() != [more, out_width]:
        raise build.refuse(op, f"its size isn't that of its output, {more} x {out_width}")
    if (height * rows, width * times, channels) != larger or max(rows, times) > 255:
        raise build.refuse(op, f"from {height} x {width} to {more} x {out_width} pixels: needs whole multiples")
    if op.options["align_corners"] and max(rows, times) > 1:
        raise build.refuse(op, "align_corners is not supported")
    build.quantization(op.inputs[0], op)
    made = repeated(build, op, op.inputs[0], channels, times, rows)
    build.view(op.outputs[0], made, Rows(more, out_width * channels))


def _concatenation(build: Builder, op: Op) -> None:
    """Inputs side by side, two at a time; along the height, or of fewer axes, as one row each."""
    axis = axis_of(build, op, op.outputs[0], op.options["axis"])
    if not axis:
        raise build.refuse(op, "joins a batch")
    pairs = {build.quantization(tensor, op) for tensor in (*op.inputs, *op.outputs)}
    if len(pairs) > 1:
        raise build.refuse(op, "its tensors have different scales; quantize the model again")
    height, width, channels = joined_shape = build.shape(op.outputs[0], op)
    given = np.array([build.shape(tensor, op) for tensor in op.inputs])
    summed = given.max(0)
    summed[axis - 1] = given[:, axis - 1].sum()
    if (np.delete(given, axis - 1, 1) != np.delete(given[:1], axis - 1, 1)).any() or tuple(summed) != joined_shape:
        raise build.refuse(op, f"does not make {joined_shape} of {given.tolist()}: {OPEN_SIZES}")
    whole = height * width * channels
    count = width if axis == 3 else 1
    as_one = axis == 1 and height > 1
    if as_one and whole > 0xFFFF:
        raise build.refuse(op, f"joins {height} rows of {width * channels} bytes; at most 65,535 bytes are supported")
    sources = []
    for tensor in op.inputs:
        rows = _rows(build, tensor, op)
        source = build.source(op, tensor)
        if as_one:
            source = build.recut(source, Rows(1, rows.nbytes))
        sources.append(source)
    joined, target = sources[0], build.new_tensor() if as_one else op.outputs[0]
    for position, source in enumerate(sources[1:], 2):
        widths = tuple(build.rows[tensor].row_bytes // count for tensor in (joined, source))
        made = target if position == len(sources) else build.new_tensor()
        node = Node(op.index, "reid_join_row", "reid_join", {"bytes": widths, "count": count}, (joined, source), made)
        build.append(node, Rows(build.rows[joined].height, sum(widths) * count))
        joined = made
    if len(sources) == 1 or as_one:
        build.view(op.outputs[0], joined, Rows(height, width * channels))


def _slice(build: Builder, op: Op) -> None:
    """SLICE, and STRIDED_SLICE without new axes."""
    source, target = op.inputs[0], op.outputs[0]
    shape = build.shape(source, op)
    rank = len(build.graph.tensors[source].shape)
    begin, end = (build.constant(op, position, "int32") for position in (1, 2))
    steps = build.constant(op, 3, "int32") if op.kind == "STRIDED_SLICE" else np.ones(rank, int)
    if begin is None or end is None or steps is None or not len(begin) == len(end) == len(steps) == rank:
        raise build.refuse(op, "needs a constant place and size for each axis")
    if op.options.get("ellipsis_mask") or op.options.get("new_axis_mask"):
        raise build.refuse(op, "an ellipsis or a new axis is not supported")
    taken = [slice(0, 1, 1)] * (4 - rank)
    for axis, size in enumerate(build.graph.tensors[source].shape):
        first: int | None = int(begin[axis])
        last: int | None = int(end[axis])
        step = int(steps[axis])
        if op.kind == "SLICE":
            last = size if end[axis] == -1 else int(begin[axis] + end[axis])
        else:
            first = None if op.options["begin_mask"] >> axis & 1 else first
            last = None if op.options["end_mask"] >> axis & 1 else last
            last = (first or 0) + 1 or None if op.options["shrink_axis_mask"] >> axis & 1 else last
        if step < 1:
            raise build.refuse(op, "a step below 1 is not supported")
        taken.append(slice(*slice(first, last, step).indices(size)))
    _cut(build, op, source, target, shape, taken[1:])


def _cut(build: Builder, op: Op, source: int, target: int, shape: tuple[int, int, int], taken: list[slice]) -> None:
    """Rows, columns and channels of a tensor."""
    height, width, channels = (len(range(part.start, part.stop, part.step)) for part in taken)
    rows, columns, part = taken
    if part.step > 1 or height * width * channels != build.graph.tensors[target].size or not height * width * channels:
        raise build.refuse(op, "takes channels that are not side by side, or not what its output holds")
    params = {"first": columns.start * shape[2] + part.start, "take": channels, "step": columns.step * shape[2],
              "count": width}  # fmt: skip
    if channels == shape[2] and columns.step == 1:
        params |= {"take": width * channels, "step": 0, "count": 1}
    _, made = build.quantization(source, op), build.new_tensor()
    node = Node(op.index, "reid_slice_row", "reid_slice", params, (build.source(op, source),), made,
                stride=rows.step, pad=-rows.start)  # fmt: skip
    if max(rows.step, 1) > 255 or rows.start > 0x7FFF:
        raise build.refuse(op, "leaves out too many rows")
    build.append(node, Rows(height, width * channels))
    build.view(target, made, _rows(build, target, op))


def _split(build: Builder, op: Op) -> None:
    """SPLIT, SPLIT_V and UNPACK: one slice for each output."""
    source = op.inputs[1 if op.kind == "SPLIT" else 0]
    if op.kind == "UNPACK":
        axis = op.options["axis"]
    else:
        given = build.constant(op, 0 if op.kind == "SPLIT" else 2, "int32")
        if given is None:
            raise build.refuse(op, "needs a constant axis")
        axis = int(given.reshape(-1)[0])
    axis, shape = axis_of(build, op, source, axis), build.shape(source, op)
    if not axis:
        raise build.refuse(op, "takes a batch apart")
    sizes = [shape[axis - 1] // len(op.outputs)] * len(op.outputs)
    if op.kind == "SPLIT_V":
        lengths = build.constant(op, 1, "int32")
        sizes = sizes if lengths is None else lengths.reshape(-1).tolist()
    start = 0
    for target, size in zip(op.outputs, sizes, strict=True):
        taken = [slice(0, length, 1) for length in shape]
        taken[axis - 1] = slice(*slice(start, start + size).indices(shape[axis - 1]))
        _cut(build, op, source, target, shape, taken)
        start += size


def _pad(build: Builder, op: Op) -> None:
    """PAD and PADV2: absorbed where every consumer pads with the same value, else a node.

    Convolutions by 1x1 read pixels from where they lie, and may overwrite them: their padding is a node.
    """
    source, target = op.inputs[0], op.outputs[0]
    amounts = build.graph.tensors[op.inputs[1]].data if len(op.inputs) > 1 else None
    shape, padded = build.shape(source, op), build.shape(target, op)
    if amounts is None or amounts.ndim != 2 or amounts.shape[1] != 2 or not 1 <= len(amounts) <= 4 or amounts.min() < 0:
        raise build.refuse(op, "needs constant amounts, none below 0")
    amounts = np.concatenate([np.zeros((4 - len(amounts), 2), int), amounts])
    (top, _), (left, right), channels = amounts[1:].tolist()
    if amounts[0].any() or padded != tuple(np.add(shape, amounts[1:].sum(1)).tolist()):
        raise build.refuse(op, f"turns {shape} into {padded}, which its amounts do not")
    _, zero = build.quantization(target, op)
    constant = build.constant(op, 2, "int8")
    value = zero if constant is None else int(constant.reshape(-1)[0])
    border = {"CONV_2D": zero, "DEPTHWISE_CONV_2D": zero, "MAX_POOL_2D": -128}
    consumers = build.graph.consumers.get(target, [])
    absorbed = all(border.get(consumer.kind) == value and not _is_pointwise(build, consumer) for consumer in consumers)
    if target not in build.graph.outputs and absorbed and not any(channels):
        build.padded[target] = (source, top, left)
        return
    inner = source
    if any(channels):
        params = {"value": value, "row_bytes": shape[2], "left_bytes": channels[0], "right_bytes": channels[1],
                  "count": shape[1]}  # fmt: skip
        inner, rows = build.new_tensor(), Rows(shape[0], shape[1] * padded[2])
        build.append(Node(op.index, "reid_border_row", "reid_border", params, (build.source(op, source),), inner), rows)
    params = {"value": value, "row_bytes": shape[1] * padded[2], "left_bytes": left * padded[2],
              "right_bytes": right * padded[2], "count": 1}  # fmt: skip
    build.emit(op, "reid_border_row", "reid_border", params, (inner,), pad=top)


def _is_pointwise(build: Builder, op: Op) -> bool:
    """Whether an operator is a convolution by 1x1."""
    weights = [build.graph.tensors[index].shape for index in op.inputs[1:2]]
    return op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and any(shape[1:3] == (1, 1) for shape in weights)


HANDLERS = {
    "RESHAPE": _reshape, "SQUEEZE": _reshape, "EXPAND_DIMS": _reshape, "TRANSPOSE": _transpose,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest, "PAD": _pad, "PADV2": _pad, "CONCATENATION": _concatenation,
    "SLICE": _slice, "STRIDED_SLICE": _slice, "SPLIT": _split, "SPLIT_V": _split, "UNPACK": _split,
}  # fmt: skip
