"""All intermediate values of a float file, for observers and for comparing formats layer by layer."""

from collections.abc import Callable

import numpy as np

from reidlab.export import flatbuffer
from reidlab.export.quiet import quiet

Activations = Callable[[np.ndarray], dict[str, np.ndarray]]


def tflite_activations(converted: bytes, threads: int = 1) -> Activations:
    """A function of pixels (B, H, W, 3) in [0, 1] -> every computed tensor of a `tflite.convert`ed network."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with quiet():
        interpreter = Interpreter(
            model_content=converted,
            num_threads=threads,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    names = flatbuffer.computed(flatbuffer.read_tflite(converted))
    given = interpreter.get_input_details()[0]["index"]

    def values(pixels: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.resize_tensor_input(given, pixels.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given, pixels)
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in names.items()}

    return values


def onnx_activations(content: bytes, threads: int = 1) -> Activations:
    """A function of pixels (B, H, W, 3) in [0, 1] that returns every float tensor of an .onnx of (B, 3, H, W)."""
    import onnx
    import onnxruntime

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    graph = model.graph
    floats = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    given, returned = graph.input[0].name, [output.name for output in graph.output]
    computed = [name for node in graph.node for name in node.output if name in floats and name not in returned]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [*returned, *computed]

    def values(pixels: np.ndarray) -> dict[str, np.ndarray]:
        images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return {given: images} | dict(zip(names, session.run(names, {given: images}), strict=True))

    return values
