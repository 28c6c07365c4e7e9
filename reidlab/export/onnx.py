"""The embedding network as ONNX: dynamic batch, self-describing, equal to the checkpoint."""

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reidlab.config import keep_config, run_folder
from reidlab.errors import InputError
from reidlab.export import qdq
from reidlab.export.folding import deployable
from reidlab.export.steps import as_steps
from reidlab.runs import file_hash, provenance, read_json, write_atomic, write_json
from reidlab.tasks import known_classes, trained_network

CHECKED_BATCHES = (1, 7)
VERDICT = ("threshold", "threshold_low", "threshold_high", "wanted_fpr", "calibrated_on")


class EmbeddingOnly(nn.Module):
    """A network without its class scores: (B, 3, H, W) -> (B, D)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """The embedding."""
        return self.network(image).embedding


def run(cfg) -> Path:
    """Export the run's network to `export/model.onnx` and check it against the checkpoint; returns the file.

    The file takes normalised RGB images (B, 3, H, W); its metadata say how to normalise. Raises InputError where
    onnxruntime's embeddings differ by more than `export.tolerance` at batch 1 or 7, in parts of their largest value
    where that is over 1: float32 rounds in proportion.
    """
    folder = run_folder(cfg)
    keep_config(cfg)
    network, weights = trained_network(cfg)
    if weights is None:
        print(f"{folder.name}: no trained checkpoint and no model.weights; exporting initial weights")
    model = EmbeddingOnly(network).eval()
    images = torch.rand(max(CHECKED_BATCHES), 3, *cfg.data.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)  # (7, D)
    metadata = {**about(cfg, weights), "embedding_size": expected.shape[1]}
    content = convert(network, model, images[:2], cfg.export, metadata)
    difference = max(_difference(content, images[:n], expected[:n]) for n in CHECKED_BATCHES)
    if not difference <= cfg.export.tolerance:
        raise InputError(
            f"{cfg.model.name}: the ONNX file differs from the checkpoint by {difference:.1e}, more than "
            f"export.tolerance={cfg.export.tolerance}; nothing was written"
        )
    file = write_atomic(folder / "export" / "model.onnx", content)
    write_json(
        folder / "export" / "model.json",
        {**metadata, "bytes": len(content), "largest_difference": difference, **provenance()},
    )
    print(
        f"{file}  {len(content) / 1024:.0f} KiB, within {difference:.1e} of the checkpoint at batch {CHECKED_BATCHES}"
    )
    return file


def about(cfg, weights: Path | None) -> dict:
    """What an exported file says of itself: what goes in, where it comes from, what its output means."""
    folder = run_folder(cfg)
    verdict, classes = read_json(folder / "verification.json"), known_classes(cfg)
    return {
        "model": cfg.model.name,
        "input_size": list(cfg.data.size),
        "color_order": "RGB",
        "scale": 1 / 255,
        "mean": list(cfg.model.mean),
        "std": list(cfg.model.std),
        "distance": cfg.model.distance,
        "config_hash": file_hash(folder / "config.yaml"),
        "weights_hash": file_hash(weights) if weights else "initial",
        **({"classes": classes} if classes else {}),
        **{key: verdict[key] for key in VERDICT if key in verdict},
    }


def convert(network: nn.Module, model: nn.Module, images: Tensor, names, metadata: dict) -> bytes:
    """Step by step where the network consists of steps, which takes a second; else by torch's exporter."""
    try:
        steps = as_steps(deployable(network, [0.0] * 3, [1.0] * 3), images.shape[2:])
    except InputError:
        return to_onnx(model, images, names, metadata)
    return qdq.float_onnx(steps, metadata, (names.input_name, names.output_name), names.opset)


def to_onnx(model: nn.Module, images: Tensor, names, metadata: dict) -> bytes:
    """Serialise a network of images (B, 3, H, W) -> (B, D) with a dynamic batch and JSON-valued metadata."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            opset_version=names.opset,
            input_names=[names.input_name],
            output_names=[names.output_name],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1 << 20)},),
            verbose=False,
        )
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
