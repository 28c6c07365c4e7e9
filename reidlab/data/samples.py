"""The sample table, which every data set becomes, and its division by identity."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab.errors import InputError
from reidlab.files import read_bytes

SPLITS = ("train", "val_query", "val_gallery", "val", "query", "gallery")
VALIDATION_SPLITS = ("val_query", "val_gallery", "val")
COLUMNS = ["path", "pid", "camid", "split"]
SPREAD = 0.17  # standard deviation of an identity's average precision, as the demo's test split has it
OWN_VALIDATION = "the validation split is the data set's own"
ONE_IDENTITY = "holds one identity only, which any network ranks right; add images of others"
LARGEST_SHARE = 0.25  # of the training identities that `least` may set aside where the fraction is smaller


@dataclass
class Samples:
    """Image crops with their identities: one row an image.

    `table` has the columns `path` (posix, relative to `root`), `pid` (int64; 0 is a distractor, which only a gallery
    may hold), `camid` (int64; 0 = unknown) and `split` (one of SPLITS), indexed 0..N-1. Each image of the split `val`
    is a query whose gallery is all others of that split. `notes` says what was left out or changed on reading; `names`
    and `cameras` map all pids and camids to the user's own labels where some of these aren't the number.
    """

    table: pd.DataFrame
    root: Path
    notes: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    cameras: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        types = {"path": str, "pid": "int64", "camid": "int64", "split": str}
        self.table = self.table[COLUMNS].astype(types).reset_index(drop=True)

    def split(self, *names: str) -> pd.DataFrame:
        """The rows of these splits, in the order of `names`, with the index that they have in `table`."""
        return pd.concat([self.table[self.table["split"] == name] for name in names])

    def labeled(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows as a user is shown them: `pid` and `camid` are the own labels, empty for a camera that is unknown."""
        if self.names:
            table = table.assign(pid=table["pid"].map(lambda pid: self.names.get(pid, str(pid))))
        if self.cameras:
            table = table.assign(camid=table["camid"].map(lambda camid: self.cameras.get(camid, "")))
        return table

    def files(self) -> list[Path]:
        """The image file of each row."""
        return [self.root / path for path in self.table["path"]]

    def content_hash(self, *splits: str) -> str:
        """SHA-256 over rows and image bytes, of some splits or of all, whatever the order of the rows and the root."""
        table = self.split(*splits) if splits else self.table
        rows = sorted(zip(*(table[column] for column in COLUMNS), self.digests(table), strict=True))
        return digest("\n".join("\t".join(map(str, row)) for row in rows).encode())

    def digests(self, table: pd.DataFrame) -> list[str]:
        """SHA-256 of the image file of each of these rows."""
        with ThreadPoolExecutor() as pool:
            return [*pool.map(lambda path: digest(read_bytes(self.root / path)), table["path"])]


def digest(raw: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(raw).hexdigest()


def apply_pid_rules(samples: Samples, distractors: bool) -> Samples:
    """Samples in which pid 0 means distractor and no other pid is special; notes count what was changed.

    Negative pids are junk and dropped. With `distractors`, pid 0 stays in the gallery and in what is divided into
    queries and gallery later, and is dropped elsewhere (the rules of Market-1501); without, 0 is an identity like
    others and all pids are raised by one to keep it.
    """
    table, notes, names = samples.table, list(samples.notes), samples.names
    junk = table["pid"] < 0
    notes += _count_by_split(table[junk], "junk images (negative pid) dropped")
    table = table[~junk]
    zero = table["pid"] == 0
    if distractors:
        stays = table["split"].isin(["gallery", "val_gallery", "test", ""])
        notes += _count_by_split(table[zero & ~stays], "images of pid 0 (no identity) dropped")
        notes += _count_by_split(table[zero & stays], "distractors (pid 0) kept")
        table = table[~zero | stays]
    elif zero.any():
        notes.append("pids raised by one, because 0 stands for distractors")
        table = table.assign(pid=table["pid"] + 1)
        names = {pid: names.get(pid - 1, str(pid - 1)) for pid in sorted(table["pid"].unique().tolist())}
    return replace(samples, table=table, notes=notes, names=names)


def choose_identities(pids: Iterable[int], fraction: float, seed: int, key: str) -> np.ndarray:
    """A seeded choice of about `fraction` of the distinct pids, at least one and not all.

    Args:
        pids: of the images.
        fraction: of the identities.
        seed: of the choice.
        key: the name of the fraction, for the InputError where it leaves no identity on one side.
    """
    pids = np.unique(np.asarray(pids))
    count = max(1, round(fraction * len(pids)))
    if len(pids) < 2:
        raise InputError(f"{key}: there is one identity only, and two are the fewest to divide; add another")
    if fraction <= 0:
        raise InputError(f"{key}={fraction}: leaves none of the {len(pids)} identities to test on; choose more than 0")
    if count >= len(pids):
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
    """All rows as train, query or gallery: about `test_fraction` of the identities are for testing, none for both.

    Distractors are in the gallery. Identities with one image, which no query can find, are divided apart, so that the
    others are tested whatever their number.
    """
    people = table[table["pid"] > 0]
    images = people.groupby("pid")["path"].transform("size")
    lonely = people.loc[images == 1, "pid"].unique()
    several = people.loc[images > 1, "pid"] if len(lonely) < people["pid"].nunique() - 1 else people["pid"]
    chosen = choose_identities(several, test_fraction, seed, "data.source.test_fraction")
    if len(several) < len(people):
        others = np.random.default_rng(seed).permutation(np.sort(lonely))[: round(test_fraction * len(lonely))]
        chosen = np.union1d(chosen, others)
    test = table["pid"].isin([0, *chosen])
    return pd.concat([table[~test].assign(split="train"), split_query_gallery(table[test])]).sort_index()


def with_match(queries: pd.DataFrame, gallery: pd.DataFrame, exclude_same_camera: bool) -> np.ndarray:
    """Which queries (Q,) the gallery has another image of, under the same-camera rule; the two may overlap."""
    same_pid = queries["pid"].map(gallery["pid"].value_counts()).fillna(0).to_numpy()
    itself = queries.index.isin(gallery.index).astype(int)
    if exclude_same_camera:
        shots = gallery.groupby(["pid", "camid"]).size()
        own = shots.reindex(pd.MultiIndex.from_frame(queries[["pid", "camid"]]), fill_value=0).to_numpy()
        itself = np.where(queries["camid"] == 0, itself, own)
    return (queries["pid"] > 0).to_numpy() & (same_pid > itself)


def sides(table: pd.DataFrame, prefix: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Queries and gallery of the test split, or with the prefix `val_` of validation: rows of `val` are in both."""
    both = ["val"] if prefix else []
    return tuple(table[table["split"].isin([f"{prefix}{side}", *both])] for side in ("query", "gallery"))


def split_validation(table: pd.DataFrame, exclude_same_camera: bool) -> pd.DataFrame:
    """The rows as a validation split: `val_query` and `val_gallery` by camera, or `val` where cameras don't matter.

    Without cameras, or where a match in the query's own camera counts, every image is a query (leave-one-out).
    """
    if exclude_same_camera and table["camid"].any():
        return split_query_gallery(table, "val_")
    return table.assign(split="val")


def uncertainty(identities: int) -> float:
    """Half of the 95 % interval of mAP, about, over so many identities."""
    return 1.96 * SPREAD / max(identities, 1) ** 0.5


def set_aside_validation(
    samples: Samples, fraction: float, seed: int, least: int = 1, exclude_same_camera: bool = True
) -> Samples:
    """The samples with about `fraction` of the training identities moved to a validation split, with a note on it.

    Only identities that can be queried are moved. The choice depends on the seed and the set of training pids, and on
    which can be queried. Samples with a validation split keep theirs. There is no validation where no query would have
    a match, or where fewer than `least` identities can be spared: the interval of its mAP would be wider than the
    differences between the epochs that it decides on.

    Args:
        samples: with training images.
        fraction: of the training identities.
        seed: of the choice.
        least: identities, to which the fraction is raised as long as they are at most a quarter of all.
        exclude_same_camera: whether a match in a query's own camera doesn't count.
    """
    table = samples.table
    given, train = table["split"].isin(VALIDATION_SPLITS), table["split"] == "train"
    if given.any():
        note = f"{OWN_VALIDATION}; val_fraction={fraction} isn't used"
        own = _own_validation(table[given], exclude_same_camera)
        divided, reason = _joined(table[~given], own), ""
        if not with_match(*sides(own, "val_"), exclude_same_camera).any():
            reason = f"none of the data set's own validation queries {_unmatched(exclude_same_camera)}"
        elif sides(own, "val_")[1]["pid"].nunique() == 1:
            reason = f"the data set's own validation gallery {ONE_IDENTITY}"
        divided = table[~given] if reason else divided
    elif fraction == 0 or not train.any():
        return samples
    else:
        chosen, reason = _choose_validation(table[train], fraction, seed, least, exclude_same_camera)
        moved = train & table["pid"].isin(chosen)
        own = split_validation(table[moved], exclude_same_camera)
        divided = _joined(table[~moved], own)
        queries = len(sides(own, "val_")[0])
        note = (
            f"validation: {len(chosen)} of {table.loc[train, 'pid'].nunique()} training identities, {queries} queries; "
            f"val/mAP is uncertain by about ±{uncertainty(len(chosen)):.2f}"
        )
    if reason:
        note = f"no validation: {reason}; the last epoch is the result"
    return replace(samples, table=divided, notes=[*samples.notes, note])


def spare_identities(samples: Samples, exclude_same_camera: bool) -> int:
    """How many of its identities `set_aside_validation` sets aside at most, whatever the fraction.

    None where the data set has a validation split of its own.
    """
    if any(note.startswith(OWN_VALIDATION) for note in samples.notes):
        return 0
    rows = samples.split("train", *VALIDATION_SPLITS)
    return min(len(_queryable(rows, exclude_same_camera)), int(LARGEST_SHARE * rows["pid"].nunique()))


def _queryable(rows: pd.DataFrame, exclude_same_camera: bool) -> np.ndarray:
    """The pids with a query that has a match, if these rows are the validation split."""
    queries, gallery = sides(split_validation(rows, exclude_same_camera), "val_")
    return np.unique(queries.loc[with_match(queries, gallery, exclude_same_camera), "pid"])


def _joined(*parts: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(parts).sort_index()


def _unmatched(exclude_same_camera: bool) -> str:
    rule = " from another camera, which data.exclude_same_camera=true asks for" if exclude_same_camera else ""
    return f"has a match{rule}"


def _own_validation(rows: pd.DataFrame, exclude_same_camera: bool) -> pd.DataFrame:
    """A data set's own validation rows: a side that stands alone, or `val`, is divided as identities set aside are."""
    undivided = rows["split"] == "val"
    if rows["split"].nunique() == 1:
        return split_validation(rows, exclude_same_camera)
    return _joined(rows[~undivided], split_query_gallery(rows[undivided], "val_"))


def _choose_validation(
    train: pd.DataFrame, fraction: float, seed: int, least: int, exclude_same_camera: bool
) -> tuple[np.ndarray, str]:
    """The pids to set aside, or none and the reason why; InputError for a fraction that leaves nobody to train on."""
    pids, none = np.unique(train["pid"]), np.array([], dtype="int64")
    share = round(fraction * len(pids))
    if not 0 < fraction < 1 or share >= len(pids):
        raise InputError(
            f"data.val_fraction={fraction} of {len(pids)} identities leaves none to train on: choose another fraction"
        )
    share = max(1, share)
    able = _queryable(train, exclude_same_camera)
    if not len(able):
        return none, f"no training identity {_unmatched(exclude_same_camera)}"
    if len(pids) == 1:
        return none, "there is one training identity only"
    order = np.random.default_rng(seed).permutation(pids)
    chosen = order[np.isin(order, able)][: max(share, least)]
    affordable = max(share, LARGEST_SHARE * len(pids))
    if least <= len(chosen) <= affordable:
        return np.sort(chosen), ""
    found = f"data.val_fraction={fraction} of {len(pids)} training identities is {share}"
    if len(chosen) < least:
        found = f"{len(able)} of {len(pids)} training identities can be queried"
    few = min(share, len(able))
    return none, (
        f"{found}, and fewer than {least} (data.val_identities) don't tell epochs apart, "
        f"val/mAP being uncertain by ±{uncertainty(few):.2f}"
    )


def _count_by_split(rows: pd.DataFrame, what: str) -> list[str]:
    counts = rows["split"].value_counts(sort=False)
    return [f"{split}: {count} {what}" if split else f"{count} {what}" for split, count in counts.items()]
