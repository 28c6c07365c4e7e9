"""The stage on a run whose network converts in seconds."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

sys.path.append(str(Path(__file__).parents[1] / "export"))
from small_net import SmallNet, unsettle

from reidlab.config import compose
from reidlab.deploy.lowering import lower
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime
from reidlab.export.quantizer import Quantizer
from reidlab.files import write_atomic, write_json
from reidlab.run import File, Row, Run
from reidlab.stages import export, quantize

ONNX_ALONE = {"formats": ["onnx"], "runtimes": ["onnxruntime"]}


@pytest.fixture(scope="module")
def cfg(small, tmp_path_factory):
    """The settings of a run whose network is SmallNet with the weights of a file, which learned none of its images."""
    place = tmp_path_factory.mktemp("quantize")
    torch.manual_seed(0)
    weights = place / "checkpoints" / "small.pt"
    write_atomic(place / File.LEARNED, "sha256,class\n0,1\n")
    torch.save(unsettle(SmallNet()).state_dict(), weights)
    own = place / "conf" / "model" / "small.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [osnet_x0_25]\nnetwork: {_target_: small_net.SmallNet}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDLAB_ROOT", str(place))
        cfg = compose([*small, f"run.root={place}", "run.name=t", "quantize.images=9", "quantize.max_drop=30"])
        cfg.model.network = {"_target_": "small_net.SmallNet"}
        cfg.model.weights = str(weights)
        yield cfg


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
    assert set(table["chosen_on"]) == {"validation"}
    assert (files["drop_low"] <= files["drop"]).all() and (files["drop"] <= files["drop_high"]).all()
    tried = pd.read_csv(done / File.METHODS, index_col="stage")
    for name in ("drop", "drop_low", "drop_high"):
        assert files[f"val_{name}"].tolist() == pytest.approx(tried.loc[files.index, name].tolist())


def test_every_row_is_recorded_with_its_checkpoint_and_protocol(done):
    table, rows = pd.read_csv(done / File.PARITY, index_col="stage"), done.all_results
    assert [*rows] == [*table.index.drop("checkpoint")]
    for row, result in rows.items():
        assert result.checkpoint == done.checkpoint
        assert {*result.protocol} == {"distance", "exclude_same_camera", "size", "test"}
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
    with pytest.raises(
        InputError,
        match=r"methods\.csv: on the validation images mAP drops by .* in onnx int8, over .*max_drop=-100; no",
    ):
        quantize.run(run)
    assert not run.has(File.PARITY) and not run.has(File.EXPORT) and not run.all_results
    tried = pd.read_csv(run / File.METHODS)
    assert tried["method"].unique().tolist() == ["ptq", "equalized", "qat", "mixed"]
    assert not list(run.folder.glob(".quantize-*"))
    output = capsys.readouterr().out
    places = [
        output.index(f"{method}: on the validation images mAP drops by ")
        for method in ("ptq", "equalized", "qat", "mixed")
    ]
    assert places == sorted(places)


def test_a_list_of_methods_is_tried_in_its_order(cfg, capsys, no_costs):
    with pytest.raises(InputError, match="in onnx int8"):
        quantize.run(changed(cfg, "listed", method=["equalized", "ptq"], max_drop=-100, **ONNX_ALONE))
    output = capsys.readouterr().out
    assert 0 < output.index("equalized: on the") < output.index("ptq: on the") and "mixed: on the" not in output


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
        with pytest.raises(
            InputError, match=r"CONV_2D: .*quantize all of it, by quantize.method=\[ptq,equalized,qat\]"
        ):
            lower(read_graph(run / File.TFLITE_INT8))
    else:
        assert integers.count("DEQUANTIZE") == 1 and not run.has(File.SENSITIVITY)


class Fake(NamedTuple):
    """A quantized network whose name is its method's."""

    method: str
    files: Mapping = MappingProxyType({})
    float_steps: tuple = ()


def drops(**upper):
    """Stands for `parity_table`: the chosen method's drop and upper end; the test split's are another's."""
    seen = []

    def table(files, reference, datamodule, protocol, runtimes, threads=None, splits=None):
        seen.append((threads, {*reference.table["split"]}, reference.table))
        drop, high = [*upper.values()][min(len(seen), len(upper)) - 1]
        row = {"mAP": 0.5, "drop": drop, "drop_low": drop - (high - drop), "drop_high": high}
        return pd.DataFrame({Row.CHECKPOINT: {"mAP": 0.5}, Row.ONNX_INT8: row}).T.rename_axis("stage")

    return table, seen


@pytest.fixture
def choice(cfg, monkeypatch):
    """Quantize with drops that are made up: run, splits that were evaluated, in turn."""

    def quantized(name, settings=None, **upper):
        table, seen = drops(**upper)
        monkeypatch.setattr(quantize, "parity_table", table)
        monkeypatch.setattr(Quantizer, "quantize", lambda self, method: Fake(method))
        monkeypatch.setattr(quantize, "_write_ranges", lambda *of: None)
        monkeypatch.setattr(quantize, "_write_sensitivity", lambda *of: None)
        run = changed(cfg, name, **{"max_drop": 0.5, "method": [*upper], **(settings or {}), **ONNX_ALONE})
        return run, seen

    return quantized


def test_the_method_with_the_lowest_upper_end_on_validation_is_evaluated_once_on_test(choice, capsys):
    run, seen = choice("chosen", ptq=(0.1, 0.9), equalized=(0.3, 0.7), qat=(-0.2, 0.8))
    quantize.run(run)
    table = pd.read_csv(run / File.PARITY, index_col="stage")
    assert set(table["method"]) == {"equalized"} and table.loc["onnx int8", "val_drop_high"] == 0.7
    assert [splits for _, splits, _ in seen] == [{"val_query", "val_gallery"}] * 3 + [{"query", "gallery"}]
    assert "not proven: on the validation images mAP drops by at most 0.30 points" in capsys.readouterr().out


def test_the_first_method_that_surely_keeps_the_bound_is_taken(choice, capsys):
    run, seen = choice("first", ptq=(0.1, 0.9), equalized=(0.3, 0.4), qat=(-0.2, 0.1))
    quantize.run(run)
    assert pd.read_csv(run / File.METHODS)["method"].unique().tolist() == ["ptq", "equalized"]
    assert len(seen) == 3 and "not proven" not in capsys.readouterr().out


def test_without_an_interval_no_method_is_proven(choice, capsys):
    run, _ = choice("unknown", ptq=(0.3, np.nan), qat=(0.1, np.nan))
    quantize.run(run)
    said = capsys.readouterr().out
    assert pd.read_csv(run / File.PARITY)["method"].unique().tolist() == ["qat"]
    assert "drops by 0.10 points in onnx int8" in said and "of one identity it has no interval" in said
    run, _ = choice("strictly", {"strict": True}, ptq=(0.3, np.nan))
    with pytest.raises(InputError, match=r"drops by 0\.30 points in onnx int8, over"):
        quantize.run(run)


def test_layers_stay_in_float_only_where_that_alone_keeps_the_bound(choice, monkeypatch):
    for name, mixed, chosen in (("unproven", (0.1, 0.6), "qat"), ("proven", (0.1, 0.5), "mixed")):
        run, _ = choice(name, ptq=(0.6, 0.65), qat=(0.2, 0.7), mixed=mixed)
        monkeypatch.setattr(
            Quantizer, "quantize", lambda self, method: Fake(method, float_steps=("a",) * (method == "mixed"))
        )
        quantize.run(run)
        assert set(pd.read_csv(run / File.PARITY)["method"]) == {chosen}


def test_strictly_the_upper_end_must_keep_the_bound(choice):
    run, seen = choice("strictly", {"strict": True}, ptq=(0.1, 0.9), equalized=(0.3, 0.7))
    with pytest.raises(InputError, match=r"drops by 0\.30 points \[-0\.10, 0\.70\] in onnx int8"):
        quantize.run(run)
    assert all("query" not in splits for _, splits, _ in seen) and not run.has(File.PARITY)


def test_without_a_validation_split_it_is_chosen_on_training_images_that_do_not_calibrate(cfg, no_costs, monkeypatch):
    monkeypatch.setattr(quantize, "LEAST_IDENTITIES", 2)
    monkeypatch.setattr(quantize, "SET_ASIDE", 0.34)  # of six
    settings = {"run": {"name": "no_split"}, "data": {"val_fraction": 0}, "quantize": ONNX_ALONE}
    run = quantize.run(Run.of(OmegaConf.merge(cfg, settings)))
    assert set(pd.read_csv(run / File.PARITY)["chosen_on"]) == {"train"}
    held = quantize._set_aside(run, run.datamodule())
    calibration = pd.read_csv(run / File.CALIBRATION)
    training = run.datamodule().samples.split("train")
    assert held.source == "train" and {*held.table["path"]} < {*training["path"]}
    assert {*held.table["path"]}.isdisjoint(calibration["path"]) and len(calibration)
    assert {*held.table["pid"]}.isdisjoint(held.datamodule.samples.split("train")["pid"])
