import re
import subprocess

import numpy as np
import pytest
import yaml
from host import HOST, compile_c, needs_gcc, run_c
from tiny_models import TYPES, RandomNetwork, reference
from trained_like import int8_tflite, soft_images

from reidlab.config import CONF
from reidlab.deploy.c_export import export_c
from reidlab.deploy.tflite_graph import parse_graph
from reidlab.errors import InputError
from reidlab.models import fdmobilenet_x0_25

pytestmark = needs_gcc


def stem(channels=8, height=9, width=11, seed=0):
    net = RandomNetwork(seed, height, width, 3)
    return net, net.conv(net.pixels(), channels, 3, relu=True)


def conv_7x7_stride_2(net, x):
    return net.conv(x, 5, 7, stride=2)


def conv_pointwise(net, x):
    return net.conv(net.conv(x, 16), 7, bias=False)


def conv_odd_channels(net, x):
    return net.conv(net.conv(x, 3), 5, relu=True)


def conv_valid_stride_2(net, x):
    return net.conv(x, 4, 2, stride=2, same=False)


def conv_per_tensor(net, x):
    return net.conv(x, 6, 3, per_channel=False)


def conv_shifts_left(net, x):
    return net.conv(x, 6, scale=0.0000027, spread=6)


def conv_shifts_by_zero(net, x):
    return net.conv(x, 64, scale=0.00001, spread=4)


def conv_all_zero(net, x):
    return net.conv(x, 6, scale=5000.0)


def depthwise_stride_1(net, x):
    return net.conv(x, 8, 3, depthwise=True)


def depthwise_stride_2(net, x):
    return net.conv(x, 8, 3, stride=2, depthwise=True, relu=True)


def depthwise_valid(net, x):
    return net.conv(net.conv(x, 8, 3, same=False, depthwise=True), 8, 3, stride=2, same=False, depthwise=True)


def depthwise_5x5(net, x):
    return net.conv(x, 8, 5, stride=2, depthwise=True)


def depthwise_after_wide_pad(net, x):
    return net.conv(net.conv(net.pad(x, 2), 8, 3, same=False, depthwise=True), 8, 3, stride=2, depthwise=True)


def depthwise_of_one_column(net, x):
    return net.conv(net.conv(x, 8, 2, stride=11), 8, 3, depthwise=True)


def depthwise_multiplier(net, x):
    return net.conv(net.conv(x, 1), 6, 3, depthwise=True)


def depthwise_pads_one_column_of_two(net, x):
    return net.conv(net.conv(x, 8, 2, same=False), 8, 3, stride=2, depthwise=True)


def add_two_scales(net, x):
    return net.add(net.conv(x, 8, scale=0.01), net.conv(x, 8, scale=0.0007), 0.011)


def add_one_scale(net, x):
    return net.add(x, net.conv(x, 8, scale=net.scales[x][0]), net.scales[x][0] * 1.5, relu=True)


def mul_channels(net, x):
    return net.mul(x, net.curve(net.mean(x, 0.01), "LOGISTIC"), 0.003)


def mul_elements(net, x):
    return net.mul(x, net.conv(x, 8, scale=0.02), 0.00003)


def mean_and_logistic(net, x):
    return net.curve(net.mean(x, 0.001), "LOGISTIC")


def mean_of_one_pixel(net, x):
    return net.mean(net.mean(x, 0.001), 0.001)


def softmax(net, x):
    return net.curve(net.mean(net.conv(x, 40, scale=0.004), 0.02, flat=True), "SOFTMAX", beta=1.0)


def dense(net, x):
    return net.dense(net.mean(x, 0.001, flat=True), 33, 0.0007)


def max_pool(net, x):
    return net.pool(x, "MAX_POOL_2D", 3, 2, same=True)


def max_pool_after_pad(net, x):
    return net.pool(net.pad(x, 1, -128), "MAX_POOL_2D", 3, 2, same=False)


def average_pool(net, x):
    return net.pool(net.pool(x, "AVERAGE_POOL_2D", 3, 1, same=True), "AVERAGE_POOL_2D", 2, 2, same=False)


def pad_into_conv(net, x):
    return net.conv(net.pad(x, 2), 6, 3, stride=2, same=False)


def pad_unlike_zero(net, x):
    return net.conv(net.pad(x, 1, 17), 6, 3, same=False)


def requantize(net, x):
    return net.op("QUANTIZE", [x], net.activation(net.shapes[x], 0.0031))


def reshape(net, x):
    mean = net.mean(x, 0.001)
    flat = net.activation(net.shapes[mean], *net.scales[mean], flat=True)
    shape = net.tensor([2], dtype="int32", data=[1, 8])
    return net.dense(net.op("RESHAPE", [mean, shape], flat), 9, 0.001)


LAYERS = [
    conv_7x7_stride_2, conv_pointwise, conv_odd_channels, conv_valid_stride_2, conv_per_tensor, conv_shifts_left,
    conv_shifts_by_zero, conv_all_zero, depthwise_stride_1, depthwise_stride_2, depthwise_valid, depthwise_5x5,
    depthwise_after_wide_pad, depthwise_of_one_column,
    depthwise_multiplier, depthwise_pads_one_column_of_two, add_two_scales, add_one_scale, mul_channels, mul_elements,
    mean_and_logistic, mean_of_one_pixel, softmax, dense, max_pool, max_pool_after_pad, average_pool,
    pad_into_conv, pad_unlike_zero, requantize, reshape,
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
def test_layer_equals_the_reference_kernels(layer, folder):
    net, x = stem()
    content = net.content(layer(net, x))
    compile_c(content, folder)
    images = net.images(6)
    expected = reference(content, images).reshape(len(images), -1)
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected)) > 1 or layer is conv_all_zero


@pytest.mark.parametrize("pad", [(0, 0, 1, 1), (0, 0, 1, 0), (0, 1, 0, 0), (2, 1, 3, 0)])
@pytest.mark.parametrize(("channels", "out_channels", "whole"), [(8, 8, False), (7, 6, True), (16, 4, True)])
def test_pointwise_convolution_after_pad(pad, channels, out_channels, whole, folder):
    """An output of fewer channels, held whole, may replace its input only where it is never ahead of it."""
    net, x = stem(channels)
    padded = net.conv(net.pad(x, pad), out_channels, same=False)
    if whole:
        padded = net.mul(padded, net.curve(net.mean(padded, 0.003), "LOGISTIC"), 0.001)
        padded = net.mul(padded, net.curve(net.conv(net.mean(x, 0.003), out_channels), "LOGISTIC"), 0.0007)
    content = net.content(padded)
    compile_c(content, folder)
    images = net.images(3)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images).reshape(3, -1))


def image_normalized(net, pixels):
    return net.conv(pixels, 3, depthwise=True)


def image_depthwise(net, pixels):
    return net.conv(net.pad(pixels, (1, 0, 2, 1)), 3, 3, stride=2, same=False, depthwise=True, relu=True)


def image_depthwise_multiplied(net, pixels):
    return net.mul(net.conv(pixels, 3, depthwise=True), pixels, 0.01)


def image_pooled(net, pixels):
    return net.pool(pixels, "AVERAGE_POOL_2D", 2, 2, same=True)


def image_bordered(net, pixels):
    return net.conv(net.pad(pixels, (0, 2, 1, 0), 17), 5, 3)


def image_averaged(net, pixels):
    return net.mean(pixels, 0.002)


def image_twice(net, pixels):
    return net.add(net.conv(pixels, 3, 3), pixels, 0.01)


@pytest.mark.parametrize(
    "layer",
    [image_normalized, image_depthwise, image_depthwise_multiplied, image_pooled, image_bordered, image_averaged,
     image_twice],
    ids=lambda layer: layer.__name__,
)  # fmt: skip
def test_every_kernel_reads_the_image(layer, folder):
    net = RandomNetwork(1, 9, 11, 3)
    content = net.content(layer(net, net.pixels()))
    compile_c(content, folder)
    images = net.images(6)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images).reshape(6, -1))


def model_settings(name):
    """A yaml of a model on top of the ones that its defaults name."""
    settings = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    bases = [base for base in settings.get("defaults", []) if base != "_self_"]
    return {key: value for part in (*map(model_settings, bases), settings) for key, value in part.items()}


def normalizations():
    """Each mean and std of a model or an experiment in `conf/`."""
    settings = [model_settings(file.stem) for file in CONF.glob("model/*.yaml")]
    experiments = [yaml.safe_load(file.read_text()) for file in CONF.glob("experiment/*.yaml")]
    settings += [model for part in experiments if "mean" in (model := part.get("model") or {})]
    return sorted({(tuple(part["mean"]), tuple(part["std"])) for part in settings if "mean" in part})


def test_the_known_normalizations_are_found():
    imagenet, tao = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.485, 0.456, 0.406), (0.226,) * 3)
    assert {imagenet, tao, ((0.5,) * 3, (0.5,) * 3), ((0.498,) * 3, (0.502,) * 3)} <= set(normalizations())


@pytest.mark.parametrize(("mean", "std"), normalizations())
def test_every_normalization_of_the_configs_equals_the_reference_kernels(mean, std, folder):
    content = int8_tflite(fdmobilenet_x0_25(), (64, 32), mean, std)
    assert (parse_graph(content).ops[1].kind == "DEPTHWISE_CONV_2D") == (std != (1.0,) * 3)
    compile_c(content, folder)
    images = soft_images(6, (64, 32), seed=7)
    found = run_c(folder, images)
    np.testing.assert_array_equal(found, reference(content, images))
    assert len(np.unique(found)) > 30


@pytest.mark.parametrize(("scale", "zero_point"), [(0.08, 0), (0.5, -128), (0.03, 127), (0.0001, 3), (3.0, 0)])
def test_logistic_of_every_code(scale, zero_point, folder):
    net = RandomNetwork(0, 16, 16, 3)
    content = net.content(net.curve(net.every_code(scale, zero_point), "LOGISTIC"))
    compile_c(content, folder)
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images).reshape(1, -1))


@pytest.mark.parametrize("scale", [0.001, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("classes", [2, 150])
def test_softmax_of_peaked_and_flat_scores(scale, classes, folder):
    net, x = stem()
    scores = net.mean(net.conv(x, classes, scale=0.01), 0.003, flat=True)
    spread = net.op("QUANTIZE", [scores], net.activation((1, 1, classes), scale, 0, flat=True))
    net.scales[spread] = (scale, 0)
    content = net.content(net.curve(spread, "SOFTMAX", beta=1.0))
    compile_c(content, folder)
    images = net.images(10)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images))


def omni_scale_net(seed=3, height=32, width=16, channels=(8, 32)):
    """The first stages of a small OSNet: two blocks, then a transition with pooling, and the embedding."""
    net = RandomNetwork(seed, height, width, 3)
    x = net.conv(net.pad(net.pixels(), 3), channels[0], 7, stride=2, same=False, relu=True)
    x = net.pool(net.pad(x, 1, -128), "MAX_POOL_2D", 3, 2, same=False)
    x = net.omni_scale(net.omni_scale(x, channels[1]), channels[1])
    x = net.pool(net.conv(x, channels[1], relu=True), "AVERAGE_POOL_2D", 2, 2, same=False)
    return net, net.content(net.mean(x, net.scales[x][0], flat=True))


@pytest.mark.parametrize("extra_macs", [0.0, 0.1])
def test_omni_scale_blocks_equal_the_reference_kernels_in_a_smaller_arena(extra_macs, folder):
    net, content = omni_scale_net()
    report = compile_c(content, folder, extra_macs=extra_macs)
    images = net.images(20)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images))
    assert report.arena_lower_bound <= report.arena_bytes


def test_repeating_work_lowers_the_arena_and_is_bounded(tmp_path):
    _, content = omni_scale_net(height=64, width=32, channels=(16, 64))
    (tmp_path / "m.tflite").write_bytes(content)
    plain, frugal = (export_c(tmp_path / "m.tflite", tmp_path / name, extra_macs=share)
                     for name, share in (("plain", 0.0), ("frugal", 0.2)))  # fmt: skip
    assert frugal.arena_bytes < plain.arena_bytes
    assert plain.macs < frugal.macs <= 1.2 * plain.macs


def test_a_gate_takes_its_mean_from_rows_that_nobody_holds(folder):
    net, content = omni_scale_net(height=256, width=48, channels=(9, 36))  # channels that fill no vector
    report = compile_c(content, folder, extra_macs=0.3)
    assert "reid_totals_row" in (folder / "src" / "reid_model.c").read_text()
    assert report.arena_bytes == report.arena_lower_bound
    images = net.images(5)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images))


def test_random_small_networks_equal_the_reference_kernels(folder):
    for seed in range(4):
        random = np.random.default_rng(seed)
        net, x = stem(int(random.integers(1, 13)), int(random.integers(5, 20)), int(random.integers(5, 20)), seed)
        for _ in range(4):
            channels = net.shapes[x][2]
            kind = random.integers(4)
            if kind == 0 and channels > 1:
                x = net.conv(x, channels, 3, int(random.integers(1, 3)), depthwise=True)
            elif kind == 1:
                x = net.add(x, net.conv(x, channels, 3), net.scales[x][0] * 1.4)
            elif kind == 2:
                x = net.conv(x, int(random.integers(1, 20)), int(random.integers(1, 4)), int(random.integers(1, 3)))
            else:
                x = net.mul(x, net.curve(net.mean(x, net.scales[x][0]), "LOGISTIC"), net.scales[x][0])
        content = net.content(x)
        compile_c(content, folder)
        images = net.images(4)
        np.testing.assert_array_equal(run_c(folder, images), reference(content, images).reshape(4, -1))


def test_long_chains_are_cut_to_what_the_stack_allows(folder):
    net, x = stem()
    for _ in range(30):
        x = net.conv(x, 8, 3, relu=True)
    content = net.content(x)
    compile_c(content, folder)
    images = net.images(3)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images).reshape(3, -1))
    counts = [int(count) for count in re.findall(r"{stage_\d+, \d+, (\d+),", (folder / "src/reid_model.c").read_text())]
    *stages, codes = counts  # the last stage stands there twice: without the conversion to float, too
    assert sum(stages) == 32 and max(stages) == 24 and codes == stages[-1]


def test_int8_input_and_output_are_accepted(folder):
    net = RandomNetwork(0, 6, 7, 3)
    pixels = net.activation((6, 7, 3), 1 / 255, -128)
    net.image = pixels
    output = net.mean(net.conv(pixels, 8, 3), 0.001, flat=True)
    content = net.finish([pixels], [output])
    compile_c(content, folder)
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    codes = reference(content, (images.astype(int) - 128).astype(np.int8)).astype(np.float64)
    scale, zero_point = net.scales[output]
    np.testing.assert_array_equal(run_c(folder, images), np.float32((codes - zero_point) * np.float32(scale)))


def test_damaged_constants_are_noticed(tmp_path):
    net, x = stem()
    compile_c(net.content(x), tmp_path)
    model = tmp_path / "src/reid_model.c"
    text = model.read_text()
    start = text.index("weights = {{") + len("weights = {{\n")
    first = text[start:].split(",")[0].strip()
    model.write_text(text[:start] + text[start:].replace(first, str((int(first) + 2) % 100), 1))
    host = tmp_path / "damaged"
    sources = [tmp_path / "src/reid_kernels.c", model, HOST]
    subprocess.run(["gcc", f"-I{tmp_path}/src", *sources, "-o", host], check=True)
    assert subprocess.run([host], input=b"").returncode == 3


@pytest.mark.parametrize("relu", [True, False])
def test_pruned_channels_are_constants(relu, folder):
    """Converters give a channel of zeros a tiny scale and a bias of -2^30: published files are full of them."""
    net, x = stem()
    y = net.conv(x, 8, 3, relu=relu)
    weights, biases = (net.graph.tensors[index] for index in net.graph.operators[-1].inputs[1:3])
    weights.quantization.scale[[1, 5]] = [2e-9, 3e-8]
    values = net.model.buffers[biases.buffer].data.view(np.int32).copy()
    values[[1, 5]] = [-(1 << 30), 1 << 30]
    net.model.buffers[biases.buffer].data = values.view(np.uint8)
    content = net.content(net.mean(y, net.scales[y][0], flat=True))
    compile_c(content, folder)
    images = net.images(6)
    expected = reference(content, images)
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected[:, 5])) == 1 < len(np.unique(expected[:, 0]))


def test_arithmetic_on_shapes_is_left_out(folder):
    """Keras files compute the shape of a RESHAPE from a tensor's: SHAPE, STRIDED_SLICE, PACK."""
    net, x = stem()
    mean = net.mean(x, 0.01)
    shape = net.op("SHAPE", [mean], net.tensor([4], dtype="int32"), outType=TYPES["int32"])
    begin, end, strides, size = (net.tensor([1], dtype="int32", data=[value]) for value in (0, 1, 1, 8))
    batch = net.op("STRIDED_SLICE", [shape, begin, end, strides], net.tensor([1], dtype="int32"))
    sizes = net.op("CONCATENATION", [batch, size], net.tensor([2], dtype="int32"))
    flat = net.activation((1, 1, 8), *net.scales[mean], flat=True)
    content = net.content(net.op("RESHAPE", [mean, sizes], flat))
    compile_c(content, folder)
    images = net.images(3)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images))


def broken(change):
    net, x = stem()
    return net.content(change(net, x))


REFUSED = {
    "op 2 RSQRT: part of an instance norm": lambda net, x: net.op("RSQRT", [x], net.activation(net.shapes[x], 0.01)),
    "op 2 COS: not supported": lambda net, x: net.op("COS", [x], net.activation(net.shapes[x], 0.01)),
    "op 2 CONV_2D: window": lambda net, x: net.conv(x, 4, 65),
    "op 2 CONV_2D: channel": lambda net, x: net.conv(x, 4, scale=1e-9),
    "op 4 DEQUANTIZE: 17000 numbers in a row": lambda net, x: net.dense(net.mean(x, 0.01, flat=True), 17000, 0.01),
    "op 2 MUL: ": lambda net, x: net.mul(x, x, 1e-10),
    r"op 2 DEQUANTIZE: only the network's output may be .* quantize\.method=\[ptq,equalized,qat\]": lambda net, x: (
        net.op(
            "QUANTIZE",
            [net.op("DEQUANTIZE", [x], net.tensor([1, *net.shapes[x]], dtype="float32"))],
            net.activation(net.shapes[x], 0.01),
        )
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_supported_is_refused_by_operator(message, tmp_path):
    model = tmp_path / "m.tflite"
    model.write_bytes(broken(REFUSED[message]))
    with pytest.raises(InputError, match=r"m\.tflite: " + message):
        export_c(model, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_header_tells_what_the_report_does(folder):
    _, content = omni_scale_net()
    report = compile_c(content, folder)
    header = (folder / "src/reid.h").read_text()
    for name, value in {"ARENA_BYTES": report.arena_bytes, "WEIGHT_BYTES": report.weight_bytes,
                        "EMBEDDING_SIZE": 32, "IMAGE_HEIGHT": 32}.items():  # fmt: skip
        assert f"#define REID_{name} {value}" in header
