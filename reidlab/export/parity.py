"""One protocol for every form of a network: what conversion and quantisation cost, in figures that matter."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from reidlab.data import ReidDataModule
from reidlab.embedding import Embeddings
from reidlab.errors import InputError
from reidlab.export.runtime import Embedder
from reidlab.retrieval import TEST, Retrieval


def score(embeddings: Embeddings, reference: Embeddings, distance: str, exclude_same_camera: bool) -> dict[str, float]:
    """The ranking's summary, and how close the embeddings are to those of the checkpoint.

    - `cosine`: mean over all images
    - `centred`: the same after each side's gallery mean is subtracted, which shows what plain cosine hides
    """
    summary = Retrieval.of(embeddings, TEST, distance, exclude_same_camera).ranking.summary()
    same = torch.nn.functional.cosine_similarity(embeddings.features, reference.features)
    centred = torch.nn.functional.cosine_similarity(_centred(embeddings), _centred(reference))
    return {**summary, "cosine": float(same.mean()), "centred": float(centred.mean())}


def embed_file(embedder: Embedder, datamodule: ReidDataModule, table: pd.DataFrame, label: str) -> Embeddings:
    """Features of every image of a table by an exported file."""
    if not all(n in (own, -1) for n, own in zip(embedder.size, datamodule.size, strict=True)):
        raise InputError(
            f"{embedder.file}: takes images of {embedder.size}, data.size is {tuple(datamodule.size)}; "
            f"set data.size=[{embedder.size[0]},{embedder.size[1]}]"
        )
    batches = tqdm(datamodule.loader(table), desc=f"embed {label}", unit="batch", leave=False, disable=None)
    blocks = [embedder(batch["image"].permute(0, 2, 3, 1).numpy()) for batch in batches]
    return Embeddings(torch.from_numpy(np.concatenate(blocks)), table)


def _centred(embeddings: Embeddings) -> Tensor:
    return embeddings.features - embeddings.split("gallery").features.mean(0)
