"""Sources of images of identities: file layouts, a CSV, one folder per identity, or generated people.

A source is a callable without arguments that returns `Samples`; a config builds it, so that a new data set is a yaml.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reidlab.data.folders import IMAGE_EXTENSIONS, note_hidden, walk
from reidlab.data.labels import JUNK, MISSING, NOBODY, label_samples, labels_of, shortened, whole_numbers
from reidlab.data.samples import SPLITS, Samples, split_by_identity, split_query_gallery
from reidlab.errors import InputError
from reidlab.files import read_bytes
from reidlab.untrusted import UNPRINTABLE

MARKET1501: dict[str, Any] = {
    "splits": {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    "pattern": r"(?P<pid>-?\d+)_c(?P<camid>\d+)",
}
USER_SPLITS = (*SPLITS, "test")  # of a table or of folders of identities; `test` is divided into query and gallery
SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "testing": "test", "probe": "query"} | {
    split: split for split in USER_SPLITS
}

Places = Mapping[str, str | Sequence[str] | None]  # of each split: a folder or a file, several, or none


class FolderLayout:
    """One folder a split, and a pattern that reads identity and camera from a file's path: most public data sets.

    Files that the pattern doesn't fit, or with another extension, are counted in a note. Negative numbers are junk.

    Args:
        root: the folder of all.
        splits: the folder of each split below `root`, or a list of folders; None where the data set has none.
        pattern: a regular expression with the named group `pid` and perhaps `camid` and `scene`, matched from the start
            of the path relative to the split's folder. Identities and cameras of two scenes are different ones.
        distractors: see `apply_pid_rules`.
        extensions: of image files.
        whole_path: match the pattern from `root` instead, where the folder of a split tells of scene or camera.
    """

    def __init__(
        self,
        root: str | Path,
        splits: Places,
        pattern: str,
        distractors: bool = True,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        whole_path: bool = False,
    ) -> None:
        self.root = Path(root)
        self.folders = listed(splits)
        self.pattern = compile_pattern(pattern, "data.source.pattern", "pid")
        self.distractors, self.whole_path = distractors, whole_path
        self.extensions = tuple(extension.lower() for extension in extensions)
        require_splits(splits, SPLITS, "data.source.splits")

    def __call__(self) -> Samples:
        """Read all splits; InputError where a folder is missing or unreadable, or where no file fits.

        A missing folder of training images is a note: `reidlab evaluate model=FILE` needs none.
        """
        require_folder(self.root, "data.root")
        rows: list[tuple[str, str, str, str]] = []
        notes: list[str] = []
        nobody = (JUNK, NOBODY) if self.distractors else (JUNK,)
        for split, name in self.folders:
            if _nothing_to_train_on(split, self.root / name, notes):
                continue
            folder = require_folder(self.root / name, f"the {split} folder")
            strays: list[str] = []
            hidden: list[str] = []
            for path in walk(folder, hidden):
                read = f"{name}/{path}" if self.whole_path else path
                match = self.pattern.match(read) if path.lower().endswith(self.extensions) else None
                if match is None:
                    strays.append(path)
                else:
                    rows.append((f"{name}/{path}", *labels_of(match, nobody), split))
            if strays:
                notes.append(f"{split}: {len(strays)} files ignored that aren't named as samples, e.g. {strays[0]}")
            notes += [f"{split}: {note}" for note in note_hidden(hidden)]
        require_each_once(rows, "data.source.splits")
        if not rows:
            raise InputError(f"{self.root}: no image is named as data.source.pattern wants; {found_in(self.root)}")
        table = pd.DataFrame(rows, columns=["path", "label", "camid", "split"])
        return label_samples(table, self.root, notes, distractors=self.distractors)


class IdentityLists:
    """One text file a split, a line an image, and a pattern that reads path, identity and camera from a line.

    Args:
        root: the folder of all.
        lists: the text file of each split below `root`, or a list of files; None where the data set has none.
        pattern: a regular expression with the groups `path` and `pid` and perhaps `camid`, matched on a line.
        images: the folder of the paths below `root`, or the folder of each split.
        suffix: of the files' names where the lists leave it out.
        numbered_apart: whether a number in training and the same one in testing are two identities.
        one_in_gallery: one random image of each identity of the split `test` is its gallery, the others are queries,
            as VehicleID is evaluated; otherwise by `split_query_gallery`.
        seed: of that choice.
    """

    def __init__(
        self,
        root: str | Path,
        lists: Places,
        pattern: str,
        images: str | Mapping[str, str] = ".",
        suffix: str = "",
        numbered_apart: bool = False,
        one_in_gallery: bool = False,
        seed: int = 0,
    ) -> None:
        self.root, self.suffix, self.seed = Path(root), suffix, seed
        self.lists = listed(lists)
        self.pattern = compile_pattern(pattern, "data.source.pattern", "path", "pid")
        self.images = images
        self.numbered_apart, self.one_in_gallery = numbered_apart, one_in_gallery
        require_splits(lists, USER_SPLITS, "data.source.lists")

    def __call__(self) -> Samples:
        """Read all lists; InputError names a list that is missing and a line that the pattern doesn't fit."""
        require_folder(self.root, "data.root")
        rows: list[tuple[str, str, str, str]] = []
        notes: list[str] = []
        for split, name in self.lists:
            if not _nothing_to_train_on(split, self.root / name, notes):
                rows += self._read(split, self.root / name)
        require_each_once(rows, "data.source.lists")
        if not rows:
            raise InputError(f"{self.root}: its lists name no image; see data.source.lists")
        table = pd.DataFrame(rows, columns=["path", "label", "camid", "split"])
        samples = label_samples(table, self.root, notes, distractors=False)
        table = samples.table
        if self.one_in_gallery:
            test = table[table["split"] == "test"].sample(frac=1, random_state=np.random.default_rng(self.seed))
            table.loc[test.index, "split"] = np.where(test["pid"].duplicated(), "query", "gallery")
        return replace(samples, table=divide_test(table))

    def _read(self, split: str, file: Path) -> Iterator[tuple[str, str, str, str]]:
        folder = self.images if isinstance(self.images, str) else self.images.get(split, ".")
        part = ("train/" if split == "train" else "test/") if self.numbered_apart else ""
        for number, line in lines_of(file):
            if (match := self.pattern.match(line)) is None:
                raise InputError(f"{file}: line {number} is '{line}', which data.source.pattern doesn't fit")
            label, camera = labels_of(match, (JUNK,), part)
            path = (Path(folder) / (match["path"] + self.suffix)).as_posix()
            yield path, label, camera, split


class CsvSamples:
    """A user's table: columns `path` (relative to `root`) and `pid`, perhaps `camid` and `split`; others are ignored.

    A split is train, query, gallery, test (divided into query and gallery), val, val_query or val_gallery. A pid and a
    camid may be any text; negative pids are junk, a camid that is missing or -1 is unknown. An InputError names the
    rows that can't be used, by their numbers in a spreadsheet.

    Args:
        file: the CSV, relative to `root`.
        root: the folder of the images.
        distractors: see `apply_pid_rules`.
        test_fraction: of the identities, set aside for testing where the table has no column `split`.
        seed: of that division.
        columns: the names of path, pid, camid and split in the table, where they are others.
    """

    label = "pid"  # the column of the identity
    splits: tuple[str, ...] = USER_SPLITS

    def __init__(
        self,
        file: str | Path,
        root: str | Path,
        distractors: bool = False,
        test_fraction: float = 0.5,
        seed: int = 0,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.file = self.root / file
        self.distractors, self.test_fraction, self.seed = distractors, test_fraction, seed
        known = ("path", self.label, "camid", "split")
        self.columns = {name: name for name in known} | {name: _clean(own) for name, own in (columns or {}).items()}
        if unknown := sorted(set(self.columns) - set(known)):
            raise InputError(f"data.source.columns: '{unknown[0]}' isn't one of {', '.join(known)}")

    def __call__(self) -> Samples:
        """Read the table and divide what it leaves undivided."""
        samples = label_samples(self.read(), self.root, [], distractors=self.distractors)
        if (samples.table["split"] == "").all():
            divided = split_by_identity(samples.table, self.test_fraction, self.seed)
        else:
            divided = divide_test(samples.table)
        return replace(samples, table=divided)

    def read(self) -> pd.DataFrame:
        """Columns path, label, camid and split as clean text; InputError for rows that can't be used."""
        require_folder(self.root, "data.root")
        table = self._cells()
        self._check_rows(table)
        return table

    def _cells(self) -> pd.DataFrame:
        """All cells as clean text, indexed by their row in a spreadsheet; absent optional columns get a default."""
        if not self.file.exists():
            raise InputError(f"{self.file}: can't be read (no such file); {found_in(self.root)}")
        try:
            text = read_bytes(self.file).decode("utf-8-sig")
            separator = max(",;\t", key=text.partition("\n")[0].count)
            options = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "header": None}
            options |= {"index_col": False, "skipinitialspace": True}
            cells = pd.read_csv(io.StringIO(text, newline=""), sep=separator, **options)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise InputError(f"{self.file}: not a CSV in UTF-8 ({str(error).strip()})") from error
        header = cells.iloc[0].fillna("")
        found = ", ".join(header)
        table = cells.iloc[1:].set_axis(header.map(_clean), axis=1)
        for name, column in self.columns.items():
            if column not in table and (name in ("path", self.label) or column != name):
                key = f"data.source.columns.{name}"
                raise InputError(f"{self.file}: column '{column}' is missing; found {found}; name yours by {key}=NAME")
            if list(table.columns).count(column) > 1:
                raise InputError(f"{self.file}: has two columns '{column}'; found {found}")
        table = table.reindex(columns=list(self.columns.values()), fill_value="").fillna("")
        table = table.set_axis(["path", "label", "camid", "split"], axis=1)
        table = table.apply(lambda column: column.str.strip()).set_axis(table.index + 1)
        table = table.assign(label=whole_numbers(table["label"]), camid=whole_numbers(table["camid"]))
        table = table[(table != "").any(axis=1)]
        if table.empty:
            raise InputError(f"{self.file}: has no rows below its header")
        return table.assign(
            path=table["path"].str.replace("\\", "/"),
            split=table["split"].str.lower(),
        )

    def _check_rows(self, table: pd.DataFrame) -> None:
        path, split = table["path"], table["split"]
        place = path.map(lambda name: os.path.normpath(os.path.join(self.root.absolute(), name)))  # noqa: PTH118  # faster
        found = place.map(os.path.isfile)
        strange = table["label"].str.contains(rf"[\r\n]|{UNPRINTABLE.pattern}")
        problems = {
            "has no path": path == "",
            f"has no {self.label}": table["label"].isin(MISSING),
            f"has a line break or control character in its {self.label}; is a quotation mark left open?": strange,
            f"has a split other than {', '.join(self.splits)}": ~split.isin(self.splits) & (split != "").any(),
            "repeats the path of a row above": place.duplicated() & (path != ""),
            "names a file that isn't there": ~found & (path != ""),
        }
        bad = [(row, problem) for problem, rows in problems.items() for row in table.index[rows]]
        if bad:
            first = "; ".join(f"row {row} {problem}" for row, problem in sorted(bad)[:5])
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise InputError(f"{self.file}: {first}{more}")


class IdentityFolders:
    """One folder per identity, its images anywhere below it; a note names the identities.

    Args:
        root: the folder of the identities' folders.
        test_fraction: of the identities, about, set aside for testing.
        seed: of that division.
        camera: a regular expression with the group `camid`, searched in the path below the identity's folder; None,
            or a file without it, means that the camera is unknown.
        extensions: of image files.
        splits: the folder of each split (train, test, val, ...) that holds its identities' folders, or a list of
            folders, where the data set is divided already.
    """

    def __init__(
        self,
        root: str | Path,
        test_fraction: float = 0.5,
        seed: int = 0,
        camera: str | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        splits: Places | None = None,
    ) -> None:
        self.root = Path(root)
        self.test_fraction, self.seed = test_fraction, seed
        self.camera = camera and compile_pattern(camera, "data.source.camera", "camid")
        self.extensions = tuple(extension.lower() for extension in extensions)
        self.folders = listed(splits or {})
        require_splits(splits or {}, USER_SPLITS, "data.source.splits")

    def __call__(self) -> Samples:
        """Read the folders and divide the identities."""
        require_folder(self.root, "data.root")
        rows, strays, unknown = [], [], []
        hidden: list[str] = []
        for split, folder in self.folders or [("", ".")]:
            for path in walk(require_folder(self.root / folder, f"the {split} folder"), hidden):
                identity, _, name = path.partition("/")
                if not name or not name.lower().endswith(self.extensions):
                    strays.append(path)
                    continue
                match = self.camera.search(name) if self.camera else None
                if self.camera and not match:
                    unknown.append(path)
                camera = match["camid"] if match else ""
                rows.append(((Path(folder) / path).as_posix(), identity, camera or "", split))
        require_each_once(rows, "data.source.splits")
        if not rows:
            kinds = ", ".join(self.extensions)
            raise InputError(f"{self.root}: no folder in it holds images ({kinds}); {found_in(self.root)}")
        table = pd.DataFrame(rows, columns=["path", "label", "camid", "split"])
        identities = sorted(table["label"].unique())
        if not self.folders:
            require_no_splits(self.root, identities, "identities")
        notes = [f"{len(identities)} folders taken as identities: {shortened(identities)}", *note_hidden(hidden)]
        if strays:
            notes.append(f"{len(strays)} files ignored that aren't images in an identity's folder, e.g. {strays[0]}")
        if unknown:
            notes.append(f"{len(unknown)} images of an unknown camera, e.g. {unknown[0]}")
        samples = label_samples(table, self.root, notes, distractors=False, junk=False)
        if self.folders:
            divided = divide_test(samples.table)
        else:
            divided = split_by_identity(samples.table, self.test_fraction, self.seed)
        return replace(samples, table=divided)


class SyntheticPeople:
    """Generated people in Market-1501 layout: drawn on the first call, read from there afterwards.

    They are in a folder of `root` that is named by their parameters, or in `root` itself where an earlier version drew
    the same ones there.

    Args: see `reidlab.data.synthetic.generate_people`.
    """

    def __init__(
        self,
        root: str | Path,
        num_identities: int,
        train_identities: int,
        num_cameras: int,
        images_per_camera: int,
        size: Sequence[int],
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.root = Path(root)
        self.options: dict[str, Any] = {
            "num_identities": num_identities,
            "train_identities": train_identities,
            "num_cameras": num_cameras,
            "images_per_camera": images_per_camera,
            "size": tuple(size),
            "seed": seed,
            "progress": progress,
        }

    @property
    def drawn_in(self) -> Path:
        """The folder that they are drawn in."""
        from reidlab.data.synthetic import folder_of_people

        return folder_of_people(self.root, self.options)

    def __call__(self) -> Samples:
        """Generate the people unless they are there, and read them."""
        from reidlab.data.synthetic import generate_people

        return FolderLayout(generate_people(self.drawn_in, **self.options), **MARKET1501)()


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file that aren't blank, counted from 1, without blanks and a byte order mark around them."""
    for number, line in enumerate(read_bytes(file).decode("utf-8-sig", "replace").splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def divide_test(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with the split `test` divided into query and gallery."""
    test = table["split"] == "test"
    return pd.concat([table[~test], split_query_gallery(table[test])]).sort_index()


def require_splits(given: Iterable[str], known: Sequence[str], key: str) -> None:
    """InputError for a split that there is none of."""
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"{key}: '{unknown[0]}' isn't one of {', '.join(known)}")


def require_each_once(rows: Iterable[Sequence[str]], key: str) -> None:
    """InputError for an image that two rows, of a path first and a split last, have: folders that lie in each other."""
    splits: dict[str, str] = {}
    for path, *_, split in rows:
        place = os.path.normpath(path)
        if place in splits:
            other = "twice" if splits[place] == split else f"and in {splits[place]}"
            raise InputError(f"{key}: {place} is in {split} {other}; give places that share no image")
        splits[place] = split


def require_no_splits(root: Path, labels: Sequence[str], what: str) -> None:
    """InputError where the folders that would be taken as identities or classes all have names of splits."""
    named = {SPLIT_NAMES.get(label.lower().removeprefix("bounding_box_")): label for label in labels}
    if None in named:
        return
    splits = ", ".join(f"{split}: {label}" for split, label in named.items())
    raise InputError(
        f"{root}: {', '.join(labels)} would be taken as {what}; where they are splits that hold a folder for each "
        f"of the {what}, add 'data.source.splits={{{splits}}}'"
    )


def listed(given: Places) -> list[tuple[str, str]]:
    """Pairs of a split and a place, of places that may be one, several or None."""
    several = {split: [places] if isinstance(places, str) else places or [] for split, places in given.items()}
    return [(split, place) for split, places in several.items() for place in places]


def _clean(name: str) -> str:
    return name.strip().lower()


def compile_pattern(pattern: str, key: str, *required: str) -> re.Pattern[str]:
    """The compiled regular expression; an InputError names the config key if it is wrong or lacks a group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{key}: not a regular expression ({error})") from error
    for group in required:
        if group not in compiled.groupindex:
            raise InputError(f"{key}: has no group named {group}; write (?P<{group}>...) around it")
    return compiled


def require_folder(folder: Path, what: str) -> Path:
    """The folder; InputError with the content of its parent where there is none."""
    try:
        if folder.is_dir():
            return folder
        problem = "isn't a folder" if folder.exists() else "doesn't exist"
    except OSError as error:
        problem = f"can't be read ({error.strerror})"
    raise InputError(f"{folder}: {what} {problem}; {found_in(folder.parent)}")


def _nothing_to_train_on(split: str, place: Path, notes: list[str]) -> bool:
    """Whether the training split's folder or list is missing, which is noted."""
    missing = split == "train" and not place.exists()
    if missing:
        notes.append(f"train: {place} doesn't exist; {found_in(place.parent)}")
    return missing


def found_in(folder: Path, limit: int = 8) -> str:
    """For messages: `found a, b, c in FOLDER`, or in the nearest folder above that exists."""
    try:
        shown = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
        names = sorted(entry.name + "/" * entry.is_dir() for entry in shown)
    except FileNotFoundError:
        return found_in(folder.parent, limit)
    except OSError as error:
        return f"{folder} can't be listed ({error.strerror})"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"found {', '.join(names[:limit]) or 'nothing'}{more} in {folder}"
