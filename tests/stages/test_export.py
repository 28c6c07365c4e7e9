import json

import numpy as np
import pytest
import torch

from reidlab.errors import InputError
from reidlab.export.onnx import to_onnx
from reidlab.export.runtime import open_model
from reidlab.files import file_hash, read_json
from reidlab.models import osnet_x0_25
from reidlab.run import File, Row, Run
from reidlab.stages import export

onnx = pytest.importorskip("onnx", reason="needs the export extra")


@pytest.fixture
def run(tmp_path):
    """A run with the weights of a file, and its network."""
    torch.manual_seed(0)
    torch.save(osnet_x0_25().state_dict(), tmp_path / "weights.pth")
    model = ["model=osnet_x0_25", f"model.weights={tmp_path / 'weights.pth'}"]
    return Run.compose([*model, "data.size=[64,32]", f"run.root={tmp_path}", "run.name=r", "trainer.accelerator=cpu"])


def test_the_file_carries_the_protocol_that_its_checkpoint_was_evaluated_by(run):
    protocol = {"distance": "euclidean", "exclude_same_camera": True, "test": "ab" * 32}
    run.record({Row.CHECKPOINT: {"mAP": 0.5}}, protocol, run.checkpoint)
    export.run(run)
    assert open_model(run / File.ONNX).metadata["protocol"] == protocol
    run.record({Row.CHECKPOINT: {"mAP": 0.5}}, protocol, "another")
    export.run(run)
    assert "protocol" not in open_model(run / File.ONNX).metadata


def test_the_file_describes_itself_and_equals_the_network(run):
    assert export.run(run) is run
    told = {p.key: p.value for p in onnx.load(run / File.ONNX).metadata_props}
    assert json.loads(told["input_size"]) == [64, 32] and json.loads(told["embedding_size"]) == 512
    assert json.loads(told["mean"]) == [0.485, 0.456, 0.406] and json.loads(told["std"]) == [0.229, 0.224, 0.225]
    assert len(told["config_hash"]) == 16 and told["color_order"] == "RGB"
    assert told["weights_hash"] == file_hash(run.weights) == run.checkpoint
    about = read_json(run / File.ONNX_ABOUT)
    assert about["bytes"] == (run / File.ONNX).stat().st_size and 0 < about["largest_difference"] < 1e-4
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 3), np.uint8)
    normalized = (pixels / 255 - run["model.mean"]) / run["model.std"]
    with torch.no_grad():
        expected = run.network(torch.from_numpy(normalized).permute(0, 3, 1, 2).float()).embedding.numpy()
    assert open_model(run / File.ONNX)(pixels) == pytest.approx(expected, abs=1e-4)


def test_a_difference_above_the_bound_writes_nothing(run, monkeypatch):
    other = to_onnx(osnet_x0_25().eval(), (64, 32), {})
    monkeypatch.setattr("reidlab.export.qdq.float_onnx", lambda *_: other)
    with pytest.raises(InputError, match="nothing was written"):
        export.run(run)
    assert not run.has(File.EXPORT)
