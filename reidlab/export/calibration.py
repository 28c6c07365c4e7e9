"""Images that quantization looks at: to calibrate the ranges of activations, and to measure what int8 costs."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import pandas as pd

from reidlab.data import ImageDataModule
from reidlab.data.samples import sample_evenly
from reidlab.errors import InputError
from reidlab.threads import pace


def choose_images(train: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """About `count` rows of the training table, as evenly over its identities or classes as they allow."""
    if train.empty:
        raise InputError("calibration: the data set has no training images; int8 ranges can't be observed without")
    if count < 1:
        raise InputError(f"quantize.images={count}: calibrate with at least one image")
    return sample_evenly(train, count, seed)


def validation_images(datamodule: ImageDataModule) -> pd.DataFrame:
    """The validation split; where none was set aside, the training images as one."""
    table = datamodule.validation
    return table if len(table) else datamodule.as_validation(datamodule.samples.split("train"))


def unseen_images(datamodule: ImageDataModule, count: int) -> pd.DataFrame:
    """About `count` of `validation_images` that can be evaluated by themselves."""
    return datamodule.subset(validation_images(datamodule), count)


class ImageBatches:
    """The images of a sample table: batches (B, H, W, 3) uint8 RGB, read anew each time they are iterated."""

    def __init__(self, datamodule: ImageDataModule, table: pd.DataFrame) -> None:
        self.datamodule, self.table = datamodule, table

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in pace.over(self.datamodule.loader(self.table)):
            yield batch["image"].permute(0, 2, 3, 1).numpy()


class CalibrationImages:
    """Batches of RGB images (B, H, W, 3) uint8 as pixels (B, H, W, 3) float32 in [0, 1].

    None is made up: a white image gave activations twenty times those of any photograph, and int8 its resolution to it.
    """

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self.batches = [*batches] if isinstance(batches, Iterator) else batches

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from as_pixels(self.batches)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the images; InputError where there are none."""
        for pixels in as_pixels(self.batches):
            return pixels.shape[1:3]
        raise InputError("calibration: no images; give at least one batch")


def as_pixels(batches: Iterable[np.ndarray], largest: int | None = None) -> Iterator[np.ndarray]:
    """Batches of uint8 images as float32 in [0, 1], of `largest` images at most; InputError for other arrays."""
    for batch in batches:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise InputError(f"a batch of images is {batch.dtype} {batch.shape}; give uint8 (B, H, W, 3) RGB")
        step = largest or max(len(batch), 1)
        for start in range(0, len(batch), step):
            yield batch[start : start + step].astype(np.float32) / 255
