"""Operators that are a function of one int8 code, as tables of what the TFLite reference kernel makes of every code."""

import numpy as np

from reidlab.deploy.tflite_graph import Graph, Op
from reidlab.errors import InputError, one_line
from reidlab.export import flatbuffer

FUNCTIONS = (
    "TANH", "HARD_SWISH", "LEAKY_RELU", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "GELU", "ABS",
    "EXP", "MAXIMUM", "MINIMUM",
)  # fmt: skip
CODES = np.arange(-128, 128).astype(np.int8)
SHAPE = (1, 1, 1, len(CODES))


def function_table(graph: Graph, op: Op) -> np.ndarray:
    """(256,) int8: the reference kernel's answer to the codes -128 to 127."""
    build, placed = flatbuffer.Builder(), []
    for index in op.inputs:
        tensor = graph.tensors[index]
        placed.append(_tensor(build, graph, index, SHAPE if tensor.data is None else (1,)))
    given = next(place for place, index in zip(placed, op.inputs, strict=True) if graph.tensors[index].data is None)
    options = {
        name: op.options[key] for name, key in (("alpha", "alpha"), ("approximate", "approximate")) if key in op.options
    }
    output = build.op(op.kind, placed, _tensor(build, graph, op.outputs[0], SHAPE), **options)
    content = build.finish(given, output, ("codes", "values"), {})
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        runner = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        runner.allocate_tensors()
        runner.set_tensor(given, CODES.reshape(SHAPE))
        runner.invoke()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{graph.where(op)}: LiteRT's reference kernel refuses it ({one_line(error)})") from error
    return runner.get_tensor(output).reshape(-1)


def _tensor(build: flatbuffer.Builder, graph: Graph, index: int, shape: tuple[int, ...]) -> int:
    tensor = graph.tensors[index]
    if tensor.dtype != "int8" or tensor.quantization is None or tensor.quantization.scale.size != 1:
        raise InputError(f"{graph.name}: tensor {index} is not int8 with one scale; quantize it to int8")
    scale, zero = tensor.quantization.scale[0], int(tensor.quantization.zero_point[0])
    data = None if tensor.data is None else tensor.data.reshape(shape)
    return build.tensor(shape, "int8", scale, zero, data=data)
