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
