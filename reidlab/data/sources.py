"""Sources of images of identities: file layouts, a CSV, one folder per identity, or generated people.

A source is a callable without arguments that returns `Samples`; a config builds it, so that a new data set is a yaml.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reidlab.data.folders import IMAGE_EXTENSIONS, note_hidden, walk
from reidlab.data.samples import (
    SPLITS,
    Samples,
    apply_pid_rules,
    number_identities,
    split_by_identity,
    split_query_gallery,
)
from reidlab.errors import InputError
from reidlab.files import read_bytes

MARKET1501: dict[str, Any] = {
    "splits": {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    "pattern": r"(?P<pid>-?\d+)_c(?P<camid>\d+)",
}
UNKNOWN = -1  # camera of an image while a table is read


class FolderLayout:
    """One folder a split, and a pattern that reads identity and camera from a file's path: most public data sets.

    Files that the pattern doesn't fit, or with another extension, are counted in a note.

    Args:
        root: the folder of all.
        splits: the folder of each split below `root`, or a list of folders; None where the data set has none.
        pattern: a regular expression with the named group `pid` and perhaps `camid`, matched from the start of the path
            relative to the split's folder.
        distractors: see `apply_pid_rules`.
        extensions: of image files.
    """

    def __init__(
        self,
        root: str | Path,
        splits: Mapping[str, str | Sequence[str] | None],
        pattern: str,
        distractors: bool = True,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
    ) -> None:
        self.root = Path(root)
        folders = {split: [given] if isinstance(given, str) else given for split, given in splits.items()}
        self.folders = [(split, folder) for split, given in folders.items() for folder in given or []]
        self.pattern = compile_pattern(pattern, "data.source.pattern", required="pid")
        self.distractors = distractors
        self.extensions = tuple(extension.lower() for extension in extensions)
        if unknown := sorted(set(splits) - set(SPLITS)):
            raise InputError(f"data.source.splits: '{unknown[0]}' isn't one of {', '.join(SPLITS)}")

    def __call__(self) -> Samples:
        """Read all splits; InputError where a folder is missing or unreadable, or where no file fits."""
        require_folder(self.root, "data.root")
        rows, notes = [], []
        for split, name in self.folders:
            folder = require_folder(self.root / name, f"the {split} folder")
            strays: list[str] = []
            hidden: list[str] = []
            for path in walk(folder, hidden):
                match = self.pattern.match(path) if path.lower().endswith(self.extensions) else None
                if match is None:
                    strays.append(path)
                else:
                    rows.append((f"{name}/{path}", match["pid"], camera(match, "data.source.pattern"), split))
            if strays:
                notes.append(f"{split}: {len(strays)} files ignored that aren't named as samples, e.g. {strays[0]}")
            notes += [f"{split}: {note}" for note in note_hidden(hidden)]
        if not rows:
            raise InputError(f"{self.root}: no image is named as data.source.pattern wants; {found_in(self.root)}")
        table = pd.DataFrame(rows, columns=["path", "label", "camid", "split"])
        return apply_pid_rules(number_labels(table, self.root, notes), self.distractors)


class CsvSamples:
    """A user's table: columns `path` (relative to `root`) and `pid`, perhaps `camid` and `split`; others are ignored.

    A split is train, query, gallery, test (divided into query and gallery), val (likewise), val_query or val_gallery. A
    pid may be any text. An InputError names the rows that can't be used, by their numbers in a spreadsheet.

    Args:
        file: the CSV, relative to `root`.
        root: the folder of the images.
        distractors: see `apply_pid_rules`.
        test_fraction: of the identities, set aside for testing where the table has no column `split`.
        seed: of that division.
    """

    label = "pid"  # the column of the identity
    splits: tuple[str, ...] = (*SPLITS, "test", "val")

    def __init__(
        self,
        file: str | Path,
        root: str | Path,
        distractors: bool = False,
        test_fraction: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.file = self.root / file
        self.distractors, self.test_fraction, self.seed = distractors, test_fraction, seed

    def __call__(self) -> Samples:
        """Read the table and divide what it leaves undivided."""
        table = self.read()
        table = table.assign(camid=pd.to_numeric(table["camid"].replace("", str(UNKNOWN))))
        samples = apply_pid_rules(number_labels(table, self.root, []), self.distractors)
        if (samples.table["split"] == "").all():
            divided = split_by_identity(samples.table, self.test_fraction, self.seed)
        else:
            divided = self._divide(samples.table)
        return Samples(divided, self.root, samples.notes, samples.names)

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
            options = {"dtype": str, "keep_default_na": False, "skip_blank_lines": False, "encoding": "utf-8-sig"}
            table = pd.read_csv(io.BytesIO(read_bytes(self.file)), index_col=False, **options)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise InputError(f"{self.file}: not a CSV in UTF-8 ({str(error).strip()})") from error
        table = table.rename(columns=lambda name: name.strip().lower())
        for column in ("path", self.label):
            if column not in table:
                raise InputError(f"{self.file}: column '{column}' is missing; found {', '.join(table.columns)}")
        table = table.reindex(columns=["path", self.label, "camid", "split"], fill_value="").fillna("")
        table = table.rename(columns={self.label: "label"})
        table = table.apply(lambda column: column.str.strip()).set_axis(table.index + 2)
        table = table[(table != "").any(axis=1)]
        if table.empty:
            raise InputError(f"{self.file}: has no rows below its header")
        return table.assign(
            path=table["path"].str.replace("\\", "/"),
            split=table["split"].str.lower(),
        )

    def _check_rows(self, table: pd.DataFrame) -> None:
        path, split = table["path"], table["split"]
        found = path.map(lambda name: is_file(self.root / name))
        problems = {
            "has no path": path == "",
            f"has no {self.label}": table["label"] == "",
            "has a camid that isn't a number": ~table["camid"].str.fullmatch(r"\d*"),
            f"has a split other than {', '.join(self.splits)}": ~split.isin(self.splits) & (split != "").any(),
            "repeats the path of a row above": path.duplicated() & (path != ""),
            "names a file that isn't there": ~found & (path != ""),
        }
        bad = [(row, problem) for problem, rows in problems.items() for row in table.index[rows]]
        if bad:
            first = "; ".join(f"row {row} {problem}" for row, problem in sorted(bad)[:5])
            more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
            raise InputError(f"{self.file}: {first}{more}")

    @staticmethod
    def _divide(table: pd.DataFrame) -> pd.DataFrame:
        test, val = table["split"] == "test", table["split"] == "val"
        parts = [table[~test & ~val], split_query_gallery(table[test]), split_query_gallery(table[val], "val_")]
        return pd.concat(parts).sort_index()


class IdentityFolders:
    """One folder per identity, its images anywhere below it.

    Args:
        root: the folder of the identities' folders.
        test_fraction: of the identities, about, set aside for testing.
        seed: of that division.
        camera: a regular expression with the group `camid`, searched in the path below the identity's folder; None,
            or a file without it, means camera 0 (unknown).
        extensions: of image files.
    """

    def __init__(
        self,
        root: str | Path,
        test_fraction: float = 0.5,
        seed: int = 0,
        camera: str | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
    ) -> None:
        self.root = Path(root)
        self.test_fraction, self.seed = test_fraction, seed
        self.camera = camera and compile_pattern(camera, "data.source.camera", required="camid")
        self.extensions = tuple(extension.lower() for extension in extensions)

    def __call__(self) -> Samples:
        """Read the folders and divide the identities."""
        require_folder(self.root, "data.root")
        rows, strays, unknown = [], [], []
        hidden: list[str] = []
        for path in walk(self.root, hidden):
            identity, _, name = path.partition("/")
            if not name or not name.lower().endswith(self.extensions):
                strays.append(path)
                continue
            match = self.camera.search(name) if self.camera else None
            if self.camera and not match:
                unknown.append(path)
            rows.append((path, identity, camera(match, "data.source.camera"), "train"))
        if not rows:
            kinds = ", ".join(self.extensions)
            raise InputError(f"{self.root}: no folder in it holds images ({kinds}); {found_in(self.root)}")
        notes = note_hidden(hidden)
        if strays:
            notes.append(f"{len(strays)} files ignored that aren't images in an identity's folder, e.g. {strays[0]}")
        if unknown:
            notes.append(f"{len(unknown)} images of an unknown camera, e.g. {unknown[0]}")
        table = pd.DataFrame(rows, columns=["path", "label", "camid", "split"])
        samples = apply_pid_rules(number_labels(table, self.root, notes), distractors=False)
        divided = split_by_identity(samples.table, self.test_fraction, self.seed)
        return Samples(divided, self.root, samples.notes, samples.names)


class SyntheticPeople:
    """Generated people in Market-1501 layout: written to `root` on the first call, read from there afterwards.

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

    def __call__(self) -> Samples:
        """Generate the people unless they are there, and read them."""
        from reidlab.data.synthetic import generate_people

        return FolderLayout(generate_people(self.root, **self.options), **MARKET1501)()


def number_labels(table: pd.DataFrame, root: Path, notes: list[str]) -> Samples:
    """Samples of a table whose identities are text in the column `label`, and whose unknown cameras are UNKNOWN.

    A table that counts its cameras from 0 has them raised by one, with a note: in Samples, camera 0 is unknown.
    """
    known = table["camid"] != UNKNOWN
    cameras = set(table.loc[known, "camid"])
    if 0 in cameras and len(cameras) > 1:
        notes = [*notes, f"cameras are counted from 0 to {max(cameras)}: each is raised by one"]
        table = table.assign(camid=table["camid"] + known)
    table = table.assign(camid=table["camid"].where(known, 0))
    pids = number_identities(table["label"])
    names = {pid: label for label, pid in pids.items() if not label.lstrip("-").isdecimal()}
    return Samples(table.assign(pid=table["label"].map(pids)), root, notes, names)


def compile_pattern(pattern: str, key: str, required: str) -> re.Pattern[str]:
    """The compiled regular expression; an InputError names the config key if it is wrong or lacks the group."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{key}: not a regular expression ({error})") from error
    if required not in compiled.groupindex:
        raise InputError(f"{key}: has no group named {required}; write (?P<{required}>...) around it")
    return compiled


def camera(match: re.Match[str] | None, key: str) -> int:
    """The number in the group `camid`, or UNKNOWN; an InputError names the config key that finds something else."""
    number = match.groupdict().get("camid") if match else None
    if match is None or number is None:
        return UNKNOWN
    if not number.isdecimal():
        raise InputError(f"{key}: finds '{number}' for camid in {match.string}, which isn't a number")
    return int(number)


def require_folder(folder: Path, what: str) -> Path:
    """The folder; InputError with the content of its parent where there is none."""
    try:
        if folder.is_dir():
            return folder
        problem = "isn't a folder" if folder.exists() else "doesn't exist"
    except OSError as error:
        problem = f"can't be read ({error.strerror})"
    raise InputError(f"{folder}: {what} {problem}; {found_in(folder.parent)}")


def is_file(path: Path) -> bool:
    """Whether a file is there and may be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


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
