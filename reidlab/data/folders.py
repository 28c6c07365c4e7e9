"""Files below a folder that a user gives: which are images, and which aren't the user's own."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from reidlab.errors import InputError

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# folders and files that systems leave beside a user's, in lower case; those that begin with a dot, too
SYSTEM_NAMES = {
    "__macosx", "@eadir", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip


MOST_VISITS = 100  # of one folder by links; folders that link to each other would have more paths than anybody can list


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or a system's: .ipynb_checkpoints, __MACOSX, ._a.jpg."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def walk(folder: Path, hidden: list[str] | None = None) -> list[str]:
    """All files below a folder, sorted, as posix paths relative to it; see `note_hidden` for those that are left out.

    A link to a folder is followed unless it leads to one that it lies in. Raises InputError for a folder that can't be
    read or that too many links lead to, and for a name that isn't UTF-8, which no table could hold.

    Args:
        folder: any.
        hidden: gets the hidden and system files and folders, which are left out with all that they hold.
    """
    return sorted(walk_each(folder, hidden))


def walk_each(folder: Path, hidden: list[str] | None = None) -> Iterator[str]:
    """Like `walk`, one file at a time: the names of one folder and of those above it are held, and no others.

    Names are sorted folder by folder, not as whole paths.
    """
    return _below(Path(folder), "", frozenset(), [] if hidden is None else hidden, Counter())


def note_hidden(hidden: Sequence[str]) -> list[str]:
    """A note of what `walk` left out, if anything."""
    return [f"{len(hidden)} hidden or system files and folders skipped, e.g. {hidden[0]}"] if hidden else []


def _below(
    root: Path, path: str, above: frozenset[tuple[int, int]], hidden: list[str], visits: Counter
) -> Iterator[str]:
    try:
        state = (root / path).stat()
        entries = [(entry.name, entry.is_dir()) for entry in os.scandir(root / path)]
    except OSError as error:
        raise InputError(f"{error.filename}: can't be read ({error.strerror}); check its permissions") from error
    own = state.st_dev, state.st_ino
    if own in above:
        hidden.append(path.removesuffix("/"))
        return
    visits[own] += 1
    if visits[own] > MOST_VISITS:
        raise InputError(f"{root / path}: links lead to it on more than {MOST_VISITS} ways; remove those to folders")
    for name, is_folder in sorted(entries):
        if is_hidden(name):
            hidden.append(path + name)
            continue
        require_utf8(name, root / path)
        if is_folder:
            yield from _below(root, f"{path}{name}/", above | {own}, hidden, visits)
        else:
            yield path + name


def require_utf8(name: str, folder: Path) -> None:
    """InputError for a file name that isn't UTF-8."""
    if not name.isascii() and name.encode("utf-8", "replace") != name.encode("utf-8", "surrogateescape"):
        raise InputError(
            f"{folder}: the name {os.fsencode(name)!r} isn't UTF-8; rename it, e.g. by `convmv -f latin1 -t utf8 -r`"
        )
