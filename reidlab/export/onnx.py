"""A network as float ONNX: dynamic batch, self-describing, equal to the checkpoint."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from reidlab.errors import InputError
from reidlab.export import qdq
from reidlab.export.folding import PixelsToEmbedding, deployable
from reidlab.export.steps import as_steps

CHECKED_BATCHES = (1, 7)
ZEROS, ONES = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def export(
    network: nn.Module,
    size: Sequence[int],
    metadata: dict,
    names: tuple[str, str] = qdq.NAMES,
    opset: int = qdq.OPSET,
    tolerance: float = 1e-4,
) -> tuple[bytes, float]:
    """A network as an .onnx of normalized RGB images (B, 3, H, W), and its largest difference to the network.

    Args:
        network: in evaluation mode; its `embedding` is exported.
        size: height and width of the images.
        metadata: what the file says of itself; the embedding's size is added.
        names: of input and output.
        opset: of ONNX.
        tolerance: InputError where onnxruntime's embeddings differ by more, at batch 1 or 7, in parts of their largest
            value where that is over 1: float32 rounds in proportion.
    """
    images = torch.rand(max(CHECKED_BATCHES), 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.cpu().eval()(images).embedding  # (7, D)
    content = to_onnx(network, size, {**metadata, "embedding_size": expected.shape[1]}, names, opset)
    difference = max(_difference(content, images[:n], expected[:n]) for n in CHECKED_BATCHES)
    if not difference <= tolerance:
        raise InputError(
            f"{metadata['model']}: the ONNX file differs from the checkpoint by {difference:.1e}, more than "
            f"export.tolerance={tolerance}; nothing was written"
        )
    return content, difference


def to_onnx(
    network: nn.Module,
    size: Sequence[int],
    metadata: dict,
    names: tuple[str, str] = qdq.NAMES,
    opset: int = qdq.OPSET,
    mean: Sequence[float] = ZEROS,
    std: Sequence[float] = ONES,
) -> bytes:
    """A network as an unchecked float .onnx of RGB images (B, 3, H, W) -> (B, D), batch norms folded.

    It is written step by step, which takes a second; by torch's exporter where it has an operation that is no step.

    Args:
        network: in evaluation mode; its `embedding` is exported.
        size: height and width of the images.
        metadata: what the file says of itself.
        names: of input and output.
        opset: of ONNX.
        mean: of each channel; the file normalizes its input by it. By default its input is normalized already.
        std: likewise.
    """
    try:
        steps = as_steps(deployable(network, mean, std), size)
    except InputError:
        return _traced(PixelsToEmbedding(network, mean, std).cpu().eval(), size, metadata, names, opset)
    return qdq.float_onnx(steps, metadata, names, opset)


def _traced(model: nn.Module, size: Sequence[int], metadata: dict, names: tuple[str, str], opset: int) -> bytes:
    """A network (B, 3, H, W) -> (B, D) by torch's exporter."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 3, *size),),
            dynamo=True,
            opset_version=opset,
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
            verbose=False,
        )
    assert program is not None  # None is for the exporter before dynamo's
    proto = program.model_proto
    for node in proto.graph.node:  # the exporter notes the Python stack of each, more bytes than the weights
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field in ("value_info", "metadata_props", "doc_string"):
        proto.graph.ClearField(field)
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    return proto.SerializeToString()


def _difference(content: bytes, images: Tensor, expected: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    found = session.run(None, {name: images.numpy()})[0]
    return float(np.abs(found - expected.numpy()).max()) / max(1.0, float(expected.abs().max()))
