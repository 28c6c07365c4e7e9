"""Executed instructions of CMSIS-NN's kernels for the layers of a .tflite on an emulated Cortex-M."""

import re
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from reidlab.deploy.cycles import Caches, Trace
from reidlab.deploy.emulator import build_firmware, emulate, numbers, symbols_of, trace_in
from reidlab.deploy.tflite_graph import Graph, Op
from reidlab.errors import InputError

KINDS = {
    "CONV_2D": "CONV", "DEPTHWISE_CONV_2D": "DEPTHWISE", "FULLY_CONNECTED": "DENSE", "ADD": "ADD", "MUL": "MUL",
    "AVERAGE_POOL_2D": "AVERAGE", "MEAN": "AVERAGE", "MAX_POOL_2D": "MAXIMUM", "PAD": "PAD", "PADV2": "PAD",
    "SOFTMAX": "SOFTMAX",
}  # fmt: skip
GROUPS = ("BasicMath", "Convolution", "FullyConnected", "NNSupport", "Pad", "Pooling", "Softmax", "Transpose")
OTHER_TYPES = re.compile(r"f16|f32|_s4|^((?!s8).)*_s16")
# In place of a C library's; so that copies of 4 bytes are one instruction, as they are with one.
STRING_H = "#include <stddef.h>\n" + "".join(
    f"#define {name} __builtin_{name}\n" for name in ("memcpy", "memset", "memmove")
)


def cmsis_instructions(graph: Graph, checkout: Path, core: str) -> dict[int, int]:
    """Instructions by operator, of those that CMSIS-NN has a kernel for; InputError for what isn't a checkout of it."""
    ops, output, _ = emulate_layers(graph, checkout, core)
    return dict(zip([op.index for op in ops], numbers("instructions", output), strict=True))


def emulate_layers(
    graph: Graph, checkout: Path, core: str, caches: Caches | None = None, include: str = ""
) -> tuple[list[Op], str, Trace | None]:
    """Run the layers that CMSIS-NN has a kernel for; what the counter printed of each, and with caches all that ran.

    InputError for what isn't a checkout of CMSIS-NN. `include`: more options of the compiler, for older checkouts.
    """
    if not (checkout / "Include/arm_nnfunctions.h").is_file():
        raise InputError(f"--cmsis {checkout}: there is no Include/arm_nnfunctions.h; give a checkout of CMSIS-NN")
    known = KINDS if (checkout / "Source/PadFunctions").is_dir() else {kind for kind in KINDS if "PAD" not in kind}
    ops = [op for op in graph.ops if op.kind in known]
    with as_file(files("reidlab.deploy") / "firmware") as firmware, tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "string.h").write_text(STRING_H)
        for header in ("math.h", "stdio.h"):  # that older ones include and do not use
            (out / header).touch()
        (out / "layers.inc").write_text(_layers(graph, ops))
        kernels = [
            file
            for group in GROUPS
            for file in sorted((checkout / f"Source/{group}Functions").glob("*.c"))
            if not OTHER_TYPES.search(file.stem)
        ]
        build_firmware(
            firmware, out, core, MODEL=Path(__file__).parent, EXTRA=f"-w -I{out} -I{checkout / 'Include'} {include}",
            PARTS=" ".join(["cmsis_layers.o", *(f"{file.stem}.o" for file in kernels)]),
            FOLDERS=" ".join(sorted({str(file.parent) for file in kernels})),
        )  # fmt: skip
        symbols = symbols_of(out)
        output = emulate(out, core, {"begin": [symbols["run"]], "end": [symbols["measured"]]}, 600, caches)
        return ops, output, trace_in(out, core, output) if caches else None


def _layers(graph: Graph, ops: list[Op]) -> str:
    """The C table of the layers, and the sizes of the buffers that they share."""
    lines, tensors, weights, scratch, channels = [], [16], [16], [1024], [16]
    for op in ops:
        first, out = _shape(graph, op.inputs[0]), _shape(graph, op.outputs[0])
        second = _shape(graph, op.inputs[1]) if op.kind == "MUL" else out
        kernel, stride = (1, 1), op.options.get("stride_h", 1)
        if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            kernel = graph.tensors[op.inputs[1]].shape[1:3]
        elif "POOL" in op.kind:
            kernel = op.options["filter_h"], op.options["filter_w"]
        elif op.kind == "MEAN":
            kernel = first[:2]
        if op.kind.startswith("PAD"):
            pad = graph.tensors[op.inputs[1]].data[1:3, 0].tolist()
        else:
            same = op.options.get("padding") == "SAME"
            pad = [
                same * max((o - 1) * stride + k - i, 0) // 2 for i, o, k in zip(first[:2], out[:2], kernel, strict=True)
            ]
        block = out[2] if second[:2] == (1, 1) else out[0] * out[1] * out[2]
        size = out[0] * out[1] * out[2]
        lines.append(
            f"  {{{KINDS[op.kind]}, {stride}, {pad[0]}, {pad[1]}, {kernel[0]}, {kernel[1]}, "
            f"{{1, {first[0]}, {first[1]}, {first[2]}}}, "
            f"{{1, {out[0]}, {out[1]}, {out[2]}}}, {block}, {size // block}}},"
        )
        tensors += [first[0] * first[1] * first[2], size]
        if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            weights.append(graph.tensors[op.inputs[1]].size)
            scratch.append(4 * (kernel[0] * kernel[1] * first[2] + 16) * 8)
        channels += [out[2], first[2]]
    sizes = {"TENSOR_BYTES": tensors, "WEIGHT_BYTES": weights, "SCRATCH_BYTES": scratch, "CHANNELS": channels}
    enums = ", ".join(f"{name} = {max(values)}" for name, values in sizes.items())
    return "\n".join([f"enum {{ {enums} }};", "static const layer layers[] = {", *lines, "};", ""])


def _shape(graph: Graph, tensor: int) -> tuple[int, int, int]:
    """(height, width, channels); a vector is one pixel."""
    shape = graph.tensors[tensor].shape
    return shape[1:] if len(shape) == 4 else (1, 1, shape[-1])
