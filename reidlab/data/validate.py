"""Flaws of a data set, file by file, and the table that describes it in a paper."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
import pandas as pd

from reidlab.data.images import MAX_IMAGE_BYTES, decode
from reidlab.data.samples import ONE_IDENTITY, SPLITS, VALIDATION_SPLITS, Samples, digest, sides, with_match
from reidlab.errors import InputError
from reidlab.files import read_bytes
from reidlab.progress import bar

MIN_HEIGHT, MIN_WIDTH = 32, 16  # a crop below this shows clothes as a few pixels
HASH_SIDE, NEAR_BITS = 16, 26  # of 256 bits; different photographs differ in about half of them
CHUNK = 64  # files that a thread takes at once; waking it costs as much as inspecting one
STAGES = {"train": ["train"], "validation": [*VALIDATION_SPLITS], "test": ["query", "gallery"]}


class Finding(NamedTuple):
    """One flaw: its kind, the file, identity or split that has it, and what it is; `pandas.DataFrame` takes a list."""

    level: Literal["error", "warning"]
    kind: str
    where: str
    message: str


def summary(samples: Samples) -> pd.DataFrame:
    """Identities, images and cameras of each split; distractors (pid 0) are counted apart, unknown cameras not."""
    splits = {split: samples.split(split) for split in SPLITS} | {"all": samples.table}
    return pd.DataFrame.from_dict(
        {
            split: {
                "identities": rows.loc[rows["pid"] > 0, "pid"].nunique(),
                "images": len(rows),
                "cameras": rows.loc[rows["camid"] > 0, "camid"].nunique(),
                "distractors": int((rows["pid"] == 0).sum()),
            }
            for split, rows in splits.items()
            if len(rows)
        },
        orient="index",
    ).rename_axis("split")


def inspect_files(samples: Samples, progress: bool = True) -> pd.DataFrame:
    """Every image decoded in full: `height`, `width`, `digest`, `problem` ("" = sound), `looks`; rows as the table's.

    `looks` is a perceptual hash, see `difference_hash`.
    """
    files = samples.files()
    rows: list[tuple] = []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        bar(shown=progress, desc="checking images", total=len(files), unit="image") as shown,
    ):
        for several in pool.map(_inspect_each, (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))):
            rows += several
            shown.update(len(several))
    return pd.DataFrame(rows, columns=["height", "width", "digest", "problem", "looks"], index=samples.table.index)


def validate(
    samples: Samples, exclude_same_camera: bool = True, files: pd.DataFrame | None = None, progress: bool = True
) -> list[Finding]:
    """Find all flaws, errors first: an error makes scores meaningless or stops training, a warning deserves a look.

    Args:
        samples: of identities.
        exclude_same_camera: whether a match in a query's own camera doesn't count.
        files: the result of `inspect_files`, if it ran already.
        progress: show a bar.
    """
    files = inspect_files(samples, progress) if files is None else files
    table = _shown(samples, "pid").join(files)
    checks = (
        _empty_splits(table, ("train", "query", "gallery")),
        _shared_identities(table),
        _files(table),
        _duplicates(table, "identity"),
        _queries_without_match(table, exclude_same_camera),
        _single_images(table, STAGES, "identity"),
    )
    return sorted((finding for check in checks for finding in check), key=lambda finding: finding.level)


def validate_classes(samples: Samples, files: pd.DataFrame | None = None, progress: bool = True) -> list[Finding]:
    """Find the flaws of a data set of classes, errors first; see `validate`."""
    files = inspect_files(samples, progress) if files is None else files
    table = _shown(samples, "class").join(files)
    checks = (
        _empty_splits(table, ("train", "test")),
        _unlearned_classes(table),
        _files(table),
        _duplicates(table, "class"),
        _near_duplicates(table),
        _single_images(table, {"train": ["train"]}, "class"),
    )
    return sorted((finding for check in checks for finding in check), key=lambda finding: finding.level)


def class_summary(samples: Samples) -> pd.DataFrame:
    """Classes and images of each split, and how many images its smallest and its largest class have."""
    splits = {split: samples.split(split) for split in ("train", "val", "test")} | {"all": samples.table}
    sizes = {split: rows["pid"].value_counts() for split, rows in splits.items() if len(rows)}
    return pd.DataFrame.from_dict(
        {
            split: {"classes": len(each), "images": each.sum(), "fewest": each.min(), "most": each.max()}
            for split, each in sizes.items()
        },
        orient="index",
    ).rename_axis("split")


def difference_hash(image: np.ndarray) -> bytes:
    """256 bits that stay when an image (H, W, 3) is resized or compressed: where it gets brighter to the right."""
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (HASH_SIDE + 1, HASH_SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes()


def _inspect_each(files: Sequence[Path]) -> list[tuple[int, int, str, str, bytes]]:
    return [_inspect(file) for file in files]


def _inspect(file: Path) -> tuple[int, int, str, str, bytes]:
    content = ""
    try:
        raw = read_bytes(file, MAX_IMAGE_BYTES)
        content = digest(raw)
        image = decode(raw, str(file))
    except InputError as error:
        return 0, 0, content, str(error).removeprefix(f"{file}: "), b""
    return *image.shape[:2], content, "", difference_hash(image)


def _shown(samples: Samples, noun: str) -> pd.DataFrame:
    """The table with `who` as findings name identity or class, and `camera`: by the user's own labels."""
    own = samples.labeled(samples.table)
    return samples.table.assign(who=f"{noun} " + own["pid"].astype(str), camera=own["camid"])


def _empty_splits(table: pd.DataFrame, needed: Sequence[str]) -> Iterator[Finding]:
    filled = set(table["split"])
    if filled & {"val_query", "val_gallery"}:
        needed = [*needed, "val_query", "val_gallery"]
    for split in needed:
        if split not in filled:
            reason = unmatched(table, exclude_same_camera=False) if split == "query" else None
            yield Finding("error", "empty split", split, reason or "no images; check data.root and data.source")


def _shared_identities(table: pd.DataFrame) -> Iterator[Finding]:
    people = table[table["pid"] > 0]
    rows = {stage: people[people["split"].isin(splits)] for stage, splits in STAGES.items()}
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        level: Literal["error", "warning"] = "error" if (one, other) == ("train", "test") else "warning"
        for pid in sorted(set(rows[one]["pid"]) & set(rows[other]["pid"])):
            first, second = (part[part["pid"] == pid].iloc[0] for part in (rows[one], rows[other]))
            message = f"is in {one} ({first.path}) and in {other} ({second.path})"
            yield Finding(level, f"identity in {one} and {other}", first.who, message)


def _files(table: pd.DataFrame) -> Iterator[Finding]:
    for row in table[table["problem"] != ""].itertuples():
        yield Finding("error", "unreadable image", row.path, row.problem)
    small = (table["problem"] == "") & ((table["height"] < MIN_HEIGHT) | (table["width"] < MIN_WIDTH))
    for row in table[small].itertuples():
        message = f"{row.width} x {row.height} pixels, less than {MIN_WIDTH} x {MIN_HEIGHT}"
        yield Finding("warning", "small image", row.path, message)


def _unlearned_classes(table: pd.DataFrame) -> Iterator[Finding]:
    for pid in sorted(set(table["pid"]) - set(table.loc[table["split"] == "train", "pid"])):
        example = table.loc[table["pid"] == pid].iloc[0]
        message = f"no training image, but {example.path} in {example.split}"
        yield Finding("error", "class without training images", example.who, message)


def _duplicates(table: pd.DataFrame, group: str) -> Iterator[Finding]:
    """One finding for each set of files with equal bytes, by the worst that it means."""
    repeated = table[table["digest"].duplicated(keep=False) & (table["digest"] != "")]
    for _, rows in repeated.groupby("digest", sort=False):
        if rows["pid"].nunique() > 1:
            kind = f"duplicate of another {group}"
        elif rows["split"].nunique() > 1:
            kind = "duplicate across splits"
        else:
            kind = "duplicate within a split"
        first, *others = rows.itertuples()
        copies = ", ".join(f"{row.path} ({row.who}, {row.split})" for row in others)
        yield Finding("warning", kind, first.path, f"{first.who}, {first.split}; same bytes as {copies}")


def _near_duplicates(table: pd.DataFrame) -> Iterator[Finding]:
    """Images of the other splits that look like one to train on, by the nearest of these."""
    sound = table[table["looks"] != b""]
    train, others = (sound[(sound["split"] == "train") == trained] for trained in (True, False))
    if train.empty:
        return
    known = _words(train)
    for position, row in enumerate(others.itertuples()):
        distances = np.bitwise_count(known ^ _words(others.iloc[[position]])).sum(1, dtype=np.int64)
        nearest = train.iloc[int(distances.argmin())]
        if distances.min() <= NEAR_BITS and nearest["digest"] != row.digest:
            message = f"{row.who}, {row.split}; looks like {nearest['path']} ({nearest['who']}, train)"
            yield Finding("warning", "near-duplicate across splits", row.path, message)


def _words(table: pd.DataFrame) -> np.ndarray:
    """The hashes as (N, 4) uint64."""
    return np.frombuffer(b"".join(table["looks"]), np.uint64).reshape(len(table), -1)


def _queries_without_match(table: pd.DataFrame, exclude_same_camera: bool) -> Iterator[Finding]:
    for prefix in ("val_", ""):
        queries, gallery = sides(table, prefix)
        found = with_match(queries, gallery, exclude_same_camera)
        reason = unmatched(table, exclude_same_camera, prefix)
        if len(queries) and len(gallery) and reason:
            yield Finding("error", "split that can't be ranked", f"{prefix}query", reason)
            continue
        pids = set(gallery.loc[~gallery.index.isin(queries.index), "pid"])
        for row in queries[~found].itertuples():
            message = f"{prefix}gallery has no image of {row.who}"
            if row.pid in pids:
                message = f"{prefix}gallery has {row.who} from the query's own camera {row.camera} only"
            yield Finding("warning", "query without a match", row.path, message)


def unmatched(table: pd.DataFrame, exclude_same_camera: bool, prefix: str = "") -> str | None:
    """Why no query of testing (or, with the prefix `val_`, of validation) has a match, or only matches; else None."""
    queries, gallery = sides(table, prefix)
    if with_match(queries, gallery, exclude_same_camera).any():
        return None if gallery["pid"].nunique() > 1 else f"the {prefix}gallery {ONE_IDENTITY}"
    both = pd.concat([queries, gallery])
    people = both.loc[(both["pid"] > 0) & ~both.index.duplicated(), "pid"]
    if len(people) and people.is_unique:
        return f"each of its {len(people)} identities has one image, and a match takes two; add images of them"
    for name, rows in (("query", queries), ("gallery", gallery)):
        if rows.empty:
            return f"no images in the split {prefix}{name}; check data.root and data.source"
    if exclude_same_camera and with_match(queries, gallery, False).any():
        cameras = "there is one camera" if table["camid"].nunique() == 1 else "matches are of the query's own camera"
        return (
            f"no query has a match in the {prefix}gallery: {cameras}, and data.exclude_same_camera=true leaves its "
            "matches out; set data.exclude_same_camera=false"
        )
    return f"no query has a match in the {prefix}gallery: no identity is in both"


def _single_images(table: pd.DataFrame, stages: Mapping[str, list[str]], group: str) -> Iterator[Finding]:
    people = table[table["pid"] > 0]
    for stage, splits in stages.items():
        rows = people[people["split"].isin(splits)]
        for row in rows[~rows["pid"].duplicated(keep=False)].itertuples():
            yield Finding("warning", f"{group} with one image", row.who, f"{stage} has only {row.path} of it")
