"""Features of a .tflite graph that RAM, flash and latency are estimated from: sums over its operators."""

from collections import Counter
from dataclasses import dataclass

from reidlab.deploy.footprint import op_costs
from reidlab.deploy.tflite_graph import Graph, Op

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
FREE = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "EXPAND_DIMS")  # their output shares their input's memory
PADDING = ("PAD", "PADV2")
ELEMENTWISE = ("ADD", "MUL", "SUB", "LOGISTIC", "RELU", "RELU6", "TANH", "HARD_SWISH", "SOFTMAX")
WINDOWED = (*CONVOLUTIONS, "MAX_POOL_2D", "AVERAGE_POOL_2D")


@dataclass(frozen=True)
class Features:
    """Sums over a graph; sizes are those of int8 files, in bytes.

    - `pointwise_macs`, `conv_macs`, `depthwise_macs`: of convolutions 1x1 and fully connected, larger, and depthwise
    - `pointwise_outputs`, ..., `other_outputs`: elements that each group writes, one rescaling each
    - `channels`: output channels of all convolutions
    - `whole_peak_bytes`: live tensors at the worst operator, elementwise results in their input's place
    - `streamed_peak_bytes`: the same where convolutions, too, overwrite an input that isn't read again
    """

    pointwise_macs: int
    conv_macs: int
    depthwise_macs: int
    pointwise_outputs: int
    conv_outputs: int
    depthwise_outputs: int
    other_outputs: int
    operators: int
    channels: int
    weight_bytes: int
    input_bytes: int
    whole_peak_bytes: int
    streamed_peak_bytes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.pointwise_macs + self.conv_macs + self.depthwise_macs

    @property
    def outputs(self) -> int:
        """Elements written."""
        return self.pointwise_outputs + self.conv_outputs + self.depthwise_outputs + self.other_outputs


def features(graph: Graph) -> Features:
    """Compute the features of a graph; padding and changes of type or shape cost nothing."""
    macs: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    channels, weight_bytes, operators = 0, 0, 0
    alias = absorbed(graph)
    for op, cost in zip(graph.ops, op_costs(graph), strict=True):
        if op.outputs[0] in alias or op.index in graph.shape_arithmetic:
            continue
        operators += 1
        group = _group(graph, op)
        macs[group] += cost.macs
        outputs[group] += graph.tensors[op.outputs[0]].size
        if op.kind in CONVOLUTIONS:
            channels += graph.tensors[op.outputs[0]].shape[-1]
            weight_bytes += cost.weight_bytes
    return Features(
        macs["pointwise"], macs["conv"], macs["depthwise"],
        outputs["pointwise"], outputs["conv"], outputs["depthwise"], outputs["other"],
        operators, channels, weight_bytes, graph.tensors[graph.inputs[0]].size,
        peak_bytes(graph, alias, WINDOWED[:0]), peak_bytes(graph, alias, WINDOWED),
    )  # fmt: skip


def kinds_of(graph: Graph, least: float = 0.0) -> set[str]:
    """The kinds of operators that write at least this share of a graph's elements."""
    written: Counter[str] = Counter()
    for op in graph.ops:
        if op.index not in graph.shape_arithmetic:
            written[op.kind] += graph.tensors[op.outputs[0]].size
    return {kind for kind, elements in written.items() if elements >= least * written.total()}


def absorbed(graph: Graph) -> dict[int, int]:
    """Map tensors to those whose memory they share: results of type and shape changes and of absorbed padding."""
    alias: dict[int, int] = {}
    for op in graph.ops:
        readers = graph.consumers.get(op.outputs[0], [])
        padding = op.kind in PADDING and readers and all(reader.kind in WINDOWED for reader in readers)
        if op.kind in FREE or padding:
            alias[op.outputs[0]] = alias.get(op.inputs[0], op.inputs[0])
    return alias


def peak_bytes(graph: Graph, alias: dict[int, int], streamed: tuple[str, ...]) -> int:
    """Bytes of the live tensors at the worst operator, in the file's order.

    An operator that is elementwise or of a kind in `streamed` shares the bytes of its output with those of an input
    that is not read again.
    """
    last: dict[int, int] = {}
    for op in graph.ops:
        for tensor in op.inputs:
            if tensor >= 0 and graph.tensors[tensor].data is None:
                last[alias.get(tensor, tensor)] = op.index
    last |= {alias.get(tensor, tensor): len(graph.ops) for tensor in graph.outputs}
    live = {tensor: graph.tensors[tensor].size for tensor in graph.inputs}
    peak = sum(live.values())
    for op in graph.ops:
        given = {alias.get(tensor, tensor) for tensor in op.inputs} & live.keys()
        dying = [live[tensor] for tensor in given if last[tensor] <= op.index]
        made = {tensor: graph.tensors[tensor].size for tensor in op.outputs if tensor not in alias}
        shared = 0
        if op.kind in (*ELEMENTWISE, *streamed) and dying and made:
            shared = min(max(dying), sum(made.values()))
        peak = max(peak, sum(live.values()) + sum(made.values()) - shared)
        live |= made
        for tensor in [tensor for tensor in live if last.get(tensor, op.index) <= op.index]:
            del live[tensor]
    return peak


def _group(graph: Graph, op: Op) -> str:
    if op.kind == "DEPTHWISE_CONV_2D":
        return "depthwise"
    if op.kind not in CONVOLUTIONS:
        return "other"
    weights = graph.tensors[op.inputs[1]].shape
    return "pointwise" if len(weights) == 2 or tuple(weights[1:3]) == (1, 1) else "conv"
