import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from trained_like import soft_images

from reidlab import config
from reidlab.deploy.edge_linux import SOURCES, run
from reidlab.errors import InputError
from reidlab.export import qdq, tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps
from reidlab.models import FDMobileNet

SIZE = (32, 16)
BOARD = """
import runpy, sys
sys.path.insert(0, "{folder}")
runpy.run_path("{folder}/test_reid.py", run_name="__main__")
assert not any(name.startswith(("torch", "reidlab")) for name in sys.modules)
"""


def tiny_network(images):
    """A network with the statistics that training would leave in its batch norms."""
    torch.manual_seed(0)
    network = FDMobileNet(0.25).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, here one
    with torch.no_grad():
        network(torch.from_numpy(images).permute(0, 3, 1, 2))
    return network.eval()


def tiny_files(output="float32"):
    """The same network as an int8 .tflite and .onnx."""
    images = soft_images(16, SIZE).astype(np.float32) / 255
    steps = as_steps(deployable(tiny_network(images), [0.0] * 3, [1.0] * 3), SIZE)
    ranges = observe(steps.arrays, [images], "minmax")
    codes = tflite.integer_file(steps, ranges, {"model": "tiny"}, output=output)
    return codes, qdq.integer_onnx(steps, ranges, {"model": "tiny"})


@pytest.fixture
def cfg(market, tmp_path):
    overrides = [
        "data=market1501",
        f"data.root={market}",
        f"run.root={tmp_path}",
        "run.name=tiny",
        "data.num_workers=0",
    ]
    composed = config.compose([*overrides, "data.size=[32,16]", "deploy=edge_linux"])
    place = config.run_folder(composed) / "export"
    place.mkdir(parents=True)
    for name, content in zip(("model_int8.tflite", "model_int8.onnx"), tiny_files(), strict=True):
        (place / name).write_bytes(content)
    return composed


def unpacked(cfg, folder):
    with zipfile.ZipFile(run(cfg)) as bundle:
        bundle.extractall(folder)
    return folder


def test_its_own_test_passes_where_it_is_unpacked(cfg, tmp_path):
    folder = unpacked(cfg, tmp_path / "board")
    assert {file.name for file in folder.iterdir()} == {
        "reid.py", "test_reid.py", "card.json", "desk.npz", "model.tflite", "model.onnx",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-I", "-c", BOARD.format(folder=folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "model.tflite: 8 embeddings" in done.stdout and "model.onnx: 8 embeddings" in done.stdout


def test_its_test_fails_where_another_model_lies(cfg, tmp_path):
    folder = unpacked(cfg, tmp_path / "board")
    (folder / "model.onnx").unlink()
    (folder / "desk.npz").unlink()
    np.savez(folder / "desk.npz", images=np.zeros((1, *SIZE, 3), np.uint8), **{"model.tflite": np.ones((1, 256))})
    done = subprocess.run([sys.executable, "-I", "-c", BOARD.format(folder=folder)], capture_output=True, text=True)
    assert done.returncode and "off the desk's" in done.stderr


def test_images_are_compared_from_the_command_line(cfg, tmp_path, market):
    folder = unpacked(cfg, tmp_path / "board")
    files = sorted(map(str, (market / "query").glob("*.jpg")))[:2]
    done = subprocess.run([sys.executable, folder / "reid.py", files[0], *files], capture_output=True, text=True)
    near, far = (float(line.split()[0]) for line in done.stdout.splitlines())
    assert near == 0 < far


def test_runner_is_sixty_lines_and_loads_numpy_and_one_runtime():
    text = (SOURCES / "reid.py").read_text()
    assert len(text.splitlines()) <= 60 and "reidlab" not in text and "cv2" not in text


def test_without_models_or_with_integer_embeddings_it_is_refused(cfg):
    OmegaConf.update(cfg, "deploy.models", {"tflite": "none", "onnx": "none"})
    with pytest.raises(InputError, match="no int8 model; run `reidlab quantize` first"):
        run(cfg)
    (config.run_folder(cfg) / "none").with_suffix(".tflite").write_bytes(tiny_files("int8")[0])
    OmegaConf.update(cfg, "deploy.models", {"tflite": "none.tflite", "onnx": "none"})
    with pytest.raises(InputError, match="the runner wants float embeddings"):
        run(cfg)
