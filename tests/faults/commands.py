"""Run commands, each in a forked child with a memory limit and a timeout: lists of words in, [status, output] out.

`read FILE` is no command of the program: it gives a .tflite or .onnx to all that reads one.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import ai_edge_litert.interpreter
import numpy as np
import onnxruntime
import openvino
import torch

import reidlab
from reidlab import cli
from reidlab.deploy import choose, microcontroller, nvidia, stm32
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.c_export import export_c
from reidlab.errors import InputError
from reidlab.export.flatbuffer import read_metadata
from reidlab.export.runtime import open_model
from reidlab.interop import tao
from reidlab.stages import data, deploy, evaluate, export, predict, report, train

# before a fork
LOADED = (ai_edge_litert, onnxruntime, openvino, tao, data, deploy, evaluate, export, predict, report, train)
MEMORY_BYTES, TIMEOUT_S = 2 << 30, 60
SIZE = (16, 8)  # of the images that files are given where they take any


def embed(file, runtime=None):
    embedder = open_model(file, runtime=runtime)
    embedder(np.zeros((2, *embedder.size_for(SIZE), 3), np.uint8))


def to_c(file):
    place = file.with_suffix(".c")
    export_c(file, place)
    microcontroller.write_tables(file, place, extra_macs=0.1)
    microcontroller.reference_embeddings(file, np.zeros((2, *SIZE, 3), np.uint8))


READERS = {
    ".tflite": [
        embed,
        to_c,
        read_metadata,
        reidlab.load,
        lambda file: stm32.estimates(file, [*BOARDS]),
        lambda file: choose.choice([choose.Candidate("theirs", file, {})]),
    ],
    ".onnx": [
        embed,
        lambda file: embed(file, "openvino"),
        reidlab.load,
        lambda file: nvidia.renamed(file, ("input", "output")),
    ],
}


def read(file):
    """Give a file to all that reads one of its kind, each of which may refuse it in a line that names it."""
    refused = []
    for reader in READERS[file.suffix]:
        try:
            reader(file)
        except InputError as error:
            assert file.name in str(error) and "\n" not in str(error), error
            refused.append(error)
    for error in refused[:1]:
        print(f"reidlab: {error}")
    return 2 if refused else 0


def run(words):
    """End this process with the command's status."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))
    signal.alarm(TIMEOUT_S)
    try:
        status = read(Path(words[1])) if words[0] == "read" else cli.main(words)
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


torch.set_num_threads(1)
for line in sys.stdin:
    with tempfile.TemporaryFile() as output:
        if not (child := os.fork()):
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            run(json.loads(line))
        _, ended = os.waitpid(child, 0)
        output.seek(0)
        print(json.dumps([os.waitstatus_to_exitcode(ended), output.read().decode(errors="replace")]), flush=True)
