"""The stage on a run whose network converts in seconds."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

sys.path.append(str(Path(__file__).parents[1] / "export"))
from small_net import SmallNet, unsettle

from reidlab.config import compose
from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime
from reidlab.files import write_json
from reidlab.run import File, Row, Run
from reidlab.stages import export, quantize

ONNX_ALONE = {"formats": ["onnx"], "runtimes": ["onnxruntime"]}


@pytest.fixture(scope="module")
def cfg(small, tmp_path_factory):
    """The settings of a run whose network is SmallNet with the weights of a file."""
    place = tmp_path_factory.mktemp("quantize")
    torch.manual_seed(0)
    torch.save(unsettle(SmallNet()).state_dict(), place / "small.pt")
    cfg = compose([*small, f"run.root={place}", "run.name=t", "quantize.images=9", "quantize.max_drop=30"])
    cfg.model.network = {"_target_": "small_net.SmallNet"}
    cfg.model.weights = str(place / "small.pt")
    return cfg


@pytest.fixture
def no_costs(monkeypatch):
    monkeypatch.setattr("reidlab.export.parity.cost", lambda *file: {})


def changed(cfg, name, **options):
    return Run.of(OmegaConf.merge(cfg, {"run": {"name": name}, "quantize": options}))


@pytest.fixture(scope="module")
def done(cfg):
    run = Run.of(cfg)
    verdict = {"threshold": 0.25, "calibrated_on": "validation", "distance": run["model.distance"]}
    write_json(run / File.VERIFICATION, verdict)
    before = OmegaConf.to_yaml(cfg)
    assert quantize.run(run) is run
    assert OmegaConf.to_yaml(run.config) == before
    return run


def test_every_form_is_in_one_table(done):
    table = pd.read_csv(done / File.PARITY, index_col="stage")
    assert [*table.index] == ["checkpoint", "onnx int8", "onnx int8 openvino", "tflite", "tflite int8"]
    assert (table["centered"] > 0.9).all() and table.loc["tflite", "centered"] > 0.9999
    files = table.drop("checkpoint")
    assert (files[["size_kib", "ms_1_thread", "ms_2_threads", "memory_mib"]] > 0).all(axis=None)
    assert files["drop"].tolist() == pytest.approx(100 * (table.loc["checkpoint", "mAP"] - files["mAP"]))
    assert set(table["method"]) == {"ptq"} and set(table["checkpoint"]) == {done.checkpoint}


def test_every_row_is_recorded_with_its_checkpoint_and_protocol(done):
    table, rows = pd.read_csv(done / File.PARITY, index_col="stage"), done.all_results
    assert [*rows] == [*table.index.drop("checkpoint")]
    for row, result in rows.items():
        assert result.checkpoint == done.checkpoint
        assert {*result.protocol} == {"distance", "exclude_same_camera", "test"}
        assert result.figures["mAP"] == pytest.approx(table.loc[row, "mAP"])
        assert result.figures["drop"] == pytest.approx(table.loc[row, "drop"])


def test_the_files_are_delivered_with_what_they_were_calibrated_on(done):
    files = {file.name for file in (done / File.EXPORT).iterdir()}
    assert files == {"model.tflite", "model_int8.tflite", "model_int8.onnx"}
    opened = [runtime.open_model(file) for file in (done / File.EXPORT).iterdir()]
    assert all(file.assumed == [] and file.weights_hash == done.checkpoint for file in opened)
    said = flatbuffer.metadata(flatbuffer.read_tflite((done / File.TFLITE_INT8).read_bytes()))
    assert said["threshold"] == 0.25 and said["distance"] == done["model.distance"] and said["mean"] == [0, 0, 0]
    chosen = pd.read_csv(done / File.CALIBRATION)
    assert len(chosen) == 9 and set(chosen["split"]) == {"train"}
    ranges = pd.read_csv(done / File.RANGES)
    assert (ranges["low"] <= 0).all() and (ranges["high"] > ranges["low"]).all()
    assert {"image", "network.conv2.gate.fc1_4"} <= {*ranges["tensor"]}


def test_the_exported_file_is_compared_unless_another_checkpoint_made_it(cfg, no_costs, capsys):
    run = changed(cfg, "exported", **ONNX_ALONE)
    export.run(run)
    table = pd.read_csv(quantize.run(run) / File.PARITY, index_col="stage")
    assert table.loc["onnx", "centered"] > 0.9999 and run.results[Row.ONNX].checkpoint == run.checkpoint
    other = Path(run["model.weights"]).with_name("other.pt")
    torch.manual_seed(1)
    torch.save(unsettle(SmallNet()).state_dict(), other)
    later = Run.of(OmegaConf.merge(run.config, {"model": {"weights": str(other)}}))
    assert later.checkpoint != run.checkpoint
    table = pd.read_csv(quantize.run(later) / File.PARITY, index_col="stage")
    assert [*table.index] == ["checkpoint", "onnx int8"] and set(table["checkpoint"]) == {later.checkpoint}
    assert "export/model.onnx: left out, made from another checkpoint" in capsys.readouterr().out


def test_beyond_its_bound_auto_tries_everything_and_delivers_nothing_but_the_table(cfg, capsys, no_costs):
    run = changed(cfg, "strict", max_drop=-100, **ONNX_ALONE)
    with pytest.raises(InputError, match=r"parity\.csv: mAP drops by .* in onnx int8, over quantize\.max_drop=-100"):
        quantize.run(run)
    assert run.has(File.PARITY) and not run.has(File.EXPORT)
    assert not list(run.folder.glob(".quantize-*"))
    output = capsys.readouterr().out
    places = [output.index(f"strict, {method}") for method in ("ptq", "equalized", "mixed", "qat")]
    assert places == sorted(places)


def test_a_list_of_methods_is_tried_in_its_order(cfg, capsys, no_costs):
    with pytest.raises(InputError, match="in onnx int8"):
        quantize.run(changed(cfg, "listed", method=["equalized", "ptq"], max_drop=-100, **ONNX_ALONE))
    output = capsys.readouterr().out
    assert 0 < output.index("listed, equalized") < output.index("listed, ptq") and "listed, mixed" not in output


def test_unknown_choices_are_input_errors(cfg):
    methods = {"method": "magic"}, {"method": ["ptq", "magic"]}
    for wrong in ({"formats": ["tensorrt"]}, *methods, {"observer": "ema"}, {"output": "int4"}, {"runtimes": ["tvm"]}):
        with pytest.raises(InputError, match=rf"quantize\.{next(iter(wrong))}: there is no"):
            quantize.run(changed(cfg, "wrong", **{"formats": ["onnx"]} | wrong))
    with pytest.raises(InputError, match=r"quantize\.method=\[\]: name one or more of ptq"):
        quantize.run(changed(cfg, "wrong", method=[]))
    with pytest.raises(InputError, match="runtimes: none of them runs the tflite file; add litert"):
        quantize.run(changed(cfg, "wrong", runtimes=["openvino"]))
    assert not (Path(cfg.run.root) / "wrong").exists()


@pytest.mark.parametrize("method", ["equalized", "mixed", "qat"])
def test_the_more_expensive_methods_deliver_too(cfg, done, method, no_costs, capsys):
    options = {"method": method, "sensitivity_images": 8, "mixed_steps": 3, "qat": {"epochs": 1}}
    run = quantize.run(changed(cfg, method, **options))
    table = pd.read_csv(run / File.PARITY, index_col="stage")
    assert table.loc["tflite int8", "centered"] > 0.9 and set(table["method"]) == {method}
    here, plain = (runtime.open_model(other / File.TFLITE) for other in (run, done))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *here.size, 3), np.uint8)
    assert np.array_equal(here(pixels), plain(pixels))  # what helps int8 is not in the float file
    integers = flatbuffer.operator_names(flatbuffer.read_tflite(run / File.TFLITE_INT8))
    if method == "mixed":
        costs = pd.read_csv(run / File.SENSITIVITY, index_col="step")
        worst = costs.nlargest(3, "relative_error").index
        assert f"float in the int8 files: {', '.join(worst)}" in capsys.readouterr().out
        assert integers.count("DEQUANTIZE") > 1 and (run / File.SENSITIVITY).with_suffix(".png").exists()
        assert {"kind", "drop", "relative_error"} == set(costs)
    else:
        assert integers.count("DEQUANTIZE") == 1 and not run.has(File.SENSITIVITY)
