import json

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from small_net import SmallNet, unsettle

from reidlab.config import CONF, compose
from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime
from reidlab.files import write_json
from reidlab.stages import quantize


@pytest.fixture(scope="module")
def cfg(small, tmp_path_factory):
    """A run whose network is SmallNet with the weights of a file."""
    place = tmp_path_factory.mktemp("quantize")
    torch.manual_seed(0)
    torch.save(unsettle(SmallNet()).state_dict(), place / "small.pt")
    cfg = compose([*small, f"run.root={place}", "run.name=t"])
    cfg.model.network = {"_target_": "small_net.SmallNet"}
    cfg.model.weights = str(place / "small.pt")
    cfg.quantize = OmegaConf.merge(OmegaConf.load(CONF / "quantize" / "default.yaml"), {"images": 9, "max_drop": 30})
    return cfg


@pytest.fixture(scope="module")
def parity(cfg):
    write_json(quantize.run_folder(cfg) / "verification.json", {"threshold": 0.25, "calibrated_on": "validation"})
    return quantize.run(cfg)


def test_every_form_is_in_one_table(parity):
    table = pd.read_csv(parity, index_col="stage")
    assert [*table.index] == ["checkpoint", "onnx int8", "onnx int8 openvino", "tflite", "tflite int8"]
    assert (table["centred"] > 0.9).all() and table.loc["tflite", "centred"] > 0.9999
    files = table.drop("checkpoint")
    assert (files[["size_kib", "ms_1_thread", "ms_2_threads", "memory_mib"]] > 0).all(axis=None)
    assert files["drop"].tolist() == pytest.approx(100 * (table.loc["checkpoint", "mAP"] - files["mAP"]))
    assert set(table["method"]) == {"ptq"}
    assert [*json.loads((parity.parents[1] / "metrics.json").read_text())] == [*files.index]


def test_the_files_are_delivered_with_what_they_were_calibrated_on(parity, cfg):
    folder = parity.parents[1]
    assert {file.name for file in (folder / "export").iterdir()} == {
        "model.tflite",
        "model_int8.tflite",
        "model_int8.onnx",
    }
    assert all(runtime.load(file).assumed == [] for file in (folder / "export").iterdir())
    said = flatbuffer.metadata(flatbuffer.read_tflite((folder / "export" / "model_int8.tflite").read_bytes()))
    assert said["threshold"] == 0.25 and said["distance"] == cfg.model.distance and said["mean"] == [0, 0, 0]
    chosen = pd.read_csv(folder / "quantize" / "calibration.csv")
    assert len(chosen) == 9 and set(chosen["split"]) == {"train"}
    ranges = pd.read_csv(folder / "quantize" / "ranges.csv")
    assert (ranges["low"] <= 0).all() and (ranges["high"] > ranges["low"]).all()
    assert {"image", "network.conv2.gate.fc1_4"} <= {*ranges["tensor"]}


def test_beyond_its_bound_auto_tries_everything_and_delivers_nothing_but_the_table(cfg, capsys, monkeypatch):
    monkeypatch.setattr(quantize, "cost", lambda *file: {})
    options = {"max_drop": -100, "formats": ["onnx"], "runtimes": ["onnxruntime"]}
    strict = OmegaConf.merge(cfg, {"run": {"name": "strict"}, "quantize": options})
    with pytest.raises(InputError, match=r"parity\.csv: onnx int8 loses .* quantize\.max_drop=-100"):
        quantize.run(strict)
    folder = quantize.run_folder(strict)
    assert (folder / "quantize" / "parity.csv").exists() and not (folder / "export").exists()
    assert not list(folder.glob(".quantize-*"))
    output = capsys.readouterr().out
    assert "strict, ptq" in output and "strict, equalized" in output


def test_a_list_of_methods_is_tried_in_its_order(cfg, capsys, monkeypatch):
    monkeypatch.setattr(quantize, "cost", lambda *file: {})
    options = {"method": ["equalized", "ptq"], "max_drop": -100, "formats": ["onnx"], "runtimes": ["onnxruntime"]}
    with pytest.raises(InputError, match="onnx int8 loses"):
        quantize.run(OmegaConf.merge(cfg, {"run": {"name": "listed"}, "quantize": options}))
    output = capsys.readouterr().out
    assert 0 < output.index("listed, equalized") < output.index("listed, ptq") and "listed, mixed" not in output


def test_unknown_choices_are_input_errors(cfg):
    methods = {"method": "magic"}, {"method": ["ptq", "magic"]}
    for wrong in ({"formats": ["tensorrt"]}, *methods, {"observer": "ema"}, {"runtimes": ["tvm"]}):
        with pytest.raises(InputError, match=rf"quantize\.{next(iter(wrong))}: there is no"):
            quantize.run(OmegaConf.merge(cfg, {"quantize": {"formats": ["onnx"]} | wrong}))
    with pytest.raises(InputError, match=r"quantize\.method=\[\]: name one or more of ptq"):
        quantize.run(OmegaConf.merge(cfg, {"quantize": {"method": []}}))
    with pytest.raises(InputError, match="runtimes: none of them runs the tflite file; add litert"):
        quantize.run(OmegaConf.merge(cfg, {"quantize": {"runtimes": ["openvino"]}}))


@pytest.mark.parametrize("method", ["equalized", "mixed", "qat"])
def test_the_dearer_methods_deliver_too(cfg, parity, method, monkeypatch, capsys):
    monkeypatch.setattr(quantize, "cost", lambda *file: {})
    options = {"method": method, "sensitivity_images": 8, "mixed_steps": 3, "qat": {"epochs": 1}}
    dear = OmegaConf.merge(cfg, {"run": {"name": method}, "quantize": options})
    table = pd.read_csv(quantize.run(dear), index_col="stage")
    assert table.loc["tflite int8", "centred"] > 0.9 and set(table["method"]) == {method}
    folder = quantize.run_folder(dear)
    here, plain = (runtime.load(run / "export" / "model.tflite") for run in (folder, parity.parents[1]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *here.size, 3), np.uint8)
    assert np.array_equal(here(pixels), plain(pixels))  # what helps int8 is not in the float file
    integers = flatbuffer.operator_names(flatbuffer.read_tflite(folder / "export" / "model_int8.tflite"))
    costs = folder / "quantize" / "sensitivity.csv"
    if method == "mixed":
        worst = pd.read_csv(costs, index_col="step").nlargest(3, "lost").index
        assert f"float in the int8 files: {', '.join(worst)}" in capsys.readouterr().out
        assert integers.count("DEQUANTIZE") > 1 and costs.with_suffix(".png").exists()
    else:
        assert integers.count("DEQUANTIZE") == 1 and not costs.exists()
