"""Operators element by element: sums, products, extremes, and functions of one code as tables."""

import math
from collections.abc import Callable

import numpy as np

from reidlab.deploy import arithmetic
from reidlab.deploy.functions import FUNCTIONS, function_table
from reidlab.deploy.network import ALL_INTEGER, Builder, Node, Rows
from reidlab.deploy.tflite_graph import Op

Handler = Callable[[Builder, Op], None]


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


def _activations(operands: list[int], constant: np.ndarray | None) -> tuple[int, ...]:
    """The operands of `_operands` that a kernel is given beside its constant."""
    return tuple(operands if constant is None else operands[:1])


def _scale_of(build: Builder, op: Op, tensor: int) -> tuple[np.float32, int]:
    """(scale, zero point) of an operand, which may be constant."""
    quantization = build.graph.tensors[tensor].quantization
    if build.graph.tensors[tensor].data is None or quantization is None:
        return build.quantization(tensor, op)
    return quantization.scale[0], int(quantization.zero_point[0])


def _sum(build: Builder, op: Op) -> None:
    """ADD and SUB."""
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
    build.emit(
        op, "reid_signed_sum_row", "reid_signed_sum", params, _activations(operands, constant), cut, trailing=True
    )


def _mul(build: Builder, op: Op) -> None:
    operands, constant, period = _operands(build, op)
    (scale_a, zero_a), (scale_b, zero_b) = (_scale_of(build, op, tensor) for tensor in operands)
    scale, zero = build.quantization(op.outputs[0], op)
    pair = arithmetic.rescaling(arithmetic.mul_rescaling(scale_a, scale_b, scale), 255 * 255)
    if pair is None:
        raise build.refuse(op, "scales differ too much; quantize with wider ranges")
    count, cut = _rows_for(build, op, operands[0], period)
    params = {"constant": constant, "multiplier": pair[0], "shift": pair[1], "zero": (zero_a, zero_b, zero),
              "count": count, "period": period}  # fmt: skip
    build.emit(op, "reid_product_row", "reid_product", params, _activations(operands, constant), cut, trailing=True)


def _extreme(build: Builder, op: Op) -> None:
    """MAXIMUM and MINIMUM."""
    operands, constant, period = _operands(build, op)
    if len({build.quantization(op.outputs[0], op), *(_scale_of(build, op, tensor) for tensor in operands)}) > 1:
        raise build.refuse(op, "its tensors have different scales; quantize the model again")
    count, cut = _rows_for(build, op, operands[0], period)
    params = {"constant": constant, "is_least": int(op.kind == "MINIMUM"), "count": count, "period": period}
    build.emit(op, "reid_extreme_row", "reid_extreme", params, _activations(operands, constant), cut, trailing=True)


def _prelu(build: Builder, op: Op) -> None:
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


def dequantize(build: Builder, op: Op) -> None:
    """The network's output as float32; InputError for any other tensor."""
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


def _or_table(handler: Handler) -> Handler:
    """A handler of two operands, for which one number as the second makes a table."""
    return lambda build, op: (_table if _is_function(build, op) else handler)(build, op)


OF_TWO = {"ADD": _sum, "SUB": _sum, "MUL": _mul, "MAXIMUM": _extreme, "MINIMUM": _extreme, "PRELU": _prelu}
HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(FUNCTIONS, _table),
    **{kind: _or_table(handler) for kind, handler in OF_TWO.items()},
    "QUANTIZE": _quantize, "DEQUANTIZE": dequantize, "LOGISTIC": _logistic, "SOFTMAX": _softmax,
}  # fmt: skip
