"""Step networks as ONNX: float, and int8 by QuantizeLinear / DequantizeLinear pairs that runtimes fuse."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from reidlab.errors import InputError
from reidlab.export.grid import LOW, activation_grids, weight_scales, with_float_only
from reidlab.export.ranges import Range
from reidlab.export.steps import IMAGE, Step, StepNetwork

OPSET, IR_VERSION = 18, 9
NAMES = ("input", "embedding")  # of the file's input and output
INTEGER = ("conv", "add", "mul", "max_pool", "average_pool", "mean", "concat")
OPERATORS = {
    "conv": "Conv", "instance_norm": "InstanceNormalization", "max_pool": "MaxPool", "average_pool": "AveragePool",
    "mean": "GlobalAveragePool", "add": "Add", "mul": "Mul", "sigmoid": "Sigmoid", "softmax": "Softmax",
    "activation": "", "concat": "Concat", "slice": "Slice", "at_least": "Max", "power": "Pow",
}  # fmt: skip


def float_onnx(network: StepNetwork, metadata: dict, names: tuple[str, str] = NAMES, opset: int = OPSET) -> bytes:
    """The float .onnx of a step network, (B, 3, H, W) -> (B, D); see `onnx.to_onnx` for any network."""
    return _Writer(network, {}, names, network.shapes).finish(metadata, opset)


def integer_onnx(
    network: StepNetwork,
    ranges: Mapping[str, Range],
    metadata: dict,
    symmetric: bool = True,
    per_channel: bool = True,
    float_steps: Collection[str] = (),
    names: tuple[str, str] = NAMES,
) -> bytes:
    """The static int8 .onnx of a step network.

    Only inputs of the operators are quantized, so that a ReLU behind one fuses into it; where zero is the lowest code
    it is left out, since ONNX Runtime makes an integer operator of the convolution only then.

    Args:
        network: the float network.
        ranges: of its activations.
        metadata: what the file says of itself.
        symmetric: int8 activations with zero point 0 and float biases, as TensorRT's explicit quantization requires;
            otherwise uint8 with a zero point and int32 biases, which are faster on CPUs.
        per_channel: a scale for each output channel of the weights, which are symmetric int8 in any case.
        float_steps: names of steps that stay float (mixed precision).
        names: of input and output.
    """
    floats = with_float_only(network, float_steps)
    return _Writer(network, ranges, names, floats, symmetric, per_channel).finish(metadata)


class _Writer:
    """Writes step after step; a tensor is quantized when the first integer operator reads it."""

    def __init__(self, network, ranges, names, floats, symmetric: bool = True, per_channel: bool = True):
        if len({*names} - {step.name for step in network.steps}) < len(names):
            raise InputError(
                f"export.input_name={names[0]}, export.output_name={names[1]}: "
                "the names have to differ from each other and from those of the layers"
            )
        self.network, self.names, self.floats = network, names, floats
        self.symmetric, self.per_channel = symmetric, per_channel
        self.grids = activation_grids(network, ranges, symmetric) if ranges else {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.called = {IMAGE: names[0]}
        self.decoded: dict[str, str] = {}

    def finish(self, metadata: dict, opset: int = OPSET) -> bytes:
        """Write all steps, then the embedding as a vector."""
        for step in self.network.steps:
            self._write(step)
        self._node("Flatten", [self.network.output], self.names[1], axis=1)
        shapes = (3, *self.network.size), self.network.shapes[self.network.output][:1]
        given, made = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
                       for name, shape in zip(self.names, shapes, strict=True))  # fmt: skip
        constants = [numpy_helper.from_array(values, name) for name, values in self.constants.items()]
        graph = helper.make_graph(self.nodes, "reidlab", given, made, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
        helper.set_model_props(model, {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()})
        return model.SerializeToString()

    def _integer(self, step: Step) -> bool:
        return step.kind in INTEGER and step.name not in self.floats

    def _clipped(self, step: Step) -> bool:
        """Whether quantization clips at zero like the activation, which then needs no operator; CPUs fuse only then."""
        readers = [other for other in self.network.steps if step.name in other.inputs]
        zero_is_lowest = step.name in self.grids and self.grids[step.name].zero_point == LOW
        return step.kind == "conv" and zero_is_lowest and bool(readers) and all(map(self._integer, readers))

    def _write(self, step: Step) -> None:
        integer = self._integer(step)
        inputs = [self._decoded(name) if integer else self.called.get(name, name) for name in step.inputs]
        activation = "" if self._clipped(step) else step.activation
        made = f"{step.name}_linear" if activation and OPERATORS[step.kind] else step.name
        if OPERATORS[step.kind]:
            extra, attributes = self._details(step, integer)
            self._node(OPERATORS[step.kind], [*inputs, *extra], made, step.name, **attributes)
            inputs = [made]
        if activation == "relu":
            self._node("Relu", inputs, step.name)
        elif activation == "relu6":
            self._node("Clip", [*inputs, *(self._constant(f"limit_{n}", np.float32(n)) for n in (0, 6))], step.name)

    def _details(self, step: Step, integer: bool) -> tuple[list[str], dict]:
        """Constant inputs and attributes of a step's operator."""
        kind = step.kind
        if kind == "conv":
            return self._weights(step, integer), {
                "strides": step.stride, "pads": (*step.padding, *step.after), "dilations": step.dilation,
                "group": step.groups, "kernel_shape": step.weight.shape[2:],
            }  # fmt: skip
        if kind == "instance_norm":
            assert step.bias is not None  # ones and zeros where the layer has none
            values = {"weight": step.weight, "bias": step.bias}
            return [self._constant(f"{step.name}.{key}", v.detach().numpy()) for key, v in values.items()], {
                "epsilon": step.eps
            }
        if kind in ("max_pool", "average_pool"):
            window = {"kernel_shape": step.kernel, "strides": step.stride, "pads": (*step.padding, *step.padding)}
            return [], window | {"ceil_mode": int(step.ceil_mode)}
        if kind == "slice":
            ends = {"from": step.start, "to": step.stop, "axis": 1}
            return [self._constant(f"{step.name}_{key}", np.array([n], np.int64)) for key, n in ends.items()], {}
        if kind in ("at_least", "power"):
            value = step.bound if kind == "at_least" else step.exponent
            return [self._constant(f"{step.name}_constant", np.float32(value))], {}
        return [], {"axis": 1} if kind in ("concat", "softmax") else {}

    def _weights(self, step: Step, integer: bool) -> list[str]:
        """Names of a convolution's weight and bias, dequantized where it is an integer one."""
        weight, bias = step.weight.detach(), step.bias
        if not integer:
            stored = self._constant(f"{step.layer}.weight", weight.numpy())
        else:
            scales = weight_scales(weight, self.per_channel)
            codes = (weight / scales.view(-1, 1, 1, 1)).round().clamp(-127, 127).to(torch.int8).numpy()
            stored = self._decode_constant(f"{step.layer}.weight_codes", codes, scales.numpy())
        if bias is None:
            return [stored]
        values = bias.detach().numpy()
        if not integer or self.symmetric:
            return [stored, self._constant(f"{step.layer}.bias", values)]
        steps = scales.numpy() * np.float32(self.grids[step.inputs[0]].scale)
        codes = np.clip(np.round(values / steps.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
        return [stored, self._decode_constant(f"{step.name}.bias_codes", codes, steps)]

    def _decode_constant(self, name: str, codes: np.ndarray, scales: np.ndarray) -> str:
        """A DequantizeLinear of constant codes, with a scale along the first axis where scales are per channel."""
        if name not in self.constants:
            each = scales if self.per_channel else scales[0]
            given = [self._constant(name, codes), self._constant(f"{name}_scale", np.float32(each))]
            given.append(self._constant(f"{name}_zero", np.zeros_like(each, codes.dtype)))
            axis: dict[str, Any] = {"axis": 0} if self.per_channel else {}
            self._node("DequantizeLinear", given, f"{name}_real", **axis)
        return f"{name}_real"

    def _decoded(self, name: str) -> str:
        """A tensor through QuantizeLinear and DequantizeLinear."""
        if name not in self.decoded:
            scale, zero_point = self.grids[name]
            zero = np.int8(zero_point) if self.symmetric else np.uint8(zero_point + 128)
            grid = [self._constant(f"{name}_scale", np.float32(scale)), self._constant(f"{name}_zero", zero)]
            codes = self._node("QuantizeLinear", [self.called.get(name, name), *grid], f"{name}_codes")
            self.decoded[name] = self._node("DequantizeLinear", [codes, *grid], f"{name}_decoded")
        return self.decoded[name]

    def _constant(self, name: str, values: np.ndarray | np.generic) -> str:
        self.constants.setdefault(name, np.asarray(values))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, name: str = "", **attributes) -> str:
        attributes = {key: [int(n) for n in v] if isinstance(v, tuple) else v for key, v in attributes.items()}
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name or f"{output}/{kind}", **attributes))
        return output
