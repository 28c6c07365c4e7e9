from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_c_export import omni_scale_net
from test_stedgeai import stedgeai  # noqa: F401

from reidlab.deploy.c_export import export_c
from reidlab.deploy.raw_codes import quantization_of
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.evaluation import Outputs
from reidlab.export.parity import embed_file
from reidlab.export.runtime import open_model
from reidlab.files import file_hash
from reidlab.run import File, Run
from reidlab.stages import deploy


@pytest.fixture
def composed(small, tmp_path):
    def compose(*overrides):
        run = Run.compose([*small, f"run.root={tmp_path}", "run.name=tiny", "deploy=stm32", *overrides])
        run.write(File.TFLITE_INT8, omni_scale_net()[1])
        return run

    return compose


def estimates(run):
    return pd.read_csv(deploy.run(run) / File.ESTIMATES, index_col="board")


@pytest.fixture
def no_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("STEDGEAI_CORE_DIR", raising=False)


def test_estimates_by_board_and_a_table_to_choose_from(composed, no_tool, capsys):
    run = composed()
    table = estimates(run)
    assert table.index.tolist() == run["deploy.boards"]
    assert (table["ram_kib"][:1] > 0).all() and table["by"].str.startswith("estimate, ").all()
    assert ": macs 305,280: published networks have" in table.loc["STM32H747I-DISCO", "note"]
    assert pd.isna(table["interval_ms"]).all()  # so tiny a network
    said = capsys.readouterr().out
    assert " ?" in said and "?: no interval" in said  # no figure stands alone
    assert run.has("deploy/stm32/n6_application/app_config.h")
    assert run.has("deploy/stm32/errors.png") and run.has("deploy/choice.png")
    assert set(run.table_of(File.CHOICE)["model"]) == {"tiny"}
    assert set(table["checkpoint"]) == {run.checkpoint} and set(table["model_hash"]) == {
        file_hash(run / File.TFLITE_INT8)
    }
    assert "STEdgeAI Core is not on the PATH" in said and "this network on each target" in said


def test_board_without_published_figures_says_so_in_its_row(composed, no_tool, blank_pictures):
    table = estimates(composed("deploy.boards=[B-U585I-IOT02A,STM32H747I-DISCO]"))
    assert "nothing is published to calibrate on" in table.loc["B-U585I-IOT02A", "note"]
    assert pd.isna(table.loc["B-U585I-IOT02A", "ram_kib"]) and table.loc["STM32H747I-DISCO", "ram_kib"] > 0


def test_reported_stands_beside_estimated(composed, stedgeai, capsys, blank_pictures):  # noqa: F811
    calls = stedgeai() / "calls"
    boards = ["deploy.boards=[STM32H747I-DISCO,STM32MP135F-DK2]", "deploy.validate='serial:921600'"]
    table = estimates(composed(*boards)).reset_index()
    rows = table[table["board"] == "STM32H747I-DISCO"].set_index("by")
    assert rows.index.tolist() == ["estimate, STEdgeAI Core 3.0.0", "reported, 3.0.0"]
    assert rows.loc["reported, 3.0.0", "latency_ms"] == 64.561
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["analyze", "generate", "validate"]
    assert (table["board"] == "STM32MP135F-DK2").sum() == 1  # it runs Linux, not ST's C
    assert "estimates only" not in capsys.readouterr().out


def test_raw_codes_are_scored_and_a_safe_form_is_written(composed, no_tool, capsys, blank_pictures):
    run = composed()
    deploy.run(run)
    scores = pd.read_csv(run / "deploy/stm32/raw_codes.csv", index_col="compared")
    data, file = run.datamodule(), run / File.TFLITE_INT8
    scale, zero = quantization_of(read_graph(file))
    assert zero != 0 and f"the embedding's zero is code {zero}, not 0" in " ".join(capsys.readouterr().out.split())
    values = embed_file(open_model(file), data, data.test, "")
    given = values.values.numpy().astype(float)
    codes = np.rint(given / scale) + zero  # in the C, a byte each
    protocol = replace(deploy.deployable(run).protocol, distance="cosine")
    for row, expected in enumerate((given, codes)):
        found = protocol.evaluate(Outputs(torch.tensor(expected), values.table)).summary()["mAP"]
        assert scores["mAP"].iloc[row] == pytest.approx(found)
    clamped = run / "deploy/stm32/model_clamped.tflite"
    safe = embed_file(open_model(clamped), data, data.test, "").values.numpy()
    step = scale * (255 - zero) / 255
    np.testing.assert_allclose(safe, np.maximum(given, 0), atol=0.51 * step)
    assert quantization_of(read_graph(clamped)) == (pytest.approx(step), 0)
    found = protocol.evaluate(Outputs(torch.tensor(np.rint(safe / step)), values.table)).summary()["mAP"]
    assert scores["mAP"].iloc[2] == pytest.approx(found, abs=0.01)
    export_c(clamped, run / "clamped_c")


def test_a_safe_form_is_compared_right_by_its_raw_codes(composed, no_tool, capsys, blank_pictures):
    run = composed()
    deploy.run(run)
    capsys.readouterr()
    again = composed(f"deploy.model={run / 'deploy/stm32/model_clamped.tflite'}")
    deploy.run(again)
    scores = pd.read_csv(again / "deploy/stm32/raw_codes.csv", index_col="compared")
    assert scores["mAP"].nunique() == 1 and "the embedding's zero is" not in capsys.readouterr().out


def test_a_classifier_of_logits_is_none_for_the_re_identification_application(
    composed, no_tool, tmp_path, blank_pictures
):
    run = composed()
    target, given = deploy.target_of(run), deploy.deployable(run)
    for classes in ([], ["a", "b"]):
        target.deploy(replace(given, classes=classes), tmp_path / str(len(classes)))
    assert (tmp_path / "0" / "n6_application").exists() and not (tmp_path / "2" / "n6_application").exists()


def test_without_a_model_it_says_what_to_run(composed):
    with pytest.raises(InputError, match=r"none\.tflite: no such model; run `reidlab quantize run\.name=tiny` first"):
        deploy.run(composed("deploy.model=export/none.tflite"))
