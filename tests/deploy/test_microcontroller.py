import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from host import needs_gcc
from omegaconf import OmegaConf
from test_c_export import omni_scale_net
from test_emulator import needs_tools
from tiny_models import reference

from reidlab.config import compose, run_folder
from reidlab.deploy import memory_rules, parse_tflite
from reidlab.deploy.memory import lifetime_rows
from reidlab.deploy.microcontroller import reference_embeddings, run, whole_identities
from reidlab.errors import InputError

DEPLOY = Path(__file__).parents[2] / "conf" / "deploy"


@pytest.fixture
def cfg(market, tmp_path):
    overrides = ["data=market1501", f"data.root={market}", f"run.root={tmp_path}", "run.name=tiny", "data.size=[32,16]"]
    composed = compose([*overrides, "data.num_workers=0"])
    OmegaConf.update(composed, "deploy", OmegaConf.load(DEPLOY / "c.yaml"), force_add=True)
    model = run_folder(composed) / composed.deploy.model
    model.parent.mkdir(parents=True)
    model.write_bytes(omni_scale_net()[1])
    return composed


@needs_gcc
def test_stage_writes_c_that_compiles_and_tables(cfg):
    cfg.deploy.cores = []
    out = run(cfg)
    sources = [out / "reid_kernels.c", out / "reid_model.c"]
    subprocess.run(["gcc", "-std=c99", "-fsyntax-only", "-Wall", "-Werror", *sources], check=True)
    memory = pd.read_csv(out / "memory.csv")
    assert (memory["lower_bound_bytes"] <= memory["peak_bytes"]).all()
    assert memory["peak_bytes"].is_monotonic_decreasing
    assert pd.read_csv(out / "costs.csv")["macs"].sum() == memory["macs"][0]
    lifetimes = pd.read_csv(out / "lifetimes.csv")
    assert (lifetimes["offset"] + lifetimes["bytes"]).max() == memory["peak_bytes"].iloc[-1]
    assert "euclidean distance" in (out / "README.md").read_text()


@needs_tools
def test_stage_scores_what_the_core_computes(cfg, capsys):
    out = run(cfg)
    row = json.loads((out / "firmware.json").read_text())["emulated m7"]
    assert row["bit_exact_images"] <= cfg.deploy.images and 0 < row["mAP"] <= 1
    assert row["num_query"] + row["num_gallery"] == row["bit_exact_images"]
    assert json.loads((run_folder(cfg) / "metrics.json").read_text())["emulated m7"] == row
    assert "emulated m7" in capsys.readouterr().out


def test_stage_without_a_model_says_what_to_run(cfg):
    cfg.deploy.model = "export/none.tflite"
    with pytest.raises(InputError, match=r"none\.tflite: no int8 model; run `reidlab quantize`"):
        run(cfg)


def test_stage_without_tools_says_what_to_install(cfg, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (run(cfg) / "reid_model.c").exists()
    assert "apt-get install --no-install-recommends" in capsys.readouterr().out


def test_subset_keeps_identities_whole():
    table = pd.DataFrame({"pid": [1, 1, 2, 2, 2, 3, 3, 4], "split": ["query", "gallery"] * 3 + ["gallery", "query"]})
    assert whole_identities(table, 5)["pid"].tolist() == [1, 1, 2, 2, 2]
    assert whole_identities(table, 1)["pid"].tolist() == [1, 1]
    with pytest.raises(InputError, match="no identity"):
        whole_identities(table[table["split"] == "query"], 5)


def test_reference_is_that_of_the_tests():
    net, content = omni_scale_net()
    images = net.images(3)
    np.testing.assert_array_equal(reference_embeddings(content, images), reference(content, images))


def test_memory_rules_only_get_better_and_have_pictures():
    rules = memory_rules(parse_tflite(omni_scale_net(height=64, width=32, channels=(16, 64))[1]))
    peaks = [rule.peak_bytes for rule in rules]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > 1.2 * peaks[1] > 1.2 * 1.1 * peaks[2]
    # ADD of two maps of 64 channels into a third, with nothing in place
    assert peaks[0] == 3 * 16 * 8 * 64
    for rule in rules:
        rows = lifetime_rows(rule.plan)
        assert max(row["offset"] + row["bytes"] for row in rows) == rule.peak_bytes
        assert all(row["first"] <= row["last"] for row in rows)
