"""Batches of images of classes, and how classes are divided into splits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader

from reidlab.data.cache import DecodedCache
from reidlab.data.crop import RandomResizedCrop
from reidlab.data.datamodule import Batch, ImageDataModule, ImageDataset
from reidlab.data.samples import Samples, digest, sample_evenly
from reidlab.data.validate import Finding, class_summary, validate_classes
from reidlab.errors import InputError
from reidlab.files import read_bytes


class ClassDataModule(ImageDataModule):
    """Batches of images of classes; splits are train, val and test, and `pid` is the class, 0..num_classes-1, in all.

    Where the source doesn't divide its images, `test_fraction` and `val_fraction` of each class are set aside by
    `set_aside_images`, the same ones for every seed.

    Args:
        test_fraction: of each class's images, where the source has no test split.
        split_seed: of that division.
        enlarged: training images are read at this many times `size`, and cropped on the device before they are
            augmented; the others are resized to `size` whole.
        crop: takes `size` and returns the crop of training images; None reads them at `size`.
        progressive: pairs (share of the epochs, share of `size`): from there on crops have that share of the sides (Tan
            & Le, arXiv 2104.00298, section 4), which is faster and no worse where training ends with the size of
            evaluation.
        kwargs: those of `ImageDataModule`.
    """

    validation_splits = ("val",)
    test_splits = ("test",)

    def __init__(
        self,
        *args,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        enlarged: float = 1.25,
        crop: Callable[..., RandomResizedCrop] | None = RandomResizedCrop,
        progressive: Sequence[tuple[float, float]] = (),
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.crop = crop(self.size) if crop else None
        height, width = self.size
        self.read_size = (round(enlarged * height), round(enlarged * width)) if crop else self.size
        self.progressive = progressive
        if progressive and not crop:
            raise InputError("data.progressive: sizes of crops, and data.crop is null; leave one of them out")
        since = [share for share, _ in progressive]
        if since != sorted(since) or any(scale <= 0 for _, scale in progressive):
            raise InputError(
                f"data.progressive={[*map(list, progressive)]}: give rising shares of the epochs, sizes above 0"
            )

    @cached_property
    def samples(self) -> Samples:
        """The table that everything reads, with its test and validation images set aside; read from disk once."""
        fractions = {"test": self.test_fraction, "val": self.val_fraction}
        return set_aside_images(self.source(), fractions, self.split_seed)

    @cached_property
    def classes(self) -> list[int]:
        """The pid of each class, in the order of the network's scores."""
        return sorted(self.samples.table["pid"].unique().tolist())

    @cached_property
    def class_names(self) -> list[str]:
        """The name of each class, in the same order."""
        return [self.samples.names[pid] for pid in self.classes]

    @cached_property
    def decoded_enlarged(self) -> DecodedCache | None:
        """All images as training reads them, if `cache` names a folder for them."""
        if self.cache is None:
            return None
        return DecodedCache(self.cache, self.samples.root, self.samples.table["path"].tolist(), self.read_size)

    def validate(self) -> list[Finding]:
        """Find the flaws of the data set."""
        return validate_classes(self.samples)

    def summary(self) -> pd.DataFrame:
        """Count classes and images of each split."""
        return class_summary(self.samples)

    def as_validation(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a sample table as a validation split."""
        return table.assign(split="val")

    def subset(self, table: pd.DataFrame, count: int) -> pd.DataFrame:
        """About `count` images of a table, evenly over the classes."""
        return sample_evenly(table, count, seed=0)

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, in an order that follows from the seed and the epoch, which Lightning sets."""
        table = self._classed(self.samples.split("train"))
        return self._shuffled(
            ImageDataset(
                table, self.samples.root, self.read_size, self.reduced_decode, self.decoded_enlarged, self.timed
            )
        )

    def loader(self, table: pd.DataFrame, root: Path | None = None) -> DataLoader:
        """Batches, in order, of any sample table; its paths are relative to `root`, by default the samples'."""
        return super().loader(self._classed(table), root)

    def preprocess(self, batch: Batch, training: bool = False) -> Batch:
        """The batch with its uint8 images as the float images that the network takes.

        Where images are cropped, `window` (B, 4) is the part of the image: top, left, height and width as shares of it;
        the width is negative where the part is mirrored.
        """
        if training and self.crop:
            windows, (height, width) = self.crop.draw(batch["image"]), batch["image"].shape[2:]
            shares = windows / torch.tensor([height, width, height, width])
            batch = batch | {
                "image": self.crop(batch["image"], windows, self._crop_size()),
                "window": shares.to(batch["image"].device),
            }
        return super().preprocess(batch, training)

    def _crop_size(self) -> tuple[int, ...]:
        """The sides of the crops in this epoch."""
        scale = next((scale for since, scale in reversed(self.progressive) if since <= self.progress), 1)
        return tuple(round(scale * side) for side in self.size)

    def _classed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the class in place of the pid; -1 for one that the data set doesn't have."""
        number = {pid: label for label, pid in enumerate(self.classes)}
        return table.assign(pid=table["pid"].map(number).fillna(-1).astype("int64"))


def set_aside_images(samples: Samples, fractions: Mapping[str, float], seed: int) -> Samples:
    """The samples with a fraction of each class's training images moved to every split that is named and empty.

    The choice follows from the seed and the images' bytes alone, not from their names, and equal images stay together:
    of a class's distinct images in the order of SHA-256(seed, bytes), the first go to the first split, and so on.
    Fractions are of the training images that the samples had at first. A class keeps at least one image to train on;
    notes say where a split has none of a class.
    """
    table, notes = samples.table.copy(), list(samples.notes)
    wanted = {}
    for split, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise InputError(f"data.{split}_fraction={fraction}: choose one from 0 to less than 1")
        if (table["split"] == split).any():
            notes.append(f"the {split} split is the data set's own; {split}_fraction={fraction} isn't used")
        else:
            wanted[split] = fraction
    if sum(wanted.values()) >= 1:
        raise InputError(f"data: {' and '.join(f'{name}_fraction' for name in wanted)} leave no image to train on")
    train = table[table["split"] == "train"]
    if any(wanted.values()) and len(train):
        with ThreadPoolExecutor() as pool:
            raw = pool.map(lambda path: read_bytes(samples.root / path), train["path"])
            keys = pd.Series([digest(b"%d\t" % seed + content) for content in raw], train.index)
        for _, rows in train.groupby("pid"):
            place = keys[rows.index].rank(method="dense").to_numpy() - 1
            distinct = int(place.max()) + 1
            bounds = np.minimum(np.cumsum([round(f * distinct) for f in wanted.values()]), distinct - 1)
            for split, first, last in zip(wanted, [0, *bounds], bounds, strict=False):
                table.loc[rows.index[(place >= first) & (place < last)], "split"] = split
    notes += _absent_classes(table, fractions)
    return replace(samples, table=table, notes=notes)


def _absent_classes(table: pd.DataFrame, fractions: Mapping[str, float]) -> Iterator[str]:
    """Notes on splits that were wanted and have no image of some or all classes of training."""
    classes = table.loc[table["split"] == "train", "pid"].unique()
    for split, fraction in fractions.items():
        held = np.isin(classes, table.loc[table["split"] == split, "pid"]).sum()
        if len(classes) and not held and fraction:
            none, then = ("validation", "; the last epoch is the result") if split == "val" else (f"{split} split", "")
            yield f"no {none}: no class has enough images for {split}_fraction={fraction}{then}"
        elif 0 < held < len(classes):
            yield f"the {split} split has images of {held} of {len(classes)} classes"
