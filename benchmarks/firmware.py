"""What a .tflite costs on emulated Cortex-M cores: python benchmarks/firmware.py model_int8.tflite [--cores m4 m7]

Prints RAM, flash, stack and executed instructions an image, with the vector and DSP instructions and without, and
whether the output of some random images equals that of TFLite's reference kernels bit for bit. With `--cmsis DIR`, a
checkout of github.com/ARM-software/CMSIS-NN, also the instructions of each layer beside those of CMSIS-NN's kernels.
`--tflm PYTHON`, of an environment with `pip install tflite-micro`, tells the arena of TensorFlow Lite Micro.
With `--gallery N`, what it takes to find an embedding of the file's size among N identities, and to follow a frame.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from cmsis_nn import cmsis_instructions

from reidlab.deploy import CORES, export_c, memory_lines, memory_rules, read_graph, run_firmware
from reidlab.deploy.device_gallery import UNITS, DeviceRules
from reidlab.deploy.emulator import GalleryOp, GalleryShape, run_gallery
from reidlab.deploy.lowering import lower
from reidlab.deploy.microcontroller import reference_embeddings
from reidlab.deploy.program import Program, compile_program
from reidlab.deploy.tflite_graph import Graph
from reidlab.errors import InputError, refusing

VARIANTS = {"DSP": ("-U__ARM_FEATURE_MVE",), "portable": ("-U__ARM_FEATURE_MVE", "-U__ARM_FEATURE_DSP")}
TFLM = """
import sys
from tflite_micro.python.tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=1 << 26).print_allocations()
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tflite", type=Path)
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES))
    parser.add_argument("--cmsis", type=Path, metavar="DIR", help="a checkout of CMSIS-NN, whose kernels run beside")
    parser.add_argument("--tflm", metavar="PYTHON", help="of an environment with tflite-micro, whose arena is told")
    parser.add_argument("--gallery", type=int, metavar="N", help="identities to find an embedding among")
    args = parser.parse_args()
    graph = read_graph(args.tflite)
    print("\n".join(memory_lines(memory_rules(graph))))
    with tempfile.TemporaryDirectory() as folder:
        report = export_c(args.tflite, Path(folder))
        weights, tables = report.weight_bytes / 1024, report.table_bytes / 1024
        if args.tflm:
            print(f"{tflm_kib(args.tflm, args.tflite):8.1f} KiB  TensorFlow Lite Micro's arena, of 64-bit pointers")
        print(f"weights {weights:.1f} KiB, tables {tables:.1f} KiB, {report.macs / 1e6:.1f} M MAC executed")
        images = np.random.default_rng(0).integers(0, 256, (3, *lower(graph).image_shape), np.uint8)
        expected = reference_embeddings(args.tflite, images)
        for core in args.cores:
            helium = {"Helium": ()} if core == "m55" else {}
            for label, flags in (helium | VARIANTS).items():
                run = run_firmware(Path(folder), images, core, compiler_flags=flags)
                millions = max(run.instructions) / 1e6
                equal = "bit for bit" if np.array_equal(run.embeddings, expected) else "UNLIKE THE REFERENCE"
                flash, ram = sum(run.flash_bytes.values()) / 1024, sum(run.ram_bytes.values()) / 1024
                print(
                    f"{core:4} {label:9} {millions:8.1f} M instructions, {1e6 * millions / report.macs:.2f} a MAC, "
                    f"flash {flash:.1f} KiB, RAM {ram:.1f} KiB, stack {run.stack_bytes} bytes, {equal}"
                )
            if args.gallery:
                print(f"{core:4} {gallery_line(core, args.gallery, expected.shape[1])}")
        if args.cmsis:
            table = beside_cmsis(graph, Path(folder), images[:1], args.cores, args.cmsis)
            print(table.to_string(float_format="{:,.0f}".format, na_rep="-"))


def tflm_kib(python: str, tflite: Path) -> float:
    """The arena that TensorFlow Lite Micro's interpreter allocates, with its bookkeeping."""
    done = subprocess.run([python, "-c", TFLM, tflite], capture_output=True, text=True)
    if (found := re.search(r"Arena allocation total (\d+) bytes", done.stdout + done.stderr)) is None:
        raise InputError(f"--tflm {python}: {' '.join(done.stderr.split())[-300:]}")
    return int(found[1]) / 1024


def gallery_line(core: str, identities: int, size: int) -> str:
    """Instructions of a query and of a frame of four crops in a full gallery, and its RAM."""
    random = np.random.default_rng(0)
    codes = random.integers(-128, 128, (identities, 1, size)).astype(np.int8)
    shape = GalleryShape(identities, size, 4, -128)
    enrolled = [(GalleryOp.ENROLL, code, 0) for code in codes]
    asked = [(GalleryOp.IDENTIFY, codes[0], 0), (GalleryOp.FOLLOW, codes[:4, 0], 1)]
    rules = DeviceRules(same=UNITS // 3, again=UNITS // 3, gap=10, memory=1000, share=UNITS // 10)
    counts = [
        run_gallery(shape, [*enrolled, *asked], rules, kind, core)[1][0]
        for kind in (GalleryOp.IDENTIFY, GalleryOp.FOLLOW)
    ]
    words = identities * (4 + shape.crops) + (identities * size + 1) // 2  # REID_GALLERY_WORDS
    return (
        f"gallery of {identities} identities of {size} numbers: {counts[0]:,} instructions a query, {counts[1]:,} a "
        f"frame of 4 crops, RAM {4 * words / 1024:.1f} KiB"
    )


def beside_cmsis(graph: Graph, folder: Path, image: np.ndarray, cores: list[str], checkout: Path) -> pd.DataFrame:
    """Instructions by layer and core, ours and CMSIS-NN's, then the sum of the layers that both have."""
    table = pd.DataFrame({"layer": {op.index: _name(graph, op) for op in graph.ops}})
    for core in cores:
        calls = run_firmware(folder, image, core, by_call=True).calls
        table[core] = pd.Series(by_operator(compile_program(graph), calls))
        table[f"{core} CMSIS-NN"] = pd.Series(cmsis_instructions(graph, checkout, core))
    both = table.loc[table[f"{cores[0]} CMSIS-NN"].notna()]
    table.loc[len(graph.ops)] = both.sum(numeric_only=True)
    return table.fillna({"layer": "sum of the layers that both have"}).set_index("layer")


def by_operator(program: Program, calls: list[int]) -> dict[int, int]:
    """Instructions by operator of the file; one that another absorbed has none."""
    nodes = [stage.nodes[position] for stage in program.stages for position, _ in stage.calls()]
    return pd.Series(calls).groupby([node.op for node in nodes], sort=False).sum().to_dict()


def _name(graph: Graph, op) -> str:
    shapes = [graph.tensors[tensor].shape for tensor in (op.inputs[0], op.outputs[0])]
    return f"{op.index} {op.kind} {' -> '.join('x'.join(map(str, shape[1:])) for shape in shapes)}"


if __name__ == "__main__":
    with refusing():
        main()
