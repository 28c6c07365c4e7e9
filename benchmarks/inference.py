"""Latency and images/s of a run's exported files, beside PyTorch eager and any third-party file of the same network.

    python benchmarks/inference.py runs/demo [other.tflite other.onnx ...] [--threads 1 2] [--batches 1 8]

Every figure is the median of 20 calls or more on prepared images, each file in a process of its own; all are of one
sitting on one machine.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

from reidlab.console import print_table
from reidlab.errors import InputError
from reidlab.export.cost import latency_ms, measure
from reidlab.files import write_json
from reidlab.run import File, Run, provenance

SUFFIXES = {".onnx": ("onnxruntime", "openvino"), ".tflite": ("litert",)}


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and write it into the run folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("files", type=Path, nargs="*", help=".tflite or .onnx files of other origin")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    args = parser.parse_args(argv)
    settings = [(threads, batch) for threads in args.threads for batch in args.batches]
    try:
        run = Run(args.run)
        files = [*sorted(f for f in (run / File.EXPORT).glob("*") if f.suffix in SUFFIXES), *args.files]
        rows = [("checkpoint", "pytorch", *setting, eager_ms(run, *setting)) for setting in settings]
        for file in files:
            for runtime in SUFFIXES.get(file.suffix, ()):
                found = measure(file, runtime, settings)["ms"]
                rows += [(file.name, runtime, *setting, ms) for setting, ms in zip(settings, found, strict=True)]
    except InputError as error:
        print(f"inference: {error}", file=sys.stderr)
        return 2
    table = pd.DataFrame(rows, columns=["file", "runtime", "threads", "batch", "ms"]).set_index("file")
    table["images_per_s"] = 1000 * table["batch"] / table["ms"]
    print_table(table, f"{run.name}: latency of a batch")
    write_json(run / "benchmarks/inference.json", provenance())
    print(run.write("benchmarks/inference.csv", table.to_csv()))
    return 0


def eager_ms(run: Run, threads: int, batch: int) -> float:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return latency_ms(run.network, torch.rand(batch, 3, *run["data.size"]))


if __name__ == "__main__":
    sys.exit(main())
