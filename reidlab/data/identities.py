"""Batches of images of identities, for training on pairs or triplets and for retrieval."""

from functools import cached_property

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from reidlab.data.datamodule import ImageDataModule, ImageDataset
from reidlab.data.sampler import IdentityBatchSampler
from reidlab.data.samples import VALIDATION_SPLITS, Samples, set_aside_validation, sides, split_validation, with_match
from reidlab.data.validate import Finding, summary, unmatched, validate
from reidlab.errors import InputError


class ReidDataModule(ImageDataModule):
    """Batches of images of identities, for training on pairs or triplets and for retrieval.

    `pid` is the class, 0..num_classes-1, in training, and the table's pid elsewhere.

    Args:
        num_instances: images of an identity that share a training batch; None shuffles all images instead.
        camera_balanced: see `IdentityBatchSampler`.
        class_balanced: see `IdentityBatchSampler`.
        exclude_same_camera: whether a query's matches of its own camera are left out.
        val_identities: the fewest identities to choose the best epoch by, see `set_aside_validation`.
        kwargs: those of `ImageDataModule`.
    """

    validation_splits = VALIDATION_SPLITS
    test_splits = ("query", "gallery")

    def __init__(
        self,
        *args,
        num_instances: int | None = 4,
        camera_balanced: bool = False,
        class_balanced: bool = False,
        exclude_same_camera: bool = True,
        val_identities: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if num_instances is None and (camera_balanced or class_balanced):
            raise InputError("data.num_instances=null shuffles images: no balance; give data.num_instances=4, say")
        self.num_instances, self.exclude_same_camera = num_instances, exclude_same_camera
        self.val_identities = val_identities
        self.camera_balanced, self.class_balanced = camera_balanced, class_balanced

    @cached_property
    def samples(self) -> Samples:
        """The table that everything reads, with its validation identities set aside; read from disk once."""
        source = self.source()
        least, rule = max(1, self.val_identities), self.exclude_same_camera
        return set_aside_validation(source, self.val_fraction, self.seed, least, rule)

    @property
    def notes(self) -> list[str]:
        """Notes on samples left out or changed on reading, on the split, and on why testing is impossible."""
        reason = unmatched(self.test, self.exclude_same_camera)
        return [*super().notes, *([f"the test split can't be ranked: {reason}"] if reason else [])]

    @cached_property
    def classes(self) -> list[int]:
        """The pid of each training identity."""
        return sorted(self.samples.split("train")["pid"].unique().tolist())

    def train_dataloader(self) -> DataLoader:
        """Batches of `num_instances` images an identity, or of all images shuffled."""
        table = self.samples.split("train")
        table = table.assign(pid=table["pid"].map({pid: label for label, pid in enumerate(self.classes)}))
        dataset = ImageDataset(table, self.samples.root, self.size, self.reduced_decode, self.decoded, self.timed)
        if self.num_instances is None:
            return self._shuffled(dataset)
        sampler = IdentityBatchSampler(
            table["pid"],
            self.batch_size,
            self.num_instances,
            self.seed,
            camids=table["camid"] if self.camera_balanced else None,
            class_balanced=self.class_balanced,
        )
        loader = self._loader(dataset, persistent=True, batch_sampler=sampler)
        if len(loader) == 0:
            raise InputError(f"data.batch_size={self.batch_size} is more than the {len(table)} training images")
        return loader

    def validate(self) -> list[Finding]:
        """Find the flaws of the data set."""
        return validate(self.samples, self.exclude_same_camera)

    def summary(self) -> pd.DataFrame:
        """Count identities, images and cameras of each split."""
        return summary(self.samples)

    def as_validation(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a sample table as a validation split, by `split_validation`."""
        return split_validation(table, self.exclude_same_camera)

    def subset(self, table: pd.DataFrame, count: int) -> pd.DataFrame:
        """Whole identities, about `count` images: the first, at least two, that are among queries and in the gallery.

        InputError where there is none.
        """
        able: set[int] = set()
        for queries, gallery in (sides(table), sides(table, "val_")):
            able |= set(queries.loc[with_match(queries, gallery, self.exclude_same_camera), "pid"])
        counts = table[table["pid"].isin(able)].groupby("pid").size().cumsum()
        if counts.empty:
            raise InputError("no identity is both among the queries and in the gallery; see what `reidlab data` finds")
        return table[table["pid"].isin(counts.index[(counts <= count) | (np.arange(len(counts)) < 2)])]
