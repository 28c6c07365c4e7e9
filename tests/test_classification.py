"""Stages of a run that classifies images: data, training, evaluation, export, int8."""

import importlib.util
import json
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from reidlab.data import DrawnShapes, read_image
from reidlab.data.images import resize
from reidlab.deploy.emulator import missing_tools
from reidlab.errors import InputError
from reidlab.evaluation import Outputs
from reidlab.evaluation.classification import Classification
from reidlab.export.calibration import unseen_images
from reidlab.export.runtime import open_model
from reidlab.files import read_json
from reidlab.models import Confidences
from reidlab.run import File, Row, Run
from reidlab.stages import data as prepare
from reidlab.stages import deploy, dry_run, evaluate, export, predict, quantize, report, train
from reidlab.training.tasks import ClassificationTask

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
    return Run.compose([*SMALL, f"data.root={root}/shapes", f"run.root={root}/runs", f"run.name={name}", *more])


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
    run = prepare.run(config(root, "data"))
    summary = pd.read_csv(run / File.DATA_SUMMARY, index_col="split")
    assert summary.loc["train"].tolist() == [5, 65, 13, 13] and summary.loc["test", "images"] == 25
    assert {"classes.png", "images_per_class.png", "sizes.png"} <= {file.name for file in (run / File.DATA).iterdir()}


def test_training_keeps_the_best_epoch_by_accuracy_and_the_names(trained):
    history = pd.read_csv(trained / "history.csv")
    record = read_json(trained / "train.json")
    assert record["best_val_top-1"] == pytest.approx(history["val/top-1"].max())
    assert record["classes"] == ["circle", "cross", "square", "star", "triangle"]
    best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == history["val/top-1"][::-1].idxmax()  # of equal ones the last
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


def test_a_teacher_whose_terms_have_no_weight_teaches_nothing(root):
    given = ["distill=standard", "distill.teacher=x", "distill.feature=0", "distill.logits=0", "loss.softmax.weight=0"]
    with pytest.raises(InputError, match="so that nothing is learned"):
        train._require_taught(config(root, "untaught", "loss=softmax", *given))


@pytest.mark.parametrize("given", [["loss=arcface"], ["loss=softmax_triplet", "loss.softmax=null"],
                                   ["loss=softmax_triplet", "loss.softmax.weight=0"]])  # fmt: skip
def test_a_classifier_that_no_term_teaches_is_refused(given, root):
    with pytest.raises(InputError, match=r"teaches the classifier.*choose loss=softmax"):
        train.run(config(root, "untaught", "task.mix=null", *given))


def test_another_task_than_that_of_the_data_is_refused(root):
    run = config(root, "mismatched", "task=reid")
    for stage in (prepare, train, evaluate):
        with pytest.raises(InputError, match=r"task=reid: data=shapes has classes.*data=folders"):
            stage.run(run)


def test_the_trained_network_returns_confidences(trained, root):
    run = config(root, "trained")
    network = run.network
    assert run.weights == trained / "checkpoints" / "best.ckpt" and isinstance(network, Confidences)
    with torch.no_grad():
        output = network(torch.rand(3, 3, 32, 32))
        logits = network.network(torch.rand(3, 3, 32, 32)).logits
    assert output.logits is None and output.embedding.shape == logits.shape == (3, 5)
    torch.testing.assert_close(output.embedding.sum(1), torch.ones(3))
    with pytest.raises(InputError, match="no trained classifier; train first"):
        config(root, "untrained").network  # noqa: B018


def test_evaluation_by_hand(trained, root):
    run = evaluate.run(config(root, "trained"))
    metrics = run.results[Row.CHECKPOINT].figures
    place = trained / "evaluate" / "checkpoint"
    rows = pd.read_csv(place / "per_image.csv")
    assert metrics["num_images"] == len(rows) == 25
    right = rows["class"] == rows["predicted"]
    assert metrics["top-1"] == pytest.approx(right.mean())
    assert (rows["class"] == rows["path"].str.split("/").str[0]).all()
    assert ((rows["rank"] == 1) == right).all() and "top-5" not in metrics
    low, high = read_json(place / "intervals.json")["top-1"]
    assert low < metrics["top-1"] < high or metrics["top-1"] in (low, high)
    confusion = pd.read_csv(place / "confusion.csv", index_col="class")
    counted = rows.groupby(["class", "predicted"]).size()
    assert all(confusion.loc[pair] == count for pair, count in counted.items()) and confusion.to_numpy().sum() == 25
    recall = pd.read_csv(place / "per_class.csv", index_col="class")["recall"]
    pd.testing.assert_series_equal(recall, right.groupby(rows["class"]).mean(), check_names=False)
    assert {"confusion.png", "calibration.png", "mistakes.png"} <= {file.name for file in place.iterdir()}
    assert f"[{low:.3f}, {high:.3f}]" in run.table().loc["checkpoint", "top-1"]


def test_the_page_pictures_the_evaluation(trained, root):
    from reidlab.stages import report

    run = report.run(config(root, "trained"))
    page = (run / File.EVALUATION_PAGE).read_text()
    assert page.count("data:image/png;base64,") == 3 and "triangle" in page


def test_a_network_of_other_classes_is_refused():
    confidences = Outputs(torch.rand(2, 3), pd.DataFrame({"path": ["a", "b"], "pid": [1, 2]}))

    class TwoClasses:
        num_classes, name = 2, "pair"

    with pytest.raises(InputError, match=r"the network has 3 classes, data 'pair' has 2"):
        Classification.of(confidences, TwoClasses)


def test_logits_of_other_tools_are_made_confidences(capsys):
    logits = torch.tensor([[9.0, 2.0, -3.0], [0.5, 0.4, 0.1], [2.0, 2.0, 8.0]])
    table = pd.DataFrame({"path": ["a", "b", "c"], "pid": [1, 2, 3]})
    three = SimpleNamespace(num_classes=3, name="three", classes=[1, 2, 3], class_names=["x", "y", "z"])
    found = Classification.of(Outputs(logits, table), three)
    expected = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    np.testing.assert_allclose(found.confidences.values, expected, rtol=1e-5)
    assert found.summary()["calibration_error"] < 1 and "assumed: the network gives logits" in capsys.readouterr().out
    of_int8 = torch.tensor([[0.99609375, 0.0, 0.0], [0.5, 0.25, 0.25], [0.33203125, 0.33203125, 0.33203125]])
    assert torch.equal(Classification.of(Outputs(of_int8, table), three).confidences.values, of_int8)
    assert "assumed" not in capsys.readouterr().out


def test_mistakes_are_listed_surest_first():
    table = pd.DataFrame({"path": list("abc"), "pid": [4, 7, 7]})
    found = Classification(Outputs(torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.6, 0.4]]), table), [4, 7], ["x", "y"])
    assert found.mistakes()["path"].tolist() == ["a", "c"]
    shown = found.pictures(lambda path: np.zeros((8, 8, 3), np.uint8), 1)["mistakes"].axes[0].texts
    assert [text.get_text() for text in shown] == ["y 90%,\nnot x"]


def test_a_class_without_test_images_has_no_recall(tmp_path):
    """As a file has it: c was never shown, and b never predicted, which is a recall of 0."""
    table = pd.DataFrame({"path": list("abc"), "pid": [1, 1, 2]})
    found = Classification(Outputs(torch.eye(3)[[0, 2, 0]], table), [1, 2, 3], ["a", "b", "c"])
    found.per_class().to_csv(tmp_path / "per_class.csv")
    each = pd.read_csv(tmp_path / "per_class.csv", index_col="class")
    assert each["recall"].tolist()[:2] == [0.5, 0] and each["f1"].tolist()[:2] == [0.5, 0]
    assert each.loc["c", ["recall", "f1"]].isna().all() and each.loc["c", "precision"] == 0
    assert found.summary()["macro_f1"] == each["f1"].mean() and found.summary()["class_recall"] == each["recall"].mean()


@pytest.fixture(scope="module")
def quantized(trained, root):
    quick = ["quantize.method=ptq", "quantize.max_drop=100", "quantize.images=40", "quantize.threads=1"]
    run = config(root, "trained", *quick)
    return quantize.run(export.run(run))


def test_exported_and_int8_files_give_the_checkpoints_confidences(quantized):
    """ONNX, TFLite and both int8 forms; uint8 pixels in, float32 confidences out."""
    parity = pd.read_csv(quantized / File.PARITY, index_col="stage")
    assert {"checkpoint", "onnx", "tflite", "tflite int8", "onnx int8"} <= set(parity.index)
    assert parity.loc[["onnx", "tflite"], "agreement"].tolist() == [1, 1]
    assert quantized.results[Row.TFLITE_INT8].protocol.keys() == {"test", "size"}
    assert quantized.results[Row.TFLITE_INT8].figures["top-1"] == pytest.approx(parity.loc["tflite int8", "top-1"])
    assert read_json(quantized / File.ONNX_ABOUT)["classes"][0] == "circle"
    file = open_model(quantized / File.TFLITE_INT8)
    assert (file.input.dtype, file.output.dtype) == (np.uint8, np.float32)
    confidences = file(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    assert confidences.shape == (4, 5) and confidences.sum(1) == pytest.approx(1, abs=0.03)
    again = Run.resume([f"run.root={quantized.folder.parent}", "run.name=trained",
                        f"evaluate.file={quantized / File.TFLITE_INT8}"])  # fmt: skip
    found = evaluate.run(again).results["model_int8.tflite"].figures
    assert found["top-1"] == pytest.approx(parity.loc["tflite int8", "top-1"])


def test_of_features_and_scores_the_scores_are_evaluated(quantized, root, tmp_path):
    """As those of the file that has no others."""
    model = onnx.load(quantized / File.ONNX)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "scores"
    head = next(node for node in reversed(model.graph.node) if node.op_type in ("Conv", "Gemm"))
    model.graph.node.append(onnx.helper.make_node("Flatten", head.input[:1], ["pooled"]))
    model.graph.output.insert(0, onnx.helper.make_tensor_value_info("pooled", onnx.TensorProto.FLOAT, ["n", "d"]))
    onnx.save(model, tmp_path / "both.onnx")
    run = config(root, "theirs", f"evaluate.file={tmp_path / 'both.onnx'}")
    parity = pd.read_csv(quantized / File.PARITY, index_col="stage")
    dry_run.run(run, ["evaluate"])
    found = evaluate.run(run).results["both.onnx"].figures
    assert found["top-1"] == pytest.approx(parity.loc["onnx", "top-1"])


def test_the_int8_file_becomes_c(quantized, root):
    deploy.run(config(root, "trained", "deploy.cores=[]"))
    assert "softmax" in "".join(file.read_text() for file in (quantized / File.DEPLOY_C).glob("src/*.c"))


NAMES = ["circle", "cross", "square", "star", "triangle"]


@pytest.fixture(scope="module")
def shown(quantized, root):
    """Test images of every class: files, and their confidences by the run's network."""
    run = config(root, "trained")
    data = run.datamodule()
    paths = data.test.groupby("pid").head(2)["path"]
    mean, std = (torch.tensor(run[f"model.{name}"]).view(3, 1, 1) for name in ("mean", "std"))
    pixels = torch.from_numpy(np.stack([data.read(path) for path in paths])).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        return [data.samples.root / path for path in paths], run.network((pixels - mean) / std).embedding.numpy()


def check_printed(text, files, expected):
    """Lines of confidence, file and class against scores (N, 5)."""
    lines = [line.split() for line in text.splitlines()]
    assert [line[1] for line in lines] == [str(file) for file in files] and {len(line) for line in lines} == {3}
    for (confidence, _, name), scores in zip(lines, expected, strict=True):
        assert float(confidence) == pytest.approx(scores.max(), abs=1e-4) and name == NAMES[scores.argmax()]


def board_of(run, folder):
    """The unpacked zip of a Linux board."""
    (bundle,) = (deploy.folder(run) / "edge_linux").glob("*.zip")
    with zipfile.ZipFile(bundle) as content:
        content.extractall(folder)
    return folder


def test_a_board_prints_classes(quantized, root, shown, tmp_path):
    run = deploy.run(config(root, "trained", "deploy=edge_linux"))
    board = board_of(run, tmp_path)
    card = read_json(board / "card.json")
    assert card["classes"] == NAMES and not card["logits"]
    command = [sys.executable, board / "reid.py", *shown[0]]
    pixels = np.stack([resize(read_image(file), (64, 64)) for file in shown[0]])
    expected = open_model(quantized / File.TFLITE_INT8)(pixels)
    np.testing.assert_allclose(expected, shown[1], atol=0.05)
    check_printed(subprocess.run(command, capture_output=True, text=True, check=True).stdout, shown[0], expected)
    assert len(subprocess.run(command[:3], capture_output=True, text=True, check=True).stdout.splitlines()) == 1


@pytest.fixture(scope="module")
def nvidia(quantized, root):
    return deploy.run(config(root, "trained", "deploy=nvidia")) / File.DEPLOY_NVIDIA


def client_of(folder):
    """The module `triton_client.py` of a folder."""
    spec = importlib.util.spec_from_file_location("client", folder / "triton_client.py")
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    return client


def test_tritons_client_prints_classes(nvidia, shown, monkeypatch, capsys):
    session = onnxruntime.InferenceSession(nvidia / "model.onnx", providers=["CPUExecutionProvider"])

    class Answer:
        def __init__(self, request, timeout):
            length = int(request.headers["Inference-header-content-length"])
            head, pixels = json.loads(request.data[:length]), np.frombuffer(request.data[length:], "<f4")
            (name,) = (output["name"] for output in head["outputs"])
            made = session.run([name], {"input": pixels.reshape(head["inputs"][0]["shape"])})[0]
            about = json.dumps({"outputs": [{"shape": made.shape}]}).encode()
            self.content, self.headers = about + made.tobytes(), {"Inference-Header-Content-Length": len(about)}

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            return self.content

    monkeypatch.setattr(urllib.request, "urlopen", Answer)
    monkeypatch.setattr(sys, "argv", ["triton_client.py", *map(str, shown[0])])
    client_of(nvidia).main()
    check_printed(capsys.readouterr().out, *shown)


def test_nvidias_folder_is_that_of_a_classifier(nvidia, root):
    card, text = read_json(nvidia / "test_vector" / "expected.json"), (nvidia / "README.md").read_text()
    assert card["classes"] == NAMES and card["output"] == "scores"
    assert text.startswith("# 5 class scores from") and "confidences, in the\norder of `classes`" in text
    assert "names the class of each object" in text and "the likeliest class of each image" in text
    assert "an embedding" not in text and "re-association by" not in text
    assert 'name: "scores"' in (nvidia / "triton" / "reid_python" / "config.pbtxt").read_text()
    assert [file.name for file in nvidia.glob("deepstream_*")] == ["deepstream_nvinfer.txt"]
    infer = dict(line.split("=") for line in (nvidia / "deepstream_nvinfer.txt").read_text().splitlines()[2:])
    assert infer["network-type"] == "1" and infer["infer-dims"] == "3;64;64" and infer["output-blob-names"] == "scores"
    assert (nvidia / infer["labelfile-path"]).read_text() == ";".join(NAMES) + "\n"
    named = deploy.run(config(root, "trained", "deploy=nvidia", "export.output_name=classes")) / File.DEPLOY_NVIDIA
    assert read_json(named / "test_vector" / "expected.json")["output"] == "classes"


def test_deepstream_files_of_an_earlier_release_are_removed(quantized, root):
    folder = config(root, "trained") / File.DEPLOY_NVIDIA
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "deepstream_nvtracker.yml").write_text("ReID:")
    deploy.run(config(root, "trained", "deploy=nvidia"))
    assert not (folder / "deepstream_nvtracker.yml").exists()


def test_gray_of_16_bits_is_read_as_in_training(nvidia, tmp_path):
    gray = np.random.default_rng(0).integers(0, 65536, (64, 64), np.uint16)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(client_of(nvidia).read(tmp_path / "gray.png"), read_image(tmp_path / "gray.png"))


def test_the_c_of_a_classifier_tells_of_classes(quantized, root):
    folder = deploy.run(config(root, "trained", "deploy.cores=[]", "deploy.prefix=shapes")) / File.DEPLOY_C
    text, header = (folder / "README.md").read_text(), (folder / "src/shapes.h").read_text()
    assert "5 class scores out" in text and "SHAPES_CLASS_NAMES" in text
    for word in ("Gallery", "who is it", "Verdict", "dentit", "n embedding", "Examples"):
        assert word not in text, word
    assert '#define SHAPES_CLASS_NAMES {"circle", "cross", "square", "star", "triangle"}' in header
    assert "THRESHOLD" not in header and not (folder / "examples/camera").exists()
    assert "Re-identification" not in (folder / "library.properties").read_text()


def test_files_of_classifiers_from_elsewhere_are_classifiers(quantized, root, small, tmp_path):
    """Also where the settings are of identities: a file names its classes."""
    file = quantized / File.ONNX_INT8
    for number, given in enumerate(([*SMALL, f"data.root={root}/shapes"], small)):
        given = [*given, f"run.root={tmp_path}", f"run.name=run{number}", f"evaluate.file={file}"]
        run = Run.compose([*given, "deploy=edge_linux"])
        deploy.run(run)
        assert read_json(board_of(run, tmp_path / f"board{number}") / "card.json")["classes"] == NAMES
        with pytest.raises(InputError, match="classifies images; trackers take"):
            deploy.run(Run.compose([*given, "deploy=trackers"]))


@pytest.fixture(scope="module")
def bare(quantized, root):
    """The .onnx without what it says of itself, but for what its images are like, and the checkpoint elsewhere."""
    model = onnx.load(quantized / File.ONNX)
    kept = [entry for entry in model.metadata_props if entry.key in ("mean", "std", "color_order")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, root / "bare.onnx")
    shutil.copy(quantized / File.BEST, root / "elsewhere.ckpt")
    return [root / "bare.onnx", root / "elsewhere.ckpt"]


def assumed_of(file):
    return f"its outputs are {', '.join(NAMES)}, in this order, which {file.name} doesn't say"


def test_the_order_of_classes_that_no_file_names_is_assumed_aloud(quantized, root, bare, shown, capsys):
    (image, *_), _ = shown

    def said(stage, *given):
        capsys.readouterr()
        stage(config(root, *given))
        return " ".join(capsys.readouterr().out.split())

    for file in bare:
        assert f"assumed: {assumed_of(file)}" in said(evaluate.run, "assumed", f"evaluate.file={file}")
    weights = [f"model.weights={bare[1]}", "evaluate.resamples=20"]
    assert f"assumed: {assumed_of(bare[1])}" in said(evaluate.run, "by_weights", *weights)
    assert "its outputs are" not in said(evaluate.run, "trained")
    assert "its outputs are" not in said(evaluate.run, "named", f"evaluate.file={quantized / File.ONNX}")
    assert "its outputs are" not in said(evaluate.run, "named", f"evaluate.file={quantized / File.BEST}")
    by_file = [f"predict.model={bare[0]}"]
    assert f"assumed: {assumed_of(bare[0])}" in said(lambda run: predict.run(run, image), "trained", *by_file)
    assert "its outputs are" not in said(lambda run: predict.run(run, image), "trained")
    told = said(deploy.run, "trained", "deploy=edge_linux", f"evaluate.file={bare[0]}")
    assert f"assumed: {assumed_of(bare[0])}" in told and "distance" not in told


def test_the_card_of_a_file_says_the_order_that_is_assumed_and_no_figure_that_there_is_not(root, bare):
    run = config(root, "carded", f"evaluate.file={bare[0]}", "evaluate.resamples=20")
    evaluate.run(run)
    assert run.figures == ("top-1",)
    report.run(run)
    text = (run / File.CARD_MARKDOWN).read_text().replace("\\", "")
    assert assumed_of(bare[0]) in text and "top-5" not in text.partition("## ")[0]


def test_a_checkpoint_of_classes_in_another_order_is_refused(quantized, root, tmp_path):
    renamed = shutil.copytree(root / "shapes" / "64x64-20-0", tmp_path / "shapes")
    for place in [*renamed.rglob("circle")]:
        place.rename(place.with_name("round"))
    for given in ([f"evaluate.file={quantized / File.BEST}"], [f"model.weights={quantized / File.BEST}"]):
        data = ["data=class_folders", f"data.root={renamed}", "data.size=[64,64]", "data.num_workers=0"]
        run = Run.compose([*data, "model=fdmobilenet_x0_25", f"run.root={tmp_path}/runs", "run.name=other", *given])
        message = r"best\.ckpt: its classes are circle, cross, .*; those of data 'class_folders' are cross, round"
        with pytest.raises(InputError, match=message):
            evaluate.run(run)
        assert not run.folder.exists()


def test_classes_without_names_are_numbers(quantized, root, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "classes", [])
    assert deploy.deployable(config(root, "trained")).classes == list("01234")
    model = onnx.load(quantized / File.ONNX)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    given = ["evaluate.mean=[0,0,0]", "evaluate.std=[1,1,1]"]
    assert deploy.deployable_file(config(root, "none", *given), tmp_path / "bare.onnx").classes == list("01234")


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_tools()), reason=f"needs {missing_tools()}")
def test_a_microcontroller_gives_the_same_confidences(root):
    """Half a minute: compiles firmware and emulates ten images."""
    run = config(root, "deployed", "quantize.method=ptq", "quantize.max_drop=100", "deploy.images=10")
    deploy.run(quantize.run(train.run(run)))
    row = run.results["emulated m7"].figures
    assert row["bit_exact_images"] == 10 and "top-1" not in row


def test_the_sensitivity_of_a_classifier_is_measured_evenly_over_its_classes(root, trained):
    options = [
        "method=mixed",
        "sensitivity_images=10",
        "mixed_steps=2",
        "max_drop=100",
        "formats=[tflite]",
        "threads=1",
    ]
    run = config(root, "trained", *(f"quantize.{option}" for option in options))
    costs = pd.read_csv(quantize.run(run) / File.SENSITIVITY, index_col="step")
    assert (costs["relative_error"] >= 0).all() and costs["drop"].between(-100, 100).all()
    chosen = unseen_images(run.datamodule(), 10)
    assert set(chosen["split"]) == {"val"} and chosen["pid"].value_counts().tolist() == [2] * 5
