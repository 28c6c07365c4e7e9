"""The folder that a firmware takes in: builds, names, memory and the examples."""

import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from host import SANITIZERS, compile_sources, needs_gcc
from test_c_export import omni_scale_net
from test_compilers import need, run
from test_emulator import needs_tools
from tiny_models import reference

from reidlab import __version__
from reidlab.deploy import emulator
from reidlab.deploy.c_export import Example, export_c
from reidlab.deploy.emulator import CORES, run_firmware
from reidlab.errors import InputError

HERE = Path(__file__).parent
FIRMWARE = Path(str(files("reidlab.deploy") / "firmware"))
M7 = ("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-mthumb")
SHARED = ("kernels", "resize", "camera", "distance", "gallery")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A .tflite, images, and what the reference kernels make of them."""
    net, content = omni_scale_net()
    file = tmp_path_factory.mktemp("model") / "model.tflite"
    file.write_bytes(content)
    images = net.images(3)
    return file, images, reference(content, images)


@pytest.fixture(scope="module")
def package(network, tmp_path_factory):
    """The package by a prefix, with its settings."""
    file, images, expected = network

    def make(prefix="reid", **settings):
        folder = tmp_path_factory.mktemp(prefix)
        example = Example(images[2], expected[2])
        export_c(file, folder, prefix=prefix, thresholds={"cosine": 0.25}, example=example, **settings)
        return folder

    return make


def sources(folder, prefix="reid"):
    shared = [folder / f"src/reid_{name}.c" for name in SHARED]
    return [*shared, folder / f"src/{prefix}_model.c", folder / f"src/{prefix}_self_test.c"]


def test_every_file_says_its_license(package):
    for file in package().rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert "SPDX-License-Identifier: Apache-2.0" in (text if file.suffix == ".properties" else text[:60]), file


@needs_gcc
def test_two_networks_in_one_program(network, package, tmp_path):
    _, images, expected = network
    first, second = package(distance="cosine"), package("gate", arena="caller")
    files = [*sources(first), *sources(second, "gate")[len(SHARED) :], HERE / "host_package.c"]
    folders = [f"-I{first}/src", f"-I{second}/src"]
    compile_sources("-O1", *SANITIZERS, *folders, *files, "-lm", "-o", tmp_path / "host")
    done = subprocess.run([tmp_path / "host"], input=images[1].tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    size = expected.shape[1]
    np.testing.assert_array_equal(np.frombuffer(done.stdout[: 4 * size], np.float32), expected[1])
    scale = np.float32(re.search(r"EMBEDDING_SCALE (\S+)f ", (first / "src/reid.h").read_text())[1])
    zero = int(re.search(r"_ZERO (-?\d+)", (first / "src/reid.h").read_text())[1])
    codes = np.frombuffer(done.stdout[4 * size :], np.int8)
    np.testing.assert_array_equal(scale * (codes.astype(np.float32) - zero), expected[1])
    major, minor, patch = (int(part) for part in re.match(r"(\d+)\.(\d+)\.(\d+)", __version__).groups())
    version, number, distance, threshold = done.stderr.decode().split()
    assert (version, int(number)) == (__version__, 10000 * major + 100 * minor + patch)
    assert float(distance) == pytest.approx(0, abs=1e-6) and float(threshold) == 0.25


@needs_gcc
def test_a_network_of_other_kernels_doesn_t_compile(package, tmp_path):
    folder = package()
    version = folder / "src/reid_version.h"
    version.write_text(re.sub(r"REID_KERNELS \d+u", "REID_KERNELS 7u", version.read_text()))
    done = subprocess.run(
        ["gcc", "-c", folder / "src/reid_model.c", "-o", tmp_path / "o"], capture_output=True, text=True
    )
    assert done.returncode and "export all networks of a firmware by one version of reidlab" in done.stderr


@needs_gcc
def test_distances_of_floats(package, tmp_path):
    folder = package()
    library = tmp_path / "distance.so"
    compile_sources("-O2", "-shared", "-fPIC", folder / "src/reid_distance.c", "-lm", "-o", library)
    program = (
        "import ctypes, sys; import numpy as np; c = ctypes.CDLL(sys.argv[1])\n"
        "a, b = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)\n"
        "cos = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)\n"
        "pointers = [x.ctypes.data_as(ctypes.c_void_p) for x in (a, b)]\n"
        "for name, expected in (('euclidean', np.linalg.norm(a - b)), ('cosine', cos)):\n"
        "    f = getattr(c, f'reid_{name}_distance'); f.restype = ctypes.c_float\n"
        "    assert abs(f(*pointers, 128) - expected) < 1e-5, name\n"
    )
    run(sys.executable, "-c", program, library)


@needs_gcc
def test_readme_and_network_of_a_prefix_have_its_names(network, package, tmp_path):
    folder = package("gate")
    readme, shared = (folder / "README.md").read_text(), ("KERNELS", "VERSION", "VERSION_NUMBER", "RGB565_BIG")
    headers = "".join((folder / f"src/reid_{name}.h").read_text() for name in SHARED)
    for name in {*re.findall(r"reid_\w+|REID_\w+", readme)}:
        assert name.removeprefix("REID_") in shared or name in headers or list(folder.glob(f"src/{name}.*")), name
    assert "-DGATE_STATIC_ARENA=0" in readme and "-DGATE_ARENA_ATTRIBUTE=..." in readme and "such as `door`" in readme
    flags = ["-c", folder / "src/gate_model.c", "-o", tmp_path / "o"]
    compile_sources('-DGATE_ARENA_ATTRIBUTE=__attribute__((section(".axi")))', *flags)
    sections = subprocess.run(["size", "-A", tmp_path / "o"], capture_output=True, text=True, check=True).stdout
    assert ".axi" in sections and ".bss.gate_arena" not in sections


@needs_gcc
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("arena", ["static", "caller"])
@pytest.mark.parametrize("prefix", ["reid", "gate"])
def test_the_first_lines_of_the_readme_compile_as_they_stand(network, prefix, arena, classes, tmp_path):
    file, images, expected = network
    names = [f"class {number}" for number in range(expected.shape[1])] if classes else ()
    export_c(file, tmp_path, prefix=prefix, arena=arena, classes=names, example=Example(images[2], expected[2]))
    readme = (tmp_path / "README.md").read_text()
    include, _, lines = re.search(r"```c\n(.*?)```", readme, re.DOTALL)[1].partition("\n")
    result = "names[likely] == 0" if classes else "0"
    (tmp_path / "main.c").write_text(f"{include}\nint main(void) {{\n{lines}\nreturn {result};\n}}\n")
    flags = ["-std=c99", "-Werror=implicit-function-declaration", f"-I{tmp_path}/src", tmp_path / "main.c"]
    compile_sources("-O1", *flags, *sources(tmp_path, prefix), "-lm", "-o", tmp_path / "host")
    assert subprocess.run([tmp_path / "host"]).returncode == 0
    assert ("The static arena lies in" in readme) == (arena == "static")
    headers = re.sub(
        r"#if \w+_STATIC_ARENA\n.*?#endif", "", (tmp_path / f"src/{prefix}.h").read_text(), flags=re.DOTALL
    )
    if arena == "caller":  # what is told as there without a flag is declared
        told = readme.partition("## Memory")[0]
        assert all(f"{name}(" in headers for name in re.findall(rf"{prefix}_run\w*", told))


def test_names_of_classes_keep_their_words_under_a_prefix(network, tmp_path):
    file, _, expected = network
    names = ["reid_run shoe", "REID_THRESHOLD", "reid.h", *("c" * (expected.shape[1] - 3))]
    export_c(file, tmp_path, prefix="gate", classes=names)
    assert (
        re.findall(r'"(.*?)"', re.search(r"GATE_CLASS_NAMES {(.*?)}", (tmp_path / "src/gate.h").read_text())[1])
        == names
    )


def test_a_folder_holds_the_network_of_one_prefix(network, package):
    folder = package("gate")
    (folder / "src/my_model.c").write_bytes(b"int mine; /* caf\xe9 */")
    (folder / "src/link_model.c").symlink_to("nowhere")
    (folder / "src/folder_model.c").mkdir()
    os.mkfifo(folder / "src/pipe_model.c")  # never waited for
    export_c(network[0], folder, prefix="door")
    assert sorted(file.name for file in (folder / "src").iterdir() if "reid" not in file.name) == [
        "door.h", "door_model.c", "folder_model.c", "link_model.c", "my_model.c", "pipe_model.c"
    ]  # fmt: skip


def test_an_export_without_an_example_leaves_no_self_test_of_another_network(network, package):
    for prefix in ("reid", "gate"):
        folder = package(prefix)
        assert (folder / f"src/{prefix}_self_test.c").exists()
        export_c(network[0], folder, prefix=prefix)
        assert not (folder / f"src/{prefix}_self_test.c").exists()


def test_what_another_export_leaves_as_it_is_is_not_compiled_again(network, package):
    file, images, expected = network
    folder = package()
    for old in folder.rglob("*"):
        os.utime(old, (1, 1))
    (folder / "src/reid_kernels.h").unlink()
    os.mkfifo(folder / "src/reid_kernels.h")  # never waited for
    export_c(file, folder, thresholds={"cosine": 0.5}, example=Example(images[2], expected[2]))
    new = {str(file.relative_to(folder)) for file in folder.rglob("*.*") if file.stat().st_mtime > 1}
    assert new == {"src/reid.h", "src/reid_kernels.h"} and (folder / "src/reid_kernels.h").stat().st_size > 0


@pytest.mark.parametrize("prefix", ["reid_b", "2cams", "Gate", "a-b", "string", "", "x" * 40])
def test_a_prefix_that_makes_no_names_is_refused(network, prefix, tmp_path):
    with pytest.raises(InputError, match=rf"deploy\.prefix={prefix}: give a short C name"):
        export_c(network[0], tmp_path, prefix=prefix)
    with pytest.raises(InputError, match=r"deploy\.arena=heap: choose static or caller"):
        export_c(network[0], tmp_path, arena="heap")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("prefix", ["reid", "gate"])
def test_cmake_builds_the_example_which_recognizes_a_person(package, prefix, tmp_path):
    need("cmake", "gcc")
    folder, build = package(prefix, arena="static" if prefix == "reid" else "caller"), tmp_path / "build"
    run("cmake", "-S", folder, "-B", build)
    run("cmake", "--build", build)
    random = np.random.default_rng(0)
    frames = random.integers(0, 1 << 16, (2, 480, 640), np.uint16)
    frames[1] = random.integers(0, 1 << 5, (480, 640))  # blue
    done = subprocess.run([build / "example"], input=frames[[0, 0, 1]].tobytes(), capture_output=True)
    lines = done.stdout.decode().splitlines()
    assert lines[:2] == ["enrolled", "the same, distance 0.0000"] and "distance" in lines[2]
    assert float(lines[2].split()[-1]) > 0


@pytest.fixture(scope="module")
def quick_gcc(tmp_path_factory):
    """For CMake: gcc that optimizes nothing, for builds that differ from another in what they take and link."""
    need("cmake", "gcc")
    script = tmp_path_factory.mktemp("bin") / "gcc"
    script.write_text('#!/bin/sh\nexec gcc "$@" -O0\n')
    script.chmod(0o755)
    return f"-DCMAKE_C_COMPILER={script}"


def test_cmake_takes_two_networks(package, quick_gcc, tmp_path):
    (tmp_path / "main.c").write_bytes((HERE / "host_package.c").read_bytes())
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(two C)\n"
        f"add_subdirectory({package()} one)\nadd_subdirectory({package('gate')} two)\n"
        "add_executable(app main.c)\ntarget_link_libraries(app PRIVATE reid gate)\n"
    )
    run("cmake", quick_gcc, "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")


def test_zephyr_builds_what_the_module_names(package, quick_gcc, tmp_path):
    """Zephyr's CMake functions in a few lines."""
    folder = package()
    (tmp_path / "main.c").write_text('#include "reid.h"\nint main(void) { return reid_init(); }\n')
    (tmp_path / "CMakeLists.txt").write_text(f"""cmake_minimum_required(VERSION 3.20)
project(app C)
function(zephyr_library_named name)
  add_library(${{name}} STATIC)
  set(library ${{name}} PARENT_SCOPE)
endfunction()
macro(zephyr_library_sources)
  target_sources(${{library}} PRIVATE ${{ARGN}})
endmacro()
macro(zephyr_library_compile_options)
  target_compile_options(${{library}} PRIVATE ${{ARGN}})
endmacro()
macro(zephyr_include_directories)
  include_directories(${{ARGN}})
endmacro()
set(CONFIG_REID y)
include({folder}/zephyr/CMakeLists.txt)
include_directories({folder}/src)
add_executable(app main.c)
target_link_libraries(app PRIVATE reid_network reid_shared)
""")
    run("cmake", quick_gcc, "-S", tmp_path, "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    run(tmp_path / "build/app")
    assert "config REID\n" in (folder / "zephyr/Kconfig").read_text()
    assert "kconfig: zephyr/Kconfig" in (folder / "zephyr/module.yml").read_text()


def test_arduino_finds_the_library_and_its_example(package):
    folder = package("gate")
    properties = dict(
        line.split("=", 1) for line in (folder / "library.properties").read_text().splitlines() if "=" in line
    )
    needed = {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"}
    assert needed <= set(properties) and properties["includes"] == "gate.h" and (folder / "src/gate.h").is_file()
    assert (folder / "examples/camera/camera.ino").is_file()


@needs_gcc
def test_class_names_of_any_letters_are_c(network, tmp_path):
    names = ['"quoted" \\ ', "blåbær 7", "??/", "\n", *map(str, range(network[2].shape[1] - 4))]
    export_c(network[0], tmp_path, prefix="gate", classes=names)
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "gate.h"\nstatic const char *const names[] = GATE_CLASS_NAMES;\n'
        'int main(void) { for (int i = 0; i < GATE_EMBEDDING_SIZE; i++) printf("%s;", names[i]); return 0; }\n'
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{tmp_path}/src"]
    run("gcc", *flags, tmp_path / "main.c", "-o", tmp_path / "main")
    printed = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout.decode()
    assert printed == "".join(f"{name};" for name in names)


def linked(folder, script, out, entry, arena="static"):
    """An .elf for a Cortex-M7 and its binary; symbols of the .elf by name."""
    main = out / "main.c"
    main.write_text(
        '#include "reid.h"\nstatic uint8_t image[REID_IMAGE_BYTES];\nstatic float embedding[REID_EMBEDDING_SIZE];\n'
        "void finish(int status) { (void)status; for (;;) { } }\n"
        "int main(void) { reid_run(image, embedding); return reid_init() + (embedding[0] > 0); }\n"
    )
    objects = [*sources(folder)[:1], folder / "src/reid_model.c", main, FIRMWARE / "startup.c"]
    flags = ["-std=c99", "-O2", *M7, "-ffreestanding", "-ffunction-sections", "-fdata-sections", f"-I{folder}/src"]
    run("arm-none-eabi-gcc", *flags, *objects, "-nostdlib", "-Wl,--gc-sections", f"-Wl,-e,{entry}", "-T", script,
        "-lgcc", "-o", out / "a.elf")  # fmt: skip
    run("arm-none-eabi-objcopy", "-O", "binary", out / "a.elf", out / "a.bin")
    listing = subprocess.run(["arm-none-eabi-nm", out / "a.elf"], capture_output=True, text=True, check=True).stdout
    return {line.split()[2]: int(line.split()[0], 16) for line in listing.splitlines() if len(line.split()) == 3}


def test_the_arena_in_axi_ram_is_not_in_the_binary(package, tmp_path):
    """By a plain linker script, and by the package's own."""
    need("arm-none-eabi-gcc")
    folder = package()
    names = linked(folder, HERE / "axi.ld", tmp_path, "reset")
    assert 0x24000000 <= names["reid_arena"] < 0x24080000 and 0x24000000 <= names["image"] < 0x24080000
    assert 8000 < (tmp_path / "a.bin").stat().st_size < 100_000
    own = tmp_path / "own.ld"
    script = (folder / "examples/firmware/stm32h7.ld").read_text()
    own.write_text(script.replace("*(.isr_vector)", "*(.vectors)") + STARTUP_NAMES)
    names = linked(folder, own, tmp_path, "reset")
    assert 0x24000000 <= names["reid_arena"] < 0x24080000
    assert (tmp_path / "a.bin").stat().st_size < 100_000


STARTUP_NAMES = """
data_start = _sdata; data_end = _edata; data_load = _sidata; bss_start = _sbss; bss_end = _ebss;
stack_low = _ebss; stack_top = _estack;
"""


@needs_tools
def test_a_network_of_another_prefix_runs_on_the_core(network, package):
    _, images, expected = network
    run = run_firmware(package("gate", arena="caller"), images)
    np.testing.assert_array_equal(run.embeddings, expected)


@needs_tools
def test_the_self_test_passes_on_the_core_and_finds_a_changed_code(package, tmp_path):
    folder = package()
    test = folder / "src/reid_self_test.c"
    (folder / "src/proof.c").write_text(
        '#include "reid.h"\nstatic uint64_t arena[(REID_ARENA_BYTES + 7) / 8];\n'
        "int main(void) { return 10 + reid_self_test(arena); }\n"
    )

    run_qemu = ["qemu-system-arm", "-M", CORES["m7"], "-display", "none", "-monitor", "none", "-serial", "none",
                "-semihosting-config", "enable=on,target=native", "-kernel", tmp_path / "firmware.elf"]  # fmt: skip

    def differing():
        parts = "proof.o semihosting.o reid_kernels.o reid_model.o reid_self_test.o"
        emulator.build_firmware(FIRMWARE, tmp_path, "m7", MODEL=folder / "src", PARTS=parts)
        return subprocess.run(run_qemu).returncode - 10

    assert differing() == 0
    head, codes = test.read_text().split("expected[REID_EMBEDDING_SIZE] = {\n")
    first, rest = codes.split(",", 1)
    test.write_text(f"{head}expected[REID_EMBEDDING_SIZE] = {{\n{(int(first) + 1) % 128},{rest}")
    assert differing() == 1
