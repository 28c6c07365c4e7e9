"""Lowering a .tflite graph to nodes of C kernels; padding and the image's sign are absorbed by their consumers."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from reidlab.deploy import arithmetic
from reidlab.deploy.dilation import as_dilated, dilated
from reidlab.deploy.functions import FUNCTIONS, function_table
from reidlab.deploy.network import ALL_INTEGER, Builder, Network, Node, Rows
from reidlab.deploy.tflite_graph import WEIGHT_AXES, Graph, Op, Tensor
from reidlab.errors import InputError

MAX_WINDOW = 64  # REID_MAX_WINDOW of the C executor
OPEN_SIZES = "the file leaves sizes open; convert it with a fixed batch of 1"
MAX_POOLED = 2047  # pixels of a window that the vectors' mean is exact for
# A 3x3 kernel's taps in the order that the C kernel reads them: see reid_words.h.
TAP_ORDER = [0, 1, 3, 4, 2, 6, 5, 7, 8]


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
    _dequantize(build, Op(graph.ops[-1].index + 1, "DEQUANTIZE", (tensor.index,), (-1,)))
    return -1


# --- Convolutions ---------------------------------------------------------------------------------------------------


def _window(build: Builder, op: Op, kernel: tuple[int, int], absorb: bool = True) -> tuple[int, dict, dict]:
    """(input tensor, window fields of the C struct, row geometry of the node), a PAD in front absorbed."""
    strides, source = (op.options["stride_h"], op.options["stride_w"]), op.inputs[0]
    if not (1 <= min(strides) <= max(strides) < 256 and 1 <= kernel[0] <= MAX_WINDOW and 1 <= kernel[1] < 256):
        raise build.refuse(op, f"window {tuple(kernel)} with strides {strides} is not supported")
    sizes, outputs, before = build.shape(source, op)[:2], build.shape(op.outputs[0], op)[:2], []
    for size, out, taps, stride in zip(sizes, outputs, kernel, strides, strict=True):
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
              "kernel_w": kernel[1], "stride": strides[1], "pad_left": left}  # fmt: skip
    return source, fields, {"window": kernel[0], "stride": strides[0], "pad": top}


def _dilated(build: Builder, op: Op, weights: np.ndarray) -> np.ndarray:
    """Weights (A, height, width, B) with zeros between the taps of a dilated window; InputError for steps below 1."""
    steps = op.options["dilation_h"], op.options["dilation_w"]
    if min(steps) < 1:
        raise build.refuse(op, f"a dilation of {steps}; the file is damaged")
    height, width = ((taps - 1) * step + 1 for taps, step in zip(weights.shape[1:3], steps, strict=True))
    spread = np.zeros((weights.shape[0], height, width, weights.shape[3]), np.int8)
    spread[:, :: steps[0], :: steps[1]] = weights
    return spread


def _rescalings(build: Builder, op: Op, flat: np.ndarray) -> dict:
    """Bias (None: all zero), multiplier and shift of each output channel, and both zero points.

    `flat`: (out channels, taps). A channel that 31 bits can't hold but whose output hardly varies (pruned channels
    have tiny scales and huge biases) gets other numbers of the same results; InputError for other ones.
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
        least, most = ends[:, channel].tolist()
        largest = np.abs(flat[channel]).sum() * max(127 - in_zero, in_zero + 128) + abs(bias[channel])  # on the way
        pair = arithmetic.rescaling(real, max(abs(least), abs(most)))
        if pair is None:
            few = arithmetic.of_few_results(least, most, real, -128 - out_zero, 127 - out_zero)
            if few is None:
                raise build.refuse(op, f"channel {channel} needs more than 32 bits; quantize with wider ranges")
            taps, offset, pair = few
            flat[channel] *= taps
            bias[channel] = bias[channel] * taps + offset
        if largest >= 1 << 31:
            raise build.refuse(op, f"channel {channel} sums more than 32 bits; quantize with wider ranges")
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
    weights = _dilated(build, op, _weights(build, op, 4)) if weights is None else weights
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
    pointwise = fields["kernel_h"] == fields["kernel_w"] == fields["stride"] == geometry["stride"] == 1
    direct = pointwise and channels % 8 == 0
    build.emit(op, "reid_conv_row", "reid_conv", params, (source,), **geometry, trailing=pointwise,
               scratch_bytes=padded.shape[1] * (8 if direct else 9),
               macs=build.graph.tensors[op.outputs[0]].size * flat.shape[1])  # fmt: skip


def _depthwise_conv_2d(build: Builder, op: Op) -> None:
    weights = _dilated(build, op, _weights(build, op, 4))
    channels = build.shape(op.inputs[0], op)[2]
    if channels == 1 and weights.shape[0] == 1:
        _convolution(build, op, weights.transpose(3, 1, 2, 0))
        return
    out_channels = build.shape(op.outputs[0], op)[2]
    if weights.shape[0] != 1 or weights.shape[3] != out_channels or out_channels % channels:
        raise build.refuse(op, f"weights {list(weights.shape)} do not fit {channels} -> {out_channels} channels")
    source, fields, geometry = _window(build, op, weights.shape[1:3])
    if (times := out_channels // channels) > 1:
        source, channels = _repeated(build, op, source, 1, times, 1), out_channels
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


def _repeated(build: Builder, op: Op, source: int, size: int, times: int, rows: int) -> int:
    """A tensor with each `size` bytes `times`, and each row so made `rows` times, as one row."""
    source, made = build.source(op, source), build.new_tensor()
    before = build.rows[source]
    after = Rows(before.height, before.row_bytes * times * rows)
    if times > 255 or after.row_bytes > 0xFFFF:
        raise build.refuse(op, f"makes rows of {after.row_bytes} bytes; at most 65,535 are supported")
    params = {"bytes": size, "count": before.row_bytes // size, "times": times, "rows": rows}
    build.append(Node(op.index, "reid_repeat_row", "reid_repeat", params, (source,), made), after)
    return made


def _fully_connected(build: Builder, op: Op) -> None:
    """One vector, or each of several."""
    weights = _weights(build, op, 2)
    source, target = build.graph.tensors[op.inputs[0]], build.graph.tensors[op.outputs[0]]
    outputs, inputs = weights.shape
    times = source.size // inputs
    fits = (times * inputs, times * outputs) == (source.size, target.size) and max(outputs, inputs, times) <= 0xFFFF
    if op.options["weights_format"] or not fits:
        raise build.refuse(op, f"weights {list(weights.shape)} do not fit {source.size} -> {target.size}")
    flat = weights.astype(np.int64)
    params = _rescalings(build, op, flat)
    each = int(np.ptp(params["multiplier"]) + np.ptp(params["shift"]) > 0)
    for name in ("multiplier", "shift"):
        params[name] = params[name] if each else params[name][:1]
    params |= {"weights": flat.astype(np.int8), "inputs": inputs, "outputs": outputs, "scales": each}
    cut = (Rows(times, inputs), Rows(times, outputs)) if times > 1 else None
    how = {"window": int(times > 1), "macs": times * weights.size}
    build.emit(op, "reid_dense_row", "reid_dense", params, op.inputs[:1], cut, **how)


# --- Element by element ---------------------------------------------------------------------------------------------


def _operands(build: Builder, op: Op) -> tuple[list[int], np.ndarray | None, int]:
    """(activations, the constant in place of the second, after how many elements the second repeats).

    The second has the first's shape, or one number for each channel. A constant map is one row, as all is then.
    """
    a, b = sorted(
        build.inputs(op, 2), key=lambda i: (build.graph.tensors[i].data is not None, -build.graph.tensors[i].size)
    )
    shape, constant = build.shape(a, op), build.graph.tensors[b].data
    other = build.shape(b, op)
    if shape != build.shape(op.outputs[0], op) or other not in (shape, (1, 1, shape[2])):
        raise build.refuse(op, f"{shape} and {other}: needs one shape, or one number for each channel")
    if constant is None:
        return [a, b], None, shape[1] * shape[2] if other == shape else shape[2]
    if math.prod(other) > 0xFFFF:
        raise build.refuse(op, f"a constant of {math.prod(other)} numbers; at most 65,535 are supported")
    return [a, b], build.constant(op, op.inputs.index(b), "int8"), math.prod(other)


def _scale_of(build: Builder, op: Op, tensor: int) -> tuple[np.float32, int]:
    """(scale, zero point) of an operand, which may be constant."""
    quantization = build.graph.tensors[tensor].quantization
    if build.graph.tensors[tensor].data is None or quantization is None:
        return build.quantization(tensor, op)
    return quantization.scale[0], int(quantization.zero_point[0])


def _sum(build: Builder, op: Op) -> None:
    """ADD and SUB."""
    if _is_function(build, op):
        return _table(build, op)
    operands, constant, period = _operands(build, op)
    pairs = [_scale_of(build, op, tensor) for tensor in operands]
    larger = int(pairs[1][0] > pairs[0][0])
    (scale_a, zero_a), (scale_b, zero_b) = pairs[larger], pairs[1 - larger]
    scale, zero = build.quantization(op.outputs[0], op)
    (multiplier, shift), (out_multiplier, out_shift) = arithmetic.add_rescalings(scale_a, scale_b, scale)
    if not 0 <= min(shift, out_shift) <= max(shift, out_shift) <= arithmetic.MAX_RIGHT_SHIFT:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    count, cut = _rows_for(build, op, operands[0], period)
    params = {"multiplier": multiplier, "shift": shift, "out_multiplier": out_multiplier, "out_shift": out_shift,
              "zero": (zero_a, zero_b, zero), "count": count}  # fmt: skip
    if op.kind == "ADD" and constant is None and period == count:
        order = (operands[larger], operands[1 - larger])
        return build.emit(op, "reid_sum_row", "reid_sum", params, order, trailing=True)
    signs = [
        -1 if op.kind == "SUB" and tensor == op.inputs[1] else 1 for tensor in (operands[larger], operands[1 - larger])
    ]
    params = {"sum": params, "constant": constant, "sign": tuple(signs), "larger": larger, "period": period}
    activations = operands if constant is None else operands[:1]
    build.emit(op, "reid_signed_sum_row", "reid_signed_sum", params, tuple(activations), cut, trailing=True)


def _mul(build: Builder, op: Op) -> None:
    if _is_function(build, op):
        return _table(build, op)
    operands, constant, period = _operands(build, op)
    (scale_a, zero_a), (scale_b, zero_b) = (_scale_of(build, op, tensor) for tensor in operands)
    scale, zero = build.quantization(op.outputs[0], op)
    pair = arithmetic.rescaling(arithmetic.mul_rescaling(scale_a, scale_b, scale), 255 * 255)
    if pair is None:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    count, cut = _rows_for(build, op, operands[0], period)
    params = {"constant": constant, "multiplier": pair[0], "shift": pair[1], "zero": (zero_a, zero_b, zero),
              "count": count, "period": period}  # fmt: skip
    activations = operands if constant is None else operands[:1]
    build.emit(op, "reid_product_row", "reid_product", params, tuple(activations), cut, trailing=True)


def _extreme(build: Builder, op: Op) -> None:
    """MAXIMUM and MINIMUM."""
    if _is_function(build, op):
        return _table(build, op)
    operands, constant, period = _operands(build, op)
    if len({build.quantization(op.outputs[0], op), *(_scale_of(build, op, tensor) for tensor in operands)}) > 1:
        raise build.refuse(op, "its tensors have different scales; quantize the model again")
    count, cut = _rows_for(build, op, operands[0], period)
    params = {"constant": constant, "is_least": int(op.kind == "MINIMUM"), "count": count, "period": period}
    activations = operands if constant is None else operands[:1]
    build.emit(op, "reid_extreme_row", "reid_extreme", params, tuple(activations), cut, trailing=True)


def _prelu(build: Builder, op: Op) -> None:
    if _is_function(build, op):
        return _table(build, op)
    operands, constant, period = _operands(build, op)
    if constant is None:
        raise build.refuse(op, "needs constant slopes")
    (in_scale, in_zero), (slope_scale, slope_zero) = (_scale_of(build, op, tensor) for tensor in operands)
    scale, zero = build.quantization(op.outputs[0], op)
    above = arithmetic.rescaling(float(in_scale) / float(scale), 255)
    below = arithmetic.rescaling(float(in_scale) * float(slope_scale) / float(scale), 255 * 255)
    if above is None or below is None:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    count, cut = _rows_for(build, op, operands[0], period)
    params = {"slopes": constant, "multiplier": (above[0], below[0]), "shift": (above[1], below[1]),
              "zero": (in_zero, slope_zero, zero), "count": count, "period": period}  # fmt: skip
    build.emit(op, "reid_prelu_row", "reid_prelu", params, (operands[0],), cut, trailing=True)


def _is_function(build: Builder, op: Op) -> bool:
    """Whether an operator is a function of one code: all its other inputs are one constant number."""
    tensors = [build.graph.tensors[tensor] for tensor in op.inputs if tensor >= 0]
    varying = [tensor for tensor in tensors if tensor.data is None]
    return len(varying) == 1 and all(tensor.size == 1 for tensor in tensors if tensor.data is not None)


def _table(build: Builder, op: Op) -> None:
    """Any function of one code, as the reference kernel's answer to all 256 of them."""
    if not _is_function(build, op):
        raise build.refuse(op, "with this second input is not supported by the C export")
    (source,) = (tensor for tensor in op.inputs if build.graph.tensors[tensor].data is None)
    build.quantization(source, op)
    codes = function_table(build.graph, op)
    params = {"codes": codes, "count": _row_bytes(build, op, source)}
    build.emit(op, "reid_table_row", "reid_table", params, (source,), trailing=True)


def _logistic(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    scale, zero = build.quantization(source, op)
    if build.quantization(op.outputs[0], op) != (np.float32(1 / 256), -128):
        raise build.refuse(op, "output must have scale 1/256 and zero point -128")
    params = {**arithmetic.curve(float(scale), 4), "in_zero": zero, "count": _row_bytes(build, op, source), "pixels": 1}
    build.emit(op, "reid_logistic_row", "reid_curve", params, (source,), trailing=True)


def _softmax(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    scale, zero = build.quantization(source, op)
    row_bytes, channels = _row_bytes(build, op, source), build.shape(source, op)[2]
    if build.quantization(op.outputs[0], op) != (np.float32(1 / 256), -128):
        raise build.refuse(op, "output must have scale 1/256 and zero point -128")
    params = {**arithmetic.curve(float(scale) * float(op.options["beta"]), 5), "in_zero": zero, "count": channels,
              "pixels": row_bytes // channels}  # fmt: skip
    build.emit(op, "reid_softmax_row", "reid_curve", params, (source,))


def _quantize(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    target = op.outputs[0]
    out_scale, out_zero = build.quantization(target, op)
    if build.graph.tensors[source].dtype == "float32" and source in build.graph.inputs:
        if build.input not in (None, (float(out_scale), out_zero + 128)):
            raise build.refuse(op, "the image is quantized twice, not alike")
        build.input, build.alias[target] = (float(out_scale), out_zero + 128), source
        build.pixels.add(source)
        return
    in_scale, in_zero = build.quantization(source, op)
    if (in_scale, in_zero) == (out_scale, out_zero):
        build.alias[target] = build.alias.get(source, source)
        if build.graph.tensors[source].dtype == "uint8":
            build.pixels.add(source)
        return
    if build.graph.tensors[source].dtype == "uint8":
        build.pixels.add(source)
    pair = arithmetic.rescaling(float(in_scale) / float(out_scale), 255)
    if pair is None:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    params = {"multiplier": pair[0], "shift": pair[1], "in_zero": in_zero, "out_zero": out_zero,
              "count": _row_bytes(build, op, source)}  # fmt: skip
    build.emit(op, "reid_scale_row", "reid_scale", params, (source,), trailing=True)


def _dequantize(build: Builder, op: Op) -> None:
    (source,) = build.inputs(op, 1)
    if op.outputs[0] not in (-1, *build.graph.outputs):
        raise build.refuse(op, f"only the network's output may be float32, since the C computes in int8; {ALL_INTEGER}")
    scale, zero = build.quantization(source, op)
    source = build.source(op, source)
    source = build.views.get(source, source)
    rows = build.rows[source]
    if 4 * rows.row_bytes > 0xFFFF:
        raise build.refuse(op, f"{rows.row_bytes} numbers in a row of the output; at most 16,383 are supported")
    params = {"scale": float(scale), "zero": zero, "count": rows.row_bytes}
    node = Node(op.index, "reid_float_row", "reid_float", params, (source,), op.outputs[0])
    build.append(node, Rows(rows.height, 4 * rows.row_bytes))


def _rows_for(build: Builder, op: Op, source: int, period: int) -> tuple[int, tuple[Rows, Rows] | None]:
    """(bytes of a row, how to cut) for a second operand that repeats after `period` elements."""
    count = _row_bytes(build, op, source)
    return (period, (Rows(1, period), Rows(1, period))) if period > count else (count, None)


def _row_bytes(build: Builder, op: Op, source: int) -> int:
    """Size of a row of an operator whose output has the shape of its input."""
    shapes = [build.shape(tensor, op) for tensor in (source, op.outputs[0])]
    if shapes[0] != shapes[1]:
        raise build.refuse(op, f"does not turn {shapes[0]} into {shapes[1]}; the file is damaged")
    return shapes[0][1] * shapes[0][2]


# --- Shapes, borders and pooling ------------------------------------------------------------------------------------


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


def _axis(build: Builder, op: Op, tensor: int, axis: int) -> int:
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
    made = _repeated(build, op, op.inputs[0], channels, times, rows)
    build.view(op.outputs[0], made, Rows(more, out_width * channels))


def _concatenation(build: Builder, op: Op) -> None:
    """Inputs side by side, two at a time; along the height, or of fewer axes, as one row each."""
    axis = _axis(build, op, op.outputs[0], op.options["axis"])
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
    axis, shape = _axis(build, op, source, axis), build.shape(source, op)
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
    source, fields, geometry = _window(build, op, size, absorb)
    build.emit(op, kernel, "reid_window", {"channels": channels, **fields}, (source,), **geometry)


def _reduced(build: Builder, op: Op) -> tuple[int, int, int]:
    """Shape of an operator over neighboring axes: (how often, how many taken together, of how many numbers each)."""
    axes = build.constant(op, 1, "int32")
    if axes is None:
        raise build.refuse(op, "needs constant axes")
    given = {_axis(build, op, op.inputs[0], int(axis)) for axis in axes.reshape(-1)}
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
    "ADD": _sum, "SUB": _sum, "MUL": _mul, "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected, "QUANTIZE": _quantize, "DEQUANTIZE": _dequantize,
    "LOGISTIC": _logistic, "SOFTMAX": _softmax, "MEAN": _mean, "REDUCE_MAX": _reduce_max,
    "RESHAPE": _reshape, "SQUEEZE": _reshape, "EXPAND_DIMS": _reshape, "TRANSPOSE": _transpose,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "PAD": _pad, "PADV2": _pad, "CONCATENATION": _concatenation, "SLICE": _slice, "STRIDED_SLICE": _slice,
    "SPLIT": _split, "SPLIT_V": _split, "UNPACK": _split,
    "MAX_POOL_2D": partial(_pool, kernel="reid_max_pool_row", absorb=True),
    "AVERAGE_POOL_2D": partial(_pool, kernel="reid_average_pool_row", absorb=False),
    **dict.fromkeys(FUNCTIONS, _table), "PRELU": _prelu, "MAXIMUM": _extreme, "MINIMUM": _extreme,
}  # fmt: skip
RECURRENT = "recurrent, its state lives on between calls: only feed-forward networks are exported"
NORMALIZED = "part of an instance normalization, which the C export does not do; take a network without it"
UNSUPPORTED = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": RECURRENT, "LSTM": RECURRENT, "SVDF": RECURRENT, "RNN": RECURRENT,
    "UNIDIRECTIONAL_SEQUENCE_RNN": RECURRENT, "VAR_HANDLE": RECURRENT, "CALL_ONCE": RECURRENT,
    "SQUARED_DIFFERENCE": NORMALIZED, "RSQRT": NORMALIZED,
}  # fmt: skip
