"""Each operator of the exported C by itself, at odd sizes, under the sanitizers, against LiteRT's reference kernels."""

import subprocess
from importlib.resources import files

import numpy as np
import pytest
from host import SANITIZERS, compile_c, compile_sources, kernels, needs_gcc, run_c
from tiny_models import RandomNetwork, reference

from reidlab.deploy.lowering import lower
from reidlab.deploy.tflite_graph import parse_graph
from reidlab.errors import InputError

pytestmark = needs_gcc
PIXEL, COLUMN, LINE, MAP = (1, 1, 3), (7, 1, 17), (1, 13, 5), (6, 5, 3)
SHAPES = (PIXEL, COLUMN, LINE, MAP)


def started(shape, seed=0, scale=0.02, zero=17):
    """A network of int8 codes whose zero point isn't -128, and its input."""
    net = RandomNetwork(seed, *shape)
    net.image = net.activation(shape, scale, zero)
    return net, net.image


def check(net, output, folder):
    """The C equals the reference kernels, codes that saturate included; returns the reference's output (N, D)."""
    content = net.content(output)
    compile_c(content, folder)
    images = net.images(5)
    expected = reference(content, (images ^ 128).view(np.int8)).reshape(len(images), -1)
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected)) > 1
    return expected


def numbers(net, values):
    return net.tensor(list(np.shape(values)), dtype="int32", data=values)


def alike(net, source, shape):
    """An activation of another shape, with the scale and zero point of `source`."""
    return net.activation(shape, *net.scales[source])


# --- Convolutions -----------------------------------------------------------------------------------------------------


def conv_pointwise(net, x):
    return net.conv(net.conv(x, 5), 17, stride=2)


def conv_unequal_strides(net, x):
    return net.conv(x, 3, (3, 2), stride=(2, 3))


def conv_valid(net, x):
    height, width, _ = net.shapes[x]
    return net.conv(x, 5, (min(height, 3), min(width, 3)), stride=2, same=False)


def conv_dilated(net, x):
    return net.conv(x, 5, 3, dilation=(3, 2))


def conv_saturates(net, x):
    return net.conv(x, 17, (1, 3), scale=0.002, spread=6)


def depthwise(net, x):
    return net.conv(x, net.shapes[x][2], 3, depthwise=True)


def depthwise_stride_2(net, x):
    return net.conv(x, net.shapes[x][2], 3, stride=2, depthwise=True, relu=True)


def depthwise_unequal_strides(net, x):
    return net.conv(x, net.shapes[x][2], (2, 3), stride=(1, 3), depthwise=True)


def depthwise_dilated(net, x):
    return net.conv(x, net.shapes[x][2], 3, depthwise=True, dilation=2)


def depthwise_multiplied(net, x):
    return net.conv(x, 5 * net.shapes[x][2], 3, depthwise=True)


def depthwise_pointwise(net, x):
    return net.conv(x, net.shapes[x][2], depthwise=True, scale=0.002, spread=6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "layer",
    [conv_pointwise, conv_unequal_strides, conv_valid, conv_dilated, conv_saturates, depthwise, depthwise_stride_2,
     depthwise_unequal_strides, depthwise_dilated, depthwise_multiplied, depthwise_pointwise],
    ids=lambda layer: layer.__name__,
)  # fmt: skip
def test_convolutions(layer, shape, folder):
    net, x = started(shape)
    check(net, layer(net, x), folder)


@pytest.mark.parametrize("seed", range(3))
def test_a_convolution_equals_a_slow_loop_in_integers(seed, folder):
    """By TFLite's quantization specification: sums of 32 bits, high half rounded, shift rounded, zero point, clamp."""
    random = np.random.default_rng(seed)
    height, width, channels, kernel, stride = 5, 7, (1, 3, 17)[seed], (3, 1, 2)[seed], (2, 1, 2)[seed]
    net, x = started((height, width, channels), seed, zero=int(random.integers(-128, 128)))
    y = net.conv(x, 3, kernel, stride, scale=0.02)
    content = net.content(y)
    compile_c(content, folder)
    (in_scale, in_zero), (out_scale, out_zero) = net.scales[x], net.scales[y]
    weights, bias = (net.graph.tensors[index] for index in net.graph.operators[0].inputs[1:])
    taps = net.model.buffers[weights.buffer].data.view(np.int8).reshape(weights.shape).tolist()
    offsets = net.model.buffers[bias.buffer].data.view(np.int32).tolist()
    image = net.images(3)[2:]
    codes = (image[0].astype(int) - 128).tolist()
    rows, columns, _ = net.shapes[y]
    top, left = (max((n - 1) * stride + kernel - size, 0) // 2 for n, size in ((rows, height), (columns, width)))
    expected = []
    for row in range(rows):
        for column in range(columns):
            for out in range(3):
                total = offsets[out]
                for i in range(kernel):
                    for j in range(kernel):
                        at, across = row * stride - top + i, column * stride - left + j
                        if 0 <= at < height and 0 <= across < width:
                            total += sum(taps[out][i][j][c] * (codes[at][across][c] - in_zero) for c in range(channels))
                real = np.float32(in_scale).item() * weights.quantization.scale[out].item() / np.float32(out_scale)
                expected.append(min(max(rescaled(total, real.item()) + out_zero, -128), 127))
    found = run_c(folder, image)[0] / np.float32(out_scale) + out_zero
    np.testing.assert_array_equal(np.rint(found), expected)
    assert len(set(expected)) > 8


def rescaled(value: int, real: float) -> int:
    """value * real, with `real` as 31 bits and a shift, rounded twice, ties of the second time away from zero."""
    fraction, exponent = np.frexp(real)
    high = ((value << max(exponent, 0)) * round(fraction * 2**31) + 2**30) // 2**31
    shift = max(-exponent, 0)
    return (abs(high) + (1 << shift >> 1) >> shift) * (1 if high >= 0 else -1)


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_dense(channels, folder):
    net, x = started((1, 1, channels))
    weights = net.tensor(
        [5, channels], 0.01 * 2.0 ** np.arange(-2, 3), data=net.random.integers(-127, 128, (5, channels))
    )
    check(net, net.op("FULLY_CONNECTED", [x, weights, -1], net.activation((1, 1, 5), 0.01)), folder)


@pytest.mark.parametrize("relu", [0, 1])
def test_dense_of_every_pixel(relu, folder):
    net, x = started(MAP)
    weights = net.tensor([5, 3], 0.01, data=net.random.integers(-127, 128, (5, 3)))
    target = net.activation((6, 5, 5), 0.01, -128 if relu else 3)
    y = net.op("FULLY_CONNECTED", [x, weights, -1], target, keepNumDims=True, fusedActivationFunction=relu)
    check(net, y, folder)


# --- Element by element -----------------------------------------------------------------------------------------------


def add_constants(net, x):
    constant = net.tensor([net.shapes[x][2]], 0.05, -9, data=net.random.integers(-128, 128, net.shapes[x][2]))
    return net.op("ADD", [x, constant], net.activation(net.shapes[x], 0.03), fusedActivationFunction=1)


def constants_less_an_input(net, x):
    constant = net.tensor([1, 1, 1, net.shapes[x][2]], 0.001, 5, data=net.random.integers(-128, 128, net.shapes[x][2]))
    return net.op("SUB", [constant, x], net.activation(net.shapes[x], 0.009))


def add_one_number(net, x):
    return net.op("ADD", [net.tensor([], 0.004, -128, data=100), x], net.activation(net.shapes[x], 0.015))


def add_a_vector(net, x):
    return net.op("ADD", [net.mean(x, 0.007), x], net.activation(net.shapes[x], 0.02))


def add_a_constant_map(net, x):
    shape = net.shapes[x]
    constant = net.tensor([1, *shape], 0.03, 8, data=net.random.integers(-128, 128, shape))
    return net.op("ADD", [x, constant], net.activation(shape, 0.03, -128), fusedActivationFunction=1)


def multiply_by_a_constant_map(net, x):
    constant = net.tensor([*net.shapes[x]], 0.03, 8, data=net.random.integers(-128, 128, net.shapes[x]))
    return net.op("MUL", [constant, x], net.activation(net.shapes[x], 0.02))


def maximum(net, x):
    other = net.op("QUANTIZE", [net.conv(x, net.shapes[x][2])], alike(net, x, net.shapes[x]))
    return net.op("MAXIMUM", [other, x], alike(net, x, net.shapes[x]))


def minimum_of_channels(net, x):
    constant = net.tensor([net.shapes[x][2]], *net.scales[x], data=net.random.integers(-90, 90, net.shapes[x][2]))
    return net.op("MINIMUM", [x, constant], alike(net, x, net.shapes[x]))


def prelu(net, x):
    return net.prelu(x, 0.013)


def prelu_of_each_element(net, x):
    slopes = net.tensor([*net.shapes[x]], 0.0002, 0, data=net.random.integers(-128, 128, net.shapes[x]))
    return net.op("PRELU", [x, slopes], net.activation(net.shapes[x], 0.03))


def subtract(net, x):
    return net.op("SUB", [x, net.conv(x, net.shapes[x][2], scale=0.05)], net.activation(net.shapes[x], 0.03))


def multiply_by_constants(net, x):
    constant = net.tensor([net.shapes[x][2]], 0.03, 40, data=net.random.integers(-128, 128, net.shapes[x][2]))
    return net.op("MUL", [x, constant], net.activation(net.shapes[x], 0.02))


def multiply_by_a_gate(net, x):
    gate = net.op("LOGISTIC", [net.mean(x, 0.01)], net.activation((1, 1, net.shapes[x][2]), 1 / 256, -128))
    return net.op("MUL", [gate, x], net.activation(net.shapes[x], 0.006))


def requantize_finer(net, x):
    return net.op("QUANTIZE", [x], net.activation(net.shapes[x], 0.0011))


def requantize_coarser(net, x):
    return net.op("QUANTIZE", [x], net.activation(net.shapes[x], 0.31))


@pytest.mark.parametrize("shape", [COLUMN, MAP], ids=str)
@pytest.mark.parametrize(
    "layer",
    [add_constants, constants_less_an_input, add_one_number, add_a_vector, add_a_constant_map,
     multiply_by_a_constant_map, maximum, minimum_of_channels, prelu, prelu_of_each_element, subtract,
     multiply_by_constants,
     multiply_by_a_gate, requantize_finer, requantize_coarser],
    ids=lambda layer: layer.__name__,
)  # fmt: skip
def test_element_by_element(layer, shape, folder):
    net, x = started(shape)
    check(net, layer(net, x), folder)


@pytest.mark.parametrize(
    ("kind", "constant", "options"),
    [("TANH", None, {}), ("HARD_SWISH", None, {}), ("LEAKY_RELU", None, {"alpha": 0.1}), ("PRELU", 31, {}),
     ("RELU", None, {}), ("RELU6", None, {}), ("RELU_N1_TO_1", None, {}), ("GELU", None, {"approximate": True}),
     ("ABS", None, {}), ("EXP", None, {}), ("MAXIMUM", 40, {}), ("MINIMUM", 40, {})],
)  # fmt: skip
def test_functions_of_every_code(kind, constant, options, folder):
    net, x = started((16, 16, 1), scale=0.03)
    same = kind in ("MAXIMUM", "MINIMUM")
    scale, zero = {"TANH": (1 / 128, 0)}.get(kind, (0.03, 17) if same else (0.025, -9))
    inputs = [x] if constant is None else [x, net.tensor([1, 1, 1], 0.03, 17, data=constant)]
    content = net.content(net.op(kind, inputs, net.activation((16, 16, 1), scale, zero), **options))
    compile_c(content, folder)
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = reference(content, (images ^ 128).view(np.int8)).reshape(1, -1)
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected)) > 30


def test_softmax_of_each_pixel(folder):
    net, x = started((2, 3, 5), scale=0.1)
    check(net, net.op("SOFTMAX", [x], net.activation((2, 3, 5), 1 / 256, -128), beta=0.7), folder)


# --- Moving codes: the expected ones are numpy's ----------------------------------------------------------------------


def moved(net, output, folder, move):
    """The C equals the reference and what `move` makes of the codes (H, W, C) of an image."""
    found = check(net, output, folder)
    scale, zero = net.scales[net.image]
    images = RandomNetwork(0, *net.shapes[net.image]).images(5)[:2]  # black and white ones need no seed
    codes = np.stack([move(image.astype(int) - 128) for image in images]).reshape(2, -1)
    np.testing.assert_array_equal(found[:2], np.float32(scale) * (codes - zero).astype(np.float32))


@pytest.mark.parametrize("shape", [COLUMN, MAP], ids=str)
@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_concatenation(axis, shape, folder):
    net, x = started(shape)
    higher = net.op("MAXIMUM", [x, net.tensor([1], 0.02, 17, data=-40)], alike(net, x, shape))
    place = (axis - 1) % 3 if axis > 0 else 2
    joined = tuple(3 * size if here == place else size for here, size in enumerate(shape))
    y = net.op("CONCATENATION", [x, higher, x], alike(net, x, joined), axis=axis)
    moved(net, y, folder, lambda codes: np.concatenate([codes, np.maximum(codes, -40), codes], place))


@pytest.mark.parametrize("shape", [PIXEL, MAP], ids=str)
@pytest.mark.parametrize("amounts", [[(0, 0), (2, 1), (0, 3), (0, 0)], [(0, 0), (1, 0), (2, 0), (3, 4)]])
@pytest.mark.parametrize("value", [None, 99])
def test_pad(shape, amounts, value, folder):
    net, x = started(shape)
    padded = tuple(size + before + after for size, (before, after) in zip(shape, amounts[1:], strict=True))
    given = [] if value is None else [net.tensor([1], 0.02, 17, data=value)]
    y = net.op("PAD" if value is None else "PADV2", [x, numbers(net, amounts), *given], alike(net, x, padded))
    moved(net, y, folder, lambda codes: np.pad(codes, amounts[1:], constant_values=17 if value is None else value))


@pytest.mark.parametrize(
    ("begin", "end", "steps", "options", "taken"),
    [
        ([0, 1, 1, 1], [1, 6, 5, 3], [1, 1, 1, 1], {}, np.s_[1:, 1:, 1:]),
        ([0, 0, 4, 0], [1, 5, 5, 3], [1, 2, 3, 1], {"beginMask": 2, "endMask": 6}, np.s_[::2, 4::3, :]),
        ([0, 1, -2, 0], [1, -1, 5, 2], [1, 3, 1, 1], {}, np.s_[1:-1:3, -2:, :2]),
        ([0, -1, 0, 0], [1, 6, 5, 3], [1, 1, 2, 1], {"shrinkAxisMask": 2}, np.s_[-1, ::2, :]),
    ],
)
def test_strided_slice(begin, end, steps, options, taken, folder):
    net, x = started(MAP)
    size = np.zeros(MAP)[taken].shape
    y = net.tensor([1, *size], *net.scales[x])
    net.op("STRIDED_SLICE", [x, *(numbers(net, values) for values in (begin, end, steps))], y, **options)
    moved(net, y, folder, lambda codes: codes[taken])


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 3), (1, 5, 2, 3)], ids=len)
def test_slice_of_fewer_axes(shape, folder):
    """Vectors have no height and no width to begin at."""
    net, x = started((1,) * (4 - len(shape)) + shape[1:])
    if len(shape) < 4:
        x = net.op("RESHAPE", [x, numbers(net, shape)], net.tensor(list(shape), *net.scales[x]))
        net.scales[x] = net.scales[net.image]
    begin, size = [0] * (len(shape) - 1) + [1], [*shape[:-1], -1]
    y = net.tensor([*shape[:-1], 2 if shape[-1] == 3 else 1], *net.scales[x])
    moved(net, net.op("SLICE", [x, numbers(net, begin), numbers(net, size)], y), folder, lambda codes: codes[..., 1:])


@pytest.mark.parametrize("kind", ["SPLIT", "SPLIT_V", "UNPACK"])
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_parts_are_put_together_in_reverse(kind, axis, folder):
    shape = (4, 4, 4)
    net, x = started(shape)
    sizes = {"SPLIT": [2, 2], "SPLIT_V": [1, 3], "UNPACK": [1] * 4}[kind]
    parts = []
    for size in sizes:
        part = [1, *shape]
        part[axis : axis + 1] = [] if kind == "UNPACK" else [size]
        parts.append(net.tensor(part, *net.scales[x]))
    if kind == "SPLIT":
        net.op(kind, [net.tensor([], dtype="int32", data=axis), x], *parts, numSplits=2)
    elif kind == "SPLIT_V":
        net.op(kind, [x, numbers(net, sizes), net.tensor([], dtype="int32", data=axis - 4)], *parts, numSplits=2)
    else:
        net.op(kind, [x], *parts, num=4, axis=axis)
    if kind == "UNPACK":
        shape = tuple(16 if place == 1 else 4 for place in range(2))
        y = net.op("CONCATENATION", parts[::-1], net.tensor([1, 16, 4], *net.scales[x]), axis=1)
        return moved(net, y, folder, lambda codes: np.concatenate(np.moveaxis(codes, axis - 1, 0)[::-1]))
    y = net.op("CONCATENATION", parts[::-1], alike(net, x, shape), axis=axis)
    cut = len(parts) - 1 if kind == "SPLIT_V" else 2
    moved(net, y, folder, lambda codes: np.concatenate(np.split(codes, [cut], axis - 1)[::-1], axis - 1))


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 1, 2), (0, 2, 3, 1), (0, 3, 2, 1), (0, 1, 3, 2)])
@pytest.mark.parametrize("of_image", [True, False])
def test_transpose(order, of_image, folder):
    net, x = started(MAP)
    if not of_image:
        x = net.op("MINIMUM", [x, net.tensor([1], 0.02, 17, data=90)], alike(net, x, MAP))
    axes = [axis - 1 for axis in order[1:]]
    y = net.op("TRANSPOSE", [x, numbers(net, order)], alike(net, x, tuple(MAP[axis] for axis in axes)))
    moved(net, y, folder, lambda codes: np.transpose(codes if of_image else np.minimum(codes, 90), axes))


@pytest.mark.parametrize("times", [(2, 2), (3, 1), (1, 5)])
def test_nearest_neighbors(times, folder):
    net, x = started(MAP)
    size = [MAP[0] * times[0], MAP[1] * times[1]]
    y = net.op("RESIZE_NEAREST_NEIGHBOR", [x, numbers(net, size)], alike(net, x, (*size, 3)), halfPixelCenters=True)
    moved(net, y, folder, lambda codes: codes.repeat(times[0], 0).repeat(times[1], 1))


# --- Pooling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [*SHAPES, (66, 2, 5), (50, 43, 1)], ids=str)
@pytest.mark.parametrize("kind", ["MEAN", "AVERAGE_POOL_2D", "REDUCE_MAX"])
def test_global_pooling_of_any_size(kind, shape, folder):
    """Beyond 64 rows or 2,047 pixels a window is another kernel's."""
    net, x = started(shape)
    if kind == "AVERAGE_POOL_2D":
        y = net.pool(x, kind, shape[:2], 1, same=False)
    elif kind == "MEAN":
        y = net.mean(x, 0.003)
    elif shape[0] > 64:
        pytest.skip("refused by name")
    else:
        axes = numbers(net, [1, 2])
        y = net.op(kind, [x, axes], net.tensor([1, shape[2]], *net.scales[x]))
    check(net, y, folder)


@pytest.mark.parametrize("axes", [[2], [3], [-1, 2], [1]])
def test_means_of_some_axes(axes, folder):
    net, x = started(MAP)
    size = [1 if axis in np.mod(axes, 4) else size for axis, size in enumerate((1, *MAP))]
    check(net, net.op("MEAN", [x, numbers(net, axes)], net.activation(tuple(size[1:]), 0.008), keepDims=True), folder)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["MAX_POOL_2D", "AVERAGE_POOL_2D"])
def test_windows(kind, shape, folder):
    net, x = started(shape)
    y = net.pool(x, kind, (2, 3), (2, 1), same=True)
    check(net, net.pool(y, kind, tuple(min(size, 2) for size in net.shapes[y][:2]), 1, same=False), folder)


TOTALS = """#include <stdio.h>
#include "reid_kernels.h"
int main(void) {
  static const reid_totals row = {PIXELS, CHANNELS};
  static const reid_average mean = {MULTIPLIER, SHIFT, IN_ZERO, -3, PIXELS * ROWS, CHANNELS};
  int8_t pixels[PIXELS * CHANNELS], codes[CHANNELS];
  int32_t sums[CHANNELS];
  for (int y = 0; y < ROWS; ++y) {
    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels) return 1;
    const int8_t *rows[] = {y ? (const int8_t *)sums : 0, pixels};
    reid_totals_row(&row, rows, (int8_t *)sums, 0);
  }
  const int8_t *whole[] = {(const int8_t *)sums};
  reid_average_totals_row(&mean, whole, codes, 0);
  fwrite(sums, 1, sizeof sums, stdout);
  fwrite(codes, 1, sizeof codes, stdout);
  return 0;
}
"""


@pytest.mark.parametrize(("rows", "pixels", "channels"), [(1, 1, 3), (7, 1, 17), (1, 13, 5), (40, 9, 1)])
def test_running_means(rows, pixels, channels, tmp_path):
    random = np.random.default_rng(rows)
    codes = random.integers(-128, 128, (rows, pixels, channels)).astype(np.int8)
    zero, real = 21, 0.37 / (rows * pixels)
    fraction, exponent = np.frexp(real)
    sizes = {"ROWS": rows, "PIXELS": pixels, "CHANNELS": channels, "IN_ZERO": zero,
             "MULTIPLIER": round(fraction * 2**31), "SHIFT": -exponent}  # fmt: skip
    (tmp_path / "main.c").write_text(TOTALS)
    folder = files("reidlab.deploy") / "c"
    flags = "-O1", *SANITIZERS
    defined = [f"-D{name}={value}" for name, value in sizes.items()]
    compile_sources(*flags, f"-I{folder}", *defined, kernels(flags), tmp_path / "main.c", "-o", tmp_path / "host")
    done = subprocess.run([tmp_path / "host"], input=codes.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    sums = codes.astype(int).sum((0, 1))
    np.testing.assert_array_equal(np.frombuffer(done.stdout[: 4 * channels], np.int32), sums)
    means = [min(max(rescaled(total, real) - 3, -128), 127) for total in (sums - rows * pixels * zero).tolist()]
    np.testing.assert_array_equal(np.frombuffer(done.stdout[4 * channels :], np.int8), means)


# --- Both ends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("made", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("shape", [PIXEL, MAP], ids=str)
def test_ends_of_every_type(given, made, shape, folder):
    """A depthwise convolution first; codes of uint8 become int8 of another scale, and back."""
    net, x = started(shape, scale=0.013, zero=30)
    if given != "int8":
        net.image = net.tensor([1, *shape], *([0.02, 100] if given == "uint8" else []), dtype=given)
        net.shapes[net.image] = shape
        net.op("QUANTIZE", [net.image], x)
    y = net.conv(x, shape[2], 3, depthwise=True, scale=0.01)
    if made != "int8":
        scale = [0.012, 80] if made == "uint8" else []
        target = net.tensor([1, *shape], *scale, dtype=made)
        y = net.op("QUANTIZE" if made == "uint8" else "DEQUANTIZE", [y], target)
    content = net.finish([net.image], [y])
    compile_c(content, folder)
    images = net.images(4)
    fed = {"uint8": images, "int8": (images ^ 128).view(np.int8),
           "float32": np.float32(0.013) * (images.astype(np.float32) - 158)}[given]  # fmt: skip
    expected = reference(content, fed).reshape(4, -1)
    if made != "float32":
        scale, zero = (0.012, 80) if made == "uint8" else net.scales[y]
        expected = np.float32(scale) * (expected.astype(np.float32) - zero)
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected)) > 3


# --- Shapes that don't follow from the input's: files with open sizes have them, and damaged ones ---------------------


def of_shape(net, x, shape):
    return net.activation(shape, *net.scales[x])


UNFOLLOWED = {
    "RESHAPE: from .* the file leaves sizes open": lambda net, x: net.op(
        "RESHAPE", [x, numbers(net, [1, -1, 5, 3])], of_shape(net, x, (1, 5, 3))
    ),
    "CONCATENATION: does not make .* the file leaves sizes open": lambda net, x: net.op(
        "CONCATENATION", [x, net.pool(x, "MAX_POOL_2D", 2, 2, same=True)], of_shape(net, x, (6, 5, 6)), axis=3
    ),
    "CONCATENATION: joins a batch": lambda net, x: net.op("CONCATENATION", [x, x], of_shape(net, x, (6, 5, 6)), axis=0),
    "SPLIT: takes a batch apart": lambda net, x: net.op(
        "SPLIT", [net.tensor([], dtype="int32", data=0), x], of_shape(net, x, MAP), numSplits=1
    ),
    "MEAN: axis 5 of 4": lambda net, x: net.op("MEAN", [x, numbers(net, [5])], of_shape(net, x, (6, 5, 1))),
    "TANH: does not turn": lambda net, x: net.op("TANH", [x], net.activation((6, 5, 4), 1 / 128, 0)),
    "MAX_POOL_2D: changes the number of channels": lambda net, x: net.op(
        "MAX_POOL_2D", [x], of_shape(net, x, (6, 5, 2)), strideW=1, strideH=1, filterWidth=1, filterHeight=1
    ),
    "TRANSPOSE: its output hasn't the shape": lambda net, x: net.op(
        "TRANSPOSE", [x, numbers(net, [0, 2, 1, 3])], of_shape(net, x, MAP)
    ),
    "RESIZE_NEAREST_NEIGHBOR: its size isn't": lambda net, x: net.op(
        "RESIZE_NEAREST_NEIGHBOR", [x, numbers(net, [6, 5])], of_shape(net, x, (12, 5, 3))
    ),
    "SLICE: takes .* not what its output holds": lambda net, x: net.op(
        "SLICE", [x, numbers(net, [0, 0, 0, 1]), numbers(net, [1, 6, 5, 3])], of_shape(net, x, MAP)
    ),
    "FULLY_CONNECTED: weights": lambda net, x: net.op(
        "FULLY_CONNECTED", [x, net.tensor([5, 4], 0.1, data=np.zeros((5, 4))), -1], of_shape(net, x, (1, 22, 5))
    ),
    "MAXIMUM: lacks an input": lambda net, x: net.op("MAXIMUM", [x, -1], of_shape(net, x, MAP)),
    "CONCATENATION: lacks an input": lambda net, x: net.op(
        "CONCATENATION", [x, -1], of_shape(net, x, (6, 5, 6)), axis=3
    ),
    "ADD: a constant of 65988 numbers": lambda net, x: net.op(
        "ADD",
        [wide := net.pad(x, (0, 0, 0, 3661)), net.tensor([6, 3666, 3], 0.1, data=np.zeros((6, 3666, 3)))],
        of_shape(net, x, net.shapes[wide]),
    ),
}


@pytest.mark.parametrize("message", UNFOLLOWED)
def test_shapes_that_do_not_follow_are_refused(message):
    net, x = started(MAP)
    with pytest.raises(InputError, match=rf"model\.tflite: op \d {message}"):
        lower(parse_graph(net.content(UNFOLLOWED[message](net, x))))
