"""Predictions against the evaluation's own tables and against distances computed by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reidlab import cli
from reidlab.config import compose, compose_for
from reidlab.data import read_image
from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.stages import predict, quantize, train
from reidlab.training.tasks import trained_network


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The overrides of a run that tells drawn shapes, and a folder of eight of them."""
    root = tmp_path_factory.mktemp("predict")
    overrides = [
        *("data=shapes", f"data.root={root}/shapes", "data.source.images_per_class=12", "data.size=[32,32]"),
        *("data.batch_size=16", "data.num_workers=0", "model=fdmobilenet_x0_25", "trainer.max_epochs=1"),
        *("trainer.accelerator=cpu", "logger=none", f"run.root={root}/runs", "run.name=shapes"),
    ]
    train.run(compose(overrides))
    some = root / "some"
    for label in ("circle", "star"):
        (some / label).mkdir(parents=True)
        for file in sorted((root / "shapes").rglob(f"{label}/*.png"))[:4]:
            (some / label / file.name).write_bytes(file.read_bytes())
    (some / "notes.txt").write_text("not an image")
    return [f"run.root={root}/runs", "run.name=shapes"], some


@pytest.fixture(scope="module")
def people(market, small, tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    overrides = [*small, f"run.root={root}", "run.name=people", "trainer.max_epochs=1"]
    train.run(compose(overrides))
    return [f"run.root={root}", "run.name=people"], market


def by_hand(cfg, files):
    """What the network returns for image files, one at a time."""
    network, _ = trained_network(cfg)
    mean, std = (torch.tensor(list(value)).view(3, 1, 1) for value in (cfg.model.mean, cfg.model.std))
    rows = []
    for file in files:
        image = torch.from_numpy(read_image(file, tuple(cfg.data.size))).permute(2, 0, 1) / 255
        with torch.no_grad():
            rows.append(network(((image - mean) / std)[None]).embedding[0])
    return torch.stack(rows)


def test_the_classes_of_a_folder(classes, capsys):
    overrides, some = classes
    cfg = compose_for([*overrides, "predict.k=3"])
    table = pd.read_csv(predict.run(cfg, some))
    files = sorted(some.rglob("*.png"))
    assert table["path"].unique().tolist() == [file.relative_to(some).as_posix() for file in files]
    assert table["rank"].tolist() == [1, 2, 3] * 8
    confidences = by_hand(cfg, files).sort(1, descending=True)
    names = np.array(["circle", "cross", "square", "star", "triangle"])
    assert table["class"].tolist() == names[confidences.indices[:, :3].flatten()].tolist()
    np.testing.assert_allclose(table["confidence"], confidences.values[:, :3].flatten(), atol=1e-5)
    assert "circle/0000.png" in capsys.readouterr().out
    with Image.open(cfg.run.root + "/shapes/predict/some.png") as picture:
        assert picture.width > 600


def test_one_file_by_an_int8_model(classes):
    overrides, some = classes
    cfg = compose_for([*overrides, "quantize.method=ptq", "quantize.max_drop=100", "quantize.formats=[tflite]"])
    quantize.run(cfg)
    model = f"{cfg.run.root}/shapes/export/model_int8.tflite"
    command = ["predict", str(some / "star" / "0001.png"), "predict.k=2", f"predict.model={model}", *overrides]
    assert cli.main(command) == 0
    table = pd.read_csv(f"{cfg.run.root}/shapes/predict/0001.csv")
    exact = by_hand(compose_for(overrides), [some / "star" / "0001.png"])[0].max()
    assert len(table) == 2 and table["confidence"][0] == pytest.approx(float(exact), abs=0.1)


def test_the_ranked_gallery_of_a_query(people):
    overrides, market = people
    cfg = compose_for([*overrides, "predict.k=4"])
    queries, gallery = (sorted((market / name).glob("*.jpg")) for name in ("query", "bounding_box_test"))
    table = pd.read_csv(predict.run(cfg, market / "query"))
    distances = torch.cdist(by_hand(cfg, queries).double(), by_hand(cfg, gallery).double())
    nearest = distances.topk(4, largest=False)
    assert table["found"].tolist() == [f"bounding_box_test/{gallery[i].name}" for i in nearest.indices.flatten()]
    np.testing.assert_allclose(table["distance"], nearest.values.flatten(), rtol=1e-3)
    assert table["pid"].tolist() == [int(gallery[i].name[:4]) for i in nearest.indices.flatten()]
    assert "same" not in table


def test_another_gallery_and_the_calibrated_threshold(people):
    overrides, market = people
    cfg = compose_for([*overrides, "predict.k=50", f"predict.gallery={market}/bounding_box_train"])
    query = sorted((market / "query").glob("*.jpg"))[0]
    folder = predict.run_folder(cfg)
    before = pd.read_csv(predict.run(cfg, query))
    assert len(before) == len(list((market / "bounding_box_train").glob("*.jpg"))) and "pid" not in before
    write_json(folder / "verification.json", {"threshold": float(before["distance"][2])})
    after = pd.read_csv(predict.run(cfg, query))
    assert after["same"].tolist() == [True] * 3 + [False] * (len(after) - 3)
    (folder / "verification.json").unlink()


@pytest.mark.parametrize(
    ("place", "message"),
    [("none.jpg", "no such file or folder"), ("empty", "holds no image"), ("broken.png", "not a readable image")],
)
def test_what_is_no_image_is_named(place, message, classes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(InputError, match=f"{place}.*{message}"):
        predict.run(compose_for(classes[0]), tmp_path / place)
