"""Sources of images of classes: a folder for each class, a CSV, or lists in text files.

A source is a callable without arguments that returns `Samples`; a config builds it, so that a new data set is a yaml.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from reidlab.data.folders import IMAGE_EXTENSIONS, note_hidden, walk
from reidlab.data.labels import note_alike
from reidlab.data.samples import Samples
from reidlab.data.sources import (
    CsvSamples,
    Places,
    found_in,
    lines_of,
    listed,
    require_each_once,
    require_folder,
    require_no_splits,
)
from reidlab.errors import InputError
from reidlab.untrusted import printable

CLASS_SPLITS = ("train", "val", "test")


class ClassFolders:
    """One folder a class, its images anywhere below it; the folder's name is the class.

    `splits` maps a split to the folder that holds its classes' folders, or to a list of folders; by default all images
    are for training, and the data module divides them. Files that are no images, and images outside of a class's
    folder, are noted.
    """

    def __init__(
        self,
        root: str | Path,
        splits: Places | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
    ) -> None:
        self.root = Path(root)
        self.folders = listed(splits or {"train": "."})
        self.extensions = tuple(extension.lower() for extension in extensions)
        require_splits(split for split, _ in self.folders)

    def __call__(self) -> Samples:
        """Read all folders; InputError where one is missing or none holds images."""
        require_folder(self.root, "data.root")
        rows, strays = [], []
        hidden: list[str] = []
        for split, name in self.folders:
            folder = require_folder(self.root / name, f"the {split} folder")
            for path in walk(folder, hidden):
                label, _, rest = path.partition("/")
                if rest and path.lower().endswith(self.extensions):
                    rows.append(((Path(name) / path).as_posix(), label, split))
                else:
                    strays.append(path)
        require_each_once(rows, "data.source.splits")
        if not rows:
            kinds = ", ".join(self.extensions)
            raise InputError(f"{self.root}: no folder in it holds images ({kinds}); {found_in(self.root)}")
        notes = note_hidden(hidden)
        if strays:
            notes.append(f"{len(strays)} files ignored that aren't images in a class's folder, e.g. {strays[0]}")
        if [name for _, name in self.folders] == ["."]:
            require_no_splits(self.root, sorted({label for _, label, _ in rows}), "classes")
        return number_classes(rows, self.root, notes)


class ClassCsv(CsvSamples):
    """A user's table: columns `path` (relative to `root`) and `label`, perhaps `split` (train, val or test).

    Without `split` all images are for training, and the data module divides them. An InputError names the rows that
    can't be used, by their numbers in a spreadsheet. `columns` names path, label and split where they are others.
    """

    label = "label"
    splits = CLASS_SPLITS

    def __init__(self, file: str | Path, root: str | Path, columns: Mapping[str, str] | None = None) -> None:
        super().__init__(file, root, columns=columns)

    def __call__(self) -> Samples:
        """Read the table."""
        table = self.read()
        table["split"] = table["split"].replace("", "train")
        return number_classes(table[["path", "label", "split"]].itertuples(index=False), self.root, [])


class ClassLists:
    """One text file a split, a line an image: its path below `images`, without `suffix`, beginning with its class.

    The layout of Food-101 (Bossard et al., ECCV 2014): `meta/train.txt` has lines such as `apple_pie/1005649`.

    Args:
        root: the folder of all.
        lists: the text file of each split, or a list of files; None where the data set has none.
        images: the folder of the images.
        suffix: of their names.
    """

    def __init__(self, root: str | Path, lists: Places, images: str = "images", suffix: str = ".jpg"):
        self.root, self.images, self.suffix = Path(root), images, suffix
        self.lists = listed(lists)
        require_splits(split for split, _ in self.lists)

    def __call__(self) -> Samples:
        """Read all lists; InputError names a list that is missing and lines that aren't `class/image`."""
        require_folder(self.root, "data.root")
        rows = []
        for split, name in self.lists:
            file = self.root / name
            for number, line in lines_of(file):
                label, _, rest = line.partition("/")
                if not rest:
                    raise InputError(f"{file}: line {number} is '{line}'; write class/image")
                rows.append((f"{self.images}/{line}{self.suffix}", label, split))
        require_each_once(rows, "data.source.lists")
        if not rows:
            raise InputError(f"{self.root}: its lists name no image; see data.source.lists")
        return number_classes(rows, self.root, [])


def number_classes(rows: Iterable[tuple[str, str, str]], root: Path, notes: list[str]) -> Samples:
    """Samples of (path, class, split); classes are numbered 1, 2, ... in natural order of their names."""
    table = pd.DataFrame(list(rows), columns=["path", "label", "split"])
    names = dict(enumerate(sorted(table["label"].unique(), key=natural), start=1))
    if odd := next((name for name in names.values() if name != printable(name)), None):
        raise InputError(f"{root}: the class {odd!r} has a control character in its name; rename it")
    if len(names) < 2:
        raise InputError(f"{root}: holds one class only, {names[1]}; a classifier needs two or more")
    pids = {name: pid for pid, name in names.items()}
    notes = [*notes, *note_alike(pids, "classes")]
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
