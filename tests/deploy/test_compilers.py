"""The exported C under other compilers: no warnings, C++ callers, ARM mode and RISC-V in user-mode QEMU."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host import HOST
from test_c_export import omni_scale_net
from tiny_models import reference

from reidlab.deploy.c_export import export_c

STRICT = ("-O3", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Werror")
M4, M33, M55 = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16"), ("-mcpu=cortex-m33",), ("-mcpu=cortex-m55",)
CLANG_M55 = ("--target=thumbv8.1m.main-none-eabi", "-Wno-psabi")
COMPILERS = {
    "gcc host": ("gcc", ()),
    "gcc m4": ("arm-none-eabi-gcc", M4),
    "gcc m33": ("arm-none-eabi-gcc", M33),
    "gcc m55": ("arm-none-eabi-gcc", M55),
    "gcc m55 without floating-point vectors": ("arm-none-eabi-gcc", ("-mcpu=cortex-m55+nomve.fp",)),
    "clang host": ("clang", ()),
    "clang m33": ("clang", ("--target=thumbv8m.main-none-eabi", *M33)),
    "clang m55": ("clang", (*CLANG_M55, *M55)),
}
A7 = ("-mcpu=cortex-a7", "-mfpu=neon-vfpv4")
EMULATORS = {
    "Cortex-A7 in ARM mode": ("arm-linux-gnueabihf-gcc", (*A7, "-marm"), "qemu-arm"),
    "Cortex-A7 in Thumb mode": ("arm-linux-gnueabihf-gcc", (*A7, "-mthumb"), "qemu-arm"),
    "RISC-V": ("riscv64-linux-gnu-gcc", (), "qemu-riscv64"),
}  # fmt: skip


def need(*commands: str) -> None:
    """Skip the test where a command is missing."""
    for command in commands:
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    net, content = omni_scale_net()
    (folder / "model.tflite").write_bytes(content)
    export_c(folder / "model.tflite", folder)
    images = net.images(3)
    return folder, images, reference(content, images)


@pytest.mark.parametrize("name", COMPILERS)
@pytest.mark.parametrize("source", ["reid_kernels.c", "reid_model.c", "reid_resize.c"])
def test_no_compiler_warns(name, source, exported, tmp_path):
    compiler, flags = COMPILERS[name]
    need(compiler)
    bare = ("-ffreestanding", "-mfloat-abi=hard") if any("cortex-m" in flag for flag in flags) else ()
    run(compiler, "-std=c99", *STRICT, *flags, *bare, "-c", exported[0] / source, "-o", tmp_path / "object.o")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_cpp_calls_the_c(compiler, exported, tmp_path):
    need(compiler, "gcc")
    folder, images, expected = exported
    for source in ("reid_kernels", "reid_model"):
        run("gcc", "-std=c99", "-O2", "-c", folder / f"{source}.c", "-o", tmp_path / f"{source}.o")
    program = tmp_path / "host"
    run(
        compiler,
        "-x",
        "c++",
        "-std=c++11",
        *STRICT,
        f"-I{folder}",
        HOST,
        "-x",
        "none",
        *tmp_path.glob("*.o"),
        "-o",
        program,
    )
    done = subprocess.run([program], input=images.tobytes(), capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(expected.shape), expected)


@pytest.mark.parametrize("name", EMULATORS)
def test_other_architectures_equal_the_reference_kernels(name, exported, tmp_path):
    compiler, flags, emulator = EMULATORS[name]
    need(compiler, emulator)
    folder, images, expected = exported
    sources = [folder / "reid_kernels.c", folder / "reid_model.c", HOST]
    run(compiler, "-std=c99", "-static", *STRICT, *flags, f"-I{folder}", *sources, "-o", tmp_path / "host")
    done = subprocess.run([emulator, tmp_path / "host"], input=images.tobytes(), capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(expected.shape), expected)
