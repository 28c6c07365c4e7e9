"""Features of every image of a table, from any network, outside of training."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from reidlab.data import ImageDataModule
from reidlab.metrics import flip_averaged
from reidlab.progress import bar


@dataclass(frozen=True)
class Embeddings:
    """Features (N, D) float32 and the rows of the sample table (N) that they belong to."""

    features: Tensor
    table: pd.DataFrame

    def split(self, *names: str) -> "Embeddings":
        """Those of some splits."""
        kept = self.table["split"].isin(names).to_numpy(copy=True)
        return Embeddings(self.features[torch.from_numpy(kept)], self.table[kept])

    def column(self, name: str) -> Tensor:
        """A whole-number column of the table as a tensor (N,)."""
        return torch.from_numpy(self.table[name].to_numpy("int64", copy=True))


def embed(
    network: nn.Module, datamodule: ImageDataModule, table: pd.DataFrame, device: str, label: str, flip: bool = False
) -> Embeddings:
    """Run a network over the images of a table, without gradients, with a progress bar named `label`.

    `flip` averages the embeddings of an image and its mirror image.
    """
    network = network.to(device, memory_format=torch.channels_last).eval()

    def call(images: Tensor) -> Tensor:
        return network(images.to(device, memory_format=torch.channels_last)).embedding

    return embed_with(flip_averaged(call) if flip else call, datamodule, table, label)


@torch.inference_mode()
def embed_with(
    call: Callable[[Tensor], Tensor], datamodule: ImageDataModule, table: pd.DataFrame, label: str
) -> Embeddings:
    """The same for any function of normalised images (B, 3, H, W) -> (B, D)."""
    blocks = []
    for batch in bar(datamodule.loader(table), desc=f"embed {label}", unit="batch"):
        blocks.append(call(datamodule.preprocess(batch)["image"]).float().cpu())
    return Embeddings(torch.cat(blocks), table)
