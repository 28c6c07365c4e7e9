import numpy as np
import pytest
import torch
from small_net import MEAN, STD

from reidlab.errors import InputError
from reidlab.export.onnx import export, to_onnx
from reidlab.models import Output, osnet_ain_x0_25, osnet_x0_25

onnx = pytest.importorskip("onnx", reason="needs the export extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")

SIZE, KNOWN = (64, 32), {"model": "osnet", "input_size": [64, 32]}


class Plain(torch.nn.Module):
    """A network with an operation that is no step."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return Output((image.tanh() * self.scale).mean((2, 3)), None)


def shaken(factory):
    """A network whose BN statistics matter, as after training."""
    torch.manual_seed(0)
    network = factory(num_classes=5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def embeddings(content, images, names=("input", "embedding")):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run([names[1]], {names[0]: images.numpy()})[0]


@pytest.mark.parametrize("factory", [osnet_x0_25, osnet_ain_x0_25])
def test_onnx_equals_the_checkpoint_at_any_batch(factory):
    network = shaken(factory)
    content, difference = export(network, SIZE, KNOWN)
    assert 0 < difference < 1e-4
    for batch in (1, 2, 7, 33):
        images = torch.randn(batch, 3, *SIZE)
        with torch.no_grad():
            expected = network(images).embedding
        np.testing.assert_allclose(embeddings(content, images), expected, atol=1e-4)


def test_the_file_is_valid_describes_itself_and_carries_no_more():
    content, _ = export(shaken(osnet_x0_25), SIZE, KNOWN, names=("pixels", "features"))
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("pixels", "features")
    told = {p.key: p.value for p in proto.metadata_props}
    assert told == {"model": "osnet", "input_size": "[64, 32]", "embedding_size": "512"}
    assert len(content) < 1.25 * 4 * sum(p.numel() for p in osnet_x0_25().parameters())


def test_a_difference_above_the_bound_is_an_input_error(monkeypatch):
    other = export(shaken(osnet_x0_25), SIZE, KNOWN)[0]
    monkeypatch.setattr("reidlab.export.qdq.float_onnx", lambda *_: other)
    with pytest.raises(InputError, match=r"differs from the checkpoint by .* export\.tolerance=0\.0001"):
        export(osnet_x0_25().eval(), SIZE, KNOWN)


def test_a_network_of_other_operations_is_exported_by_torch(monkeypatch):
    monkeypatch.setattr("reidlab.export.qdq.float_onnx", lambda *_: pytest.fail("written as steps"))
    network, images = Plain().eval(), torch.rand(3, 3, 8, 8)
    content, _ = export(network, (8, 8), KNOWN)
    assert embeddings(content, images) == pytest.approx(network(images).embedding.detach().numpy(), abs=1e-6)
    told = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
    assert told == {"model": "osnet", "input_size": "[64, 32]", "embedding_size": "3"}


@pytest.mark.parametrize("network", [Plain().eval(), shaken(osnet_x0_25)], ids=["by torch", "by steps"])
def test_a_file_can_normalize_pixels_itself(network):
    pixels = torch.rand(2, 3, *SIZE)
    normalized = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        expected = network(normalized).embedding.numpy()
    assert embeddings(to_onnx(network, SIZE, {}, mean=MEAN, std=STD), pixels) == pytest.approx(expected, abs=1e-4)
