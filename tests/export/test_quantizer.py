"""Quantization as a function of objects: no run, no config, no data module."""

import numpy as np
import pytest
import torch
from small_net import MEAN, SIZE, STD

from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime
from reidlab.export.quantizer import METHODS, QuantizationOptions, Quantizer, quantize
from reidlab.export.simulate import QATOptions, Simulation, relative_error
from reidlab.models import Output
from reidlab.models.osnet import OSNet
from reidlab.run import File

OPTIONS = QuantizationOptions(mixed_steps=3, qat=QATOptions(epochs=2))


def soft_images(count, seed):
    """Random images (count, H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).random((count, 8, 4, 3)).repeat(4, 1).repeat(4, 2)
    return (coarse * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def quantizer(network):
    return Quantizer(network, np.split(soft_images(32, 0), 2), MEAN, STD, OPTIONS, {"model": "small"})


def reals(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def normalized(images):
    return (reals(images) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("method", METHODS)
def test_the_files_compute_what_the_simulation_does_and_nearly_what_the_network_does(
    quantizer, network, images, method, tmp_path
):
    found = quantizer.quantize(method)
    assert found.method == method and {*found.files} == {File.TFLITE, File.TFLITE_INT8, File.ONNX_INT8}
    (tmp_path / "int8.tflite").write_bytes(found.files[File.TFLITE_INT8])
    by_file = torch.from_numpy(runtime.open_model(tmp_path / "int8.tflite", runtime="litert")(images))
    simulation = Simulation(found.network, found.ranges, float_steps=found.float_steps)
    with torch.no_grad():
        simulated, expected = simulation(reals(images)), network(normalized(images)).embedding
    error = relative_error(by_file, expected)
    assert error < 0.1
    assert relative_error(by_file, simulated) < 0.3 * error or relative_error(by_file, simulated) < 1e-3


def test_one_call_quantizes_a_network_that_stays_as_it_was(network, quantizer, images, expected, tmp_path):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = quantize(network, iter(np.split(soft_images(32, 0), 2)), mean=MEAN, std=STD, metadata={"model": "small"})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert found.files == quantizer.quantize("ptq").files
    (tmp_path / "float.tflite").write_bytes(found.files[File.TFLITE])
    opened = runtime.open_model(tmp_path / "float.tflite")
    assert opened(images) == pytest.approx(expected, abs=1e-4) and opened.assumed == []
    said = flatbuffer.metadata(flatbuffer.read_tflite(found.files[File.TFLITE_INT8]))
    assert said == {"model": "small", "input_size": [*SIZE], "color_order": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3}


def test_black_and_white_lie_inside_the_range_of_the_normalization_alone_whatever_calibrates(network, steps):
    gray = np.full((2, *SIZE, 3), 128, np.uint8)
    ranges = quantize(network, [gray], mean=MEAN, std=STD).ranges
    with torch.no_grad():
        for name, tensor in steps.tensors(reals(gray)):
            if name not in ("image", "normalize"):
                low, high = min(0.0, float(tensor.min())), max(0.0, float(tensor.max()))
                assert ranges[name] == pytest.approx((low, high) if high - low > 1e-6 else (0, 1), abs=1e-5)
    low, high = ranges["normalize"]
    assert low == pytest.approx(min(-m / s for m, s in zip(MEAN, STD, strict=True)))
    assert high == pytest.approx(max((1 - m) / s for m, s in zip(MEAN, STD, strict=True)))


def test_mixed_leaves_the_steps_with_the_largest_error_in_float(quantizer, network, tmp_path):
    found, costs = quantizer.quantize("mixed"), quantizer.costs
    assert {*found.float_steps} == {*costs["relative_error"].nlargest(3).index} and "drop" not in costs
    operators = flatbuffer.operator_names(flatbuffer.read_tflite(found.files[File.TFLITE_INT8]))
    assert operators.count("DEQUANTIZE") > 1


def test_steps_that_no_file_has_in_int8_take_no_place_among_the_mixed():
    network = OSNet((8, 64, 64, 64), "ibn", feat_dim=8, pooling="gem").eval()
    quantizer = Quantizer(network, [soft_images(4, 0)], MEAN, STD, QuantizationOptions(mixed_steps=99))
    kinds = {step.name: step.kind for step in quantizer._plain.network.steps}
    assert {"instance_norm", "power"} < {*kinds.values()}
    costs = quantizer.costs
    assert not {"instance_norm", "power", "at_least"} & {*costs["kind"]} and {*costs.index} < {*kinds}
    assert all(kinds[name] == kind for name, kind in costs["kind"].items())


def test_the_drop_of_a_figure_is_measured_on_the_validation_images(network):
    seen = []

    def main_figure(embeddings):
        seen.append(embeddings.shape)
        return float(len(seen) == 1)  # 1 for the float embeddings, which are asked for first, 0 for all others

    measured = Quantizer(
        network, [soft_images(4, 0)], MEAN, STD, validation=[soft_images(19, 1)], main_figure=main_figure
    ).costs
    assert {*seen} == {(19, 24)} and (measured["drop"] == 100).all() and (measured["relative_error"] >= 0).all()


def test_options_choose_the_form_of_the_files(network, quantizer):
    calibration = [soft_images(8, 0)]
    options = QuantizationOptions(formats=["onnx"], symmetric_onnx=False, names=("pixels", "features"))
    (content,) = quantize(network, calibration, mean=MEAN, std=STD, options=options).files.values()
    import onnx

    model = onnx.load_from_string(content)
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("pixels", "features")
    options = QuantizationOptions(formats=["tflite"], output="int8", per_channel=False)
    files = quantize(network, calibration, mean=MEAN, std=STD, options=options).files
    model = flatbuffer.read_tflite(files[File.TFLITE_INT8])
    graph = model.subgraphs[0]
    assert {*files} == {File.TFLITE, File.TFLITE_INT8}
    assert flatbuffer.TENSOR_TYPES[graph.tensors[graph.outputs[0]].type] == "INT8"
    weight = next(op for op in graph.operators if flatbuffer.operator_name(model, op) == "CONV_2D").inputs[1]
    assert len(graph.tensors[weight].quantization.scale) == 1


def test_wrong_calls_are_input_errors(network, quantizer):
    with pytest.raises(InputError, match=r"method: there is no magic; choose from ptq, equalized, qat, mixed"):
        quantizer.quantize("magic")
    with pytest.raises(InputError, match=r"quantize\.observer: there is no ema"):
        QuantizationOptions(observer="ema")
    for shape, dtype in (((2, *SIZE, 3), np.float32), ((*SIZE, 3), np.uint8), ((2, 3, *SIZE), np.uint8)):
        with pytest.raises(InputError, match=r"give uint8 \(B, H, W, 3\) RGB"):
            quantize(network, [np.zeros(shape, dtype)], mean=MEAN, std=STD)
    with pytest.raises(InputError, match="calibration: no images"):
        quantize(network, [], mean=MEAN, std=STD)
    with pytest.raises(InputError, match="one image is too few"):
        quantize(network, [soft_images(1, 0)], "qat", mean=MEAN, std=STD)


class Gated(torch.nn.Module):
    """A layer whose output hardly varies, as a gate's does in a network that is barely trained."""

    def __init__(self, variation):
        super().__init__()
        self.first, self.gate = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 1)
        torch.nn.init.constant_(self.first.weight, variation)
        torch.nn.init.constant_(self.first.bias, 2e-5)

    def forward(self, image):
        maps = self.first(image).relu()
        return Output((maps * self.gate(maps).sigmoid()).mean((2, 3)), None)


@pytest.mark.parametrize("variation", [0.0, 1.0, 10.0])
def test_ranges_that_hardly_vary_give_files_that_run(variation, tmp_path):
    """XNNPACK refuses a convolution that multiplies its sum by 256 or more: of black images alone, the first one."""
    torch.manual_seed(0)
    images = np.zeros((4, 16, 16, 3), np.uint8)
    found = quantize(Gated(variation).eval(), [images], mean=[0.0] * 3, std=[1.0] * 3)
    for name in (File.TFLITE_INT8, File.ONNX_INT8):
        file = tmp_path / name.rpartition("/")[2]
        file.write_bytes(found.files[name])
        assert np.isfinite(runtime.open_model(file)(images)).all()
