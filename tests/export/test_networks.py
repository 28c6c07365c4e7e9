"""The real networks in all formats: minutes, so `slow`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_net import unsettle

from reidlab.export import flatbuffer, qdq, runtime, tflite
from reidlab.export.activations import onnx_activations, tflite_activations
from reidlab.export.folding import deployable
from reidlab.export.onnx import to_onnx
from reidlab.export.ranges import observe
from reidlab.models import osnet_ain_x0_25, osnet_x0_25

SIZE = (64, 32)
NAMES = SimpleNamespace(opset=18, input_name="input", output_name="embedding")
KNOWN = {"mean": [0.0] * 3, "std": [1.0] * 3, "color_order": "RGB"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[osnet_x0_25, osnet_ain_x0_25], ids=["osnet_x0_25", "osnet_ain_x0_25"])
def forms(request, tmp_path_factory):
    """Embeddings (N, D) of each form of a network, those of the network itself, and the folder of the files."""
    torch.manual_seed(0)
    graph = deployable(unsettle(request.param(feat_dim=None)), [0] * 3, [1] * 3)
    coarse = np.random.default_rng(0).random((16, 8, 4, 3)).repeat(8, 1).repeat(8, 2)
    images = (coarse * 255).round().astype(np.uint8)
    pixels = images.astype(np.float32) / 255
    converted = tflite.convert(graph, SIZE)
    exported = to_onnx(graph, torch.zeros(2, 3, *SIZE), NAMES, KNOWN)
    files = {
        "float.tflite": tflite.float_file(converted, KNOWN),
        "float.onnx": exported,
        "int8.onnx": qdq.integer_onnx(exported, observe(onnx_activations(exported), [pixels], "minmax")),
    }
    if request.param is osnet_x0_25:  # AIN is refused
        observed = observe(tflite_activations(converted), [pixels], "minmax")
        files["int8.tflite"] = tflite.integer_file(converted, observed, KNOWN)
    place = tmp_path_factory.mktemp("forms")
    for name, content in files.items():
        (place / name).write_bytes(content)
    found = {name: runtime.load(place / name)(images) for name in files}
    found["openvino"] = runtime.load(place / "int8.onnx", runtime="openvino")(images)
    expected = graph(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    return request.param, found, expected, place


def test_float_forms_equal_the_network(forms):
    _, found, expected, _ = forms
    for name in ("float.tflite", "float.onnx"):
        assert found[name] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["int8.tflite", "int8.onnx", "openvino"])
def test_integer_forms_are_close_to_it(forms, name):
    _, found, expected, _ = forms
    if name not in found:
        pytest.skip("refused: LiteRT crashes on int8 instance norms")
    a, b = found[name] - found[name].mean(0), expected - expected.mean(0)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean() > 0.8


def test_osnet_without_projection_is_as_small_as_published(forms):
    factory, _, _, place = forms
    if factory is not osnet_x0_25:
        pytest.skip("published for OSNet x0.25: 139.52 KiB")
    model = flatbuffer.read_tflite(place / "int8.tflite")
    assert flatbuffer.weight_bytes(model) / 1024 < 139.5
    assert "TRANSPOSE" not in flatbuffer.operator_names(model)
