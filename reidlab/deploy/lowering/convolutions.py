"""Convolutions and dense layers: windows, weights and the rescaling of each output channel."""

import numpy as np

from reidlab.deploy import arithmetic
from reidlab.deploy.lowering.shapes import repeated
from reidlab.deploy.network import Builder, Rows
from reidlab.deploy.tflite_graph import Op

MAX_WINDOW = 64  # REID_MAX_WINDOW of the C executor
# A 3x3 kernel's taps in the order that the C kernel reads them: see reid_words.h.
TAP_ORDER = [0, 1, 3, 4, 2, 6, 5, 7, 8]


def window_of(build: Builder, op: Op, kernel: tuple[int, int], absorb: bool = True) -> tuple[int, dict, dict]:
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
    source, fields, geometry = window_of(build, op, weights.shape[1:3])
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
    source, fields, geometry = window_of(build, op, weights.shape[1:3])
    if (times := out_channels // channels) > 1:
        source, channels = repeated(build, op, source, 1, times, 1), out_channels
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


HANDLERS = {"CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise_conv_2d, "FULLY_CONNECTED": _fully_connected}
