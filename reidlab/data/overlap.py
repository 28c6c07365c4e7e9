"""Overlap of data sets: what one network learned among the samples that another is chosen or reported on."""

from pathlib import Path

import pandas as pd

from reidlab.data.images import read_bytes
from reidlab.data.samples import Samples, digest


def seen_in_training(learned: Samples, own: Samples, *splits: str) -> pd.DataFrame:
    """The rows of some splits of `own` that the training split of `learned` holds.

    Images are compared by their bytes. In one folder identities are compared, too, unless they are classes, which all
    splits share.

    Args:
        learned: of a network's training.
        own: of another's.
        splits: of `own`.
    """
    held, training = own.split(*splits), learned.split("train")
    seen = _same_images([own.root / path for path in held["path"]], [learned.root / path for path in training["path"]])
    same_folder = own.root.resolve() == learned.root.resolve()
    if same_folder and not own.split("train")["pid"].isin(held["pid"]).any():
        seen |= ((held["pid"] > 0) & held["pid"].isin(training["pid"])).to_numpy()
    return held[seen.to_numpy()]


def learned_images(samples: Samples, held_out: pd.DataFrame) -> pd.DataFrame:
    """SHA-256 and class, 1, 2, ..., of each training image, sorted; without those whose bytes are held out as well.

    Args:
        samples: of a training.
        held_out: its rows for validation and testing.
    """
    train = samples.split("train")
    found = pd.DataFrame({"sha256": samples.digests(train), "class": train["pid"].rank(method="dense").astype(int)})
    return found[~found["sha256"].isin(samples.digests(held_out))].sort_values([*found], ignore_index=True)


def _same_images(files: list[Path], others: list[Path]) -> pd.Series:
    """Whether each of the files has the bytes of one of the others; only files of equal size are read."""
    sizes, other_sizes = (pd.Series([file.stat().st_size for file in side], dtype="int64") for side in (files, others))
    read = zip(others, other_sizes.isin(sizes), strict=True)
    known = {digest(read_bytes(file)) for file, may in read if may}
    alike = sizes.isin(other_sizes)
    return pd.Series(
        [bool(may) and digest(read_bytes(file)) in known for file, may in zip(files, alike, strict=True)], dtype=bool
    )
