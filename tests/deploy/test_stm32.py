import pandas as pd
import pytest
from omegaconf import OmegaConf
from test_c_export import omni_scale_net
from test_stedgeai import stedgeai  # noqa: F401

from reidlab import config
from reidlab.config import CONF
from reidlab.deploy import stm32
from reidlab.errors import InputError
from reidlab.stages import deploy as stage

TARGETS = sorted(file.stem for file in (CONF / "deploy").glob("*.yaml"))


@pytest.fixture
def cfg(tmp_path):
    composed = config.compose([f"run.root={tmp_path}", "run.name=tiny", "deploy=stm32"])
    place = config.run_folder(composed) / "export"
    place.mkdir(parents=True)
    (place / "model_int8.tflite").write_bytes(omni_scale_net()[1])
    return composed


@pytest.fixture
def no_tool(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("STEDGEAI_CORE_DIR", raising=False)


def test_every_target_is_a_stage():
    assert set(TARGETS) == set(stage.TARGETS)
    for name in TARGETS:
        assert config.compose([f"deploy={name}"]).deploy.name == name


def test_unknown_target_is_refused(cfg):
    with pytest.raises(InputError, match=r"deploy\.name=toaster: choose from c, stm32, edge_linux, nvidia"):
        stage.run(OmegaConf.merge(cfg, {"deploy": {"name": "toaster"}}))


def test_estimates_by_board_and_a_table_to_choose_from(cfg, no_tool, capsys):
    table = pd.read_csv(stage.run(cfg), index_col="board")
    assert table.index.tolist() == list(cfg.deploy.boards)
    assert (table["ram_kib"][:1] > 0).all() and table["by"].str.startswith("estimate, ").all()
    assert ": macs 305,280: published networks have" in table.loc["STM32H747I-DISCO", "note"]
    assert pd.isna(table["interval_ms"]).all()  # so tiny a network
    folder = config.run_folder(cfg) / "deploy"
    assert (folder / "stm32" / "errors.png").exists() and (folder / "choice.png").exists()
    assert set(pd.read_csv(folder / "choice.csv")["model"]) == {"tiny"}
    said = capsys.readouterr().out
    assert "STEdgeAI Core is not on the PATH" in said and "Which network where" in said


def test_board_without_published_figures_says_so_in_its_row(cfg, no_tool):
    cfg.deploy.boards = ["B-U585I-IOT02A", "STM32H747I-DISCO"]
    table = pd.read_csv(stm32.run(cfg), index_col="board")
    assert "nothing is published to calibrate on" in table.loc["B-U585I-IOT02A", "note"]
    assert pd.isna(table.loc["B-U585I-IOT02A", "ram_kib"]) and table.loc["STM32H747I-DISCO", "ram_kib"] > 0


def test_reported_stands_beside_estimated(cfg, stedgeai, capsys):  # noqa: F811
    calls = stedgeai() / "calls"
    cfg.deploy.boards, cfg.deploy.validate = ["STM32H747I-DISCO", "STM32MP135F-DK2"], "serial:921600"
    table = pd.read_csv(stm32.run(cfg))
    rows = table[table["board"] == "STM32H747I-DISCO"].set_index("by")
    assert rows.index.tolist() == ["estimate, STEdgeAI Core 3.0.0", "reported, 3.0.0"]
    assert rows.loc["reported, 3.0.0", "latency_ms"] == 64.561
    assert [line.split()[0] for line in calls.read_text().splitlines()] == ["analyze", "generate", "validate"]
    assert (table["board"] == "STM32MP135F-DK2").sum() == 1  # it runs Linux, not ST's C
    assert "estimates only" not in capsys.readouterr().out


def test_without_a_model_it_says_what_to_run(cfg):
    cfg.deploy.model = "export/none.tflite"
    with pytest.raises(InputError, match=r"none\.tflite: no int8 model; run `reidlab quantize`"):
        stm32.run(cfg)
