"""Embeddings compared by raw uint8 codes, as applications do that ignore the zero point, ST's for the N6 among them.

Right where zero is code 0, as after a ReLU. Otherwise a common part of 128 a number, more or less, makes all embeddings
alike. The safe form clamps the embedding at zero, and quantizes it again with zero at code 0.
"""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ai_edge_litert import schema_py_generated as schema

from reidlab.deploy.tflite_graph import Graph
from reidlab.errors import InputError
from reidlab.evaluation import TEST, Outputs, RetrievalProtocol
from reidlab.export.flatbuffer import operator_name, read_tflite, write_tflite


def embedding_tensor(graph: Graph) -> int:
    """The tensor of an embedding's codes: the output, or what a last DEQUANTIZE reads; InputError without one."""
    index = graph.outputs[0]
    last = next((op for op in graph.ops if index in op.outputs), None)
    if graph.tensors[index].dtype == "float32" and last is not None and last.kind == "DEQUANTIZE":
        index = last.inputs[0]
    tensor = graph.tensors[index]
    if tensor.dtype not in ("int8", "uint8") or tensor.quantization is None or tensor.quantization.scale.size != 1:
        raise InputError(f"{graph.name}: its output is {tensor.dtype}, without codes of one scale; quantize it to int8")
    return index


def quantization_of(graph: Graph) -> tuple[float, int]:
    """Scale and zero point of an embedding's codes as uint8, which are 128 above those in int8."""
    tensor = graph.tensors[embedding_tensor(graph)]
    assert tensor.quantization is not None
    zero = int(tensor.quantization.zero_point[0])
    return float(tensor.quantization.scale[0]), zero + 128 * (tensor.dtype == "int8")


def raw_codes(embeddings: Outputs, scale: float, zero: int) -> Outputs:
    """The uint8 codes (N, D) of embeddings, as numbers."""
    codes = torch.round(embeddings.values / scale) + zero
    return replace(embeddings, values=codes.clamp(0, 255))


def clamped(graph: Graph, content: Path) -> bytes:
    """The .tflite whose embedding is clamped at 0, its largest value 255 steps above."""
    model = read_tflite(content)
    (part,) = model.subgraphs
    index = embedding_tensor(graph)
    before = part.tensors[index]
    after = copy.deepcopy(before)
    scale, zero = quantization_of(graph)
    after.name, after.quantization.min, after.quantization.max = b"clamped", None, None
    after.quantization.scale = np.array([scale * (255 - zero) / 255], np.float32)
    after.quantization.zeroPoint = np.array([-128 if before.type == schema.TensorType.INT8 else 0], np.int64)
    part.tensors.append(after)
    made = len(part.tensors) - 1
    for op in part.operators:
        if operator_name(model, op) == "DEQUANTIZE" and list(op.inputs) == [index]:
            op.inputs = np.array([made], np.int32)
    part.outputs = np.array([made if output == index else output for output in part.outputs], np.int32)
    code, op = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version, op.opcodeIndex = 2, len(model.operatorCodes)
    model.operatorCodes.append(code)
    op.inputs, op.outputs = np.array([index], np.int32), np.array([made], np.int32)
    last = max(i for i, other in enumerate(part.operators) if index in other.outputs)
    part.operators.insert(last + 1, op)
    return write_tflite(model)


def raw_code_scores(embeddings: Outputs, scale: float, zero: int, protocol: RetrievalProtocol) -> pd.DataFrame:
    """mAP by cosine distance, and the share of pairs of two identities that pass, by what is compared.

    The threshold is that of the embeddings at the wanted rate; it is what an application that ignores the zero point
    would use. The clamped form's embeddings are computed, not run.

    Args:
        embeddings: of the test split.
        scale: of the embeddings' uint8 codes.
        zero: their zero point.
        protocol: of the evaluation.
    """
    protocol = replace(protocol, distance="cosine")
    step = scale * (255 - zero) / 255
    safe = replace(embeddings, values=embeddings.values.clamp(min=0))
    forms = {
        "codes less zero point": embeddings,
        "raw uint8 codes": raw_codes(embeddings, scale, zero),
        "raw uint8 codes of the clamped form": raw_codes(safe, step, 0),
    }
    rows, threshold = {}, None
    for name, outputs in forms.items():
        found = protocol.evaluate(outputs, TEST)
        pairs = found.verify(protocol.wanted_fpr, resamples=0, seed=0)
        threshold = pairs.threshold if threshold is None else threshold
        own = pairs.rates_at(threshold)
        rows[name] = {"mAP": found.summary()["mAP"], "tpr": own[0], "fpr": own[1], "own_threshold": pairs.threshold}
    return pd.DataFrame(rows).T.rename_axis("compared")
