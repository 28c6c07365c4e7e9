"""The card of a run about a file from elsewhere, held against what is in the file, and of untrained networks."""

import json

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper

from reidlab import card
from reidlab.card import network
from reidlab.dashboard import folders
from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime
from reidlab.run import File, Run
from reidlab.stages import dry_run, evaluate, export, matrix, report

OUTPUTS = 737  # of no network of the project
OF_THE_DEFAULT = ("osnet", "201,864", "MACs", "512", "initial", "Apache-2.0 | –", "checkpoint")


def write_onnx(file, outputs=OUTPUTS):
    """Mean colors times a matrix, of images 24 x 12."""
    weight = np.random.default_rng(0).normal(size=(3, outputs)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["vector"]),
    ]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ("n", 3, 24, 12))
    made = helper.make_tensor_value_info("vector", TensorProto.FLOAT, ("n", outputs))
    graph = helper.make_graph(nodes, "g", [given], [made], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), file)
    return file


@pytest.fixture
def settings(small, tmp_path):
    return [*small, f"run.root={tmp_path}/runs", "run.name=theirs", "data.name=mine", "evaluate.resamples=20",
            "evaluate.baselines=[]", "card.license=Apache-2.0"]  # fmt: skip


@pytest.fixture
def run(settings, tmp_path):
    """A run that evaluated such a file and did nothing else."""
    return evaluate.run(Run.compose([*settings, f"evaluate.file={write_onnx(tmp_path / 'vendor.onnx')}"]))


def written(run):
    """The Markdown of a run's card, its front matter, and its HTML."""
    run = report.run(Run.resume([f"run.root={run.folder.parent}", f"run.name={run.name}"]))
    markdown = (run / File.CARD_MARKDOWN).read_text().replace("\\", "")
    return markdown, yaml.safe_load(markdown.split("---\n")[1]), (run / File.CARD).read_text()


def test_the_card_is_of_the_file_and_of_no_other_network(run, tmp_path):
    markdown, front, html = written(run)
    size = (tmp_path / "vendor.onnx").stat().st_size
    for said in ("vendor.onnx, a re-identification network for 24x12 images", f"{OUTPUTS} numbers, the embedding",
                 "pixels (-1, 3, 24, 12) float32", f"{size:,} bytes", "pixels scaled to [0, 1]"):  # fmt: skip
        assert said in markdown and said in html
    mAP = json.loads((run / File.METRICS).read_text())["vendor.onnx"]["mAP"]
    assert f"[{mAP:.3f}](metrics.json)" in markdown and "not measured" not in markdown.partition("## ")[0]
    found = {metric["name"]: metric["value"] for metric in front["model-index"][0]["results"][0]["metrics"]}
    assert found["mAP"] == round(mAP, 4) and front["license"] == "unknown" and "vendor.onnx" in front["tags"]
    assert [words for words in OF_THE_DEFAULT if words in markdown] == []
    assert not any(f"reidlab {stage}" in markdown for stage in ("export", "quantize", "deploy", "train"))
    assert "evaluate.file=vendor.onnx" in markdown.partition("## Made by")[2] and str(tmp_path) not in markdown + html


def test_nothing_of_initial_weights_is_left_on_it(settings, tmp_path):
    """They were evaluated, exported and reported in the same folder before."""
    own = Run.compose(settings)
    export.run(evaluate.run(own))
    before = written(own)[0]
    assert "## Use it" in before and "osnet_x0_25" in before
    run = evaluate.run(Run.compose([*settings, f"evaluate.file={write_onnx(tmp_path / 'vendor.onnx')}"]))
    markdown = written(run)[0]
    assert [words for words in OF_THE_DEFAULT if words in markdown] == [] and "## Use it" not in markdown
    assert "export/" not in markdown and not run.has(network.BLOCKS) and not run.has(network.DRAWING)
    assert "vendor.onnx" in (run / File.EVALUATION_PAGE).read_text().partition("model: ")[2][:20]


def test_a_quantized_input_of_normalized_pixels_is_said_to_be_one(tmp_path):
    build = flatbuffer.Builder()
    image, made = (build.tensor((1, *shape), "uint8", 2 / 255, 127) for shape in ((4, 2, 3), (24,)))
    build.op("RESHAPE", [image, build.tensor([2], "int32", data=[1, 24])], made)
    (tmp_path / "m.tflite").write_bytes(build.finish(image, made, ("x", "y"), {}))
    given = runtime.open_model(tmp_path / "m.tflite", mean=[0.5] * 3, std=[0.5] * 3)
    assert network._values(given) == "(RGB / 255 - [0.5, 0.5, 0.5]) / [0.5, 0.5, 0.5]"
    assert network._values(runtime.open_model(tmp_path / "m.tflite")) == "RGB pixels as they are"


def test_a_file_that_is_gone_or_replaced_is_said_to_be(run, tmp_path):
    file = tmp_path / "vendor.onnx"
    file.unlink()
    markdown, front, _ = written(run)
    assert "not found from here" in markdown and str(OUTPUTS) not in markdown and "osnet" not in markdown
    assert front["model-index"][0]["results"]
    write_onnx(file, outputs=29)
    markdown, front, _ = written(run)
    assert "29 numbers" in markdown and not front["model-index"][0]["results"]
    assert "figures of vendor.onnx on the test split. `reidlab evaluate run.name=theirs`" in markdown


def test_a_checkpoint_in_the_networks_place_has_its_architecture_and_its_row(settings, tmp_path):
    torch.save({"state_dict": Run.compose(settings).untrained_network().state_dict()}, tmp_path / "theirs.pth")
    run = evaluate.run(Run.compose([*settings, f"evaluate.file={tmp_path}/theirs.pth"]))
    markdown, front, _ = written(run)
    assert "201,864" in markdown and "| weights | theirs.pth, as published |" in markdown
    assert front["model-index"][0]["results"] and front["license"] == "unknown" and "reidlab export" not in markdown


@pytest.mark.parametrize("given", ["model.weights", File.BEST])
def test_weights_of_its_own_stay_what_the_card_is_about(given, settings, tmp_path):
    weights = tmp_path / "runs/theirs" / File.BEST if given == File.BEST else tmp_path / "own.pth"
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": Run.compose(settings).untrained_network().state_dict()}, weights)
    own = [] if given == File.BEST else [f"model.weights={weights}"]
    run = evaluate.run(Run.compose([*settings, *own]))
    evaluate.run(Run.compose([*settings, *own, f"evaluate.file={write_onnx(tmp_path / 'vendor.onnx')}"]))
    run = Run.compose([*settings, *own, f"evaluate.file={tmp_path}/vendor.onnx"])
    card.write_card(run)
    markdown = (run / File.CARD_MARKDOWN).read_text()
    assert "201,864" in markdown and "reidlab export" in markdown and run.subject == "checkpoint"


def test_random_weights_are_not_offered_without_a_word(settings):
    run = export.run(Run.compose(settings))
    assert "random" in written(run)[0].partition("## Use it")[2].partition("## ")[0]


def test_tables_of_runs_name_the_file(run, tmp_path, capsys):
    board = folders.leaderboard([folders.read_run(run.folder)])
    assert board["model"].tolist() == ["vendor.onnx"] and pd.isna(board["parameters"]).all()
    table = matrix.transfer_matrix([run])
    assert table.index.tolist() == ["theirs (vendor.onnx)"]
    assert table.iloc[0].tolist() == [run.results["vendor.onnx"].figures["mAP"]]
    dry_run.run(run, ["evaluate"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"network: that of {tmp_path}/vendor.onnx" in said and "osnet" not in said


def test_a_table_of_runs_names_the_figure_that_a_file_lacks(settings):
    with pytest.raises(InputError, match="not evaluated"):
        matrix.transfer_matrix([Run.compose(settings)])
