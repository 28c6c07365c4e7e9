import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reidlab import export
from reidlab.config import compose, write_config
from reidlab.errors import InputError
from reidlab.export.onnx import EmbeddingOnly, convert
from reidlab.models import Output, osnet_ain_x0_25, osnet_x0_25

onnx = pytest.importorskip("onnx", reason="needs the export extra")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the export extra")


def shaken(factory):
    """A network whose BN statistics matter, as after training."""
    torch.manual_seed(0)
    network = factory(num_classes=5)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def config(folder, network, model="osnet_x0_25", *more):
    weights = folder / "weights.pth"
    torch.save(network.state_dict(), weights)
    cfg = compose([f"model={model}", f"model.weights={weights}", "data.size=[64,32]", f"run.root={folder}", *more])
    write_config(cfg, folder / cfg.run.name / "config.yaml")
    return cfg


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    network = shaken(osnet_x0_25)
    return network, export.run(config(tmp_path_factory.mktemp("runs"), network))


def assert_equal_at_any_batch(network, file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7, 33):
        images = torch.randn(batch, 3, 64, 32)
        with torch.no_grad():
            expected = network(images).embedding
        np.testing.assert_allclose(session.run(["embedding"], {"input": images.numpy()})[0], expected, atol=1e-4)


def test_onnx_equals_the_checkpoint_at_any_batch(exported):
    assert_equal_at_any_batch(*exported)


def test_instance_norm_too(tmp_path):
    network = shaken(osnet_ain_x0_25)
    assert_equal_at_any_batch(network, export.run(config(tmp_path, network, "osnet_ain_x0_25")))


def test_the_file_says_what_it_expects_and_carries_no_more(exported):
    _, file = exported
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    told = {p.key: p.value for p in proto.metadata_props}
    assert json.loads(told["input_size"]) == [64, 32] and json.loads(told["embedding_size"]) == 512
    assert json.loads(told["mean"]) == [0.485, 0.456, 0.406] and json.loads(told["std"]) == [0.229, 0.224, 0.225]
    assert len(told["config_hash"]) == 16 and told["color_order"] == "RGB"
    assert file.stat().st_size < 1.25 * 4 * sum(p.numel() for p in osnet_x0_25().parameters())


def test_a_difference_above_the_bound_writes_nothing(exported, tmp_path, monkeypatch):
    _, file = exported
    monkeypatch.setattr("reidlab.export.qdq.float_onnx", lambda *_: file.read_bytes())
    cfg = config(tmp_path, osnet_x0_25())  # other weights than the file's
    with pytest.raises(InputError, match="nothing was written"):
        export.run(cfg)
    assert not (tmp_path / cfg.run.name / "export").exists()


def test_a_network_that_consists_of_other_operations_is_exported_by_torch(tmp_path):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, image):
            return Output((image.tanh() * self.scale).mean((2, 3)), None)

    network, images = Plain().eval(), torch.rand(3, 3, 8, 8)
    names = SimpleNamespace(opset=18, input_name="input", output_name="embedding")
    content = convert(network, EmbeddingOnly(network), images, names, {})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": images.numpy()})[0]
    assert found == pytest.approx(network(images).embedding.detach().numpy(), abs=1e-6)
