"""A network as a function of images: its forms agree, and each takes files, pixels and boxes alike."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch.nn import functional as F

import reidlab
from reidlab.config import SHIPPED
from reidlab.data import SyntheticPeople
from reidlab.errors import InputError
from reidlab.export import qdq, tflite
from reidlab.export.folding import deployable
from reidlab.export.metadata import about
from reidlab.export.model import Model, Verdict
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps
from reidlab.models.keras_files import SUFFIXES
from reidlab.run import File, Run
from reidlab.stages import export

WEIGHTS = SHIPPED / "data" / "models" / "demo_osnet_x0_25" / "checkpoints" / "best.ckpt"
VERDICT = {"threshold": 0.3, "threshold_low": 0.25, "threshold_high": 0.35, "wanted_fpr": 0.001, "distance": "cosine"}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Drawn people whom the network never saw."""
    source = SyntheticPeople(tmp_path_factory.mktemp("people") / "drawn", 8, 4, 2, 3, (128, 64), seed=9, progress=False)
    samples = source()
    return [samples.root / path for path in samples.split("train", "query")["path"]]


@pytest.fixture(scope="module")
def files(people, tmp_path_factory):
    """Some of them in odd sizes."""
    place = tmp_path_factory.mktemp("images")
    sizes = [(64, 128), (61, 143), (200, 320), (33, 50), (48, 128), (90, 91)]
    for number, (file, size) in enumerate(zip(people[::5], sizes, strict=False)):
        Image.open(file).resize(size, Image.BICUBIC).save(place / f"{number}.png")
    return sorted(place.iterdir())


@pytest.fixture(scope="module")
def run(people, tmp_path_factory):
    """A run whose checkpoint knows the demo's people, with all its exported files."""
    made = Run.compose(["experiment=demo", f"run.root={tmp_path_factory.mktemp('runs')}", f"model.weights={WEIGHTS}"])
    made.keep_config()
    made.write(File.BEST, WEIGHTS.read_bytes())
    made.write(File.VERIFICATION, json.dumps(VERDICT | {"checkpoint": made.checkpoint}))
    export.run(made)
    pixels = np.stack([np.asarray(Image.open(file).resize((64, 128), Image.BILINEAR)) for file in people])
    batches = [
        pixels.astype(np.float32) / 255,
        np.zeros((1, 128, 64, 3), np.float32),
        np.ones((1, 128, 64, 3), np.float32),
    ]
    steps = as_steps(deployable(made.network, made["model.mean"], made["model.std"]), made["data.size"])
    ranges, known = observe(steps.arrays, batches, "minmax"), about(made)
    made.write(File.TFLITE, tflite.float_file(steps, known))
    made.write(File.TFLITE_INT8, tflite.integer_file(steps, ranges, known))
    made.write(File.ONNX_INT8, qdq.integer_onnx(steps, ranges, known))
    return made


def by_hand(run, files):
    """Each image alone through the network."""
    rows = []
    for file in files:
        pixels = np.asarray(Image.open(file).resize((64, 128), Image.BILINEAR), np.float32) / 255
        with torch.no_grad():
            rows.append(run.network(torch.from_numpy(pixels).permute(2, 0, 1)[None]).embedding[0].numpy())
    return np.stack(rows)


def cosines(a, b):
    return F.cosine_similarity(torch.from_numpy(a), torch.from_numpy(b)).mean().item()


@pytest.mark.parametrize(
    ("form", "least"),
    [
        ("", 0.99999),
        (File.BEST, 0.99999),
        (File.ONNX, 0.9999),
        (File.TFLITE, 0.9999),
        (File.TFLITE_INT8, 0.95),
        (File.ONNX_INT8, 0.9),
    ],
)
def test_every_form_gives_the_embedding_of_the_network(form, least, run, files):
    found = reidlab.load(run / form)(files)
    assert found.shape == (len(files), 512) and found.dtype == np.float32
    assert cosines(found, by_hand(run, files)) > least


@pytest.mark.parametrize("form", ["", File.BEST, File.ONNX, File.TFLITE, File.TFLITE_INT8])
def test_every_form_decides_by_the_calibrated_threshold(form, run, files):
    model = reidlab.load(run / form)
    same, other = model.same(files[0], files[0]), model.same(files[0], files[2])
    assert (
        same
        and same.same
        and bool(other) == other.same
        and same.distance == pytest.approx(0, abs=1e-5)
        and same.measure == "cosine"
    )
    a, b = by_hand(run, [files[0], files[2]]).astype(float)
    assert other.distance == pytest.approx(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=0.1)
    assert (other.threshold, other.interval) == (0.3, (0.25, 0.35)) and other.same == (other.distance <= 0.3)


def test_a_verdict_on_small_distances_says_their_digits():
    said = str(Verdict(True, 3.21e-5, 1e-4, (9.5e-5, 1.234e-4), "cosine", 0.99997, 0.9, 0.01))
    assert said.startswith("distance 3.21e-05 (") and "threshold 0.0001 [9.5e-05, 0.0001234]: the same;" in said
    assert str(Verdict(True, -2e-16, 0.3, None, "cosine", 1)).startswith("distance 0 (")
    for tpr, words in ((0.002, "0.2%"), (0.97, "97%"), (0.9996, "99.96%"), (0, "0%"), (1, "100%")):
        assert f"accepts {words} of the test" in str(Verdict(True, 1, 2, None, "cosine", 1, tpr, 3e-5))
    assert said.endswith("accepts 90% of the test pairs of one identity, 1.00% of others")
    assert str(Verdict(True, 1, 2, None, "cosine", 1, 0.5, 3e-5)).endswith("0.003% of others")
    assert "distance 18.44 (" in str(Verdict(False, 18.437, 18.412, None, "euclidean", 0.5))


def test_files_pixels_and_boxes_are_the_same_to_it(run, files):
    model = reidlab.load(run.folder)
    pixels = [np.asarray(Image.open(file)) for file in files]
    by_files = model(files)
    assert np.array_equal(model(pixels), by_files)
    assert np.allclose(model(files[0]), by_files[:1], atol=1e-4) and np.array_equal(
        model(str(files[0])), model(files[0])
    )
    frame = np.zeros((400, 300, 3), np.uint8)
    frame[20:148, 30:94], frame[200:343, 0:61] = pixels[0], pixels[1]
    assert np.allclose(model.crops(frame, [[30, 20, 94, 148], [-5, 200, 61, 343]]), by_files[:2], atol=1e-4)
    assert model.crops(frame, []).shape == (0, 512)
    for wrong in ([[0, 0, 9]], [[0, 0, 9, 9, 0.9]], [[0, 0, float("nan"), 9]]):
        with pytest.raises(InputError, match="give finite numbers"):
            model.crops(frame, wrong)
    with pytest.raises(InputError, match=r"box 1 .* is empty in a frame of 300 x 400"):
        model.crops(frame, [[0, 0, 9, 9], [300, 0, 320, 9]])


@pytest.mark.parametrize(("shape", "kind"), [((8, 8, 3), "float32"), ((8, 8), "uint8"), ((8, 8, 4), "uint8")])
def test_pixels_of_another_kind_are_refused(shape, kind, run):
    with pytest.raises(InputError, match=r"give uint8 \(H, W, 3\)"):
        reidlab.load(run.folder)([np.zeros(shape, kind)])


def test_a_threshold_of_another_checkpoint_or_distance_decides_nothing(run, files, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run.folder, other)
    for change in ({"checkpoint": "0" * 16}, {"distance": "euclidean"}):
        (other / File.VERIFICATION).write_text(json.dumps(VERDICT | {"checkpoint": run.checkpoint} | change))
        with pytest.raises(InputError, match="no calibrated threshold"):
            reidlab.load(other).same(files[0], files[1])


def test_kept_models_load_by_their_folder():
    model = reidlab.load(SHIPPED / "data" / "models" / "flowers_fdmobilenet_x0_25_128")
    assert model.classes == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    assert model([np.zeros((90, 70, 3), np.uint8)]).sum() == pytest.approx(1, abs=1e-5)


def test_a_bare_checkpoint_is_recognized_by_its_tensors(tmp_path, files):
    from reidlab.models import osnet_x0_5, resnet18

    torch.manual_seed(0)
    network = osnet_x0_5(num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "theirs.pth")
    found = reidlab.load(tmp_path / "theirs.pth")(files[:1])
    pixels = np.asarray(Image.open(files[0]).resize((128, 256), Image.BILINEAR), np.float32) / 255
    image = torch.from_numpy((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).float().permute(2, 0, 1)
    with torch.no_grad():
        assert np.allclose(found, network.eval()(image[None]).embedding.numpy(), atol=1e-4)
    (tmp_path / "version_0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "version_0" / "config.yaml").write_text("model: osnet\ntrainer: {max_epochs: 3}\n")  # by LightningCLI
    placed = (tmp_path / "theirs.pth").rename(tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    assert np.array_equal(reidlab.load(placed)(files[:1]), found)
    weights = {name: tensor for name, tensor in resnet18().state_dict().items() if not name.startswith("layer3")}
    torch.save(weights, tmp_path / "odd.pth")
    with pytest.raises(InputError, match="architecture isn't recognized"):
        reidlab.load(tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["nowhere", "runs/nowhere", "nowhere.onnx", "nowhere.ckpt"])
def test_what_is_not_there_is_named(name):
    with pytest.raises(InputError, match="nowhere"):
        reidlab.load(name)


@pytest.mark.parametrize("name", ["x.h5", "x.hdf5", "x.keras", "ckpt.t7", "notes.txt"])
def test_a_file_of_another_kind_is_told_which_are_taken(name, tmp_path):
    (tmp_path / name).write_bytes(b"of any content")
    with pytest.raises(InputError) as told:
        reidlab.load(tmp_path / name)
    assert all(word in str(told.value) for word in (name, ".tflite", ".onnx", ".pth", ".safetensors"))
    assert (f"model=NAME model.weights={tmp_path / name}" in str(told.value)) == (Path(name).suffix in SUFFIXES)
    assert "no such run" not in str(told.value)


def test_a_size_that_a_file_leaves_open_is_said(run, tmp_path, capsys):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1])
    graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["x"], ["y"])], "g", [given], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "open.onnx")
    assert reidlab.load(tmp_path / "open.onnx").size == (256, 128)
    assert "open.onnx: assumed images of (256, 128), since it takes any" in capsys.readouterr().out
    reidlab.load(run / File.ONNX)
    assert "images of" not in capsys.readouterr().out


def test_a_classifier_does_not_compare():
    model = Model(lambda pixels: np.zeros((len(pixels), 2), "float32"), (4, 4), "flowers", {"classes": ["a", "b"]})
    with pytest.raises(InputError, match="flowers: classifies images"):
        model.same(np.zeros((4, 4, 3), "uint8"), np.zeros((4, 4, 3), "uint8"))
