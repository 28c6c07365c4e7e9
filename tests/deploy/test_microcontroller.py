import re
import subprocess

import numpy as np
import pandas as pd
import pytest
from host import compile_network, needs_gcc, run_c
from test_c_export import omni_scale_net
from test_emulator import needs_tools
from tiny_models import RandomNetwork, reference

from reidlab.deploy import export_c, memory_rules, microcontroller, parse_graph, thresholds
from reidlab.deploy.emulator import FirmwareRun
from reidlab.deploy.memory import lifetime_rows
from reidlab.deploy.microcontroller import pixels_of, reference_embeddings
from reidlab.errors import InputError
from reidlab.evaluation import TEST, VALIDATION, RetrievalProtocol
from reidlab.export.parity import embed_file
from reidlab.export.runtime import open_model
from reidlab.files import file_hash, read_json
from reidlab.run import File, Row, Run
from reidlab.stages import deploy

FIGURES = {
    "bit_exact_images", "instructions", "instructions_per_mac", "flash_bytes", "ram_bytes", "stack_bytes",
}  # fmt: skip
TIMES = {f"estimated_ms_{mhz}_mhz{end}" for mhz in (216, 400, 480) for end in ("", "_low", "_high")}


@pytest.fixture
def composed(small, tmp_path):
    """A run with an int8 file, and settings changed by overrides."""

    def compose(*overrides):
        run = Run.compose([*small, f"run.root={tmp_path}", "run.name=tiny", "deploy=c", *overrides])
        if not run.has(File.TFLITE_INT8):
            run.write(File.TFLITE_INT8, omni_scale_net()[1])
        return run

    return compose


@needs_gcc
def test_stage_writes_c_that_compiles_and_tables(composed):
    out = deploy.run(composed("deploy.cores=[]")) / File.DEPLOY_C
    sources = [out / "src" / "reid_kernels.c", out / "src" / "reid_model.c"]
    subprocess.run(["gcc", "-std=c99", "-fsyntax-only", "-Wall", "-Werror", *sources], check=True)
    memory = pd.read_csv(out / "memory.csv")
    assert (memory["lower_bound_bytes"] <= memory["peak_bytes"]).all()
    assert memory["peak_bytes"].is_monotonic_decreasing
    assert pd.read_csv(out / "costs.csv")["macs"].sum() == memory["macs"][0]
    lifetimes = pd.read_csv(out / "lifetimes.csv")
    assert (lifetimes["offset"] + lifetimes["bytes"]).max() == memory["peak_bytes"].iloc[-1]
    assert "euclidean distance" in (out / "README.md").read_text()


@needs_gcc
def test_stage_writes_thresholds_of_the_int8_network_and_a_self_test(composed, blank_pictures):
    run = composed("deploy.cores=[]", "deploy.prefix=gate", "deploy.arena=caller")
    run.write(File.BEST, b"trained here")
    out = deploy.run(run) / File.DEPLOY_C
    header = (out / "src/gate.h").read_text()
    given = deploy.deployable(run)
    embeddings = embed_file(open_model(run / File.TFLITE_INT8), given.datamodule, given.datamodule.validation, "")
    for name, distance in (("GATE_THRESHOLD", "euclidean"), ("GATE_COSINE_THRESHOLD", "cosine")):
        pairs = RetrievalProtocol(distance, wanted_fpr=run["evaluate.wanted_fpr"]).evaluate(embeddings, VALIDATION)
        expected = pairs.verify(run["evaluate.wanted_fpr"], resamples=0, seed=0).threshold
        assert float(re.search(rf"#define {name} (\S+)f\n", header)[1]) == pytest.approx(expected)
    assert "#define GATE_STATIC_ARENA 0" in header and (out / "src/gate_self_test.c").is_file()


def test_without_pairs_the_header_says_that_no_threshold_is_calibrated(composed, monkeypatch, capsys, blank_pictures):
    def fail(*_):
        raise InputError("no pair of one identity")

    monkeypatch.setattr(thresholds, "embed_file", fail)
    out = deploy.run(composed("deploy.cores=[]")) / File.DEPLOY_C
    assert "No threshold is calibrated" in (out / "src/reid.h").read_text()
    assert "no threshold is calibrated: no pair of one identity" in capsys.readouterr().out


NORMALIZED = ["evaluate.mean=[0.5,0.4,0.3]", "evaluate.std=[0.2,0.2,0.2]"]


@needs_gcc
@pytest.mark.parametrize(
    ("kind", "scale", "zero", "settings", "are_pixels"),
    [
        ("int8", 1 / 255, -128, [], True),
        ("int8", 0.03, -20, NORMALIZED, False),
        ("float32", 0.03, 30, NORMALIZED, False),
    ],
)
def test_a_file_from_elsewhere_becomes_c(
    kind, scale, zero, settings, are_pixels, composed, tmp_path, capsys, blank_pictures
):
    net = RandomNetwork(0, 20, 9, 3)
    codes = net.activation((20, 9, 3), scale, zero)
    net.image = codes if kind == "int8" else net.tensor([1, 20, 9, 3], dtype="float32")
    x = codes if kind == "int8" else net.op("QUANTIZE", [net.image], codes)
    file = tmp_path / "vendor.tflite"
    file.write_bytes(net.finish([net.image], [net.mean(net.conv(x, 8, 3), 0.001, flat=True)]))
    run = composed("deploy.cores=[]", f"evaluate.file={file}", *settings)
    folder = deploy.folder(run) / "c"
    deploy.run(run)
    assert ("bytes of the C's image are not RGB pixels" in capsys.readouterr().out) == (not are_pixels)
    compile_network(folder)
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 9, 3), np.uint8)
    np.testing.assert_array_equal(run_c(folder, images), reference_embeddings(file, images))
    embedder = open_model(file, *([0.5, 0.4, 0.3], [0.2, 0.2, 0.2]) if settings else (None, None))
    data = run.datamodule(size=(20, 9))
    pairs = RetrievalProtocol("euclidean", wanted_fpr=run["evaluate.wanted_fpr"]).evaluate(
        embed_file(embedder, data, data.test, ""),
        TEST,  # since nobody noted what the file learned
    )
    expected = pairs.verify(run["evaluate.wanted_fpr"], resamples=0, seed=0).threshold
    found = float(re.search(r"#define REID_THRESHOLD (\S+)f\n", (folder / "src/reid.h").read_text())[1])
    assert found == pytest.approx(expected)


@needs_gcc
@pytest.mark.parametrize("absent", [[-1], []])
def test_a_fully_connected_layer_needs_no_bias(absent, composed, tmp_path, blank_pictures):
    net = RandomNetwork(0, 20, 9, 3)
    output = net.dense(net.mean(net.conv(net.pixels(), 8, 3), 0.001), 5, 0.0005)
    layer = net.graph.operators[-1]
    layer.inputs = [*layer.inputs[:2], *absent]
    file = tmp_path / "vendor.tflite"
    file.write_bytes(net.finish([net.image], [output]))
    run = composed("deploy.cores=[]", f"evaluate.file={file}")
    folder = deploy.folder(run) / "c"
    deploy.run(run)
    compile_network(folder)
    images = net.images(5)
    expected = reference_embeddings(file, images)
    np.testing.assert_array_equal(run_c(folder, images), expected)
    assert len(np.unique(expected)) > 5


@pytest.mark.parametrize("target", ["deploy=c", "deploy=stm32"])
def test_a_file_of_channels_first_is_refused(target, composed, tmp_path, blank_pictures):
    net = RandomNetwork(0, 3, 20, 9)
    file = tmp_path / "vendor.tflite"
    file.write_bytes(net.finish([net.image], [net.mean(net.conv(net.pixels(), 8, 3), 0.001, flat=True)]))
    run = composed(target, f"evaluate.file={file}", "evaluate.mean=[0,0,0]", "evaluate.std=[1,1,1]")
    with pytest.raises(InputError, match=r"vendor\.tflite: takes images \(B, 3, H, W\).*convert"):
        deploy.run(run)


@needs_gcc
def test_one_of_several_outputs_is_chosen_by_name(composed, tmp_path, blank_pictures):
    """What leads to the others alone isn't exported, and may be what the C doesn't do."""
    net = RandomNetwork(0, 20, 9, 3)
    x = net.conv(net.pixels(), 8, 3)
    outputs = [net.op("SQUARED_DIFFERENCE", [x, x], net.activation(net.shapes[x], 0.01)), net.mean(x, 0.001, flat=True),
               net.mean(net.conv(x, 5), 0.002, flat=True)]  # fmt: skip
    file = tmp_path / "vendor.tflite"
    file.write_bytes(net.finish([net.image], outputs))
    with pytest.raises(InputError, match=r"vendor\.tflite: 3 outputs; choose one by model=FILE evaluate\.output=NAME"):
        export_c(file, tmp_path / "none")
    listed = r"has 3 outputs, .*t\d+.*; choose by evaluate\.output=NAME"
    with pytest.raises(InputError, match=listed):
        deploy.run(composed("deploy.cores=[]", f"evaluate.file={file}"))
    for place in (1, 2):
        run = composed("deploy.cores=[]", f"evaluate.file={file}", f"evaluate.output=t{outputs[place]}")
        folder = deploy.folder(run) / "c"
        deploy.run(run)
        assert "SQUARED" not in (folder / "costs.csv").read_text()
        compile_network(folder)
        images = net.images(5)
        expected = reference(net.finish([net.image], outputs[place : place + 1]), images)
        scale, zero = net.scales[outputs[place]]
        found = run_c(folder, images)
        np.testing.assert_array_equal(found, np.float32(scale) * (expected.astype(np.float32) - zero))
        assert found.shape == (5, (8, 5)[place - 1]) and len(np.unique(found)) > 5


def check_figures(run, images, more=frozenset()):
    """The row of the core, and the file that says what it was made from."""
    row = run.results[f"{Row.EMULATED} m7"]
    assert row.checkpoint == run.checkpoint and row.figures["bit_exact_images"] == images
    assert set(row.figures) == FIGURES | more  # an accuracy of a few images doesn't stand beside real ones
    stored = read_json(run / File.FIRMWARE)
    assert stored["emulated m7"] == row.figures and stored["checkpoint"] == run.checkpoint
    assert stored["model"] == File.TFLITE_INT8 and stored["model_hash"] == file_hash(run / File.TFLITE_INT8)


@needs_tools
def test_a_core_computes_the_reference_embeddings(composed, capsys, blank_pictures):
    run = deploy.run(composed("deploy.images=10"))
    check_figures(run, 10, TIMES)
    assert "m7 at 400 MHz (STM32H747): estimated" in capsys.readouterr().out
    figures = run.results[f"{Row.EMULATED} m7"].figures
    for mhz in (216, 400, 480):
        low, value, high = (figures[f"estimated_ms_{mhz}_mhz{end}"] for end in ("_low", "", "_high"))
        assert 0.3 * figures["instructions"] / (1e3 * mhz) < low < value < high


@pytest.fixture
def host_core(monkeypatch):
    """This machine in place of the emulated core."""

    def make(change=0.0):
        def run_firmware(folder, images, core, timeout_s, caches=None):
            compile_network(folder)
            embeddings = run_c(folder, images).copy()
            embeddings[-1, 0] += change
            return FirmwareRun(core, embeddings, [7] * len(images), {".text": 5}, {".bss": 3}, 1)

        monkeypatch.setattr(microcontroller, "missing_tools", lambda: None)
        monkeypatch.setattr(microcontroller, "run_firmware", run_firmware)

    return make


@needs_gcc
def test_what_a_core_needs_is_recorded_and_no_accuracy(composed, host_core, capsys, blank_pictures):
    host_core()
    run = deploy.run(composed("deploy.images=10", "deploy.cores=[m7,m55]"))
    check_figures(run, 10)
    assert f"{Row.EMULATED} m55" in run.results and "emulated m55" in capsys.readouterr().out


@needs_gcc
def test_a_core_that_computes_anything_else_is_refused(composed, host_core, blank_pictures):
    host_core(change=1e-6)
    run = composed("deploy.images=10")
    with pytest.raises(InputError, match=r"model_int8\.tflite on m7: 1 of 10 embeddings differ from TFLite's"):
        deploy.run(run)
    assert not run.has(File.METRICS) and read_json(run / File.FIRMWARE).keys() == {"checkpoint", "model", "model_hash"}


def test_stage_without_a_model_says_what_to_run(composed):
    with pytest.raises(InputError, match=r"none\.tflite: no such model; run `reidlab quantize run\.name=tiny` first"):
        deploy.run(composed("deploy.model=export/none.tflite"))


def test_stage_without_tools_says_what_to_install(composed, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert deploy.run(composed()).has(File.C_SOURCE)
    assert "apt-get install --no-install-recommends" in capsys.readouterr().out


def test_images_are_spread_evenly(composed):
    datamodule = composed().datamodule()
    pixels = pixels_of(datamodule, 3)
    paths = datamodule.test["path"].tolist()
    chosen = [paths[0], paths[(len(paths) - 1) // 2], paths[-1]]
    np.testing.assert_array_equal(pixels, [datamodule.read(path) for path in chosen])
    assert len(pixels_of(datamodule, 1000)) == len(paths)


def test_reference_is_that_of_the_tests(tmp_path):
    (net, content), file = omni_scale_net(), tmp_path / "model.tflite"
    file.write_bytes(content)
    images = net.images(3)
    np.testing.assert_array_equal(reference_embeddings(file, images), reference(content, images))
    with pytest.raises(InputError, match=r"model\.tflite: LiteRT fails on an image \(5, "):
        reference_embeddings(file, images[:, :5])
    file.write_bytes(content[:500])
    with pytest.raises(InputError, match=r"model\.tflite: "):
        reference_embeddings(file, images)


def test_memory_rules_only_get_better_and_have_pictures():
    rules = memory_rules(parse_graph(omni_scale_net(height=64, width=32, channels=(16, 64))[1]))
    peaks = [rule.peak_bytes for rule in rules]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > 1.2 * peaks[1] > 1.2 * 1.1 * peaks[2]
    # ADD of two maps of 64 channels into a third, with nothing in place
    assert peaks[0] == 3 * 16 * 8 * 64
    for rule in rules:
        rows = lifetime_rows(rule.plan)
        assert max(row["offset"] + row["bytes"] for row in rows) == rule.peak_bytes
        assert all(row["first"] <= row["last"] for row in rows)
