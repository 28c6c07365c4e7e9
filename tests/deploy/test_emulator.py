import re
from importlib.resources import files

import numpy as np
import pytest
from test_c_export import omni_scale_net
from test_random_graphs import random_graph
from tiny_models import RandomNetwork, reference

from reidlab.deploy.c_export import export_c
from reidlab.deploy.emulator import CORES, KERNEL, missing_tools, run_firmware
from reidlab.deploy.program import compile_program
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError

needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=f"needs {missing_tools()}")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    net, content = omni_scale_net()
    (folder / "model.tflite").write_bytes(content)
    images = net.images(3)
    return folder, export_c(folder / "model.tflite", folder), images, reference(content, images)


@needs_tools
@pytest.mark.parametrize("core", CORES)
def test_embeddings_on_the_core_equal_the_reference_kernels(core, exported):
    folder, report, images, expected = exported
    run = run_firmware(folder, images, core)
    np.testing.assert_array_equal(run.embeddings, expected)
    assert run.ram_bytes[".bss"] == report.arena_bytes and run.ram_bytes[".data"] == 0
    assert run.flash_bytes[".rodata"] >= report.weight_bytes + report.table_bytes
    assert 0 < run.stack_bytes <= 4096


@needs_tools
def test_instructions_are_counted_repeatably_and_fewer_with_dsp(exported):
    folder, report, images, _ = exported
    fast = run_firmware(folder, images[[0, 1, 1]], "m7")
    portable = run_firmware(folder, images[[0, 1]], "m7", compiler_flags=["-U__ARM_FEATURE_DSP"])
    np.testing.assert_array_equal(portable.embeddings, fast.embeddings[:2])
    assert fast.instructions[1] == fast.instructions[2]
    assert report.macs < fast.instructions[1] < 0.75 * portable.instructions[1]


@needs_tools
def test_helium_takes_fewer_instructions(exported):
    folder, _, images, expected = exported
    vectors = run_firmware(folder, images, "m55")
    words = run_firmware(folder, images, "m55", compiler_flags=["-U__ARM_FEATURE_MVE"])
    np.testing.assert_array_equal(words.embeddings, expected)
    assert max(vectors.instructions) < 0.65 * min(words.instructions)


def test_every_kernel_is_known_by_its_name():
    header = (files("reidlab.deploy") / "c" / "reid_kernels.h").read_text()
    (names,) = re.findall(r"^reid_kernel (reid_[^;]+);", header, re.MULTILINE)
    assert len(names.split(",")) > 20 and all(KERNEL.fullmatch(name.strip()) for name in names.split(","))


@needs_tools
def test_instructions_by_call_follow_the_order_of_the_stages(exported):
    folder, _, images, _ = exported
    run = run_firmware(folder, images, "m33", by_call=True)
    stages = compile_program(read_graph(folder / "model.tflite")).stages
    kernels = [stage.nodes[position].kernel for stage in stages for position, _ in stage.calls()]
    assert len(run.calls) == len(kernels) and sum(run.calls) == run.instructions[-1]
    cost = dict(zip(kernels, run.calls, strict=True))
    assert cost["reid_float_row"] < cost["reid_sum_row"] < cost["reid_conv_row"]


def wide_and_odd(seed: int) -> tuple[RandomNetwork, bytes]:
    """Every kernel that has vectors, with `seed` channels, so that 1 to 33 leave every remainder of 4, 8 and 16."""
    random = np.random.default_rng(seed)
    net = RandomNetwork(seed, *random.integers(5, 19, 2).tolist(), int(random.integers(1, 5)))
    x = net.conv(net.pixels(), seed, int(random.integers(1, 5)), int(random.integers(1, 3)), relu=True)
    if seed > 1:
        pad = random.integers(0, 3, 4).tolist()
        x = net.conv(net.pad(x, tuple(pad)), seed, 3, int(random.integers(1, 3)), depthwise=True)
        x = net.add(x, net.conv(x, seed, 5, depthwise=True), net.scales[x][0] * 1.4)
    x = net.add(x, net.conv(x, seed), net.scales[x][0] * 1.3, relu=bool(seed % 2))
    rival = net.op("QUANTIZE", [net.prelu(x, net.scales[x][0])], net.activation(net.shapes[x], *net.scales[x]))
    x = net.op("MAXIMUM", [x, rival], net.activation(net.shapes[x], *net.scales[x]))
    x = net.mul(x, net.curve(net.mean(x, net.scales[x][0]), "LOGISTIC"), net.scales[x][0])
    x = net.pool(x, "MAX_POOL_2D" if seed % 2 else "AVERAGE_POOL_2D", 2, 1, same=True)
    return net, net.content(net.dense(net.mean(net.conv(x, 34 - seed, 3), 0.002, flat=True), 5, 0.001))


@needs_tools
@pytest.mark.parametrize("core", [core for core in CORES if core != "m7"])
@pytest.mark.parametrize(
    "graphs",
    [[(wide_and_odd, n) for n in (1, 6, 19)] + [(random_graph, n) for n in range(3)],
     pytest.param([(wide_and_odd, n) for n in range(1, 34)] + [(random_graph, n) for n in range(200)],
                  marks=pytest.mark.slow)],
    ids=["6 graphs", "233 graphs"],
)  # fmt: skip
def test_random_graphs_on_the_core_equal_the_reference_kernels(core, graphs, folder):
    wrong = {}
    for build, seed in graphs:
        net, content = build(seed)
        (folder / "model.tflite").write_bytes(content)
        export_c(folder / "model.tflite", folder)
        images = net.images(3)
        expected = reference(content, images).reshape(len(images), -1)
        if differing := np.mean(run_firmware(folder, images, core).embeddings != expected):
            wrong[build.__name__, seed] = differing
    assert not wrong, f"share of differing codes, {len(wrong)} of {len(graphs)}: {wrong}"


@needs_tools
def test_what_goes_wrong_on_the_core_is_said(exported, tmp_path):
    folder, _, images, _ = exported
    with pytest.raises(InputError, match="core=m7: 0 of 2 images"):
        run_firmware(folder, images[:2, :5], "m7")
    with pytest.raises(InputError, match=r"core=m7: the firmware can't be built: .*reid"):
        run_firmware(tmp_path, images, "m7")


def test_unknown_core_is_refused(tmp_path):
    with pytest.raises(InputError, match="core=m3: choose one of m4, m7, m33, m55"):
        run_firmware(tmp_path, np.zeros((1, 2, 2, 3), np.uint8), "m3")


def test_missing_tools_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_tools() == "apt-get install --no-install-recommends make gcc gcc-arm-none-eabi qemu-system-arm"
    with pytest.raises(InputError, match="apt-get install"):
        run_firmware(tmp_path, np.zeros((1, 2, 2, 3), np.uint8))
