from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small_net import SIZE

from reidlab.export import runtime
from reidlab.export.activations import onnx_activations
from reidlab.export.onnx import to_onnx
from reidlab.export.qdq import QUANTIZED, integer_onnx
from reidlab.export.ranges import observe

METADATA = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "color_order": "RGB"}


@pytest.fixture(scope="module")
def exported(graph):
    names = SimpleNamespace(opset=18, input_name="input", output_name="embedding")
    return to_onnx(graph, torch.zeros(2, 3, *SIZE), names, METADATA)


@pytest.fixture(scope="module")
def onnx_ranges(exported, images):
    return observe(onnx_activations(exported), [images.astype(np.float32) / 255], "minmax")


@pytest.fixture(scope="module", params=[True, False], ids=["symmetric", "asymmetric"])
def quantised(request, exported, onnx_ranges):
    return request.param, integer_onnx(exported, onnx_ranges, symmetric=request.param)


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("where", ["onnxruntime", "openvino"])
def test_it_runs_on_raw_pixels_close_to_the_network(quantised, where, images, expected, tmp_path):
    (tmp_path / "int8.onnx").write_bytes(quantised[1])
    found = runtime.load(tmp_path / "int8.onnx", runtime=where)(images)
    a, b = found - found.mean(0), expected - expected.mean(0)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.95


def test_activations_are_int8_around_zero_or_uint8(quantised):
    symmetric, content = quantised
    model = onnx.load_from_string(content)
    values = constants(model)
    zero_points = [values[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert {z.dtype for z in zero_points} == {np.dtype(np.int8 if symmetric else np.uint8)}
    assert not symmetric or not any(z.any() for z in zero_points)


def test_weights_are_symmetric_int8_with_a_scale_per_channel(quantised):
    model = onnx.load_from_string(quantised[1])
    values, made_by = constants(model), {name: n for n in model.graph.node for name in n.output}
    for conv in (n for n in model.graph.node if n.op_type == "Conv"):
        weight, scale, zero_point = (values[name] for name in made_by[conv.input[1]].input)
        assert weight.dtype == np.int8 and not zero_point.any()
        assert scale.shape == weight.shape[:1]


def test_every_input_of_a_quantised_operator_is_a_dequantised_code(quantised):
    """TensorRT's rule: an operator runs in int8 where DequantizeLinear feeds it; biases may be float."""
    model = onnx.load_from_string(quantised[1])
    made_by = {name: n.op_type for n in model.graph.node for name in n.output}
    for node in (n for n in model.graph.node if n.op_type in ("Conv", "Add", "Mul")):
        assert {made_by[name] for name in node.input[:2]} == {"DequantizeLinear"}


def test_a_relu_follows_its_operator_directly_so_that_both_fuse(quantised):
    model = onnx.load_from_string(quantised[1])
    made_by = {name: n.op_type for n in model.graph.node for name in n.output}
    before = Counter(made_by[n.input[0]] for n in model.graph.node if n.op_type == "Relu")
    assert set(before) <= set(QUANTIZED)


def test_batch_and_metadata_stay(quantised, exported):
    model, original = onnx.load_from_string(quantised[1]), onnx.load_from_string(exported)
    assert model.graph.input == original.graph.input and model.graph.output == original.graph.output
    assert {p.key: p.value for p in model.metadata_props}.items() >= {
        p.key: p.value for p in original.metadata_props
    }.items()


def test_nodes_can_stay_float(exported, onnx_ranges):
    first = next(n.name for n in onnx.load_from_string(exported).graph.node if n.op_type == "Conv")
    model = onnx.load_from_string(integer_onnx(exported, onnx_ranges, float_nodes=[first]))
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    assert constants(model)[conv.input[1]].dtype == np.float32


def test_ranges_are_of_every_float_tensor(onnx_ranges, exported, images):
    model = onnx.load_from_string(exported)
    relu = next(n.output[0] for n in model.graph.node if n.op_type == "Relu")
    assert {"input", "embedding", relu} <= set(onnx_ranges) and onnx_ranges[relu].low == 0
    assert onnx_ranges["input"] == (images.min() / 255, images.max() / 255)
