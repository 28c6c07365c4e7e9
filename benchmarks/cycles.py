"""Calibration of estimated milliseconds: python benchmarks/cycles.py [NETWORKS CMSIS-NN CMSIS-CORE] [--cores m4 m7]

Prints how far estimates are off for published latencies that they haven't learned from. With three folders it first
emulates the layers of the rows of data/cycles_published.csv by CMSIS-NN's kernels, and writes what the model says of
them there: NETWORKS has NAME.tflite for each network (MLPerf Tiny's, and TinyEngine's assets/vww.tflite as
mcunet-vww1.tflite), CMSIS-NN is a checkout at the row's commit, CMSIS-CORE has cmsis_compiler.h.
"""

import argparse
from functools import cache
from pathlib import Path

import pandas as pd
from cmsis_nn import emulate_layers

from reidlab.deploy import CORES, read_graph
from reidlab.deploy.cycles import CHIPS, PIPELINES, PUBLISHED, Caches, Trace, calibrate, published
from reidlab.deploy.tflite_graph import Graph, Op, Tensor
from reidlab.errors import refusing
from reidlab.files import write_atomic

STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="NETWORKS CMSIS-NN CMSIS-CORE")
    parser.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES), help="whose rows are emulated")
    args = parser.parse_args()
    table = published()
    if len(args.folders) not in (0, 3):
        parser.error("give all three folders, or none")
    if args.folders:
        networks, checkout, include = args.folders

        @cache
        def trace_of(core: str, network: str, caches: Caches) -> Trace:
            file = networks / f"{network}.tflite"
            graph = mobilenet_v2(0.3, 64) if network == "mbv2-w0.3-r64" else read_graph(file)
            trace = emulate_layers(graph, checkout, core, caches, f"-I{include}")[2]
            assert trace
            return trace

        for row in table[table["core"].isin(args.cores)].itertuples():
            trace = trace_of(row.core, row.network, CHIPS[row.chip].caches)
            code, constants, data = trace.lines
            columns = ["pipeline_cycles", "flash_lines", "ram_lines"]
            table.loc[row.Index, columns] = trace.cycles(PIPELINES[row.core]), code + constants, data
            print(table.loc[row.Index].to_dict(), flush=True)
        write_atomic(PUBLISHED, table.to_csv(index=False))
    print(pd.DataFrame({core: describe(core, table) for core in CORES}).T.to_string())


def describe(core: str, table: pd.DataFrame) -> dict:
    """The factor of a core, its bounds, and the errors of networks that were left out."""
    found = calibrate(core, table)
    errors = {name: f"{error:+.0%}" for name, error in found.errors.items()}
    return {"factor": round(found.factor, 2), "bounds": f"{found.low:.2f} to {found.high:.2f}"} | errors


def mobilenet_v2(width: float, side: int, classes: int = 1000) -> Graph:
    """The layers of an int8 MobileNetV2, with shapes alone."""
    tensors: list[Tensor] = []
    ops: list[Op] = []

    def channels(count: float) -> int:
        rounded = max(8, int(count + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * count else rounded

    def tensor(*shape: int) -> int:
        tensors.append(Tensor(len(tensors), "", shape, "int8"))
        return len(tensors) - 1

    def layer(kind: str, inputs: tuple[int, ...], shape: tuple[int, ...], stride: int = 1) -> int:
        out = tensor(*shape)
        ops.append(Op(len(ops), kind, inputs, (out,), {"stride_h": stride, "padding": "SAME"}))
        return out

    def conv(x: int, count: int, kernel: int, stride: int = 1, kind: str = "CONV_2D") -> int:
        _, height, width, depth = tensors[x].shape
        weights = tensor(1 if kind.startswith("DEPTHWISE") else count, kernel, kernel, depth)
        return layer(kind, (x, weights), (1, -(-height // stride), -(-width // stride), count), stride)

    first = tensor(1, side, side, 3)
    x = conv(first, channels(32 * width), 3, 2)
    for expansion, count, repeats, stride in STAGES:
        for index in range(repeats):
            depth, before = tensors[x].shape[3], x
            if expansion > 1:
                x = conv(x, depth * expansion, 1)
            x = conv(x, depth * expansion, 3, 1 if index else stride, "DEPTHWISE_CONV_2D")
            x = conv(x, channels(count * width), 1)
            if expansion > 1 and tensors[x].shape == tensors[before].shape:
                x = layer("ADD", (before, x), tensors[x].shape)
    x = layer("MEAN", (conv(x, 1280, 1),), (1, 1, 1, 1280))
    x = layer("FULLY_CONNECTED", (x, tensor(classes, 1280)), (1, classes))
    return Graph("mbv2", tensors, ops, (first,), (x,))


if __name__ == "__main__":
    with refusing():
        main()
