"""The project's own networks, converted by the project, on this machine and on emulated Cortex-M7 and M55."""

import numpy as np
import pytest
import torch
from host import SANITIZERS, compile_c, needs_gcc, run_c
from test_emulator import needs_tools
from tiny_models import reference
from trained_like import int8_tflite, soft_images

from reidlab.deploy.emulator import run_firmware
from reidlab.models import fdmobilenet_x0_25, mobilenetv2_x0_35, osnet_x0_25, osnet_x1_0, st_fdmobilenet_v1

pytestmark = [pytest.mark.slow, needs_gcc]
KIB = 1024


def drawn(build, **options):
    """A network whose weights are the same in whatever order the tests run."""
    torch.manual_seed(0)
    return build(num_classes=0, **options)


def exported(build, folder):
    content = int8_tflite(drawn(build, feat_dim=None), (256, 128))
    return folder, content, compile_c(content, folder, ("-O2",))


@pytest.fixture(scope="module")
def x0_25(tmp_path_factory):
    return exported(osnet_x0_25, tmp_path_factory.mktemp("x0_25"))


@pytest.fixture(scope="module")
def x1_0(tmp_path_factory):
    return exported(osnet_x1_0, tmp_path_factory.mktemp("x1_0"))


def test_x0_25_equals_the_reference_within_its_budget(x0_25):
    folder, content, report = x0_25
    images = soft_images(100, (256, 128), seed=7)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images))
    assert report.arena_bytes == report.arena_lower_bound <= 144 * KIB  # ST publishes 331
    assert report.weight_bytes <= 139.5 * KIB


@needs_tools
@pytest.mark.parametrize(("core", "most_instructions"), [("m7", 205e6), ("m55", 68e6)])
def test_x0_25_on_the_core(core, most_instructions, x0_25):
    folder, content, report = x0_25
    images = soft_images(100, (256, 128), seed=8)
    run = run_firmware(folder, images, core)
    np.testing.assert_array_equal(run.embeddings, reference(content, images))
    assert max(run.instructions) <= most_instructions
    assert run.stack_bytes <= 4 * KIB and run.ram_bytes[".bss"] == report.arena_bytes


def test_x1_0_equals_the_reference(x1_0):
    folder, content, report = x1_0
    images = soft_images(10, (256, 128), seed=9)
    np.testing.assert_array_equal(run_c(folder, images), reference(content, images))
    assert report.weight_bytes <= 1892.75 * KIB


@needs_tools
def test_x1_0_on_the_cortex_m7(x1_0):
    folder, content, report = x1_0
    images = soft_images(1, (256, 128), seed=11)
    run = run_firmware(folder, images, "m7")
    np.testing.assert_array_equal(run.embeddings, reference(content, images))
    assert run.ram_bytes[".bss"] == report.arena_bytes <= 664 * KIB  # 1,420 published
    assert max(run.instructions) <= 3 * report.macs and run.stack_bytes <= 4 * KIB


@needs_tools
@pytest.mark.parametrize(
    ("build", "side", "published_ram_kib"),
    [
        (fdmobilenet_x0_25, 128, 56.46),
        (fdmobilenet_x0_25, 224, 157.33),
        (st_fdmobilenet_v1, 128, 74.53),
        (st_fdmobilenet_v1, 224, 211.94),
    ],
    ids=["x0_25-128", "x0_25-224", "st_v1-128", "st_v1-224"],
)
def test_fdmobilenets_on_the_cortex_m7(build, side, published_ram_kib, tmp_path):
    content = int8_tflite(drawn(build), (side, side))
    report = compile_c(content, tmp_path, ("-O2",))
    images = soft_images(3, (side, side), seed=10)
    run = run_firmware(tmp_path, images, "m7")
    np.testing.assert_array_equal(run.embeddings, reference(content, images))
    assert run.ram_bytes[".bss"] == report.arena_bytes <= published_ram_kib * KIB
    assert max(run.instructions) <= 3 * report.macs and run.stack_bytes <= 4 * KIB


def test_ten_thousand_random_images_pass_the_sanitizers(tmp_path):
    content = int8_tflite(drawn(osnet_x0_25, feat_dim=None), (64, 32))
    compile_c(content, tmp_path, ("-O2", *SANITIZERS))
    images = np.random.default_rng(0).integers(0, 256, (10_000, 64, 32, 3), np.uint8)
    found = run_c(tmp_path, images)
    np.testing.assert_array_equal(found[:500], reference(content, images[:500]))


@pytest.mark.parametrize("padding", ["symmetric", "tensorflow"])
def test_mobilenetv2_equals_the_reference(padding, tmp_path):
    content = int8_tflite(drawn(mobilenetv2_x0_35, padding=padding), (256, 128))
    compile_c(content, tmp_path)
    images = soft_images(10, (256, 128), seed=10)
    np.testing.assert_array_equal(run_c(tmp_path, images), reference(content, images))


def test_padding_of_tensorflow_in_osnet_and_fdmobilenet(tmp_path):
    for build in (osnet_x0_25, st_fdmobilenet_v1):
        content = int8_tflite(drawn(build, feat_dim=None, padding="tensorflow"), (64, 96))
        compile_c(content, tmp_path)
        images = soft_images(10, (64, 96), seed=11)
        np.testing.assert_array_equal(run_c(tmp_path, images), reference(content, images))
