"""Lowering a .tflite graph to nodes of C kernels; padding and the image's sign are absorbed by their consumers."""

from collections.abc import Callable
from functools import partial

import numpy as np

from reidlab.deploy import arithmetic
from reidlab.deploy.network import Builder, Network, Node, Rows
from reidlab.deploy.tflite_graph import Graph, Op
from reidlab.errors import InputError

MAX_WINDOW = 8
# A 3x3 kernel's taps in the order that the C kernel reads them: see reid_words.h.
TAP_ORDER = [0, 1, 3, 4, 2, 6, 5, 7, 8]


def lower(graph: Graph) -> Network:
    """Lower an int8 graph of one uint8 image in and one vector out; InputError names what can't be exported."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(
            f"{graph.name}: {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; needs one of each"
        )
    image = graph.tensors[graph.inputs[0]]
    if image.dtype not in ("uint8", "int8") or len(image.shape) != 4 or image.shape[0] != 1:
        raise InputError(
            f"{graph.name}: input is {image.dtype} {list(image.shape)}; export with one uint8 image (NHWC)"
        )
    build = Builder(graph)
    if image.dtype == "int8":
        if image.quantization is None or image.quantization.zero_point[0] != -128:
            raise InputError(f"{graph.name}: int8 input without zero point -128; export with uint8 images")
        build.pixels.add(image.index)
    _, height, width, channels = image.shape
    build.rows[image.index] = Rows(height, width * channels)
    for op in graph.ops:
        if op.index in graph.shape_arithmetic:
            continue
        if op.kind not in HANDLERS:
            raise build.refuse(op, "not supported by the C export")
        HANDLERS[op.kind](build, op)
    output = _finish(build)
    size = build.rows[output].nbytes // 4
    return Network(image.index, output, (height, width, channels), size, build.nodes, build.rows)


def _finish(build: Builder) -> int:
    """Turn an int8 output into float32; returns the output tensor."""
    graph = build.graph
    last = build.alias.get(graph.outputs[0], graph.outputs[0])
    tensor = graph.tensors[graph.outputs[0]]
    if last not in build.rows or last == graph.inputs[0]:
        raise InputError(f"{graph.name}: the output is not computed from the input")
    if tensor.dtype == "float32":
        return last
    if tensor.dtype != "int8" or tensor.quantization is None:
        raise InputError(f"{graph.name}: output is {tensor.dtype}; export with a float32 or int8 output")
    _dequantize(build, Op(len(graph.ops), "DEQUANTIZE", (tensor.index,), (-1,)))
    return -1


# --- Convolutions ---------------------------------------------------------------------------------------------------


def _window(build: Builder, op: Op, kernel: tuple[int, int], absorb: bool = True) -> tuple[int, dict, dict]:
    """(input tensor, window fields of the C struct, row geometry of the node), a PAD in front absorbed."""
    stride, source = op.options["stride_h"], op.inputs[0]
    if op.options.get("dilation_w", 1) != 1 or op.options.get("dilation_h", 1) != 1:
        raise build.refuse(op, "dilation is not supported")
    if not (1 <= stride == op.options["stride_w"] < 256 and 1 <= kernel[0] <= MAX_WINDOW and 1 <= kernel[1] < 256):
        raise build.refuse(op, f"window {tuple(kernel)} with its strides is not supported")
    sizes, outputs, before = build.shape(source, op)[:2], build.shape(op.outputs[0], op)[:2], []
    for size, out, taps in zip(sizes, outputs, kernel, strict=True):
        same = op.options["padding"] == "SAME"
        padding = max((out - 1) * stride + taps - size, 0) if same else 0
        if out != (-(-size // stride) if same else (size - taps) // stride + 1):
            raise build.refuse(op, f"its window does not turn {sizes} into {outputs} pixels")
        before.append(padding // 2)
    top, left = before
    if absorb and source in build.padded:
        source, more_top, more_left = build.padded[source]
        top, left = top + more_top, left + more_left
    if max(top, left) > 255:
        raise build.refuse(op, "padding above 255 is not supported")
    fields = {"in_width": build.shape(source, op)[1], "out_width": outputs[1], "kernel_h": kernel[0],
              "kernel_w": kernel[1], "stride": stride, "pad_left": left}  # fmt: skip
    return source, fields, {"window": kernel[0], "stride": stride, "pad": top}


def _rescalings(build: Builder, op: Op, flat: np.ndarray) -> dict:
    """Bias (None: all zero), multiplier and shift of each output channel, and both zero points.

    `flat`: (out channels, taps). A channel that 31 bits can't hold but whose output is constant (pruned channels
    have tiny scales and huge biases) becomes that constant, its taps 0 here; InputError for other ones.
    """
    quantization = build.graph.tensors[op.inputs[1]].quantization
    if quantization is None or quantization.scale.size not in (1, len(flat)) or quantization.zero_point.any():
        raise build.refuse(op, "weights need a scale, or one each output channel, and zero points of 0")
    bias = build.constant(op, 2, "int32")
    bias = np.zeros(len(flat), np.int64) if bias is None else bias.reshape(-1).astype(np.int64)
    if len(bias) != len(flat):
        raise build.refuse(op, f"{len(bias)} biases for {len(flat)} channels")
    (in_scale, in_zero), (out_scale, out_zero) = (build.quantization(i, op) for i in (op.inputs[0], op.outputs[0]))
    ends = np.sort([flat * (-128 - in_zero), flat * (127 - in_zero)], axis=0).sum(2) + bias  # least and most, (2, out)
    pairs = []
    for channel, scale in enumerate(np.broadcast_to(quantization.scale, len(flat))):
        real = float(in_scale) * float(scale) / float(out_scale)
        largest = int(np.abs(flat[channel]).sum() * max(127 - in_zero, in_zero + 128) + abs(bias[channel]))
        pair = arithmetic.rescaling(real, largest)
        if pair is None:
            results = {arithmetic.rescaled(int(end), *arithmetic.fixed_point(real)) for end in ends[:, channel]}
            results = {min(max(result, -128 - out_zero), 127 - out_zero) for result in results}
            if len(results) > 1 or largest >= 1 << 31:
                raise build.refuse(op, f"channel {channel} needs more than 32 bits; quantize with wider ranges")
            flat[channel], bias[channel], pair = 0, 2 * results.pop(), arithmetic.HALF
        pairs.append(pair)
    multiplier, shift = zip(*pairs, strict=True)
    return {"bias": bias.astype(np.int32) if bias.any() else None, "multiplier": np.array(multiplier, np.int32),
            "shift": np.array(shift, np.int8), "in_zero": in_zero, "out_zero": out_zero}  # fmt: skip


def _weights(build: Builder, op: Op, axes: int) -> np.ndarray:
    build.inputs(op, 1)
    weights = build.constant(op, 1, "int8")
    if weights is None or weights.ndim != axes or not weights.size:
        raise build.refuse(op, f"needs weights with {axes} axes")
    return weights


def _convolution(build: Builder, op: Op, weights: np.ndarray | None = None) -> None:
    """CONV_2D, or a depthwise convolution of one channel with weights (out channels, height, width, in channels)."""
    weights = _weights(build, op, 4) if weights is None else weights
    channels, out_channels = (build.shape(i, op)[2] for i in (op.inputs[0], op.outputs[0]))
    if (out_channels, channels) != (weights.shape[0], weights.shape[3]):
        raise build.refuse(op, f"weights {list(weights.shape)} do not fit {channels} -> {out_channels} channels")
    source, fields, geometry = _window(build, op, weights.shape[1:3])
    flat = weights.reshape(out_channels, -1).astype(np.int64)
    rescalings = _rescalings(build, op, flat)
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8))).astype(np.int8)
    pixels = build.alias.get(source, source) in build.pixels
    params = {"weights": padded, **rescalings, "flip": 0x80808080 if pixels else 0,
              "channels": channels, "out_channels": out_channels, **fields}  # fmt: skip
    pointwise = fields["kernel_h"] == fields["kernel_w"] == fields["stride"] == 1
    direct = pointwise and channels % 8 == 0
    build.emit(op, "reid_conv_row", "reid_conv", params, (source,), **geometry, trailing=pointwise,
               scratch_bytes=padded.shape[1] * (8 if direct else 9),
               macs=build.graph.tensors[op.outputs[0]].size * flat.shape[1])  # fmt: skip


def _depthwise_conv_2d(build: Builder, op: Op) -> None:
    weights = _weights(build, op, 4)
    channels = build.shape(op.inputs[0], op)[2]
    if channels == 1 and weights.shape[0] == 1:
        _convolution(build, op, weights.transpose(3, 1, 2, 0))
        return
    if (weights.shape[0], weights.shape[3], build.shape(op.outputs[0], op)[2]) != (1, channels, channels):
        raise build.refuse(op, "a depth multiplier on several channels is not supported")
    source, fields, geometry = _window(build, op, weights.shape[1:3])
    flat = weights.reshape(-1, channels).T.astype(np.int64)
    params = {**_rescalings(build, op, flat), "channels": channels, **fields}
    bias = np.zeros(channels, np.int64) if params["bias"] is None else params["bias"]
    params["bias"] = (bias - params["in_zero"] * flat.sum(1)).astype(np.int32)
    right = (fields["out_width"] - 1) * fields["stride"] + 3 - fields["pad_left"] - fields["in_width"]
    narrow = max(right, fields["pad_left"]) <= 1 < fields["in_width"]
    fast = weights.shape[1:3] == (3, 3) and fields["stride"] in (1, 2) and narrow
    params["weights"] = (flat[:, TAP_ORDER] if fast else flat).astype(np.int8)
    kernel = "reid_depthwise3_row" if fast else "reid_depthwise_row"
    build.emit(op, kernel, "reid_depthwise", params, (source,), **geometry,
               scratch_bytes=fields["in_width"] * channels,
               macs=build.graph.tensors[op.outputs[0]].size * flat.shape[1])  # fmt: skip


def _fully_connected(build: Builder, op: Op) -> None:
    weights = _weights(build, op, 2)
    source, target = build.graph.tensors[op.inputs[0]], build.graph.tensors[op.outputs[0]]
    if op.options["weights_format"] or weights.shape != (target.size, source.size) or max(weights.shape) > 0xFFFF:
        raise build.refuse(op, f"weights {list(weights.shape)} do not fit {source.size} -> {target.size}")
    flat = weights.astype(np.int64)
    params = _rescalings(build, op, flat)
    if np.ptp(params["multiplier"]) or np.ptp(params["shift"]):
        raise build.refuse(op, "needs one scale for all weights; use a 1x1 convolution for one each channel")
    params |= {"weights": flat.astype(np.int8), "multiplier": int(params["multiplier"][0]),
               "shift": int(params["shift"][0]), "inputs": source.size, "outputs": target.size}  # fmt: skip
    build.emit(op, "reid_dense_row", "reid_dense", params, op.inputs[:1], window=0, macs=weights.size)


# --- Element by element ---------------------------------------------------------------------------------------------


def _sum(build: Builder, op: Op) -> None:
    a, b = sorted(build.inputs(op, 2), key=lambda i: -build.quantization(i, op)[0])
    if not build.shape(a, op) == build.shape(b, op) == build.shape(op.outputs[0], op):
        raise build.refuse(op, "only tensors of one shape are added")
    (scale_a, zero_a), (scale_b, zero_b), (scale, zero) = (build.quantization(i, op) for i in (a, b, op.outputs[0]))
    (multiplier, shift), (out_multiplier, out_shift) = arithmetic.add_rescalings(scale_a, scale_b, scale)
    if not 0 <= min(shift, out_shift) <= max(shift, out_shift) <= arithmetic.MAX_RIGHT_SHIFT:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    params = {"multiplier": multiplier, "shift": shift, "out_multiplier": out_multiplier, "out_shift": out_shift,
              "zero": (zero_a, zero_b, zero), "count": _row_bytes(build, op)}  # fmt: skip
    build.emit(op, "reid_sum_row", "reid_sum", params, (a, b), trailing=True)


def _mul(build: Builder, op: Op) -> None:
    a, b = sorted(build.inputs(op, 2), key=lambda i: -build.graph.tensors[i].size)
    shape, other = build.shape(a, op), build.shape(b, op)
    if shape != build.shape(op.outputs[0], op) or other not in (shape, (1, 1, shape[2])):
        raise build.refuse(op, f"{shape} x {other}: needs one shape, or one factor for each channel")
    (scale_a, zero_a), (scale_b, zero_b), (scale, zero) = (build.quantization(i, op) for i in (a, b, op.outputs[0]))
    pair = arithmetic.rescaling(arithmetic.mul_rescaling(scale_a, scale_b, scale), 255 * 255)
    if pair is None:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    count = _row_bytes(build, op)
    params = {"multiplier": pair[0], "shift": pair[1], "zero": (zero_a, zero_b, zero), "count": count,
              "period": count if other == shape else shape[2]}  # fmt: skip
    build.emit(op, "reid_product_row", "reid_product", params, (a, b), trailing=True)


def _logistic(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    scale, zero = build.quantization(source, op)
    if build.quantization(op.outputs[0], op) != (np.float32(1 / 256), -128):
        raise build.refuse(op, "output must have scale 1/256 and zero point -128")
    params = {**arithmetic.curve(float(scale), 4), "in_zero": zero, "count": _row_bytes(build, op)}
    build.emit(op, "reid_logistic_row", "reid_curve", params, (source,), trailing=True)


def _softmax(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    scale, zero = build.quantization(source, op)
    height, width, channels = build.shape(source, op)
    if height * width != 1 or build.quantization(op.outputs[0], op) != (np.float32(1 / 256), -128):
        raise build.refuse(op, "needs one vector in, and scale 1/256 with zero point -128 out")
    params = {**arithmetic.curve(float(scale) * float(op.options["beta"]), 5), "in_zero": zero, "count": channels}
    build.emit(op, "reid_softmax_row", "reid_curve", params, (source,), window=0)


def _quantize(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    tensor, target = build.graph.tensors[source], build.graph.tensors[op.outputs[0]]
    if tensor.dtype == "uint8" and source in build.graph.inputs and target.dtype == "int8":
        before, after = tensor.quantization, target.quantization
        if before is None or after is None or before.scale[0] != after.scale[0]:
            raise build.refuse(op, "the image's scale must stay as it is")
        if before.zero_point[0] - after.zero_point[0] != 128:
            raise build.refuse(op, "the image's zero point must move by 128")
        build.alias[target.index] = source
        build.pixels.add(source)
        return
    (in_scale, in_zero), (out_scale, out_zero) = build.quantization(source, op), build.quantization(target.index, op)
    pair = arithmetic.rescaling(float(in_scale) / float(out_scale), 255)
    if pair is None:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    params = {"multiplier": pair[0], "shift": pair[1], "in_zero": in_zero, "out_zero": out_zero,
              "count": _row_bytes(build, op)}  # fmt: skip
    build.emit(op, "reid_scale_row", "reid_scale", params, (source,), trailing=True)


def _dequantize(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    if op.outputs[0] not in (-1, *build.graph.outputs):
        raise build.refuse(op, "only the network's output may be float32")
    scale, zero = build.quantization(source, op)
    rows = build.rows[build.alias.get(source, source)]
    if 4 * rows.row_bytes > 0xFFFF:
        raise build.refuse(op, f"{rows.row_bytes} numbers in a row of the output; at most 16,383 are supported")
    params = {"scale": float(scale), "zero": zero, "count": rows.row_bytes}
    node = Node(op.index, "reid_float_row", "reid_float", params, (build.alias.get(source, source),), op.outputs[0])
    build.append(node, Rows(rows.height, 4 * rows.row_bytes))


def _row_bytes(build: Builder, op: Op) -> int:
    _, width, channels = build.shape(op.outputs[0], op)
    return width * channels


# --- Shapes, borders and pooling ------------------------------------------------------------------------------------


def _reshape(build: Builder, op: Op) -> None:
    source, target = op.inputs[0], op.outputs[0]
    build.quantization(source, op)
    if sorted(build.shape(source, op)) != sorted(build.shape(target, op)) or build.shape(source, op)[0] != 1:
        raise build.refuse(op, "only a vector may change its shape")
    build.alias[target] = build.alias.get(source, source)


def _pad(build: Builder, op: Op) -> None:
    """PAD and PADV2: absorbed where every consumer pads with the same value, else a node.

    Convolutions by 1x1 read pixels from where they lie, and may overwrite them: their padding is a node.
    """
    source, target = op.inputs[0], op.outputs[0]
    amounts = build.constant(op, 1, "int32")
    shape, padded = build.shape(source, op), build.shape(target, op)
    if amounts is None or amounts.shape != (4, 2) or amounts.min() < 0 or amounts[[0, 3]].any():
        raise build.refuse(op, "only height and width may be padded, by constant amounts")
    (top, bottom), (left, right) = amounts[1:3].tolist()
    if padded != (shape[0] + top + bottom, shape[1] + left + right, shape[2]):
        raise build.refuse(op, f"turns {shape} into {padded}, which its amounts do not")
    _, zero = build.quantization(target, op)
    constant = build.constant(op, 2, "int8")
    value = zero if constant is None else int(constant.reshape(-1)[0])
    border = {"CONV_2D": zero, "DEPTHWISE_CONV_2D": zero, "MAX_POOL_2D": -128}
    consumers = build.graph.consumers.get(target, [])
    absorbed = all(border.get(consumer.kind) == value and not _is_pointwise(build, consumer) for consumer in consumers)
    if target not in build.graph.outputs and absorbed:
        build.padded[target] = (source, top, left)
        return
    params = {"value": value, "row_bytes": shape[1] * shape[2], "left_bytes": left * shape[2],
              "right_bytes": right * shape[2]}  # fmt: skip
    build.emit(op, "reid_border_row", "reid_border", params, (source,), pad=top)


def _is_pointwise(build: Builder, op: Op) -> bool:
    """Whether an operator is a convolution by 1x1."""
    weights = [build.graph.tensors[index].shape for index in op.inputs[1:2]]
    return op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and any(shape[1:3] == (1, 1) for shape in weights)


def _pool(build: Builder, op: Op, kernel: str, absorb: bool) -> None:
    build.inputs(op, 1)
    source, fields, geometry = _window(build, op, (op.options["filter_h"], op.options["filter_w"]), absorb)
    if build.quantization(op.inputs[0], op) != build.quantization(op.outputs[0], op):
        raise build.refuse(op, "input and output must share one scale")
    channels = build.shape(source, op)[2]
    build.emit(op, kernel, "reid_window", {"channels": channels, **fields}, (source,), **geometry)


def _mean(build: Builder, op: Op) -> None:
    source, target = op.inputs[0], op.outputs[0]
    axes = build.constant(op, 1, "int32")
    height, width, channels = build.shape(source, op)
    if axes is None or {int(axis) % 4 for axis in axes.reshape(-1)} != {1, 2} or build.shape(target, op)[2] != channels:
        raise build.refuse(op, "only the mean over height and width is supported")
    (in_scale, in_zero), (out_scale, out_zero) = build.quantization(source, op), build.quantization(target, op)
    multiplier, shift = arithmetic.mean_rescaling(in_scale, out_scale, height * width)
    largest = height * width * 255 << (max(-shift, 0) + 1)
    if shift > arithmetic.MAX_RIGHT_SHIFT or largest >= 1 << 31 or height * width > 0xFFFF:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    params = {"multiplier": multiplier, "shift": shift, "in_zero": in_zero, "out_zero": out_zero,
              "pixels": height * width, "channels": channels}  # fmt: skip
    build.emit(op, "reid_average_all", "reid_average", params, (source,), window=0)


HANDLERS: dict[str, Callable[[Builder, Op], None]] = {
    "ADD": _sum, "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise_conv_2d, "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected, "LOGISTIC": _logistic, "MEAN": _mean, "MUL": _mul, "PAD": _pad, "PADV2": _pad,
    "QUANTIZE": _quantize, "RESHAPE": _reshape, "SOFTMAX": _softmax,
    "MAX_POOL_2D": partial(_pool, kernel="reid_max_pool_row", absorb=True),
    "AVERAGE_POOL_2D": partial(_pool, kernel="reid_average_pool_row", absorb=False),
}  # fmt: skip
