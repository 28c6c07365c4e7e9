from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from reidlab.export import runtime
from reidlab.export.qdq import float_onnx, integer_onnx

METADATA = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "color_order": "RGB"}


@pytest.fixture(scope="module")
def exported(steps):
    return float_onnx(steps, METADATA)


@pytest.fixture(scope="module", params=[True, False], ids=["symmetric", "asymmetric"])
def quantized(request, steps, ranges):
    return request.param, integer_onnx(steps, ranges, METADATA, symmetric=request.param)


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("where", ["onnxruntime", "openvino"])
def test_it_runs_on_raw_pixels_close_to_the_network(quantized, where, images, expected, tmp_path):
    (tmp_path / "int8.onnx").write_bytes(quantized[1])
    found = runtime.open_model(tmp_path / "int8.onnx", runtime=where)(images)
    a, b = found - found.mean(0), expected - expected.mean(0)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.95


def test_activations_are_int8_around_zero_or_uint8(quantized):
    symmetric, content = quantized
    model = onnx.load_from_string(content)
    values = constants(model)
    zero_points = [values[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {z.dtype for z in zero_points} == {np.dtype(np.int8 if symmetric else np.uint8)}
    assert not symmetric or not any(z.any() for z in zero_points)


def test_weights_are_symmetric_int8_with_a_scale_per_channel(quantized):
    model = onnx.load_from_string(quantized[1])
    values, made_by = constants(model), {name: n for n in model.graph.node for name in n.output}
    for conv in (n for n in model.graph.node if n.op_type == "Conv"):
        weight, scale, zero_point = (values[name] for name in made_by[conv.input[1]].input)
        assert weight.dtype == np.int8 and not zero_point.any()
        assert scale.shape == weight.shape[:1]


def test_every_input_of_a_quantized_operator_is_a_dequantized_code(quantized):
    """TensorRT's rule: an operator runs in int8 where DequantizeLinear feeds it; biases may be float."""
    model = onnx.load_from_string(quantized[1])
    made_by = {name: n.op_type for n in model.graph.node for name in n.output}
    for node in (n for n in model.graph.node if n.op_type in ("Conv", "Add", "Mul")):
        assert {made_by[name] for name in node.input[:2]} == {"DequantizeLinear"}


def test_a_relu_follows_its_operator_directly_so_that_both_fuse(quantized):
    model = onnx.load_from_string(quantized[1])
    made_by = {name: n.op_type for n in model.graph.node for name in n.output}
    before = Counter(made_by[n.input[0]] for n in model.graph.node if n.op_type == "Relu")
    assert before["Conv"] > 10 if quantized[0] else before["Conv"] == 1  # the embedding's, which isn't quantized
    assert set(before) <= {"Conv", "Add"}


def test_batch_and_metadata_stay(quantized, exported):
    model, original = onnx.load_from_string(quantized[1]), onnx.load_from_string(exported)
    assert model.graph.input == original.graph.input and model.graph.output == original.graph.output
    assert {p.key: p.value for p in model.metadata_props}.items() >= {
        p.key: p.value for p in original.metadata_props
    }.items()


def test_steps_can_stay_float(steps, ranges):
    model = onnx.load_from_string(integer_onnx(steps, ranges, METADATA, float_steps=["network.conv1.conv"]))
    assert [n.name for n in model.graph.node if n.op_type == "Conv" and n.input[1] in constants(model)] == [
        "network.conv1.conv"
    ]


def test_the_float_file_equals_the_network(exported, images, expected, tmp_path):
    (tmp_path / "float.onnx").write_bytes(exported)
    onnx.checker.check_model(onnx.load(tmp_path / "float.onnx"), full_check=True)
    assert runtime.open_model(tmp_path / "float.onnx")(images) == pytest.approx(expected, abs=1e-4)


def test_a_layer_may_be_integer_here_and_float_there(steps, ranges, images, expected, tmp_path):
    floats = ["network.conv2.gate.fc1_2", "network.conv2.gate.fc2_3"]
    for symmetric in (True, False):
        content = integer_onnx(steps, ranges, METADATA, symmetric=symmetric, float_steps=floats)
        onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        (tmp_path / "mixed.onnx").write_bytes(content)
        found = runtime.open_model(tmp_path / "mixed.onnx")(images)
        assert np.abs(found - expected).mean() < 0.1 * np.abs(expected).mean()
