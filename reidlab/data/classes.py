"""Images of classes: where they come from, how they are divided, and their batches."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from reidlab.data.cache import DecodedCache
from reidlab.data.crop import RandomResizedCrop
from reidlab.data.datamodule import Batch, ImageDataModule, ImageDataset
from reidlab.data.images import read_bytes
from reidlab.data.samples import IMAGE_EXTENSIONS, Samples, digest, sample_evenly
from reidlab.data.sources import CsvSamples, found_in, require_folder, walk
from reidlab.data.validate import Finding, class_summary, validate_classes
from reidlab.errors import InputError

CLASS_SPLITS = ("train", "val", "test")


class ClassFolders:
    """One folder a class, its images anywhere below it; the folder's name is the class.

    `splits` maps a split to the folder that holds its classes' folders; by default all images are for training, and
    the data module divides them. Files that are no images, and images outside of a class's folder, are noted.
    """

    def __init__(
        self,
        root: str | Path,
        splits: Mapping[str, str | None] | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
    ) -> None:
        self.root = Path(root)
        self.splits = {split: folder for split, folder in (splits or {"train": "."}).items() if folder is not None}
        self.extensions = tuple(extension.lower() for extension in extensions)
        require_splits(self.splits)

    def __call__(self) -> Samples:
        """Read all folders; InputError where one is missing or none holds images."""
        require_folder(self.root, "data.root")
        rows, strays = [], []
        for split, name in self.splits.items():
            folder = require_folder(self.root / name, f"the {split} folder")
            for path in walk(folder):
                label, _, rest = path.partition("/")
                if rest and path.lower().endswith(self.extensions) and not label.startswith("."):
                    rows.append(((Path(name) / path).as_posix(), label, split))
                else:
                    strays.append(path)
        if not rows:
            raise InputError(f"{self.root}: no folder in it holds images; {found_in(self.root)}")
        notes = (
            [f"{len(strays)} files ignored that aren't images in a class's folder, e.g. {strays[0]}"] if strays else []
        )
        return number_classes(rows, self.root, notes)


class ClassCsv(CsvSamples):
    """A user's table: columns `path` (relative to `root`) and `label`, perhaps `split` (train, val or test).

    Without `split` all images are for training, and the data module divides them. Rows that can't be used are an
    InputError that gives their numbers as a spreadsheet counts them.
    """

    label = "label"
    splits = CLASS_SPLITS

    def __init__(self, file: str | Path, root: str | Path) -> None:
        super().__init__(file, root)

    def __call__(self) -> Samples:
        """Read the table."""
        table = self.read()
        table["split"] = table["split"].replace("", "train")
        return number_classes(table[["path", "label", "split"]].itertuples(index=False), self.root, [])


class ClassLists:
    """One text file a split, a line an image: its path below `images`, without `suffix`, beginning with its class.

    The layout of Food-101 (Bossard et al., ECCV 2014): `meta/train.txt` has lines such as `apple_pie/1005649`.
    """

    def __init__(self, root: str | Path, lists: Mapping[str, str | None], images: str = "images", suffix: str = ".jpg"):
        self.root, self.images, self.suffix = Path(root), images, suffix
        self.lists = {split: file for split, file in lists.items() if file is not None}
        require_splits(self.lists)

    def __call__(self) -> Samples:
        """Read all lists; InputError names a list that is missing and lines that aren't `class/image`."""
        require_folder(self.root, "data.root")
        rows = []
        for split, name in self.lists.items():
            file = self.root / name
            lines = read_bytes(file).decode("utf-8", "replace").splitlines()
            for number, line in enumerate(lines, start=1):
                label, _, rest = line.strip().partition("/")
                if not line.strip():
                    continue
                if not rest:
                    raise InputError(f"{file}: line {number} is '{line.strip()}'; write class/image")
                rows.append((f"{self.images}/{line.strip()}{self.suffix}", label, split))
        if not rows:
            raise InputError(f"{self.root}: its lists name no image; see data.source.lists")
        return number_classes(rows, self.root, [])


class ClassDataModule(ImageDataModule):
    """Batches of images of classes; splits are train, val and test, and `pid` is the class, 0..num_classes-1, in all.

    Where the source doesn't divide its images, `test_fraction` and `val_fraction` of each class are set aside by
    `set_aside_images`, the same ones for every seed. Training images are read at `enlarged` times `size` and cropped by
    `crop` on the device, before they are augmented; the others are resized to `size` whole. `progressive` are pairs
    (share of the epochs, share of `size`): from there on crops have that share of the sides (Tan & Le, arXiv
    2104.00298, section 4), which is faster and no worse, as long as training ends with the size of evaluation.
    """

    validation_splits = ("val",)
    test_splits = ("test",)

    def __init__(
        self,
        *args,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        enlarged: float = 1.25,
        crop: Callable[..., nn.Module] | None = RandomResizedCrop,
        progressive: Sequence[tuple[float, float]] = (),
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.test_fraction, self.split_seed = test_fraction, split_seed
        self.crop = crop(self.size) if crop else None
        self.read_size = tuple(round(enlarged * side) for side in self.size) if crop else self.size
        self.progressive = progressive

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
    def enlarged(self) -> DecodedCache | None:
        """All images as training reads them, if `cache` names a folder for them."""
        if self.cache is None:
            return None
        return DecodedCache(self.cache, self.samples.root, self.samples.table["path"].tolist(), self.read_size)

    def validate(self) -> list[Finding]:
        """What is wrong with the data set."""
        return validate_classes(self.samples)

    def summary(self) -> pd.DataFrame:
        """What is in each split."""
        return class_summary(self.samples)

    def subset(self, table: pd.DataFrame, count: int) -> pd.DataFrame:
        """About `count` images of a table, evenly over the classes."""
        return sample_evenly(table, count, seed=0)

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, in an order that follows from the seed and the epoch, which Lightning sets."""
        table = self._classed(self.samples.split("train"))
        return self._shuffled(
            ImageDataset(table, self.samples.root, self.read_size, self.reduced_decode, self.enlarged)
        )

    def loader(self, table: pd.DataFrame, root: Path | None = None) -> DataLoader:
        """Batches, in order, of any sample table; its paths are relative to `root`, by default the samples'."""
        return super().loader(self._classed(table), root)

    def preprocess(self, batch: Batch, training: bool = False) -> Batch:
        """The batch with its uint8 images as the float images that the network takes.

        Where images are cropped, `window` (B, 4) is the part shown: top, left, height and width as shares of the image;
        the width is negative where it is mirrored.
        """
        if training and self.crop:
            windows, (height, width) = self.crop.draw(batch["image"]), batch["image"].shape[2:]
            shares = windows / torch.tensor([height, width, height, width])
            batch = batch | {"image": self.crop(batch["image"], windows, self._crop_size()), "window": shares}
        return super().preprocess(batch, training)

    def _crop_size(self) -> tuple[int, ...]:
        """The sides of the crops in this epoch."""
        done = self.trainer.current_epoch / self.trainer.max_epochs if self.progressive else 0
        scale = next((scale for since, scale in reversed(self.progressive) if since <= done), 1)
        return tuple(round(scale * side) for side in self.size)

    def _classed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the class in place of the pid; -1 for one that the data set doesn't have."""
        number = {pid: label for label, pid in enumerate(self.classes)}
        return table.assign(pid=table["pid"].map(number).fillna(-1).astype("int64"))


def set_aside_images(samples: Samples, fractions: Mapping[str, float], seed: int) -> Samples:
    """The samples with a fraction of each class's training images moved to every split that is named and empty.

    Which ones follows from the seed and the images' bytes alone, not from their names, and equal images stay together:
    of a class's distinct images in the order of SHA-256(seed, bytes), the first go to the first split, and so on.
    Fractions are of all images that training has at first. A class keeps at least one image to train on.
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
    return Samples(table, samples.root, notes, samples.names)


def number_classes(rows: Iterable[tuple[str, str, str]], root: Path, notes: list[str]) -> Samples:
    """Samples of (path, class, split); classes are numbered 1, 2, ... in natural order of their names."""
    table = pd.DataFrame(list(rows), columns=["path", "label", "split"])
    names = dict(enumerate(sorted(table["label"].unique(), key=natural), start=1))
    if len(names) < 2:
        raise InputError(f"{root}: holds one class only, {names[1]}; a classifier needs two or more")
    pids = {name: pid for pid, name in names.items()}
    return Samples(table.assign(pid=table["label"].map(pids), camid=0), root, notes, names)


def natural(name: str) -> list[tuple[bool, int | str]]:
    """A key that sorts numbers within names by their value: class2 before class10."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in parts]


def require_splits(splits: Iterable[str]) -> None:
    """InputError for a split that a data set of classes doesn't have, or without one to train on."""
    counts = Counter(splits)
    if unknown := sorted(set(counts) - set(CLASS_SPLITS)):
        raise InputError(f"data.source: '{unknown[0]}' isn't one of {', '.join(CLASS_SPLITS)}")
    if "train" not in counts:
        raise InputError("data.source: name where the split 'train' is")
