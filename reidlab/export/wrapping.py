"""An .onnx of any interface as one of RGB images (B, 3, H, W) float32 -> (B, D) float32, its own steps inside."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from reidlab.errors import InputError, one_line
from reidlab.export.backends import read_onnx
from reidlab.export.runtime import Embedder

PREFIX = "file/"  # of all names of the given graph, so that none meets a name that is added
LEAST_COSINE = 0.9999
IMAGES = 3  # that the result is checked with, at once and one by one


def wrapped(
    embedder: Embedder,
    size: Sequence[int],
    metadata: Mapping[str, Any],
    names: tuple[str, str],
    mean: Sequence[float],
    std: Sequence[float],
) -> tuple[bytes, int]:
    """The content of an .onnx with another interface, and the batch that it takes, 0 for any.

    A graph that has its batch size in a constant keeps it. Raises InputError where the result doesn't give the
    embeddings of the file.

    Args:
        embedder: the opened .onnx, with the normalization, color order and output that hold for it.
        size: height and width of the images.
        metadata: what the file says of itself, beside what it said before.
        names: of input and output.
        mean: of each channel, by which images are normalized before they are fed.
        std: likewise.
    """
    file = embedder.file
    read_onnx(file)
    try:
        model = compose.add_prefix(onnx.load(file), PREFIX)
    except Exception as error:  # of protobuf's own, and of weights that lie beside the file
        raise InputError(f"{file}: not readable as ONNX ({one_line(error)})") from error
    graph = model.graph
    image = next(n for n in graph.input if n.name == PREFIX + embedder.input.name)
    graph.input.remove(image)
    before = [*_prepared(embedder, names[0], image.name, np.array(mean), np.array(std))]
    after = [*_vectors(embedder, PREFIX + embedder.output.name, names[1])]
    for node in reversed(before):
        graph.node.insert(0, node)
    graph.node.extend(after)
    for field in ("output", "value_info", "doc_string"):
        graph.ClearField(field)
    said = {entry.key: entry.value for entry in model.metadata_props}
    said |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    helper.set_model_props(model, said)
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *size, 3), np.uint8)
    expected = np.concatenate([embedder(image[None]) for image in pixels])
    fed = ((pixels / 255 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    reason, fixed = "", max(embedder.input.shape[0], 1)
    for batch, given in ((0, model), (0, _freed(model, fixed)), (fixed, model)):
        found = _with_batch(given, batch, names, size, expected.shape[1])
        try:
            made = run_onnx(found, fed if batch == 0 else np.repeat(fed[:1], batch, axis=0))
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = one_line(error)
            continue
        if _cosine(made, expected[: len(made)] if batch == 0 else expected[:1]) >= LEAST_COSINE:
            return found, batch
        reason = "the embeddings are others"
    raise InputError(f"{file}: can't be fed with images (B, 3, H, W) of RGB pixels ({reason})")


def _prepared(
    embedder: Embedder, name: str, image: str, fed_mean: np.ndarray, fed_std: np.ndarray
) -> Iterator[onnx.NodeProto]:
    """Nodes from normalized RGB images (B, 3, H, W) to the graph's own input."""
    order, kind = slice(None), embedder.input.dtype
    if embedder.color_order == "BGR":
        order = slice(None, None, -1)
        yield _constant("order", np.array([2, 1, 0]))
        yield helper.make_node("Gather", [name, "order"], ["bgr"], axis=1)
        name = "bgr"
    # pixel in [0, 1] = fed * fed_std + fed_mean, and the graph takes (pixel - mean) / std, or integers from 0 or -128
    mean, std = (
        (np.zeros(3), np.full(3, 1 / 255)) if embedder.mean is None else map(np.array, (embedder.mean, embedder.std))
    )
    scale, shift = fed_std[order] / std, (fed_mean[order] - mean) / std
    if embedder.mean is None:
        shift = shift + (-128 if kind == np.int8 else 0) + 0.5  # rounded by Floor
    for operator, values, neutral in (("Mul", scale, 1), ("Add", shift, 0)):
        if not np.allclose(values, neutral, atol=1e-12):
            yield _constant(f"{operator}_by", values.astype(np.float32).reshape(1, 3, 1, 1))
            yield helper.make_node(operator, [name, f"{operator}_by"], [operator])
            name = operator
    if embedder.mean is None:
        yield helper.make_node("Floor", [name], ["codes"])
        name = "codes"
    if kind != np.float32:
        yield helper.make_node("Cast", [name], ["cast"], to=helper.np_dtype_to_tensor_dtype(kind))
        name = "cast"
    if embedder.channels_first:
        yield helper.make_node("Identity", [name], [image])
    else:
        yield helper.make_node("Transpose", [name], [image], perm=[0, 2, 3, 1])


def _vectors(embedder: Embedder, output: str, name: str) -> Iterator[onnx.NodeProto]:
    """Nodes from the graph's output to (B, D) float32."""
    if embedder.output.dtype != np.float32:
        yield helper.make_node("Cast", [output], ["floats"], to=TensorProto.FLOAT)
        output = "floats"
    yield helper.make_node("Flatten", [output], [name], axis=1)


def _freed(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The model with the batch size out of the constants that its Reshapes have."""
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in freed.graph.initializer}
    for node in freed.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for shape in {node.input[1] for node in freed.graph.node if node.op_type == "Reshape"} & constants.keys():
        first, *rest = numpy_helper.to_array(constants[shape]).tolist()
        if first == batch:
            values = np.array([0 if -1 in rest else -1, *rest])
            constants[shape].CopyFrom(numpy_helper.from_array(values, constants[shape].name))
    return freed


def _with_batch(model: onnx.ModelProto, batch: int, names: Sequence[str], size: Sequence[int], features: int) -> bytes:
    """The model with an input and output of so many images, 0 for any number."""
    graph, first = model.graph, batch or "batch"
    for sides, name, shape in (
        (graph.input, names[0], [first, 3, *size]),
        (graph.output, names[1], [first, features]),
    ):
        side = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        kept = [other for other in sides if other.name != name]  # in old files constants are inputs, too
        del sides[:]
        sides.extend([side, *kept])
    return model.SerializeToString()


def _constant(name: str, values: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))


def run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    """The first output of an .onnx for its input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def _cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """The least cosine of two rows; -1 where the shapes differ."""
    if found.shape != expected.shape:
        return -1.0
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((found * expected).sum(1) / np.maximum(lengths, 1e-30)).min())
