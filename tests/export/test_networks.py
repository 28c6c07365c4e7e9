"""The project's networks in all formats; the large ones take minutes, so they are `slow`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_net import unsettle

from reidlab import models
from reidlab.export import flatbuffer, qdq, runtime, tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps

CPU = Path("/proc/cpuinfo")
KNOWN = {"mean": [0.0] * 3, "std": [1.0] * 3, "color_order": "RGB"}
SMALL = {
    "osnet_x0_25": {"feat_dim": None},
    "osnet_ain_x0_25": {},
    "resnet18_ibn_a": {"pooling": "gem", "neck": "bnneck", "feat_dim": None, "stem_ceil_mode": True},
}
LARGE = {
    "osnet_x1_0": {},
    "osnet_ibn_x1_0": {},
    "osnet_ain_x1_0": {},
    "resnet50": {"feat_dim": 256, "projection": "linear", "neck": "bnneck"},
}


def soft_images(count, size):
    coarse = np.random.default_rng(0).random((count, 8, 4, 3)).repeat(size[0] // 8, 1).repeat(size[1] // 4, 2)
    coarse[0], coarse[1] = 0, 1
    return (coarse * 255).round().astype(np.uint8)


def settle(network, images):
    """Batch norms with the statistics of these images, so that no activation explodes."""
    unsettle(network).train()
    with torch.no_grad():
        for _ in range(5):
            network(images)
    return network.eval()


@pytest.fixture(scope="module", params=[*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def forms(request, tmp_path_factory):
    """Name of a network, embeddings (N, D) of each of its forms and of itself, and the folder of the files."""
    torch.manual_seed(0)
    size = (256, 128) if request.param in LARGE else (64, 32)
    images = soft_images(16, size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    network = getattr(models, request.param)(**(SMALL | LARGE)[request.param])
    steps = as_steps(deployable(settle(network, pixels), [0] * 3, [1] * 3), size)
    ranges = observe(steps.arrays, [images.astype(np.float32) / 255], "minmax")
    files = {
        "float.tflite": tflite.float_file(steps, KNOWN),
        "int8.tflite": tflite.integer_file(steps, ranges, KNOWN),
        "float.onnx": qdq.float_onnx(steps, KNOWN),
        "int8.onnx": qdq.integer_onnx(steps, ranges, KNOWN),
        "uint8.onnx": qdq.integer_onnx(steps, ranges, KNOWN, symmetric=False),
    }
    place = tmp_path_factory.mktemp("forms")
    for name, content in files.items():
        (place / name).write_bytes(content)
    found = {name: runtime.open_model(place / name)(images) for name in files}
    for name in ("int8", "uint8"):
        found[f"openvino {name}"] = runtime.open_model(place / f"{name}.onnx", runtime="openvino")(images)
    with torch.no_grad():
        return request.param, found, network(pixels).embedding.numpy(), place


def test_float_forms_equal_the_network(forms):
    network, found, expected, _ = forms
    bound = 2e-4 if "ain" in network or "ibn" in network else 1e-4  # instance norms of a flat image divide by little
    for name in ("float.tflite", "float.onnx"):
        assert found[name] == pytest.approx(expected, abs=bound * float(np.abs(expected).max()))


@pytest.mark.parametrize("form", ["int8.tflite", "int8.onnx", "uint8.onnx", "openvino int8", "openvino uint8"])
def test_integer_forms_are_close_to_it(forms, form):
    network, found, expected, _ = forms
    a, b = found[form] - found[form].mean(0), expected - expected.mean(0)
    cosine = ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean()
    if cosine <= 0.8 and form == "openvino int8" and "ibn" in network and "amx_int8" not in CPU.read_text():
        pytest.xfail("OpenVINO 2026.4 gets symmetric int8 after a concatenation wrong on a processor without AMX")
    assert cosine > 0.8


def test_osnet_without_projection_is_as_small_as_published(forms):
    name, _, _, place = forms
    if name != "osnet_x0_25":
        pytest.skip("published for OSNet x0.25: 139.52 KiB")
    model = flatbuffer.read_tflite(place / "int8.tflite")
    assert flatbuffer.weight_bytes(model) / 1024 < 139.5
    assert "TRANSPOSE" not in flatbuffer.operator_names(model)


def test_instance_norms_and_powers_are_float_islands(forms):
    name, _, _, place = forms
    names = flatbuffer.operator_names(flatbuffer.read_tflite(place / "int8.tflite"))
    islands = {"osnet_ain_x0_25": 5, "resnet18_ibn_a": 7, "osnet_ain_x1_0": 5, "osnet_ibn_x1_0": 3}.get(name, 0)
    assert names.count("QUANTIZE") == names.count("DEQUANTIZE") == islands + 1
