import pandas as pd
import pytest
from test_c_export import omni_scale_net
from test_stedgeai import stedgeai  # noqa: F401

from reidlab.errors import InputError
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
    assert "STEdgeAI Core is not on the PATH" in said and "Networks on each target" in said


def test_board_without_published_figures_says_so_in_its_row(composed, no_tool):
    table = estimates(composed("deploy.boards=[B-U585I-IOT02A,STM32H747I-DISCO]"))
    assert "nothing is published to calibrate on" in table.loc["B-U585I-IOT02A", "note"]
    assert pd.isna(table.loc["B-U585I-IOT02A", "ram_kib"]) and table.loc["STM32H747I-DISCO", "ram_kib"] > 0


def test_reported_stands_beside_estimated(composed, stedgeai, capsys):  # noqa: F811
    calls = stedgeai() / "calls"
    boards = ["deploy.boards=[STM32H747I-DISCO,STM32MP135F-DK2]", "deploy.validate='serial:921600'"]
    table = estimates(composed(*boards)).reset_index()
    rows = table[table["board"] == "STM32H747I-DISCO"].set_index("by")
    assert rows.index.tolist() == ["estimate, STEdgeAI Core 3.0.0", "reported, 3.0.0"]
    assert rows.loc["reported, 3.0.0", "latency_ms"] == 64.561
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["analyze", "generate", "validate"]
    assert (table["board"] == "STM32MP135F-DK2").sum() == 1  # it runs Linux, not ST's C
    assert "estimates only" not in capsys.readouterr().out


def test_without_a_model_it_says_what_to_run(composed):
    with pytest.raises(InputError, match=r"none\.tflite: no such model; run `reidlab quantize run\.name=tiny` first"):
        deploy.run(composed("deploy.model=export/none.tflite"))
