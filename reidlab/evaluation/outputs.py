"""Outputs of a network for every image of a table: embeddings, or class confidences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from reidlab.data import ImageDataModule, Samples
from reidlab.metrics import flip_averaged
from reidlab.progress import bar
from reidlab.threads import pace
from reidlab.timing import spent

CONSTANT = 1e-4  # of the mean output's length: outputs that lie nearer to it are alike but for rounding


@dataclass(frozen=True)
class Outputs:
    """Embeddings (N, D) or class confidences (N, C), float32, of N rows of some samples' table."""

    values: Tensor
    table: pd.DataFrame
    samples: Samples | None = None

    @property
    def labeled(self) -> pd.DataFrame:
        """The table as it is shown, see `Samples.labeled`."""
        return self.samples.labeled(self.table) if self.samples else self.table

    @property
    def is_constant(self) -> bool:
        """Whether the outputs of two or more images are all alike, as those of a dead network are."""
        center = self.values.mean(0)
        spread = (self.values - center).norm(dim=1).max()
        return len(self.values) > 1 and bool(spread <= CONSTANT * center.norm())

    def rows(self, chosen: Sequence[int] | np.ndarray | pd.Series) -> "Outputs":
        """Select outputs by their positions (M,) or by a boolean mask (N,)."""
        chosen = np.array(chosen, dtype=None if len(chosen) else int)
        return replace(self, values=self.values[torch.from_numpy(chosen)], table=self.table.iloc[chosen])

    def split(self, *names: str) -> "Outputs":
        """The outputs of some splits."""
        return self.rows(self.table["split"].isin(names))

    def column(self, name: str) -> Tensor:
        """A whole-number column of the table as a tensor (N,)."""
        return torch.from_numpy(self.table[name].to_numpy("int64", copy=True))


@torch.inference_mode()
def embed(
    network: nn.Module, datamodule: ImageDataModule, table: pd.DataFrame, device: str, label: str, flip: bool = False
) -> Outputs:
    """Run a network over the images of a table: embeddings, or confidences where it is a `Confidences`.

    Args:
        network: left in evaluation mode, on the device.
        datamodule: prepares the images.
        table: rows of its samples.
        device: cpu, cuda or another of torch's.
        label: of the progress bar.
        flip: average the outputs of an image and of its mirror image.
    """
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def call(images: Tensor) -> Tensor:
        return network(images.to(device, memory_format=torch.channels_last)).embedding

    forward, blocks = flip_averaged(call) if flip else call, []
    with spent.within("embedding"):
        batches = bar(datamodule.loader(table), desc=f"embed {label}", unit="batch")
        for batch in pace.over(batches) if device == "cpu" else batches:
            blocks.append(forward(datamodule.preprocess(batch)["image"]).float().cpu())
    return Outputs(torch.cat(blocks), table, datamodule.samples)
