"""Data modules: batches of a sample table, for training and evaluation."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from reidlab.data.cache import DecodedCache
from reidlab.data.images import blur_head, read_batch, read_image
from reidlab.data.sampler import distributed_process
from reidlab.data.samples import Samples
from reidlab.data.transforms import Normalize
from reidlab.data.validate import Finding
from reidlab.errors import InputError

Batch = dict[str, Tensor]


class ImageDataset(Dataset[Batch]):
    """Rows of a sample table: `image` (3, H, W) uint8 RGB, `pid`, `camid`, `index` (the row's label) and `is_query`.

    Args:
        table: of samples.
        root: the folder of its paths.
        size: height and width of the images.
        reduced_decode: see `read_batch`.
        cache: of decoded images; used where it has them all.
        timed: a batch has `decode_s`, the seconds that its images took to read.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        root: Path,
        size: tuple[int, int],
        reduced_decode: bool = False,
        cache: DecodedCache | None = None,
        timed: bool = False,
    ) -> None:
        self.timed = timed
        self.files = [root / path for path in table["path"]]
        self.size, self.reduced_decode, self.cache = size, reduced_decode, cache
        self.cached_rows = cache.rows(self.files) if cache else None
        self.columns = {
            "pid": torch.tensor(table["pid"].to_numpy()),
            "camid": torch.tensor(table["camid"].to_numpy()),
            "index": torch.tensor(table.index.to_numpy()),
            "is_query": torch.tensor(table["split"].isin(["query", "val_query", "val"]).to_numpy()),
        }

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Batch:
        return {name: column[0] for name, column in self.__getitems__([position]).items()}

    def __getitems__(self, positions: list[int]) -> Batch:
        """A whole batch: its images are decoded, resized and stored in one go."""
        began = time.perf_counter()
        if self.cache is None or self.cached_rows is None:
            images = self._decoded([self.files[position] for position in positions])
        else:
            images = self.cache.read(self.cached_rows[positions])
        rows = torch.tensor(positions)
        columns = {name: column[rows] for name, column in self.columns.items()}
        timed = {"decode_s": torch.tensor([time.perf_counter() - began])} if self.timed else {}
        return {"image": torch.from_numpy(images).permute(0, 3, 1, 2), **columns, **timed}

    def _decoded(self, files: list[Path]) -> np.ndarray:
        """Images (N, H, W, 3), decoded by as many threads as compute; a worker has one."""
        threads = torch.get_num_threads()
        if threads == 1:
            return read_batch(files, self.size, self.reduced_decode)
        size = math.ceil(len(files) / threads)
        shares = [files[begin : begin + size] for begin in range(0, len(files), size)]
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate([*pool.map(lambda share: read_batch(share, self.size, self.reduced_decode), shares)])


class _Loader(DataLoader):
    """A DataLoader that starts late and fails briefly.

    It starts when the first batch is asked for, since Lightning makes a resumed run's iterator before it sets the
    epoch that orders the batches. An InputError of a worker arrives without its traceback.
    """

    def check_worker_number_rationality(self) -> None:
        """Say nothing of more workers than processors: they wait for disks."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator, to start late
        try:
            yield from super().__iter__()
        except InputError as error:
            last_line = str(error).strip().splitlines()[-1]
            raise InputError(last_line.removeprefix("reidlab.errors.InputError: ")) from None


class ImageDataModule(ABC):
    """Batches {image (B, 3, H, W), pid (B,), camid (B,), index (B,), is_query (B,)} of one data set.

    Loaders give uint8 images of `size` (height, width); once on the device they are augmented (in training only) and
    normalized. In training `pid` is the class, 0..num_classes-1. `index` is the row in `samples.table`. In distributed
    runs the loaders divide the work themselves (build the trainer with `use_distributed_sampler=False`), and evaluation
    repeats rows to give each process as many; `index` identifies them.

    Args:
        source: returns the samples.
        size: height and width of the images.
        mean: of each channel, of pixels in [0, 1].
        std: likewise.
        name: of the data set.
        root: of the source; kept for reference.
        batch_size: of training.
        eval_batch_size: of everything else.
        val_fraction: of the training samples, set aside to choose the best epoch by.
        augment: what is done to training images.
        num_workers: processes that read images; None for 2 beside a GPU, and none where the processor computes.
        cache: a folder for decoded images.
        reduced_decode: for training images much larger than `size`, see `read_batch`; not with a cache.
        seed: of the validation split and of the order of training.
        about: description, source, license and kind, for cards.
    """

    name: str
    validation_splits: tuple[str, ...]
    blur_heads = False  # in pictures, see `read`
    timed = False  # training batches, see `ImageDataset`
    progress = 0.0  # the share of the training's epochs that are done
    test_splits: tuple[str, ...]

    def __init__(
        self,
        source: Callable[[], Samples],
        size: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        name: str = "custom",
        root: str | Path | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        val_fraction: float = 0.1,
        augment: nn.Module | None = None,
        num_workers: int | None = None,
        cache: str | Path | None = None,
        reduced_decode: bool = False,
        seed: int = 0,
        about: Mapping[str, str | None] | None = None,
    ) -> None:
        self.source, self.name, self.root, self.about = source, name, root, dict(about or {})
        height, width = size
        self.size = (height, width)
        self.batch_size, self.eval_batch_size, self.val_fraction = batch_size, eval_batch_size, val_fraction
        self.augment = nn.Identity() if augment is None else augment
        self.normalize = Normalize(mean, std)
        beside = 2 if torch.accelerator.is_available() else 0
        self.num_workers, self.seed = beside if num_workers is None else num_workers, seed
        self.cache, self.reduced_decode = cache, reduced_decode

    @cached_property
    @abstractmethod
    def samples(self) -> Samples:
        """The table that everything reads, divided into its splits; read from disk once."""

    @abstractmethod
    def train_dataloader(self) -> DataLoader:
        """Batches in an order that follows from the seed and the epoch, which Lightning sets."""

    @abstractmethod
    def validate(self) -> list[Finding]:
        """Find the flaws of the data set."""

    @abstractmethod
    def summary(self) -> pd.DataFrame:
        """Count what each split has."""

    @abstractmethod
    def subset(self, table: pd.DataFrame, count: int) -> pd.DataFrame:
        """About `count` images of a test or validation table that can be evaluated by themselves."""

    @property
    @abstractmethod
    def classes(self) -> list[int]:
        """The pid of each class or identity of training, in the order of the network's scores."""

    @cached_property
    def decoded(self) -> DecodedCache | None:
        """All images of the data set, decoded, if `cache` names a folder for them."""
        if self.cache is None:
            return None
        return DecodedCache(self.cache, self.samples.root, self.samples.table["path"].tolist(), self.size)

    @property
    def num_classes(self) -> int:
        """The number of classes or identities of training."""
        return len(self.classes)

    @property
    def notes(self) -> list[str]:
        """Notes on samples left out or changed on reading, on the split, and on what isn't used."""
        both = self.cache is not None and self.reduced_decode
        unused = ["data.reduced_decode=true isn't used: data.cache holds the images decoded in full"] if both else []
        return [*self.samples.notes, *unused]

    @property
    def validation(self) -> pd.DataFrame:
        """The samples set aside to choose by; empty where there are none."""
        return self.samples.split(*self.validation_splits)

    @abstractmethod
    def as_validation(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a sample table as a validation split."""

    @property
    def test(self) -> pd.DataFrame:
        """The samples to report on."""
        return self.samples.split(*self.test_splits)

    def setup(self) -> None:
        """Read, and thereby perhaps generate, the data set."""
        self.samples  # noqa: B018
        self.decoded  # noqa: B018

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation samples; no loader if none were set aside."""
        return self.loader(self.validation) if len(self.validation) else []

    def test_dataloader(self) -> DataLoader:
        """The test samples."""
        return self.loader(self.test)

    def loader(self, table: pd.DataFrame, root: Path | None = None) -> DataLoader:
        """Batches, in order, of any sample table; its paths are relative to `root`, by default the samples'."""
        if table.empty:
            raise InputError(f"data '{self.name}': no images to load; see what `reidlab data` finds")
        dataset = ImageDataset(table, root or self.samples.root, self.size, cache=self.decoded)
        return self._loader(dataset, sampler=self._even_shares(dataset), batch_size=self.eval_batch_size)

    def read(self, path: str) -> np.ndarray:
        """One sample's image as the network sees its size, (H, W, 3) uint8 RGB, for pictures."""
        image = read_image(self.samples.root / path, self.size)
        return blur_head(image) if self.blur_heads else image

    def preprocess(self, batch: Batch, training: bool = False) -> Batch:
        """The batch with its uint8 images as the float images that the network takes, channels last in memory."""
        image = batch["image"]
        if training:
            image = self.augment.to(image.device)(image)
        return batch | {"image": self.normalize.to(image.device)(image)}

    def _shuffled(self, dataset: ImageDataset) -> DataLoader:
        """Training batches of all images in a new order each epoch; the last, smaller batch is left out."""
        _, processes = distributed_process()
        if (own := len(dataset) // processes) < self.batch_size:
            whose = f" of each of {processes} processes" if processes > 1 else ""
            raise InputError(f"data.batch_size={self.batch_size} is more than the {own} training images{whose}")
        sampler = self._even_shares(dataset, shuffle=True)
        return self._loader(dataset, persistent=True, sampler=sampler, batch_size=self.batch_size, drop_last=True)

    def _even_shares(self, dataset: ImageDataset, shuffle: bool = False) -> DistributedSampler:
        rank, processes = distributed_process()
        return DistributedSampler(dataset, processes, rank, shuffle=shuffle, seed=self.seed, drop_last=shuffle)

    def _loader(self, dataset: ImageDataset, persistent: bool = False, **options) -> DataLoader:
        """A loader; workers that outlive an epoch are for training: waiting for their collection takes seconds."""
        return _Loader(
            dataset,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            persistent_workers=persistent and self.num_workers > 0,
            pin_memory=torch.accelerator.is_available(),
            worker_init_fn=_single_threaded,
            generator=torch.Generator(),  # starting workers draws a seed, and the global generator is for augmentation
            **options,
        )


def _as_it_is(batch: Any) -> Any:
    """Return a batch, which the data set gives whole, as it is."""
    return batch


def _single_threaded(worker: int) -> None:
    cv2.setNumThreads(0)
