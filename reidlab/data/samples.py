"""The sample table, which every data set becomes, and its division by identity."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab.errors import InputError
from reidlab.files import read_bytes

SPLITS = ("train", "val_query", "val_gallery", "query", "gallery")
COLUMNS = ["path", "pid", "camid", "split"]


@dataclass
class Samples:
    """Image crops with their identities: one row an image.

    `table` has the columns `path` (posix, relative to `root`), `pid` (int64; 0 is a distractor, which only a gallery
    may hold), `camid` (int64; 0 = unknown) and `split` (one of SPLITS), indexed 0..N-1. `notes` says what was left out
    or changed on reading; `names` maps a pid to the user's own name for the identity where that isn't the number.
    """

    table: pd.DataFrame
    root: Path
    notes: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = {"path": str, "pid": "int64", "camid": "int64", "split": str}
        self.table = self.table[COLUMNS].astype(types).reset_index(drop=True)

    def split(self, *names: str) -> pd.DataFrame:
        """The rows of these splits, in the order of `names`, with the index that they have in `table`."""
        return pd.concat([self.table[self.table["split"] == name] for name in names])

    def files(self) -> list[Path]:
        """The image file of each row."""
        return [self.root / path for path in self.table["path"]]

    def content_hash(self, *splits: str) -> str:
        """SHA-256 over rows and image bytes, of some splits or of all, whatever the order of the rows and the root."""
        table = self.split(*splits) if splits else self.table
        with ThreadPoolExecutor() as pool:
            digests = pool.map(lambda path: digest(read_bytes(self.root / path)), table["path"])
            rows = sorted(zip(*(table[column] for column in COLUMNS), digests, strict=True))
        return digest("\n".join("\t".join(map(str, row)) for row in rows).encode())


def digest(raw: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()


def number_identities(labels: Iterable[str]) -> dict[str, int]:
    """A pid for each label: the integers that they spell, or else 1, 2, ... in the order of the sorted labels."""
    labels = sorted(set(labels))
    try:
        return {label: int(label) for label in labels}
    except ValueError:
        return {label: number for number, label in enumerate(labels, start=1)}


def apply_pid_rules(samples: Samples, distractors: bool) -> Samples:
    """Samples in which pid 0 means distractor and no other pid is special; notes count what was changed.

    Negative pids are junk and dropped. With `distractors`, pid 0 stays in the gallery and is dropped elsewhere (the
    rules of Market-1501); without, 0 is an identity like others and all pids are raised by one to keep it.
    """
    table, notes, names = samples.table, list(samples.notes), samples.names
    junk = table["pid"] < 0
    notes += _count_by_split(table[junk], "junk images (negative pid) dropped")
    table = table[~junk]
    zero = table["pid"] == 0
    if distractors:
        stays = table["split"].isin(["gallery", "val_gallery"])
        notes += _count_by_split(table[zero & ~stays], "images of pid 0 (no identity) dropped")
        notes += _count_by_split(table[zero & stays], "distractors (pid 0) kept")
        table = table[~zero | stays]
    elif zero.any():
        notes.append("pids raised by one, because 0 stands for distractors")
        table = table.assign(pid=table["pid"] + 1)
        names = {pid + 1: name for pid, name in names.items()}
    return Samples(table, samples.root, notes, names)


def choose_identities(pids: Iterable[int], fraction: float, seed: int, key: str) -> np.ndarray:
    """A seeded choice of about `fraction` of the distinct pids, at least one and not all.

    Args:
        pids: of the images.
        fraction: of the identities.
        seed: of the choice.
        key: the name of the fraction, for the InputError where it leaves no identity to train on.
    """
    pids = np.unique(np.asarray(pids))
    count = max(1, round(fraction * len(pids)))
    if not 0 < fraction < 1 or count >= len(pids):
        raise InputError(f"{key}={fraction} of {len(pids)} identities leaves none to train on: choose another fraction")
    return np.sort(np.random.default_rng(seed).permutation(pids)[:count])


def first_of_each_camera(table: pd.DataFrame) -> pd.Series:
    """Choose the rows that become queries: by path, the first image of each identity and camera.

    A camera with a single image of an identity keeps it for the gallery; if all of its cameras do, the identity's first
    image is the query. An identity with one image in all has none. Distractors are no queries. Boolean, like `table`.
    """
    ordered = table[table["pid"] > 0].sort_values("path")
    by_camera, by_pid = ordered.groupby(["pid", "camid"]), ordered.groupby("pid")
    in_camera, in_all = by_camera["path"].transform("size"), by_pid["path"].transform("size")
    scattered = in_camera.groupby(ordered["pid"]).transform("max") == 1
    first_of_camera = (by_camera.cumcount() == 0) & (in_camera > 1)
    first_of_identity = (by_pid.cumcount() == 0) & (in_all > 1)
    return first_of_camera.mask(scattered, first_of_identity).reindex(table.index, fill_value=False)


def split_query_gallery(table: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """The rows with split `<prefix>query` or `<prefix>gallery`, by `first_of_each_camera`."""
    query = first_of_each_camera(table)
    return table.assign(split=np.where(query, f"{prefix}query", f"{prefix}gallery"))


def sample_evenly(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """About `count` rows in their order, as evenly over the pids as these allow.

    Each pid gives one row before any gives a second, and so on, in an order shuffled by the seed.
    """
    shuffled = table.sample(frac=1, random_state=np.random.default_rng(seed))
    turn = shuffled.groupby("pid").cumcount()
    return shuffled.iloc[np.argsort(turn.to_numpy(), kind="stable")[:count]].sort_index()


def split_by_identity(table: pd.DataFrame, test_fraction: float, seed: int) -> pd.DataFrame:
    """All rows as train, query or gallery: about `test_fraction` of the identities are for testing, none for both."""
    chosen = choose_identities(table["pid"], test_fraction, seed, "data.source.test_fraction")
    test = table["pid"].isin(chosen)
    return pd.concat([table[~test].assign(split="train"), split_query_gallery(table[test])]).sort_index()


def set_aside_validation(samples: Samples, fraction: float, seed: int) -> Samples:
    """The samples with about `fraction` of the training identities moved to val_query and val_gallery.

    The choice depends on the seed and the set of training pids alone. Samples with a validation split keep theirs.
    """
    given = samples.table["split"].isin(["val_query", "val_gallery"])
    train = samples.table["split"] == "train"
    if given.any():
        note = f"the validation split is the data set's own; val_fraction={fraction} isn't used"
        return Samples(samples.table, samples.root, [*samples.notes, note], samples.names)
    if fraction == 0 or not train.any():
        return samples
    chosen = choose_identities(samples.table.loc[train, "pid"], fraction, seed, "data.val_fraction")
    moved = train & samples.table["pid"].isin(chosen)
    table = pd.concat([samples.table[~moved], split_query_gallery(samples.table[moved], "val_")]).sort_index()
    return Samples(table, samples.root, samples.notes, samples.names)


def _count_by_split(rows: pd.DataFrame, what: str) -> list[str]:
    counts = rows["split"].value_counts(sort=False)
    return [f"{split}: {count} {what}" for split, count in counts.items()]
