"""What a .tflite costs on emulated Cortex-M cores: python benchmarks/firmware.py model_int8.tflite [--cores m4 m7]

Prints RAM, flash, stack and executed instructions an image, with the DSP instructions and without, and whether the
output of some random images equals that of TFLite's reference kernels bit for bit.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from reidlab.deploy import CORES, export_c, memory_lines, memory_rules, read_graph, run_firmware
from reidlab.deploy.microcontroller import reference_embeddings

PORTABLE = ("-U__ARM_FEATURE_DSP",)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tflite", type=Path)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES))
    args = parser.parse_args()
    graph = read_graph(args.tflite)
    print("\n".join(memory_lines(memory_rules(graph))))
    with tempfile.TemporaryDirectory() as folder:
        report = export_c(args.tflite, Path(folder))
        weights, tables = report.weight_bytes / 1024, report.table_bytes / 1024
        print(f"weights {weights:.1f} KiB, tables {tables:.1f} KiB, {report.macs / 1e6:.1f} M MAC executed")
        shape = graph.tensors[graph.inputs[0]].shape[1:]
        images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
        expected = reference_embeddings(args.tflite, images)
        for core in args.cores:
            for label, flags in (("DSP", ()), ("portable", PORTABLE)):
                run = run_firmware(Path(folder), images, core, compiler_flags=flags)
                millions = max(run.instructions) / 1e6
                equal = "bit for bit" if np.array_equal(run.embeddings, expected) else "UNLIKE THE REFERENCE"
                flash, ram = sum(run.flash_bytes.values()) / 1024, sum(run.ram_bytes.values()) / 1024
                print(
                    f"{core:4} {label:9} {millions:8.1f} M instructions, {1e6 * millions / report.macs:.2f} a MAC, "
                    f"flash {flash:.1f} KiB, RAM {ram:.1f} KiB, stack {run.stack_bytes} bytes, {equal}"
                )


if __name__ == "__main__":
    main()
