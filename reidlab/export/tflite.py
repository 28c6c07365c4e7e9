"""The network as TensorFlow Lite: float, and integers from the pixels to the embedding.

Both files take raw uint8 pixels (1, H, W, 3) RGB, normalise for themselves, and return float32 or, optionally, int8.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import fx, nn

from reidlab.errors import InputError
from reidlab.export import flatbuffer
from reidlab.export.quiet import quiet
from reidlab.export.ranges import Range

INPUT, OUTPUT = "image", "embedding"
CONVERTER_LAYERS = (nn.Conv2d, nn.Linear)


def convert(graph: fx.GraphModule, size: Sequence[int]) -> bytes:
    """A deployable graph (see `folding`) as a float .tflite of pixels (1, H, W, 3) in [0, 1].

    This is the form that ranges are observed in and that is quantised: its tensors bear the names of the layers that
    make them. Raises InputError that names the operator which can't be converted.
    """
    pixels = torch.zeros(1, *size, 3)
    try:
        with quiet():
            import litert_torch

            content = litert_torch.convert(litert_torch.to_channel_last_io(graph, args=[0]).eval(), (pixels,))
            content = content.model_content()
    except Exception as error:  # the converter raises whatever its passes raise
        reason = next(line.strip() for line in [*str(error).splitlines(), type(error).__name__] if line.strip())
        raise InputError(f"TFLite: the network can't be converted ({reason}); replace that operation") from error
    model = flatbuffer.read_tflite(content)
    flatbuffer.plain_gates(model)
    flatbuffer.plain_padding(model)
    flatbuffer.tidy(model, INPUT, OUTPUT, {})
    weights = {name: m.weight.numpy() for name, m in graph.named_modules() if isinstance(m, CONVERTER_LAYERS)}
    flatbuffer.name_by_layer(model, weights)
    return flatbuffer.write_tflite(model)


def float_file(converted: bytes, metadata: dict) -> bytes:
    """The float .tflite that is delivered."""
    return _deliver(flatbuffer.read_tflite(converted), metadata)


def integer_file(
    converted: bytes,
    ranges: Mapping[str, Range],
    metadata: dict,
    per_channel: bool = True,
    output: str = "float32",
    float_layers: Collection[str] = (),
) -> bytes:
    """The full-integer .tflite: int8 inside, symmetric weights, by the ranges of the activations.

    - `per_channel`: a scale for each output channel of the weights, or one for the tensor
    - `output`: "float32", or "int8" codes with their scale and zero point
    - `float_layers`: tensors, as `ranges` names them, whose operators stay float (mixed precision)

    Raises InputError for a network with instance norms: LiteRT's int8 kernels crash on what becomes of them.
    """
    if "RSQRT" in flatbuffer.operator_names(flatbuffer.read_tflite(converted)):
        raise InputError(
            "TFLite int8: LiteRT crashes on the RSQRT of this network's instance norms; use quantize.formats=[onnx], "
            "or train a network without them, such as model=osnet_x0_25"
        )
    with quiet():
        content = _quantizer(converted, per_channel, float_layers).quantize(
            {name: {"min": np.array([r.low]), "max": np.array([r.high])} for name, r in ranges.items()},
            enable_progress_bar=False,
            enable_progress_report=False,
        ).quantized_model  # fmt: skip
    model = flatbuffer.read_tflite(content)
    if output == "int8":
        flatbuffer.int8_output(model)
    return _deliver(model, metadata)


def _deliver(model, metadata: dict) -> bytes:
    flatbuffer.uint8_input(model)
    flatbuffer.share_constants(model)
    flatbuffer.tidy(model, INPUT, OUTPUT, metadata)
    return flatbuffer.write_tflite(model)


def _quantizer(converted: bytes, per_channel: bool, float_layers: Collection[str]):
    from ai_edge_quantizer import Quantizer, qtyping

    names, granularity = qtyping.TFLOperationName, qtyping.QuantGranularity
    quantizer = Quantizer(bytearray(converted))
    quantizer.add_static_config(
        regex=".*",
        operation_name=names.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
        weight_granularity=granularity.CHANNELWISE if per_channel else granularity.TENSORWISE,
    )
    for boundary in (names.INPUT, names.OUTPUT):
        quantizer.update_quantization_recipe(".*", boundary, algorithm_key="no_quantize")
    for layer in float_layers:
        quantizer.update_quantization_recipe(f"^{layer};?$", names.ALL_SUPPORTED, algorithm_key="no_quantize")
    return quantizer
