"""Stages of a run that tells classes: data, training, evaluation, export, int8."""

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.config import compose, compose_for
from reidlab.data import DrawnShapes
from reidlab.deploy import microcontroller
from reidlab.deploy.emulator import missing_tools
from reidlab.errors import InputError
from reidlab.evaluation.classification import Classification
from reidlab.evaluation.embeddings import Embeddings
from reidlab.export import onnx
from reidlab.export.runtime import load
from reidlab.files import read_json
from reidlab.models import Confidences
from reidlab.stages import data as prepare
from reidlab.stages import evaluate, quantize, report, train
from reidlab.training.tasks import ClassificationTask, trained_network

SMALL = [
    "data=shapes",
    "data.source.images_per_class=20",
    "data.source.size=[64,64]",
    "data.size=[64,64]",
    "data.batch_size=16",
    "data.num_workers=0",
    "model=fdmobilenet_x0_25",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "logger=none",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("classes")


def config(root, name, *more):
    return compose([*SMALL, f"data.root={root}/shapes", f"run.root={root}/runs", f"run.name={name}", *more])


@pytest.fixture(scope="module")
def trained(root):
    train.run(config(root, "trained"))
    return root / "runs" / "trained"


def test_drawn_shapes_are_drawn_once_and_always_alike(tmp_path):
    one = DrawnShapes(tmp_path / "one", images_per_class=4, size=(40, 60), seed=3)()
    assert one.names == {1: "circle", 2: "cross", 3: "square", 4: "star", 5: "triangle"} and len(one.table) == 20
    before = [file.stat().st_mtime_ns for file in one.files()]
    again = DrawnShapes(tmp_path / "one", images_per_class=4, size=(40, 60), seed=3)()
    assert [file.stat().st_mtime_ns for file in again.files()] == before
    other = DrawnShapes(tmp_path / "two", images_per_class=4, size=(40, 60), seed=3)()
    assert one.content_hash() == other.content_hash()
    assert len({file.read_bytes() for file in one.files()}) == 20
    with pytest.raises(InputError, match="at least 4 images_per_class"):
        DrawnShapes(tmp_path, images_per_class=1)


def test_the_data_stage_pictures_classes(root):
    folder = prepare.run(config(root, "data"))
    summary = pd.read_csv(folder / "summary.csv", index_col="split")
    assert summary.loc["train"].tolist() == [5, 65, 13, 13] and summary.loc["test", "images"] == 25
    assert {"classes.png", "images_per_class.png", "sizes.png"} <= {file.name for file in folder.iterdir()}


def test_training_keeps_the_best_epoch_by_accuracy_and_the_names(trained):
    history = pd.read_csv(trained / "history.csv")
    record = read_json(trained / "train.json")
    assert record["best_val_top-1"] == pytest.approx(history["val/top-1"].max())
    assert record["classes"] == ["circle", "cross", "square", "star", "triangle"]
    best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == history["val/top-1"].idxmax()
    assert best["state_dict"]["network.classifier.weight"].shape == (5, 256)


def test_mixed_batches_are_learned_by_all_their_classes(root, monkeypatch):
    seen, step = [], ClassificationTask.prepare
    monkeypatch.setattr(ClassificationTask, "prepare", lambda *a: seen.append(step(*a)) or seen[-1])
    train.run(config(root, "mixed", "task.mix.p=1.0", "trainer.max_epochs=1"))
    for batch in seen:
        target = batch["target"]
        assert target.shape == (16, 5) and (target > 0).sum() > 16
        torch.testing.assert_close(target, batch["share"] @ torch.eye(5)[batch["pid"]])
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"task\.mix=null"):
        train.run(config(root, "triplet", "loss=softmax_triplet"))
    train.run(config(root, "triplet", "loss=softmax_triplet", "task.mix=null", "trainer.max_epochs=1"))


def test_the_trained_network_returns_confidences(trained, root):
    network, file = trained_network(config(root, "trained"))
    assert file == trained / "checkpoints" / "best.ckpt" and isinstance(network, Confidences)
    with torch.no_grad():
        output = network(torch.rand(3, 3, 32, 32))
        logits = network.network(torch.rand(3, 3, 32, 32)).logits
    assert output.logits is None and output.embedding.shape == logits.shape == (3, 5)
    torch.testing.assert_close(output.embedding.sum(1), torch.ones(3))
    with pytest.raises(InputError, match="no trained classifier; train first"):
        trained_network(config(root, "untrained"))


def test_evaluation_by_hand(trained, root):
    metrics = read_json(evaluate.run(config(root, "trained")))["checkpoint"]
    place = trained / "evaluate" / "checkpoint"
    rows = pd.read_csv(place / "per_image.csv")
    assert metrics["num_images"] == len(rows) == 25
    right = rows["class"] == rows["predicted"]
    assert metrics["top-1"] == pytest.approx(right.mean())
    assert (rows["class"] == rows["path"].str.split("/").str[0]).all()
    assert ((rows["rank"] == 1) == right).all() and metrics["top-5"] == 1
    low, high = read_json(place / "intervals.json")["top-1"]
    assert low < metrics["top-1"] < high or metrics["top-1"] in (low, high)
    confusion = pd.read_csv(place / "confusion.csv", index_col="class")
    counted = rows.groupby(["class", "predicted"]).size()
    assert all(confusion.loc[pair] == count for pair, count in counted.items()) and confusion.to_numpy().sum() == 25
    recall = pd.read_csv(place / "per_class.csv", index_col="class")["recall"]
    pd.testing.assert_series_equal(recall, right.groupby(rows["class"]).mean(), check_names=False)
    assert {"confusion.png", "calibration.png", "mistakes.png"} <= {file.name for file in place.iterdir()}
    page = report.run(config(root, "trained")).read_text()
    assert page.count("data:image/png;base64,") == 3 and "triangle" in page
    table = evaluate.results_table(trained)
    assert f"[{low:.3f}, {high:.3f}]" in table.loc["checkpoint", "top-1"]


def test_a_network_of_other_classes_is_refused():
    confidences = Embeddings(torch.rand(2, 3), pd.DataFrame({"path": ["a", "b"], "pid": [1, 2]}))

    class TwoClasses:
        num_classes, name = 2, "pair"

    with pytest.raises(InputError, match=r"tells 3 classes, data 'pair' has 2"):
        Classification.of(confidences, TwoClasses)


def test_mistakes_are_listed_surest_first():
    table = pd.DataFrame({"path": list("abc"), "pid": [4, 7, 7]})
    found = Classification(Embeddings(torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4]]), table), [4, 7], ["x", "y"])
    assert found.mistakes()["path"].tolist() == ["a", "c"]
    shown = found.pictures(lambda path: np.zeros((8, 8, 3), np.uint8), 1)["mistakes"].axes[0].texts
    assert [text.get_text() for text in shown] == ["y 90%, not x"]


def test_exported_and_int8_files_give_the_checkpoints_confidences(trained, root):
    """ONNX, TFLite and both int8 forms; uint8 pixels in, float32 confidences out."""
    cfg = config(root, "trained", "quantize.method=ptq", "quantize.max_drop=100", "quantize.images=40")
    onnx.run(cfg)
    quantize.run(cfg)
    parity = pd.read_csv(trained / "quantize" / "parity.csv", index_col="stage")
    assert {"checkpoint", "onnx", "tflite", "tflite int8", "onnx int8"} <= set(parity.index)
    assert parity.loc[["onnx", "tflite"], "agreement"].tolist() == [1, 1]
    assert read_json(trained / "export" / "model.json")["classes"][0] == "circle"
    file = load(trained / "export" / "model_int8.tflite")
    assert (file.input.dtype, file.output.dtype) == (np.uint8, np.float32)
    confidences = file(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    assert confidences.shape == (4, 5) and confidences.sum(1) == pytest.approx(1, abs=0.03)
    microcontroller.run(config(root, "trained", "deploy.cores=[]"))
    assert "softmax" in "".join(file.read_text() for file in (trained / "deploy" / "c").glob("*.c"))
    row = read_json(evaluate.run(compose_for([f"run.root={root}/runs", "run.name=trained",
                                              f"evaluate.file={trained}/export/model_int8.tflite"])))  # fmt: skip
    assert row["model_int8.tflite"]["top-1"] == pytest.approx(parity.loc["tflite int8", "top-1"])


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_tools()), reason=f"needs {missing_tools()}")
def test_a_microcontroller_gives_the_same_confidences(root):
    """Half a minute: compiles firmware and emulates ten images."""
    cfg = config(root, "deployed", "quantize.method=ptq", "quantize.max_drop=100", "deploy.images=10")
    train.run(cfg)
    quantize.run(cfg)
    microcontroller.run(cfg)
    row = read_json(root / "runs" / "deployed" / "metrics.json")["emulated m7"]
    assert row["bit_exact_images"] == row["num_images"] == 10 and 0 <= row["top-1"] <= 1
