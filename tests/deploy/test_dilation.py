"""Convolutions between SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND: written by tf.lite's converter, and by hand."""

import numpy as np
import pytest
from host import compile_c, needs_gcc, run_c
from test_lowering import check, numbers, started
from tiny_models import reference

from reidlab.deploy.dilation import dilated
from reidlab.deploy.lowering import lower
from reidlab.deploy.tflite_graph import parse_graph
from reidlab.errors import InputError

pytestmark = needs_gcc


def converted(shape, layers):
    """An int8 .tflite of Keras layers."""
    tf = pytest.importorskip("tensorflow")
    given = tf.keras.Input(shape)  # of a fixed batch the converter makes dilated convolutions itself
    made = given
    for layer in layers(tf.keras.layers):
        made = layer(made)
    converter = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Model(given, made))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    random = np.random.default_rng(0)
    converter.representative_dataset = lambda: ([random.normal(0.1, 1, (1, *shape)).astype("f")] for _ in range(3))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        ((13, 10, 3), lambda keras: [keras.Conv2D(5, 3, dilation_rate=2, padding="same", activation="relu"),
                                     keras.DepthwiseConv2D(3, dilation_rate=(2, 2), padding="same")]),
        ((11, 15, 3), lambda keras: [keras.Conv2D(4, (2, 3), dilation_rate=(3, 2), padding="valid"),
                                     keras.SeparableConv2D(7, 3, dilation_rate=2, padding="same")]),
        ((29, 3), lambda keras: [keras.Conv1D(5, 3, dilation_rate=4, padding="causal", activation="relu"),
                                 keras.Conv1D(5, 4, dilation_rate=2, padding="same")]),
    ],
    ids=["same", "valid", "1d"],
)  # fmt: skip
def test_the_converters_files_equal_the_reference_kernels(shape, layers, folder):
    content = converted(shape, layers)
    kinds = [op.kind for op in parse_graph(content).ops]
    assert kinds.count("SPACE_TO_BATCH_ND") == kinds.count("BATCH_TO_SPACE_ND") == 2
    compile_c(content, folder)
    images = np.random.default_rng(1).integers(0, 256, (5, *shape), np.uint8)
    codes = reference(content, (images ^ 128).view(np.int8)).reshape(5, -1)
    output = parse_graph(content).tensors[parse_graph(content).outputs[0]].quantization
    expected = output.scale[0] * (codes.astype(np.float32) - np.float32(output.zero_point[0]))
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected)) > 50


def group(net, x, kernel, block, pads, crops, depthwise=False, **convolution):
    """A convolution of (height, width) in batches; pads and crops are ((before, after), (before, after))."""
    (height, width, channels), many = net.shapes[x], int(np.prod(block))
    padded = [(size + sum(pad)) // step for size, pad, step in zip((height, width), pads, block, strict=True)]
    spread = net.activation((*padded, channels), *net.scales[x])
    net.graph.tensors[spread].shape[0] = many
    net.op("SPACE_TO_BATCH_ND", [x, numbers(net, block), numbers(net, pads)], spread)
    y = net.conv(spread, channels, kernel, same=False, depthwise=depthwise, **convolution)
    net.graph.tensors[y].shape[0] = many
    size = [n * step - sum(crop) for n, step, crop in zip(net.shapes[y][:2], block, crops, strict=True)]
    target = net.activation((*size, channels), *net.scales[y])
    return net.op("BATCH_TO_SPACE_ND", [y, numbers(net, block), numbers(net, crops)], target)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("kernel", "block", "pads", "crops"),
    [
        (3, (2, 2), ((3, 2), (4, 3)), ((1, 0), (3, 2))),
        ((2, 3), (3, 4), ((0, 2), (8, 7)), ((0, 2), (0, 5))),
        ((1, 2), (2, 1), ((1, 2), (0, 0)), ((0, 1), (0, 0))),
        (1, (5, 2), ((5, 3), (1, 0)), ((0, 3), (1, 0))),
    ],
)
def test_any_padding_and_cropping(kernel, block, pads, crops, depthwise, folder):
    net, x = started((7, 5, 3))
    y = group(net, x, kernel, block, pads, crops, depthwise)
    graph = dilated(parse_graph(net.finish([x], [y])))
    assert [op.kind for op in graph.ops] == ["PAD", "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"]
    assert (graph.ops[1].options["dilation_h"], graph.ops[1].options["dilation_w"]) == block
    check(net, y, folder)


EVEN = {"kernel": 3, "block": (2, 2), "pads": ((2, 3), (2, 3)), "crops": ((0, 1), (0, 1))}
OTHERWISE = {
    "op 0 SPACE_TO_BATCH_ND: another scale": lambda net, y: setattr(
        net.graph.tensors[net.graph.operators[0].outputs[0]].quantization, "scale", np.float32([0.021])
    ),
    "op 2 BATCH_TO_SPACE_ND: undoes another block": lambda net, y: net.graph.operators[2].inputs.__setitem__(
        1, numbers(net, [4, 1])
    ),
    "op 2 BATCH_TO_SPACE_ND: crops more than": lambda net, y: net.graph.operators[2].inputs.__setitem__(
        2, numbers(net, [[3, 0], [0, 1]])
    ),
    "op 1 CONV_2D: strides, or padding SAME": lambda net, y: setattr(
        net.graph.operators[1].builtinOptions, "strideH", 2
    ),
    "op 0 SPACE_TO_BATCH_ND: what it makes has several uses": lambda net, y: net.op(
        "RELU", [net.graph.operators[0].outputs[0]], net.activation((5, 5, 3), *net.scales[net.image])
    ),
    "op 1 RELU: not a dilated convolution": lambda net, y: setattr(
        net.model.operatorCodes[1], "builtinCode", net.model.operatorCodes[1].builtinCode.__class__(19)
    ),
    "op 0 SPACE_TO_BATCH_ND: needs a constant block": lambda net, y: net.graph.operators[0].inputs.__setitem__(
        1, numbers(net, [2, 2, 1])
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", OTHERWISE)
def test_what_is_no_dilated_convolution_is_refused_for_its_reason(reason):
    net, x = started((5, 5, 3))
    y = group(net, x, **EVEN)
    OTHERWISE[reason](net, y)
    with pytest.raises(InputError, match=reason):
        lower(parse_graph(net.finish([x], [y])))
