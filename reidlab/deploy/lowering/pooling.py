"""Many numbers to one: pooling, means and greatest values."""

import math
from collections.abc import Callable
from functools import partial

from reidlab.deploy import arithmetic
from reidlab.deploy.lowering.convolutions import MAX_WINDOW, window_of
from reidlab.deploy.lowering.shapes import axis_of
from reidlab.deploy.network import Builder, Rows
from reidlab.deploy.tflite_graph import Op

MAX_POOLED = 2047  # pixels of a window that the vectors' mean is exact for


def _pool(build: Builder, op: Op, kernel: str, absorb: bool) -> None:
    build.inputs(op, 1)
    if build.quantization(op.inputs[0], op) != build.quantization(op.outputs[0], op):
        raise build.refuse(op, "input and output must share one scale")
    size, channels = (op.options["filter_h"], op.options["filter_w"]), build.shape(op.inputs[0], op)[2]
    if channels != build.shape(op.outputs[0], op)[2]:
        raise build.refuse(op, "changes the number of channels; the file is damaged")
    if kernel == "reid_average_pool_row" and (size[0] > MAX_WINDOW or size[0] * size[1] > MAX_POOLED):
        height, width, _ = build.shape(op.inputs[0], op)
        if size != (height, width) or build.graph.tensors[op.outputs[0]].size != channels or height * width > 0xFFFF:
            raise build.refuse(op, f"a window of {size} pixels that is not the whole map is not supported")
        params = {
            "multiplier": 0,
            "shift": 0,
            "in_zero": 0,
            "out_zero": 0,
            "pixels": height * width,
            "channels": channels,
        }
        return build.emit(op, "reid_average_pool_all", "reid_average", params, op.inputs[:1], window=0)
    source, fields, geometry = window_of(build, op, size, absorb)
    build.emit(op, kernel, "reid_window", {"channels": channels, **fields}, (source,), **geometry)


def _reduced(build: Builder, op: Op) -> tuple[int, int, int]:
    """Shape of an operator over neighboring axes: (how often, how many taken together, of how many numbers each)."""
    axes = build.constant(op, 1, "int32")
    if axes is None:
        raise build.refuse(op, "needs constant axes")
    given = {axis_of(build, op, op.inputs[0], int(axis)) for axis in axes.reshape(-1)}
    shape = (1, *build.shape(op.inputs[0], op))
    chosen = sorted(axis for axis in given if shape[axis] > 1)
    if not chosen:
        return 1, 1, math.prod(shape)
    outer, inner = math.prod(shape[: chosen[0]]), math.prod(shape[chosen[-1] + 1 :])
    count = math.prod(shape[chosen[0] : chosen[-1] + 1])
    if outer * inner != build.graph.tensors[op.outputs[0]].size or (outer > 1 and max(outer, count * inner) > 0xFFFF):
        raise build.refuse(op, f"over axes {axes.reshape(-1).tolist()} of {list(shape)} is not supported")
    return outer, count, inner


def _mean(build: Builder, op: Op) -> None:
    source, target = op.inputs[0], op.outputs[0]
    outer, count, channels = _reduced(build, op)
    (in_scale, in_zero), (out_scale, out_zero) = build.quantization(source, op), build.quantization(target, op)
    multiplier, shift = arithmetic.mean_rescaling(in_scale, out_scale, count)
    largest = count * 255 << (max(-shift, 0) + 1)
    if shift > arithmetic.MAX_RIGHT_SHIFT or largest >= 1 << 31 or count > 0xFFFF:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    params = {"multiplier": multiplier, "shift": shift, "in_zero": in_zero, "out_zero": out_zero,
              "pixels": count, "channels": channels}  # fmt: skip
    if outer == 1:
        return build.emit(op, "reid_average_all", "reid_average", params, (source,), window=0)
    cut = Rows(outer, count * channels), Rows(outer, channels)
    build.emit(op, "reid_average_all", "reid_average", params, (source,), cut)


def _reduce_max(build: Builder, op: Op) -> None:
    outer, count, channels = _reduced(build, op)
    height, width, _ = build.shape(op.inputs[0], op)
    if outer > 1 or count != height * width or height > MAX_WINDOW or width > 255:
        raise build.refuse(op, f"only over height and width of at most {MAX_WINDOW} x 255 pixels")
    params = {"channels": channels, "in_width": width, "out_width": 1, "kernel_h": height, "kernel_w": width,
              "stride": 1, "pad_left": 0}  # fmt: skip
    build.emit(op, "reid_max_pool_row", "reid_window", params, op.inputs[:1], window=height)


HANDLERS: dict[str, Callable[[Builder, Op], None]] = {
    "MAX_POOL_2D": partial(_pool, kernel="reid_max_pool_row", absorb=True),
    "AVERAGE_POOL_2D": partial(_pool, kernel="reid_average_pool_row", absorb=False),
    "MEAN": _mean,
    "REDUCE_MAX": _reduce_max,
}
