"""The network as int8 ONNX: QuantizeLinear / DequantizeLinear pairs that runtimes fuse into integer kernels."""

from collections.abc import Collection, Mapping

import numpy as np

from reidlab.export.quiet import quiet
from reidlab.export.ranges import Range

QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean")


def integer_onnx(
    content: bytes,
    ranges: Mapping[str, Range],
    symmetric: bool = True,
    per_channel: bool = True,
    float_nodes: Collection[str] = (),
) -> bytes:
    """Quantise a float .onnx statically, by the ranges of its activations; metadata stay.

    - `symmetric`: int8 activations with zero point 0, as TensorRT's explicit quantisation wants them; otherwise uint8
      with a zero point, which CPUs prefer
    - `per_channel`: a scale for each output channel of the weights, which are symmetric int8 in any case
    - `float_nodes`: nodes that stay float (mixed precision)

    Only inputs of the operators are quantised, so that a ReLU behind one fuses into it; biases stay float.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = {name: (np.float32(r.low), np.float32(r.high)) for name, r in ranges.items()}
    with quiet():
        quantizer = QDQQuantizer(
            onnx.load_from_string(content),
            per_channel=per_channel,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=None,
            nodes_to_exclude=list(float_nodes),
            op_types_to_quantize=list(QUANTIZED),
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,
                "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
            },
        )
        quantizer.quantize_model()
    return quantizer.model.model.SerializeToString()
