"""One protocol for every form of a network: what conversion and quantisation cost, in figures that matter."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from reidlab.data import ImageDataModule
from reidlab.errors import InputError
from reidlab.evaluation.outputs import Outputs
from reidlab.evaluation.retrieval import TEST, Retrieval
from reidlab.export.runtime import Embedder, open_model
from reidlab.progress import bar


def embed_file(embedder: Embedder, datamodule: ImageDataModule, table: pd.DataFrame, label: str) -> Outputs:
    """Features of every image of a table by an exported file."""
    if not all(n in (own, -1) for n, own in zip(embedder.size, datamodule.size, strict=True)):
        raise InputError(
            f"{embedder.file}: takes images of {embedder.size}, data.size is {tuple(datamodule.size)}; "
            f"set data.size=[{embedder.size[0]},{embedder.size[1]}]"
        )
    batches = bar(datamodule.loader(table), desc=f"embed {label}", unit="batch")
    blocks = [embedder(batch["image"].permute(0, 2, 3, 1).numpy()) for batch in batches]
    return Outputs(torch.from_numpy(np.concatenate(blocks)), table)


def search_by_file(file: Path, found: Retrieval, datamodule: ImageDataModule) -> Retrieval:
    """The same queries and gallery, embedded by an exported file."""
    embeddings = embed_file(open_model(file), datamodule, datamodule.test, file.name)
    return Retrieval.of(embeddings, TEST, found.distance, found.exclude_same_camera)
