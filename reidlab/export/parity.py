"""All files of a network evaluated by one protocol: what conversion and quantization cost."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from reidlab.data import ImageDataModule
from reidlab.errors import InputError
from reidlab.evaluation.outputs import Outputs
from reidlab.evaluation.protocols import Protocol
from reidlab.evaluation.retrieval import TEST, Retrieval
from reidlab.export.cost import cost
from reidlab.export.runtime import Embedder, open_model
from reidlab.progress import bar
from reidlab.run import File, Row

PARITY_ROWS = {  # row -> file and the runtime that it is evaluated in
    Row.ONNX: (File.ONNX, "onnxruntime"),
    Row.ONNX_INT8: (File.ONNX_INT8, "onnxruntime"),
    Row.ONNX_INT8_OPENVINO: (File.ONNX_INT8, "openvino"),
    Row.TFLITE: (File.TFLITE, "litert"),
    Row.TFLITE_INT8: (File.TFLITE_INT8, "litert"),
}


def parity_table(
    files: Mapping[File, Path],
    reference: Outputs,
    datamodule: ImageDataModule,
    protocol: Protocol,
    runtimes: Collection[str],
    threads: int | None = None,
    splits: tuple[str, str] = TEST,
) -> pd.DataFrame:
    """A row of figures for the checkpoint and for each file in each runtime, by the protocol's `compare`, and `cost`.

    Args:
        files: where the files lie; those that are missing have no row.
        reference: the checkpoint's embeddings of the splits.
        datamodule: reads the same images for the files.
        protocol: evaluates the embeddings.
        runtimes: those to evaluate in.
        threads: for the latency, which is measured with one and with so many; None leaves the costs out.
        splits: of queries and gallery.
    """
    own = protocol.compare(reference, reference, splits)
    rows = {Row.CHECKPOINT: {name: value for name, value in own.items() if not name.startswith("drop")}}
    scored = {row: (files[file], runtime) for row, (file, runtime) in PARITY_ROWS.items()
              if file in files and runtime in runtimes}  # fmt: skip
    embedders = [open_model(file, runtime=runtime, threads=threads or 1) for file, runtime in scored.values()]
    outputs = embed_files(embedders, datamodule, reference.table, ", ".join(scored))
    rows |= {row: protocol.compare(own, reference, splits) for row, own in zip(scored, outputs, strict=True)}
    if threads:
        del embedders  # with their threads
        for row, (file, runtime) in scored.items():
            rows[row] |= cost(file, runtime, threads)
    return pd.DataFrame(rows).T.rename_axis("stage")


def embed_file(embedder: Embedder, datamodule: ImageDataModule, table: pd.DataFrame, label: str) -> Outputs:
    """Features of every image of a table by an exported file."""
    return embed_files([embedder], datamodule, table, label)[0]


def embed_files(
    embedders: Sequence[Embedder], datamodule: ImageDataModule, table: pd.DataFrame, label: str
) -> list[Outputs]:
    """Features of every image of a table by each of some exported files; the images are read once."""
    for embedder in embedders:
        if not all(n in (own, -1) for n, own in zip(embedder.size, datamodule.size, strict=True)):
            raise InputError(
                f"{embedder.file}: takes images of {embedder.size}, data.size is {tuple(datamodule.size)}; "
                f"set data.size=[{embedder.size[0]},{embedder.size[1]}]"
            )
    blocks: list[list[np.ndarray]] = [[] for _ in embedders]
    for batch in bar(datamodule.loader(table), desc=f"embed {label}", unit="batch"):
        images = batch["image"].permute(0, 2, 3, 1).numpy()
        for embedder, found in zip(embedders, blocks, strict=True):
            found.append(embedder(images))
    return [Outputs(torch.from_numpy(np.concatenate(found)), table, datamodule.samples) for found in blocks]


def retrieve_by_file(file: Path, found: Retrieval, datamodule: ImageDataModule) -> Retrieval:
    """Queries and gallery as an exported file embeds them."""
    embeddings = embed_file(open_model(file), datamodule, datamodule.test, file.name)
    return Retrieval.of(embeddings, TEST, found.distance, found.exclude_same_camera)
