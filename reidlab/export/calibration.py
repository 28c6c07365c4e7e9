"""Which images the ranges of activations are observed on."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from reidlab.data import ClassDataModule, ReidDataModule
from reidlab.data.samples import split_query_gallery
from reidlab.errors import InputError


def choose_images(train: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """About `count` rows of the training table, as evenly over its identities as they allow; fixed by the seed.

    Each identity gives one image before any gives a second, and so on, in an order shuffled by the seed.
    """
    if train.empty:
        raise InputError("calibration: the data set has no training images; int8 ranges can't be observed without")
    if count < 1:
        raise InputError(f"quantize.images={count}: calibrate with at least one image")
    shuffled = train.sample(frac=1, random_state=np.random.default_rng(seed))
    turn = shuffled.groupby("pid").cumcount()
    return shuffled.iloc[np.argsort(turn.to_numpy(), kind="stable")[:count]].sort_index()


class CalibrationImages:
    """Batches of pixels (B, H, W, 3) float32 in [0, 1], read anew each time they are iterated.

    A black and a white image lead them, so that every pixel value lies inside the ranges.
    """

    def __init__(self, datamodule: ReidDataModule, table: pd.DataFrame):
        self.datamodule, self.table = datamodule, table

    def __iter__(self) -> Iterator[np.ndarray]:
        height, width = self.datamodule.size
        yield np.stack([np.full((height, width, 3), shade, np.float32) for shade in (0, 1)])
        yield from pixels_of(self.datamodule, self.table)

    def __len__(self) -> int:
        return 1 + len(self.datamodule.loader(self.table))


def pixels_of(datamodule: ReidDataModule, table: pd.DataFrame, largest: int | None = None) -> Iterator[np.ndarray]:
    """Batches of the images of a table as pixels (B, H, W, 3) float32 in [0, 1], of `largest` images at most."""
    for batch in datamodule.loader(table):
        pixels = batch["image"].permute(0, 2, 3, 1).numpy().astype(np.float32) / 255
        step = largest or len(pixels)
        yield from (pixels[start : start + step] for start in range(0, len(pixels), step))


def unseen_images(datamodule: ReidDataModule, count: int) -> pd.DataFrame:
    """About `count` images, of whole identities or of all classes evenly, for validation; else for training."""
    table = datamodule.samples.split(*datamodule.validation_splits)
    if isinstance(datamodule, ClassDataModule):
        return choose_images(datamodule.samples.split("train") if table.empty else table, count, 0)
    if table.empty:
        table = split_query_gallery(datamodule.samples.split("train"), "val_")
    sizes = table.groupby("pid").size()
    kept = sizes.index[sizes.cumsum().shift(fill_value=0) < count]
    return table[table["pid"].isin(kept)]
