"""Each tool's pre-processing, written out in numpy from what its version does, and the tools themselves (slow)."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
import yaml

import reidlab
from reidlab import models
from reidlab.config import CLONE
from reidlab.data.images import read_image
from reidlab.data.synthetic import generate_people
from reidlab.deploy.trackers import ROBOFLOW, TOOLS, Subject, Trackers, as_published, cosine
from reidlab.errors import InputError
from reidlab.run import File, Run
from reidlab.stages import deploy

SIZE = (128, 64)
KEPT = CLONE / "data" / "models" / "demo_osnet_x0_25"
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
STATISTICS = {
    "plain": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "imagenet": tuple(values.tolist() for values in IMAGENET),
    "other": ([0.3, 0.5, 0.4], [0.25, 0.2, 0.5]),
}


NETWORKS = {  # by what Roboflow's package calls it: settings, and what makes one, for the first a trained one
    "osnet_x0_25": (["model=osnet_x0_25"], lambda statistics: trained_for(*STATISTICS[statistics])),
    "timm:resnet18": (
        ["model=resnet18", "model.network.last_stride=2", "model.network.neck=null"],
        lambda _: models.resnet18(last_stride=2, feat_dim=None),
    ),
    "": (["model=fdmobilenet_x0_25"], lambda _: models.FDMobileNet(0.25)),
}
REQUIREMENTS = {
    "boxmot": ["boxmot==25.0.0", "onnxruntime==1.24.3"],
    "ultralytics": ["ultralytics==8.4.190", "lapx"],
    "roboflow": ["reid==0.1.0rc1"],
    "deep_sort_realtime": ["deep-sort-realtime==1.3.2"],
}


class Scene(NamedTuple):
    """Drawn people in a BGR frame (H, W, 3), all of odd sizes, with their boxes (N, 4)."""

    frame: np.ndarray
    boxes: np.ndarray

    def crops(self, boxes):
        """RGB crops as floats."""
        for left, top, right, bottom in np.trunc(boxes).astype(int).clip(0):
            yield self.frame[top:bottom, left:right, ::-1].astype(float)

    @property
    def widened(self):
        """The boxes as Ultralytics crops them: 2 % and 10 pixels larger."""
        centers, sizes = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2, self.boxes[:, 2:] - self.boxes[:, :2]
        larger = sizes * 1.02 + 10
        return np.trunc(np.hstack([centers - larger / 2, centers + larger / 2]))

    def expected(self, model, tool):
        """The checkpoint's embeddings of what a tool crops."""
        return model.crops(self.frame[..., ::-1], self.widened if tool == "ultralytics" else self.boxes)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    people = {"num_identities": 7, "train_identities": 2, "num_cameras": 2, "images_per_camera": 2, "size": SIZE}
    root = generate_people(tmp_path_factory.mktemp("drawn") / "people", **people, progress=False)
    frame = np.random.default_rng(0).integers(0, 256, (181, 361, 3), dtype=np.uint8)
    boxes, left = [], 7
    for number, file in enumerate(sorted(root.glob("query/*_c1*"))[:5]):
        height, width = 115 - 4 * number, 57 - 2 * number
        top = 3 + 11 * number
        frame[top : top + height, left : left + width] = read_image(file)[:height, :width]
        boxes.append((left, top, left + width, top + height))
        left += width + 13
    return Scene(np.ascontiguousarray(frame[..., ::-1]), np.array(boxes, float))


def trained_for(mean, std):
    """The kept network of drawn people, which takes pixels as they are, for normalized ones."""
    network = Run(KEPT).network
    mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    first = network.conv1
    with torch.no_grad():
        first.bn.running_mean -= (first.conv.weight * mean).sum((1, 2, 3))
        first.conv.weight *= std
    return network


def compose(small, root, name="osnet_x0_25", statistics="plain", *settings):
    chosen, build = NETWORKS[name]
    weights = root / "weights.pth"
    torch.save(build(statistics).state_dict(), weights)
    mean, std = STATISTICS[statistics]
    sized = [*(word for word in small if not word.startswith("data.size")), f"data.size=[{SIZE[0]},{SIZE[1]}]"]
    given = [f"run.root={root}", "run.name=run", f"model.weights={weights}", f"model.mean={mean}", f"model.std={std}"]
    return Run.compose([*sized, *chosen, *given, "deploy=trackers", *settings])


CASES = [("osnet_x0_25", "plain"), ("osnet_x0_25", "imagenet"), ("timm:resnet18", "imagenet"), ("", "other")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def deployed(request, small, tmp_path_factory):
    """A model and its folders, with Roboflow's name of its network."""
    run = compose(small, tmp_path_factory.mktemp("runs"), *request.param)
    folder = deploy.run(run) / File.DEPLOY / "trackers"
    return reidlab.load(run.folder), folder, request.param[0]


def resampled(image, size, antialias):
    """Bilinear by half-pixel centers: (H, W, 3) -> (*size, 3) float; rows first."""
    for axis, length in enumerate(size):
        scale = image.shape[axis] / length
        centers, width = (np.arange(length) + 0.5) * scale, max(scale, 1) if antialias else 1
        distances = np.abs(np.arange(image.shape[axis]) + 0.5 - centers[:, None]) / width
        weights = np.maximum(0, 1 - distances)
        weights /= weights.sum(1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return image


def fed_by_boxmot(scene, _):
    pixels = np.stack([np.round(resampled(crop, SIZE, antialias=False)) for crop in scene.crops(scene.boxes)])
    return (pixels / 255 - IMAGENET[0]) / IMAGENET[1]


def fed_by_ultralytics(scene, _):
    return np.stack([resampled(crop, SIZE, antialias=False) for crop in scene.crops(scene.widened)]) / 255


def fed_by_deepstream(scene, folder):
    section = yaml.safe_load((folder / "nvtracker_nvdcf.yml").read_text())["ReID"]
    assert section["inputOrder"] == section["colorFormat"] == section["keepAspc"] == 0
    pixels = np.stack([resampled(crop, SIZE, antialias=False) for crop in scene.crops(scene.boxes)])
    return section["netScaleFactor"] * (pixels - np.array(section["offsets"]))


def fed_by_roboflow(scene, folder):
    steps = {"mean": [0.0], "std": [1.0]}
    if (folder / "reid_config.json").exists():
        steps = json.loads((folder / "reid_config.json").read_text())["preprocessing"]
        assert steps["input_size"] == [*SIZE] and steps["to_rgb"] and steps["resize_mode"] == "stretch"
    pixels = np.stack([np.round(resampled(crop, SIZE, antialias=True)) for crop in scene.crops(scene.boxes)])
    return (pixels / 255 - steps["mean"]) / steps["std"]


FED = {
    "boxmot": fed_by_boxmot,
    "ultralytics": fed_by_ultralytics,
    "deepstream": fed_by_deepstream,
    "roboflow": fed_by_roboflow,
}


def run_file(folder, images):
    """What a folder's network makes of images (N, H, W, 3)."""
    images = images.transpose(0, 3, 1, 2).astype(np.float32)
    if (folder / "weights.safetensors").exists():
        architecture = json.loads((folder / "reid_config.json").read_text())["architecture"]
        network = ROBOFLOW[architecture]().eval()
        network.load_state_dict(safetensors.torch.load_file(folder / "weights.safetensors"))
        with torch.no_grad():
            return network(torch.from_numpy(images)).embedding.numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["output0"], {"images": images})[0]


@pytest.mark.parametrize("tool", FED)
def test_what_a_tool_feeds_gives_the_checkpoints_embeddings(deployed, scene, tool):
    model, folder, _ = deployed
    found = run_file(folder / tool, FED[tool](scene, folder / tool))
    assert cosine(found, scene.expected(model, tool)).min() >= 0.999


def test_people_are_apart_and_the_file_of_another_tool_is_wrong(deployed, scene):
    """Else equality would say little; held for the network that is trained."""
    model, folder, name = deployed
    if name != "osnet_x0_25":
        return
    expected = scene.expected(model, "boxmot")
    assert cosine(expected, np.roll(expected, 1, axis=0)).max() < 0.9
    for tool, feeder in (("ultralytics", "boxmot"), ("boxmot", "deepstream")):
        assert cosine(run_file(folder / tool, FED[feeder](scene, folder / feeder)), expected).max() < 0.9


def test_the_embedder_of_deep_sort_realtime_resizes_as_in_training(deployed, scene):
    model, folder, _ = deployed
    embedder = imported(folder / "deep_sort_realtime" / "embedder.py").Embedder()
    found = embedder.predict([crop[..., ::-1].astype(np.uint8) for crop in scene.crops(scene.boxes)])
    expected = scene.expected(model, "deep_sort_realtime")
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert embedder.predict([]) == []


def imported(file):
    specification = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_file_says_what_it_takes(deployed, scene):
    model, folder, _ = deployed
    expected = scene.expected(model, "boxmot")
    for tool in ("boxmot", "ultralytics"):
        found = scene.expected(reidlab.load(folder / tool / "model.onnx"), "boxmot")
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_roboflow_gets_weights_where_it_has_the_network(deployed):
    _, folder, name = deployed
    found = {file.name for file in (folder / "roboflow").iterdir()} - {"README.txt", "test_vector", "test_vector.py"}
    assert found == ({"weights.safetensors", "reid_config.json"} if name else {"model.onnx", "encoder.py"})
    if name:
        assert json.loads((folder / "roboflow" / "reid_config.json").read_text())["architecture"] == name


def test_settings_name_the_size_and_the_files(deployed, scene):
    model, folder, _ = deployed
    features = scene.expected(model, "deepstream").shape[1]
    sidecar = json.loads((folder / "boxmot" / "model.onnx.metadata.json").read_text())
    profile = yaml.safe_load((folder / "boxmot" / "reid.yaml").read_text())
    assert sidecar["img_size"] == profile["preprocessing"]["image_size"] == [*SIZE] and sidecar["schema_version"] == 1
    assert profile["id"] == "reidlab-run" and (folder / "boxmot" / profile["weights"]["path"]).is_file()
    tracker = yaml.safe_load((folder / "ultralytics" / "botsort.yaml").read_text())
    assert tracker["with_reid"] is True and tracker["model"] == str(folder.resolve() / "ultralytics" / "model.onnx")
    whole = yaml.safe_load((folder / "deepstream" / "nvtracker_nvdcf.yml").read_text())
    sections = "BaseConfig TargetManagement TrajectoryManagement DataAssociator StateEstimator VisualTracker ReID"
    assert list(whole) == sections.split() and whole["TrajectoryManagement"]["enableReAssoc"] == 1
    section = whole["ReID"]
    assert (section["reidType"], section["reidFeatureSize"], section["inferDims"]) == (2, features, [3, *SIZE])
    assert section["addFeatureNormalization"] == 1 and (folder / "deepstream" / section["onnxFile"]).is_file()
    session = onnxruntime.InferenceSession(folder / "deepstream" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, *SIZE] and session.get_outputs()[0].shape == [
        "batch",
        features,
    ]


def test_readmes_name_the_versions_that_the_slow_test_installs(deployed):
    _, folder, _ = deployed
    for tool, (package, *_) in REQUIREMENTS.items():
        assert f"tried with {package.split('==')[1]}:" in (folder / tool / "README.txt").read_text()


@pytest.fixture
def given(small, tmp_path):
    """A network that Roboflow's package hasn't, as targets get it."""
    return deploy.deployable(compose(small, tmp_path, ""))


def test_a_calibrated_threshold_reaches_every_tool(given, tmp_path):
    def written(threshold):
        place = tmp_path / str(threshold)
        Trackers("trackers", list(TOOLS), 8).deploy(dataclasses.replace(given, cosine_threshold=threshold), place)
        return place

    for threshold, line in ((None, "No threshold"), (0.3, "Calibrated for this network: 0.3.")):
        folder = written(threshold)
        assert all(line in (folder / tool / "README.txt").read_text() for tool in TOOLS)
    assert yaml.safe_load((folder / "ultralytics" / "botsort.yaml").read_text())["appearance_thresh"] == 0.85
    whole = yaml.safe_load((folder / "deepstream" / "nvtracker_nvdcf.yml").read_text())
    assert whole["TrajectoryManagement"]["minMatchingScore4ReidSimilarity"] == 0.7


def test_the_threshold_is_the_runs_on_cosine(small, tmp_path):
    run = compose(small, tmp_path, "")
    for distance, threshold in (("euclidean", None), ("cosine", 0.3)):
        known = {"distance": distance, "threshold": 0.3, "checkpoint": run.checkpoint}
        run.write(File.VERIFICATION, json.dumps(known))
        assert deploy.deployable(run).cosine_threshold == threshold


def test_weights_of_a_network_that_was_there_before_are_gone(given, tmp_path):
    osnet = models.osnet_x0_25().eval()
    for network, name in ((osnet, "weights.safetensors"), (given.network(), "encoder.py")):
        shown = dataclasses.replace(given, network=lambda network=network: network)
        Trackers("trackers", ["roboflow"], 8).deploy(shown, tmp_path)
        assert (tmp_path / "roboflow" / name).exists()
    assert not (tmp_path / "roboflow" / "weights.safetensors").exists()


def test_only_the_same_layers_are_roboflows(given):
    def found(**head):
        network = models.osnet_x0_25(**head).eval()
        torch.nn.init.uniform_(getattr(network.bottleneck, "running_mean", torch.zeros(1)))
        return as_published(Subject(given, network, 8), network)

    for head in ({"neck": "bnneck"}, {"pooling": "gem"}, {"projection": "linear"}, {"feat_dim": 64}):
        assert found(**head) is None, head
    for head in ({}, {"num_classes": 5}, {"neck": "bnneck", "neck_feat": "before"}):
        assert found(**head)[0] == "osnet_x0_25", head


def test_what_cannot_be_deployed_is_refused_in_a_line(given, tmp_path):
    with pytest.raises(InputError, match=r"deploy.tools=sort: choose from boxmot, ultralytics, .*"):
        Trackers("trackers", ["sort"], 8).deploy(given, tmp_path)
    with pytest.raises(InputError, match="classifies images"):
        Trackers("trackers", ["boxmot"], 8).deploy(dataclasses.replace(given, classes=["a", "b"]), tmp_path)


START = """
import os, sys
from pathlib import Path
import numpy as np, torch
if "+cpu" in torch.__version__:  # torchvision's own operators are for the CUDA build; none is used here
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
place = Path(sys.argv[1])
frame, boxes = (np.load(place / f"{name}.npy") for name in ("frame", "boxes"))
sizes = boxes[:, 2:] - boxes[:, :2]
for number, folder in enumerate(map(Path, sys.argv[2:])):
    sys.path.insert(0, str(folder))
"""
PROGRAMS = {  # each loads a folder by the tool's own loader and embeds the boxes of a BGR frame
    "boxmot": """
    from boxmot.reid import create_reid_encoder
    from boxmot.reid.config import resolve_reid_spec
    from boxmot.reid.core.runtime import ReID
    spec, _ = resolve_reid_spec(folder / "reid.yaml", allow_download=False)
    found = create_reid_encoder(spec)._runtime.get_features(boxes.astype(np.float32), frame)
    assert np.allclose(found, ReID(folder / "model.onnx")(frame, boxes), atol=1e-5)
    os.environ["BOXMOT_REID_BACKEND"] = "opencv"
    assert np.allclose(found, ReID(folder / "model.onnx")(frame, boxes), atol=1e-4)
    del os.environ["BOXMOT_REID_BACKEND"]
""",
    "ultralytics": """
    from ultralytics.trackers.bot_sort import BOTSORT
    from ultralytics.utils import IterableSimpleNamespace, YAML
    from ultralytics.utils.checks import check_yaml
    settings = IterableSimpleNamespace(**YAML.load(check_yaml(str(folder / "botsort.yaml"))), device="cpu")
    found = BOTSORT(settings).encoder(frame, np.hstack([boxes[:, :2] + sizes / 2, sizes]).astype(np.float32))
""",
    "roboflow": """
    import supervision
    from reid import ReIDModel
    if (folder / "encoder.py").exists():
        from encoder import load
        model = load()
    else:
        model = ReIDModel.from_pretrained(str(folder), device="cpu")
    found = model.extract_embeddings(supervision.Detections(xyxy=boxes.astype(np.float32)), frame)
""",
    "deep_sort_realtime": """
    from deep_sort_realtime.deepsort_tracker import DeepSort
    sys.modules.pop("embedder", None)
    from embedder import Embedder
    tracker = DeepSort(embedder=None)
    tracker.embedder = Embedder()
    detections = [([*box[:2], *size], 0.9, "person") for box, size in zip(boxes, sizes)]
    assert len(tracker.update_tracks(detections, frame=frame)) == len(boxes)
    found = tracker.generate_embeds(frame, detections)
""",
}
END = """
    np.save(place / f"found{number}.npy", np.array(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tool", PROGRAMS)
def test_the_package_itself_gives_the_checkpoints_embeddings(tool, small, scene, tmp_path):
    """Installed into an environment of its own, which sees this one's packages; pip leaves those alone."""
    torch_minor = int(torch.__version__.split(".")[1])
    prefix = tmp_path / "environment"
    venv.create(prefix)
    (next(prefix.glob("lib/*/site-packages")) / "others.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", prefix, "install", "-q", "--disable-pip-version-check"]
    wanted = [*REQUIREMENTS[tool], f"torchvision==0.{torch_minor + 15}.*"]
    installed = subprocess.run([*pip, *wanted], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"{tool} can't be installed here: {installed.stderr.strip().splitlines()[-1]}")
    folders, expected = [], []
    for number, case in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        run = deploy.run(compose(small, tmp_path / str(number), *case, f"deploy.tools=[{tool}]"))
        folders.append(run / File.DEPLOY / "trackers" / tool)
        expected.append(scene.expected(reidlab.load(run.folder), tool))
    np.save(tmp_path / "frame.npy", scene.frame)
    np.save(tmp_path / "boxes.npy", scene.boxes)
    program = START + PROGRAMS[tool] + END
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [prefix / "bin" / "python", "-c", program, tmp_path, *folders]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for number, (case, embeddings) in enumerate(zip(CASES, expected, strict=True)):
        found = np.load(tmp_path / f"found{number}.npy")
        least = cosine(found, embeddings).min()
        print(f"{tool:20} {' '.join(case):25} least cosine {least:.6f}")
        assert least >= 0.999, case
