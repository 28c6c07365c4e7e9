import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from small_net import SIZE, SmallNet, unsettle

from reidlab.errors import InputError
from reidlab.export import flatbuffer, tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps


def run(content, images, resolver=OpResolverType.AUTO):
    """(N, D) as the file returns them, its input and its output details."""
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    given, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(output["index"])[0])
    return np.array(rows), given, output


def centered_cosine(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    return ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()


def operators(content):
    return flatbuffer.operator_names(flatbuffer.read_tflite(content))


@pytest.fixture(scope="module")
def integer(steps, ranges):
    return tflite.integer_file(steps, ranges, {"model": "small"})


@pytest.fixture(scope="module")
def dead_gate():
    """A network of pixels in [0, 1] whose gate is dead before its second layer."""
    torch.manual_seed(0)
    network = unsettle(SmallNet())
    network.conv2.gate.fc1.bias.data.fill_(-100.0)
    return as_steps(deployable(network, [0] * 3, [1] * 3), SIZE)


def test_the_float_file_takes_raw_pixels_and_equals_the_network_up_to_the_borders(steps, images, expected):
    found, given, output = run(tflite.float_file(steps, {}), images)
    assert (given["dtype"], output["dtype"]) == (np.uint8, np.float32)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_integer_file_takes_raw_pixels_and_returns_floats(integer, images, expected):
    found, given, output = run(integer, images)
    assert (given["dtype"], output["dtype"]) == (np.uint8, np.float32)
    assert given["quantization"] == (np.float32(1 / 255), 0)
    assert centered_cosine(found, expected) > 0.97


def test_everything_between_the_pixels_and_the_embedding_is_integer(integer):
    model = flatbuffer.read_tflite(integer)
    kinds = [flatbuffer.TENSOR_TYPES[tensor.type] for tensor in model.subgraphs[0].tensors]
    assert kinds.count("FLOAT32") == kinds.count("UINT8") == 1
    names = operators(integer)
    assert (names[0], names[-1]) == ("QUANTIZE", "DEQUANTIZE")
    assert names.count("QUANTIZE") == names.count("DEQUANTIZE") == 1


def test_the_graph_is_clean(integer):
    names = operators(integer)
    assert set(names) == {
        "QUANTIZE", "PAD", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "MEAN", "LOGISTIC", "MUL", "ADD",
        "RESHAPE", "DEQUANTIZE",
    }  # fmt: skip
    assert names.count("PAD") == 2  # stem and max-pool: symmetric padding at stride 2 is none of TFLite's
    assert names.count("DEPTHWISE_CONV_2D") == 11  # 10 of the streams, 1 that normalizes
    gate = names.index("MEAN")
    assert names[gate : gate + 5] == ["MEAN", "CONV_2D", "CONV_2D", "LOGISTIC", "MUL"]


def test_pixels_scaled_by_255_alone_need_no_layer(dead_gate, images):
    content = tflite.float_file(dead_gate, {})
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    assert operators(content)[:3] == ["DEQUANTIZE", "PAD", "CONV_2D"]
    assert run(content, images)[0] == pytest.approx(dead_gate(pixels).numpy(), abs=1e-4)


def test_int8_output_decodes_to_the_float_output(steps, ranges, integer, images):
    floats = run(integer, images)[0]
    codes, _, output = run(tflite.integer_file(steps, ranges, {}, output="int8"), images)
    scale, zero_point = output["quantization"]
    assert codes.dtype == np.int8 and zero_point == -128  # behind a ReLU: forgetting the zero point is no small error
    assert (codes.astype(np.float32) - zero_point) * scale == pytest.approx(floats)


def test_weights_have_a_scale_per_channel_or_per_tensor(steps, ranges, images, expected):
    for per_channel, bound in ((True, 0.97), (False, 0.9)):
        content = tflite.integer_file(steps, ranges, {}, per_channel=per_channel)
        model = flatbuffer.read_tflite(content)
        graph = model.subgraphs[0]
        for op in graph.operators:
            if flatbuffer.operator_name(model, op) in flatbuffer.WITH_BIAS:
                weight = graph.tensors[op.inputs[1]]
                channels = weight.shape[weight.quantization.quantizedDimension]
                assert len(weight.quantization.scale) == (channels if per_channel else 1)
                assert not weight.quantization.zeroPoint.any()
        assert centered_cosine(run(content, images)[0], expected) > bound


def test_default_and_reference_kernels_agree(integer, images):
    default, reference = run(integer, images)[0], run(integer, images, OpResolverType.BUILTIN_REF)[0]
    assert centered_cosine(default, reference) > 0.99


def test_names_are_short_and_zero_biases_are_stored_once(integer):
    model = flatbuffer.read_tflite(integer)
    names = [tensor.name for tensor in model.subgraphs[0].tensors]
    assert max(map(len, names)) <= len("embedding") and len(set(names)) == len(names)
    constants = [bytes(b.data) for b in model.buffers if b.data is not None and len(b.data)]
    assert len(set(constants)) == len(constants)


def test_the_file_says_what_it_is(integer):
    assert flatbuffer.metadata(flatbuffer.read_tflite(integer)) == {"model": "small"}
    interpreter = Interpreter(model_content=integer)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["embedding"]}}


def test_a_dead_relu_does_not_make_the_file_unloadable(dead_gate, images):
    ranges = observe(dead_gate.arrays, [images.astype(np.float32) / 255], "minmax")
    assert ranges["network.conv2.gate.fc1"] == (0, 1)
    assert np.isfinite(run(tflite.integer_file(dead_gate, ranges, {}), images)[0]).all()


def test_layers_can_stay_float(steps, ranges, images, expected):
    content = tflite.integer_file(steps, ranges, {}, float_steps=["network.conv1.conv"])
    model = flatbuffer.read_tflite(content)
    graph = model.subgraphs[0]
    first = next(op for op in graph.operators if flatbuffer.operator_name(model, op) == "CONV_2D")
    assert flatbuffer.TENSOR_TYPES[graph.tensors[first.inputs[1]].type] == "FLOAT32"
    assert centered_cosine(run(content, images)[0], expected) > 0.97


def test_constants_behind_the_flatbuffer_are_brought_into_it(integer, images):
    model = flatbuffer.read_tflite(integer)
    graph = model.subgraphs[0]
    weight = graph.tensors[graph.operators[-2].inputs[1]].buffer
    buffer, data = model.buffers[weight], bytes(model.buffers[weight].data)
    buffer.data, buffer.size, buffer.offset = None, len(data), 2  # the offset's width doesn't depend on its value
    buffer.offset = len(flatbuffer.write_tflite(model))
    inlined = flatbuffer.read_tflite(flatbuffer.write_tflite(model) + data)
    assert bytes(inlined.buffers[weight].data) == data
    assert run(flatbuffer.write_tflite(inlined), images)[0] == pytest.approx(run(integer, images)[0])


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty"])
def test_a_damaged_file_is_an_input_error(integer, damage, tmp_path):
    content = {"truncated": integer[: len(integer) // 3], "noise": b"\0" * 100, "empty": b""}[damage]
    (tmp_path / "bad.tflite").write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.tflite: (truncated or damaged|not a \.tflite)"):
        flatbuffer.read_tflite(tmp_path / "bad.tflite")


def test_importing_reidlab_does_not_import_tensorflow_or_a_runtime():
    code = "import sys, json, reidlab, reidlab.export.tflite; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"tensorflow", "onnxruntime", "openvino"} & set(modules)
