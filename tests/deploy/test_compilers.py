"""The exported C under other compilers: no warnings, C++ callers, ARM mode and RISC-V in user-mode QEMU."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host import HOST
from test_c_export import omni_scale_net
from tiny_models import reference

from reidlab.deploy.c_export import SHARED, Example, export_c

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

SOURCES = [f"src/{name}" for name in (*SHARED, "reid_model.c", "reid_self_test.c") if name.endswith(".c")]
SOURCES += ["examples/firmware/main.c"]
HEADERS = [
    name
    for name in (*SHARED, "reid.h", "reid_version.h")
    if name.endswith(".h") and name not in ("reid_words.h", "reid_vectors.h")
]  # parts of reid_kernels.c
HEADERS += ["../examples/firmware/board.h"]


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
    images = net.images(3)
    expected = reference(content, images)
    example = Example(images[2], expected[2])
    export_c(folder / "model.tflite", folder, thresholds={"cosine": 0.25}, example=example)
    return folder, images, expected


@pytest.mark.parametrize("name", COMPILERS)
@pytest.mark.parametrize("source", SOURCES)
def test_no_compiler_warns(name, source, exported, tmp_path):
    compiler, flags = COMPILERS[name]
    need(compiler)
    bare = ("-ffreestanding", "-mfloat-abi=hard") if any("cortex-m" in flag for flag in flags) else ()
    run(
        compiler,
        "-std=c99",
        *STRICT,
        *flags,
        *bare,
        f"-I{exported[0]}/src",
        "-c",
        exported[0] / source,
        "-o",
        tmp_path / "object.o",
    )


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_example_for_a_computer_has_no_warnings(compiler, exported, tmp_path):
    need(compiler)
    source = exported[0] / "examples/firmware/board_host.c"
    run(compiler, "-std=c99", *STRICT, f"-I{exported[0]}/src", "-c", source, "-o", tmp_path / "object.o")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("header", HEADERS)
def test_every_header_is_one_for_cpp(compiler, header, exported, tmp_path):
    """By itself, and what it declares is linked by C's names."""
    need(compiler)
    source = tmp_path / "includes.cpp"
    source.write_text(f'#include "{header}"\n')
    run(compiler, "-std=c++11", *STRICT, f"-I{exported[0]}/src", "-c", source, "-o", tmp_path / "object.o")
    text = (exported[0] / "src" / header).read_text()
    assert 'extern "C" {' in text or header == "reid_version.h"


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_arduino_sketch_compiles(compiler, exported, tmp_path):
    need(compiler)
    (tmp_path / "Arduino.h").write_text("""#pragma once
#include <stdint.h>
struct Port { void begin(long); void println(const char *); void println(double, int); };
extern Port Serial;
""")
    flags = ["-std=gnu++11", *STRICT, f"-I{tmp_path}", f"-I{exported[0]}/src", "-include", "Arduino.h", "-x", "c++"]
    run(compiler, *flags, "-c", exported[0] / "examples/camera/camera.ino", "-o", tmp_path / "object.o")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_cpp_calls_the_c(compiler, exported, tmp_path):
    need(compiler, "gcc")
    folder, images, expected = exported
    for source in ("reid_kernels", "reid_model"):
        run("gcc", "-std=c99", "-O2", "-c", folder / "src" / f"{source}.c", "-o", tmp_path / f"{source}.o")
    program = tmp_path / "host"
    run(
        compiler,
        "-x",
        "c++",
        "-std=c++11",
        *STRICT,
        f"-I{folder}/src",
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
    sources = [folder / "src" / "reid_kernels.c", folder / "src" / "reid_model.c", HOST]
    run(compiler, "-std=c99", "-static", *STRICT, *flags, f"-I{folder}/src", *sources, "-o", tmp_path / "host")
    done = subprocess.run([emulator, tmp_path / "host"], input=images.tobytes(), capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.float32).reshape(expected.shape), expected)
