"""Run commands, each in a forked child with a memory limit and a timeout: lists of words in, [status, output] out."""

import json
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

import ai_edge_litert.interpreter
import onnxruntime
import torch

from reidlab import cli
from reidlab.deploy import tflite_graph
from reidlab.interop import tao
from reidlab.stages import data, evaluate, export, predict, report, train

LOADED = (
    ai_edge_litert,
    onnxruntime,
    tflite_graph,
    tao,
    data,
    evaluate,
    export,
    predict,
    report,
    train,
)  # before a fork
MEMORY_BYTES, TIMEOUT_S = 2 << 30, 60


def run(words):
    """End this process with the command's status."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, held + MEMORY_BYTES))
    signal.alarm(TIMEOUT_S)
    status = cli.main(words)
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
