"""The trained networks of data/models: as small as published, and as good on photographs as their figures say."""

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.config import CLONE
from reidlab.data import ClassFolders, set_aside_images
from reidlab.data.images import read_batch
from reidlab.deploy.features import features
from reidlab.deploy.tflite_graph import read_graph
from reidlab.models import load_weights
from reidlab.run import Row, Run
from reidlab.stages import evaluate, predict
from reidlab.training.distillation import fit_classifier

SHARED = CLONE.parent / "shared" / "data"
PHOTOGRAPHS = {"flowers": SHARED / "flowers", "plant_leaves": SHARED / "plant_apple"}
KIB = {"fdmobilenet_x0_25": 128.32, "st_fdmobilenet_v1": 144.93}
KEPT = [
    (recipe, folder) for recipe in PHOTOGRAPHS for folder in sorted((CLONE / "data" / "models").glob(f"{recipe}_*"))
]


@pytest.mark.parametrize("folder", [f for recipe, f in KEPT if recipe == "flowers"], ids=lambda folder: folder.name)
def test_int8_weights_are_as_published(folder):
    network = folder.name.removeprefix("flowers_").rsplit("_", 1)[0]
    found = features(read_graph(folder / "export" / "model_int8.tflite"))
    assert found.weight_bytes / 1024 == pytest.approx(KIB[network], abs=0.01)


@pytest.fixture(scope="module")
def photographs(recipe, tmp_path_factory):
    """Some of the test photographs, eight of each class, in folders named by it."""
    all_of_them = PHOTOGRAPHS[recipe]
    if not all_of_them.is_dir():
        pytest.skip(f"no photographs at {all_of_them}")
    samples = set_aside_images(ClassFolders(all_of_them)(), {"test": 0.15}, 0)
    root = tmp_path_factory.mktemp(recipe)
    for path in samples.split("test").groupby("pid")["path"].head(8):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).symlink_to(all_of_them / path)
    return root


@pytest.mark.parametrize(("recipe", "folder"), KEPT, ids=[folder.name for _, folder in KEPT], scope="module")
@pytest.mark.parametrize("int8", [False, True])
def test_test_photographs_are_told_as_often_as_the_figures_say(folder, int8, photographs, tmp_path):
    model = [f"predict.model={folder}/export/model_int8.tflite"] if int8 else []
    run = Run.compose([f"experiment={folder.name}", f"run.root={tmp_path}", "predict.k=1", *model])
    for file in ("train.json", "checkpoints/best.ckpt"):
        place = tmp_path / folder.name / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder / file)
    table = pd.read_csv(predict.run(run, photographs))
    right = np.mean(table["class"] == table["path"].str.split("/").str[0])
    stated = Run(folder).results[Row.TFLITE_INT8 if int8 else Row.CHECKPOINT].figures["top-1"]
    assert abs(right - stated) < 3 * (stated * (1 - stated) / len(table)) ** 0.5 + 0.5 / len(table)


@pytest.mark.parametrize("network", KIB)
def test_a_line_through_the_features_of_a_pretrained_trunk_tells_flowers(network):
    if not PHOTOGRAPHS["flowers"].is_dir():
        pytest.skip(f"no photographs at {PHOTOGRAPHS['flowers']}")
    trunk = Run.compose([f"experiment=pretrained_{network}"]).untrained_network().eval()
    load_weights(trunk, CLONE / "data" / "models" / f"pretrained_{network}" / "checkpoints" / "best.ckpt")
    samples = set_aside_images(ClassFolders(PHOTOGRAPHS["flowers"])(), {"test": 0.15}, 0)
    seen = {}
    for split in ("train", "test"):
        rows = samples.split(split).groupby("pid").head(20)
        images = torch.from_numpy(read_batch([PHOTOGRAPHS["flowers"] / path for path in rows["path"]], (128, 128)))
        with torch.no_grad():
            seen[split] = trunk(images.permute(0, 3, 1, 2) / 255).embedding, torch.tensor(rows["pid"].tolist()) - 1
    (learned, labels), (unseen, truth) = seen.values()
    weight, bias = fit_classifier(learned / learned.std(), labels, 5, decay=0.03)
    right = (unseen / learned.std() @ weight.T + bias).argmax(1) == truth
    assert right.float().mean() > 0.45  # chance is 0.2


@pytest.mark.slow
@pytest.mark.parametrize("network", ["osnet_x0_25", "osnet_x1_0"])
def test_demo_people_are_found_as_often_as_the_figures_say(network, tmp_path):
    folder = CLONE / "data" / "models" / f"demo_{network}"
    weights = f"model.weights={folder}/checkpoints/best.ckpt"
    run = Run.compose(["experiment=demo", f"model={network}", weights, f"run.root={tmp_path}", "evaluate.baselines=[]",
                   f"data.root={tmp_path}/people"])  # fmt: skip
    found, stated = (each.results[Row.CHECKPOINT].figures for each in (evaluate.run(run), Run(folder)))
    assert found["num_query"] == stated["num_query"]
    assert abs(found["mAP"] - stated["mAP"]) < 0.005  # weights in float16, and files of other decoders


def test_the_backbone_of_drawn_people_knows_others_at_once(tmp_path):
    people = {"num_identities": 18, "train_identities": 4, "num_cameras": 3, "images_per_camera": 2, "seed": 7}
    drawn = (f"data.source.{key}={number}" for key, number in people.items())
    given = ["data=synthetic", f"data.root={tmp_path}/people", "data.size=[128,64]", "data.source.size=[128,64]",
             "model=osnet_x0_25", f"run.root={tmp_path}", *drawn]  # fmt: skip
    weights = CLONE / "data" / "models" / "pretrained_osnet_x0_25" / "checkpoints" / "best.ckpt"
    run = evaluate.run(Run.compose([*given, f"model.weights={weights}", "evaluate.baselines=[untrained]"]))
    known, chance = (run.results[row].figures["mAP"] for row in (Row.CHECKPOINT, Row.UNTRAINED))
    assert known > chance + 0.4
