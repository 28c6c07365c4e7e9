"""Exported C, compiled for this machine with the sanitizers on, and the networks that tests export."""

import atexit
import functools
import re
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from reidlab.deploy.c_export import CReport, export_c

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
HOST, LOADER = (Path(__file__).with_name(name) for name in ("host.c", "host_loader.c"))
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror")


def compile_c(content: bytes, folder: Path, flags: tuple[str, ...] = ("-O1", *SANITIZERS), **options) -> CReport:
    """Export a .tflite to `folder` and build it there."""
    model = folder / "model.tflite"
    model.write_bytes(content)
    report = export_c(model, folder, **options)
    compile_network(folder, flags)
    return report


def compile_network(folder: Path, flags: tuple[str, ...] = ("-O1",)) -> None:
    """Build an exported network for `run_c`: by itself, as linking a program takes longer than compiling it."""
    source, built = folder / "src" / "reid_model.c", ("-fPIC", "-shared", "-nostdlib", f"-I{folder}/src")
    guarded = "-DREID_ARENA_ATTRIBUTE="  # the sanitizer sees no overflow of what lies in a section of its own
    compile_sources(*flags, *built, guarded, source, "-o", folder / "network.so")
    (folder / "host").unlink(missing_ok=True)
    (folder / "host").symlink_to(loader(flags))


@functools.cache
def loader(flags: tuple[str, ...]) -> Path:
    """The program that loads a network, with the kernels, which are the same for every network."""
    program = kernels(flags).with_name("loader")
    compile_sources(*flags, "-rdynamic", LOADER, kernels(flags), "-ldl", "-o", program)
    return program


@functools.cache
def kernels(flags: tuple[str, ...]) -> Path:
    """The kernels as an object file."""
    source = files("reidlab.deploy") / "c" / "reid_kernels.c"
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    compile_sources(*flags, "-c", source, "-o", f"{folder}/reid_kernels.o")
    return Path(folder) / "reid_kernels.o"


def compile_sources(*arguments: str | Path) -> None:
    """Call gcc with all warnings as errors."""
    done = subprocess.run(["gcc", *WARNINGS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run_c(folder: Path, images: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) of uint8 images (N, H, W, C)."""
    size = re.search(r"define REID_EMBEDDING_SIZE (\d+)", (folder / "src" / "reid.h").read_text())[1]
    command = [folder / "host", folder / "network.so", str(images[0].nbytes), size]
    done = subprocess.run(command, input=images.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return np.frombuffer(done.stdout, np.float32).reshape(len(images), -1)
