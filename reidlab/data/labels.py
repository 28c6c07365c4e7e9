"""Labels of identities and cameras: text, until all of them are proved to be numbers."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from reidlab.data.samples import Samples, apply_pid_rules
from reidlab.errors import InputError

MISSING = frozenset(["", "nan", "NaN", "None", "null", "NULL", "<NA>"])  # how tables spell a label that isn't there

# as tables spell them whose columns a program took for numbers, with or without ".0"
JUNK, NOBODY, NO_CAMERA, WHOLE = (re.compile(number + r"(\.0+)?") for number in ("-[0-9]+", "0+", "-1", "-?[0-9]+"))


def is_known_camera(label: str) -> bool:
    """Whether a label names a camera: it isn't missing, and not -1."""
    return label not in MISSING and not NO_CAMERA.fullmatch(label)


def number_labels(labels: Iterable[str]) -> dict[str, int]:
    """A number for each label: the one that it spells, or else 1, 2, ... in the order of the sorted labels.

    Labels are numbers only if all are plain ASCII digits, at most 15, and no two spell the same number.
    """
    labels = sorted(set(labels))
    if all(re.fullmatch("[0-9]{1,15}", label) for label in labels):
        numbers = {label: int(label) for label in labels}
        if len(set(numbers.values())) == len(labels):
            return numbers
    return {label: number for number, label in enumerate(labels, start=1)}


def is_whole_number(label: str) -> bool:
    """Whether a table's label is one, with or without ".0", or missing."""
    return label in MISSING or WHOLE.fullmatch(label) is not None


def whole_numbers(labels: pd.Series) -> pd.Series:
    """Text labels without the `.0` that programs give the numbers of a column, where all of them are whole numbers."""
    if labels.map(is_whole_number).all():
        return labels.str.replace(r"\.0+$", "", regex=True)
    return labels


def label_samples(table: pd.DataFrame, root: Path, notes: list[str], distractors: bool, junk: bool = True) -> Samples:
    """Samples of a table whose columns `label` and `camid` are text, under `apply_pid_rules`.

    Whatever the others look like, a negative number is junk, 0 a distractor where there are such, and a label that is
    missing an InputError. All other identities and the cameras are numbered by `number_labels`. A camera that is
    missing or -1 is unknown; a table that counts its cameras from 0 has them raised by one, with a note.

    Args:
        table: with `path` and `split` besides.
        root: the folder of its paths.
        notes: so far.
        distractors: see `apply_pid_rules`.
        junk: whether a negative number is junk, and not an identity's name.
    """
    nameless = table.loc[table["label"].isin(MISSING), "path"].tolist()
    if nameless:
        example = table.loc[table["label"].isin(MISSING), "label"].iloc[0]
        raise InputError(
            f"{root}: {shortened(nameless, 3)}: no identity (read as '{example}'); name it or leave it out"
        )
    labels = set(table["label"])
    special = {label: -1 for label in labels if junk and JUNK.fullmatch(label)}
    special |= {label: 0 for label in labels if distractors and NOBODY.fullmatch(label)}
    pids = number_labels(labels - special.keys())
    notes = [*notes, *_renumbered(pids, "identities"), *note_alike(pids, "identities")]
    known = table["camid"].map(is_known_camera).astype(bool)
    cameras = number_labels(table.loc[known, "camid"])
    notes += _renumbered(cameras, "cameras")
    notes += note_alike(cameras, "cameras")
    if _is_text(cameras):
        notes.append(f"cameras are numbered 1 to {len(cameras)}: {shortened(sorted(cameras))}")
    elif 0 in cameras.values() and len(cameras) > 1:
        notes.append(f"cameras are counted from 0 to {max(cameras.values())}: each is raised by one")
        cameras = {label: number + 1 for label, number in cameras.items()}
    table = table.assign(
        pid=table["label"].map(pids | special), camid=table["camid"].map(cameras).where(known, 0).astype("int64")
    )
    return apply_pid_rules(Samples(table, root, notes, _by_number(pids), _by_number(cameras)), distractors)


def _by_number(numbers: Mapping[str, int]) -> dict[int, str]:
    """The label of each number, if they don't spell their numbers."""
    return {number: label for label, number in numbers.items()} if _is_text(numbers) else {}


def _is_text(numbers: Mapping[str, int]) -> bool:
    """Whether labels were numbered in their order, and don't spell their numbers."""
    return any(label.lstrip("0") != str(number).lstrip("0") for label, number in numbers.items())


def _renumbered(numbers: Mapping[str, int], what: str) -> list[str]:
    """A note where labels spell numbers that aren't theirs."""
    spelled = all(re.fullmatch("[0-9]+", label) for label in numbers)
    if not (spelled and _is_text(numbers)):
        return []
    by_value: dict[str, str] = {}
    twins = [(by_value[v], label) for label in numbers if by_value.setdefault(v := label.lstrip("0"), label) != label]
    reason = f"{twins[0][0]} and {twins[0][1]} would be one number" if twins else "some have more than 15 digits"
    return [f"{what} are numbered 1 to {len(numbers)} in the order of their labels, since {reason}"]


def note_alike(labels: Iterable[str], what: str) -> list[str]:
    """A note where labels differ by capitals or Unicode form alone, as of the same name written by two people."""
    by_name: dict[str, str] = {}
    twins = [
        (first, label)
        for label in sorted(labels)
        if (first := by_name.setdefault(unicodedata.normalize("NFC", label).casefold(), label)) != label
    ]
    if not twins:
        return []
    pairs = shortened([f"{first!a} and {label!a}" for first, label in twins], 3)
    return [f"{pairs} are two {what}; if they are one, give them one spelling"]


def labels_of(match: re.Match[str], nobody: Sequence[re.Pattern[str]] = (), part: str = "") -> tuple[str, str]:
    """Identity and camera that a pattern finds; both begin with the scene where the pattern has one.

    Args:
        match: with the group `pid`, and perhaps `camid` and `scene`.
        nobody: labels that are no identities, of any scene: `JUNK` or `NOBODY`. Unknown cameras have no scene either.
        part: put before the scene of an identity.
    """
    groups = {name: value or "" for name, value in match.groupdict().items()}
    scene = f"{groups['scene']}/" if groups.get("scene") else ""
    pid, camid = groups["pid"], groups.get("camid", "")
    is_somebody = pid not in MISSING and not any(label.fullmatch(pid) for label in nobody)
    return part + scene + pid if is_somebody else pid, scene + camid if is_known_camera(camid) else camid


def is_junk(match: re.Match[str]) -> bool:
    """Whether a pattern finds a negative number as identity, which stands for nobody, unless a folder has that name."""
    path, (start, end) = match.string, match.span("pid")
    is_folder = path[end : end + 1] == "/" and path[:start][-1:] in ("", "/")
    return not is_folder and JUNK.fullmatch(match["pid"] or "") is not None


def shortened(names: Sequence[str], limit: int = 8) -> str:
    """For messages: `a, b, c and 5 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
