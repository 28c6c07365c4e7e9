"""Reading and editing .tflite files: what the converter leaves in them that a device shouldn't carry."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from reidlab.errors import InputError

METADATA = "reidlab"
FILE_IDENTIFIER = b"TFL3"
WITH_BIAS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
TENSOR_TYPES = {code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")}


def read_tflite(content: bytes | Path) -> schema.ModelT:
    """Parse a .tflite of one subgraph, with constants that lie behind the flatbuffer brought into it.

    Raises InputError where the file is no .tflite, truncated, or holds several subgraphs.
    """
    name = content if isinstance(content, Path) else "model"
    content = content.read_bytes() if isinstance(content, Path) else bytes(content)
    if content[4:8] != FILE_IDENTIFIER:
        raise InputError(f"{name}: not a .tflite file, its identifier TFL3 is missing; give a converted model")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        for buffer in model.buffers:
            if buffer.offset > 1:
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        for op in model.subgraphs[0].operators:
            op.inputs, op.outputs = np.array(op.inputs, np.int32), np.array(op.outputs, np.int32)  # writable
        count = len(model.subgraphs)
    except Exception as error:  # damaged offsets make the parser fail in arbitrary ways
        raise InputError(f"{name}: truncated or damaged ({type(error).__name__}); copy or convert it again") from error
    if count != 1:
        raise InputError(f"{name}: has {count} subgraphs, expected one; control flow isn't supported")
    return model


def write_tflite(model: schema.ModelT) -> bytes:
    """Serialise a model."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def operator_name(model: schema.ModelT, op: schema.OperatorT) -> str:
    """Such as `CONV_2D`."""
    code = model.operatorCodes[op.opcodeIndex]
    return OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]


def operator_names(model: schema.ModelT) -> list[str]:
    """Those of all operators, in the order of execution."""
    return [operator_name(model, op) for op in model.subgraphs[0].operators]


def constant(model: schema.ModelT, tensor: int) -> np.ndarray | None:
    """The bytes of a constant tensor, or None for one that is computed."""
    data = model.buffers[model.subgraphs[0].tensors[tensor].buffer].data
    return None if data is None or len(data) == 0 else np.asarray(data, np.uint8)


def weight_bytes(model: schema.ModelT) -> int:
    """Bytes of weights and biases: what ST's tools call the weights of a network."""
    tensors = model.subgraphs[0].tensors
    weights = {
        tensors[i].buffer
        for op in model.subgraphs[0].operators
        if operator_name(model, op) in WITH_BIAS
        for i in op.inputs[1:]
        if i >= 0
    }
    return sum(len(model.buffers[buffer].data) for buffer in weights)


def computed(model: schema.ModelT) -> dict[str, int]:
    """Name -> index of the tensors that depend on the input, the input first."""
    graph = model.subgraphs[0]
    indices = [*graph.inputs, *(i for op in graph.operators for i in op.outputs)]
    return {_text(graph.tensors[i].name): int(i) for i in indices}


def plain_gates(model: schema.ModelT) -> None:
    """Turn depthwise convolutions of a single value into the 1x1 convolutions that they are.

    The converter makes them of gates that squeeze to one channel; microcontroller kernels are slow at multipliers.
    """
    tensors = model.subgraphs[0].tensors
    for op in model.subgraphs[0].operators:
        if operator_name(model, op) != "DEPTHWISE_CONV_2D" or tuple(tensors[op.inputs[0]].shape[1:]) != (1, 1, 1):
            continue
        weight, old = tensors[op.inputs[1]], op.builtinOptions
        op.opcodeIndex = _operator_code(model, schema.BuiltinOperator.CONV_2D)
        op.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
        op.builtinOptions = schema.Conv2DOptionsT()
        for option in vars(op.builtinOptions):
            setattr(op.builtinOptions, option, getattr(old, option, 0))
        weight.shape = np.array([weight.shape.max(), 1, 1, 1], np.int32)  # may be shared with an operator done before


def plain_padding(model: schema.ModelT) -> None:
    """Pad max-pooled ReLU outputs with zeros instead of minus infinity, which has no int8 code.

    Nothing is below zero there, so the maxima stay what they are.
    """
    operators = model.subgraphs[0].operators
    made_by = {op.outputs[0]: op for op in operators}
    for op in operators:
        if operator_name(model, op) != "PADV2":
            continue
        producer = made_by.get(op.inputs[0])
        activation = getattr(producer and producer.builtinOptions, "fusedActivationFunction", None)
        if activation == schema.ActivationFunctionType.RELU:
            op.opcodeIndex = _operator_code(model, schema.BuiltinOperator.PAD)
            op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.PadOptions, schema.PadOptionsT()
            op.inputs = op.inputs[:2]


def share_constants(model: schema.ModelT) -> None:
    """Keep one buffer of those that hold the same: zero biases, which kernels insist on, and weights used twice."""
    first: dict[bytes, int] = {}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is not None and len(data):
            tensor.buffer = first.setdefault(bytes(data), tensor.buffer)


def uint8_input(model: schema.ModelT) -> None:
    """Make the model take raw pixels 0-255 where it took floats in [0, 1].

    In an integer model the QUANTIZE behind the input then only moves the zero point by 128; a float model gets a
    DEQUANTIZE by 1/255 before its first operator.
    """
    graph = model.subgraphs[0]
    (given,) = graph.inputs
    floats = graph.tensors[given]
    first = next(op for op in graph.operators if given in op.inputs)
    pixels = floats
    if operator_name(model, first) != "QUANTIZE":
        pixels = schema.TensorT()
        pixels.shape, pixels.shapeSignature, pixels.buffer = floats.shape, floats.shapeSignature, 0
        graph.tensors.append(pixels)
        graph.inputs = np.array([len(graph.tensors) - 1], np.int32)
        first = schema.OperatorT()
        first.opcodeIndex = _operator_code(model, schema.BuiltinOperator.DEQUANTIZE)
        first.inputs, first.outputs = graph.inputs, np.array([given], np.int32)
        graph.operators.insert(0, first)
    pixels.type = schema.TensorType.UINT8
    pixels.quantization = schema.QuantizationParametersT()
    pixels.quantization.scale = np.array([1 / 255], np.float32)
    pixels.quantization.zeroPoint = np.array([0], np.int64)


def int8_output(model: schema.ModelT) -> None:
    """Leave out the last DEQUANTIZE, so that the model returns int8 codes with their scale and zero point."""
    graph = model.subgraphs[0]
    last = graph.operators[-1]
    if operator_name(model, last) != "DEQUANTIZE":
        raise ValueError("the integer model doesn't end with DEQUANTIZE")
    graph.operators.pop()
    graph.outputs = np.array(last.inputs, np.int32)


def name_by_layer(model: schema.ModelT, weights: Mapping[str, np.ndarray]) -> None:
    """Call each computed tensor by the layer whose weights make it, others by the operator and a number.

    `weights` are those of the network the file was converted from, (out, in / groups, height, width) or (out, in), by
    layer; a layer that is applied several times is numbered too.
    """
    layers = {_fingerprint(weight): layer for layer, weight in weights.items()}
    graph, seen = model.subgraphs[0], Counter()
    for op in graph.operators:
        kind = operator_name(model, op)
        name = kind.lower()
        if kind in WITH_BIAS:
            shape = graph.tensors[op.inputs[1]].shape
            weight = constant(model, op.inputs[1]).view(np.float32).reshape(shape)
            if weight.ndim == 4:
                weight = weight.transpose(3, 0, 1, 2) if kind == "DEPTHWISE_CONV_2D" else weight.transpose(0, 3, 1, 2)
            name = layers.get(_fingerprint(weight), name)
        seen[name] += 1
        number = f"_{seen[name]}" if seen[name] > 1 or kind not in WITH_BIAS else ""
        graph.tensors[op.outputs[0]].name = name + number


def tidy(model: schema.ModelT, input_name: str, output_name: str, metadata: dict) -> None:
    """Drop tensors, buffers and operators' codes that nothing uses, shorten all names, attach JSON metadata."""
    graph = model.subgraphs[0]
    used = {i for op in graph.operators for i in (*op.inputs, *op.outputs) if i >= 0} | {*graph.inputs, *graph.outputs}
    position = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in sorted(used)]
    for op in graph.operators:
        op.inputs = np.array([position[i] for i in op.inputs], np.int32)
        op.outputs = np.array([position[i] for i in op.outputs], np.int32)
    graph.inputs = np.array([position[i] for i in graph.inputs], np.int32)
    graph.outputs = np.array([position[i] for i in graph.outputs], np.int32)
    for number, tensor in enumerate(graph.tensors):
        tensor.name = f"t{number}"
    graph.tensors[graph.inputs[0]].name, graph.tensors[graph.outputs[0]].name = input_name, output_name
    graph.name = "main"
    model.signatureDefs = [_signature(graph, input_name, output_name)]
    kept = [entry for entry in model.metadata or [] if entry.name == b"min_runtime_version"]
    model.metadata = [*kept, _metadata(model, metadata)]
    _drop_unused_buffers(model)
    _drop_unused_codes(model)


def metadata(model: schema.ModelT) -> dict:
    """What `tidy` attached; empty for other people's files."""
    for entry in model.metadata or []:
        if entry.name == METADATA.encode():
            return json.loads(bytes(model.buffers[entry.buffer].data))
    return {}


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _fingerprint(weight: np.ndarray) -> bytes:
    return np.ascontiguousarray(weight, np.float32).tobytes()


def _operator_code(model: schema.ModelT, builtin: int) -> int:
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = builtin
    added.version = 1
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def _signature(graph: schema.SubGraphT, input_name: str, output_name: str) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = "serving_default", 0
    signature.inputs, signature.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = input_name, graph.inputs[0]
    signature.outputs[0].name, signature.outputs[0].tensorIndex = output_name, graph.outputs[0]
    return signature


def _metadata(model: schema.ModelT, content: dict) -> schema.MetadataT:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(content).encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA, len(model.buffers) - 1
    return entry


def _drop_unused_buffers(model: schema.ModelT) -> None:
    holders = [*model.subgraphs[0].tensors, *model.metadata]
    used = sorted({0} | {holder.buffer for holder in holders})
    position = {old: new for new, old in enumerate(used)}
    model.buffers = [model.buffers[i] for i in used]
    for holder in holders:
        holder.buffer = position[holder.buffer]


def _drop_unused_codes(model: schema.ModelT) -> None:
    operators = model.subgraphs[0].operators
    used = sorted({op.opcodeIndex for op in operators})
    model.operatorCodes = [model.operatorCodes[i] for i in used]
    for op in operators:
        op.opcodeIndex = used.index(op.opcodeIndex)
