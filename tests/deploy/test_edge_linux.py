import ast
import importlib
import runpy
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_like import soft_images

from reidlab.data.images import resize
from reidlab.deploy.edge_linux import SOURCES
from reidlab.errors import InputError
from reidlab.export import qdq, tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps
from reidlab.models import FDMobileNet
from reidlab.run import File, Run
from reidlab.stages import deploy

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
def composed(small, tmp_path):
    run = Run.compose([*small, f"run.root={tmp_path}", "run.name=tiny", "deploy=edge_linux"])
    for file, content in zip((File.TFLITE_INT8, File.ONNX_INT8), tiny_files(), strict=True):
        run.write(file, content)
    return run


def unpacked(run, folder):
    (bundle,) = (deploy.run(run) / File.DEPLOY / "edge_linux").glob("tiny_edge_linux.zip")
    with zipfile.ZipFile(bundle) as content:
        content.extractall(folder)
    return folder


def test_its_own_test_passes_where_it_is_unpacked(composed, tmp_path):
    folder = unpacked(composed, tmp_path / "board")
    assert {file.name for file in folder.iterdir()} == {
        "reid.py", "test_reid.py", "card.json", "desk.npz", "pixels.npy", "model.tflite", "model.onnx",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-I", "-c", BOARD.format(folder=folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "model.tflite: 8 outputs" in done.stdout and "model.onnx: 8 outputs" in done.stdout


def test_its_test_fails_where_another_model_lies(composed, tmp_path):
    folder = unpacked(composed, tmp_path / "board")
    (folder / "model.onnx").unlink()
    (folder / "desk.npz").unlink()
    np.savez(folder / "desk.npz", images=np.zeros((1, *SIZE, 3), np.uint8), **{"model.tflite": np.ones((1, 256))})
    done = subprocess.run([sys.executable, "-I", "-c", BOARD.format(folder=folder)], capture_output=True, text=True)
    assert done.returncode and "off the desk's" in done.stderr


def test_images_are_compared_from_the_command_line(composed, tmp_path, market):
    folder = unpacked(composed, tmp_path / "board")
    files = sorted(map(str, (market / "query").glob("*.jpg")))[:2]
    done = subprocess.run([sys.executable, folder / "reid.py", files[0], *files], capture_output=True, text=True)
    near, far = (float(line.split()[0]) for line in done.stdout.splitlines())
    assert near == 0 < far
    alone = subprocess.run([sys.executable, folder / "reid.py", files[0]], capture_output=True, text=True)
    assert alone.returncode == 1 and "python reid.py A.jpg B.jpg" in alone.stderr and "Traceback" not in alone.stderr


def test_runner_is_short_and_loads_numpy_and_one_runtime():
    text = (SOURCES / "reid.py").read_text()
    assert len(text.splitlines()) <= 93 and "reidlab" not in text and "cv2" not in text


def test_the_runner_resizes_as_training_does(composed, tmp_path, monkeypatch):
    folder = unpacked(composed, tmp_path / "board")
    monkeypatch.syspath_prepend(folder)
    reid = importlib.import_module("reid")
    for height, width in ((31, 17), (64, 32), (7, 5), (33, 15), (32, 16), (101, 3)):
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        np.testing.assert_array_equal(reid.fit(image), resize(image, SIZE))


def test_logits_of_a_classifier_become_confidences(composed, tmp_path, monkeypatch):
    given = replace(deploy.deployable(composed), classes=["a", "b", "c"])
    logits = np.array([[1.0, 3.0, -2.0]], np.float32)
    assert given.about_scores(logits) == {"classes": ["a", "b", "c"], "logits": True}
    assert not given.about_scores(np.array([[0.2, 0.5, 0.3]], np.float32))["logits"]
    with pytest.raises(InputError, match=r"tiny: gives 2 scores, and there are 3 names of classes"):
        given.about_scores(logits[:, :2])
    reid = runpy.run_path(unpacked(composed, tmp_path / "board") / "reid.py")
    monkeypatch.setitem(reid["CARD"], "logits", True)
    monkeypatch.setitem(reid["classify"].__globals__, "CLASSES", ["a", "b", "c"])
    expected = np.exp(3) / np.exp(logits).sum()
    assert reid["classify"](logits[0]) == (pytest.approx(expected), "b")


def test_its_test_images_are_as_private_as_pictures(composed, small, tmp_path):
    stored = {}
    for blur in ("false", "true"):
        given = [f"run.root={tmp_path}", "run.name=tiny", "deploy=edge_linux", f"privacy.blur={blur}"]
        run = Run.compose([*small, *given])
        with np.load(unpacked(run, tmp_path / blur) / "desk.npz") as saved:
            stored[blur] = saved["images"]
        data = run.datamodule()
        shown = [data.read(path) for path in data.test["path"].head(len(stored[blur]))]
        np.testing.assert_array_equal(stored[blur], shown)
    assert (stored["true"] != stored["false"]).any()


def test_without_test_images_it_is_refused(composed, monkeypatch):
    kind = type(composed.datamodule())
    monkeypatch.setattr(kind, "test", property(lambda self: self.samples.table.iloc[:0]))
    with pytest.raises(InputError, match="holds no test image"):
        deploy.run(composed)


def test_without_models_it_is_refused(composed):
    run = composed
    run.config.deploy.models = {"tflite": "none.tflite", "onnx": "none.onnx"}
    with pytest.raises(InputError, match=r"none\.tflite: no such model; run `reidlab quantize run\.name=tiny` first"):
        deploy.run(run)


def test_the_runners_of_boards_and_of_triton_read_and_answer_alike():
    """Each is a file by itself, without reidlab; what both do is the same to the letter."""
    files = SOURCES / "reid.py", SOURCES.parent / "nvidia_files" / "triton_client.py"
    board, client = (
        {node.name: ast.dump(node) for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
        for file in files
    )
    shared = board.keys() & client.keys()
    assert shared == {"read", "fit", "distance", "compare", "classify"}
    assert {name: board[name] for name in shared} == {name: client[name] for name in shared}
