import numpy as np
import pytest
from test_c_export import omni_scale_net
from tiny_models import reference

from reidlab.deploy.c_export import export_c
from reidlab.deploy.emulator import CORES, missing_tools, run_firmware
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
def test_what_goes_wrong_on_the_core_is_said(exported, tmp_path):
    folder, _, images, _ = exported
    with pytest.raises(InputError, match="core=m7: 0 of 2 images"):
        run_firmware(folder, images[:2, :5], "m7")
    with pytest.raises(InputError, match=r"core=m7: the firmware can't be built: .*reid"):
        run_firmware(tmp_path, images, "m7")


def test_unknown_core_is_refused(tmp_path):
    with pytest.raises(InputError, match="core=m3: choose one of m4, m7, m55"):
        run_firmware(tmp_path, np.zeros((1, 2, 2, 3), np.uint8), "m3")


def test_missing_tools_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing_tools() == "apt-get install --no-install-recommends make gcc gcc-arm-none-eabi qemu-system-arm"
    with pytest.raises(InputError, match="apt-get install"):
        run_firmware(tmp_path, np.zeros((1, 2, 2, 3), np.uint8))
