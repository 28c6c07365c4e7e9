"""Cost of each operator of a graph: multiply-accumulates, bytes of weights and of activations."""

import math
from dataclasses import dataclass

from reidlab.deploy.tflite_graph import Graph, Op


@dataclass(frozen=True)
class OpCost:
    """One operator's cost; bytes are those of its constants, inputs and outputs."""

    index: int
    kind: str
    output_shape: tuple[int, ...]
    macs: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int


def op_costs(graph: Graph) -> list[OpCost]:
    """List the cost of every operator; a constant that several operators share counts for the first."""
    costs, counted = [], set()
    for op in graph.ops:
        inputs = [graph.tensors[i] for i in op.inputs if i >= 0]
        constants = [tensor for tensor in inputs if tensor.data is not None and tensor.index not in counted]
        counted |= {tensor.index for tensor in constants}
        outputs = [graph.tensors[i] for i in op.outputs]
        costs.append(
            OpCost(
                op.index,
                op.kind,
                outputs[0].shape,
                macs(graph, op),
                sum(tensor.nbytes for tensor in constants),
                sum(tensor.nbytes for tensor in inputs if tensor.data is None),
                sum(tensor.nbytes for tensor in outputs),
            )
        )
    return costs


def macs(graph: Graph, op: Op) -> int:
    """Multiply-accumulates of the convolutions and fully connected layers; others count as none."""
    if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return 0
    weights, output = graph.tensors[op.inputs[1]].shape, graph.tensors[op.outputs[0]]
    per_output = math.prod(weights[1:-1]) if op.kind == "DEPTHWISE_CONV_2D" else math.prod(weights[1:])
    return output.size * per_output
