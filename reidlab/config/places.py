"""Places: the workspace and the released files, and what is found in them."""

import os
from pathlib import Path

from reidlab.errors import InputError

_PACKAGE = Path(__file__).resolve().parents[1]
_IS_CLONE = all((_PACKAGE.parent / name).is_file() for name in ("pyproject.toml", "conf/config.yaml"))
CLONE = _PACKAGE.parent if _IS_CLONE else None
SHIPPED = CLONE or _PACKAGE / "share"  # holds conf/, notebooks/, and the tables and models of data/, as released
CONF = SHIPPED / "conf"


def root() -> Path:
    """The workspace, which holds `runs/`, `data/` and perhaps `conf/` and `notebooks/` of its own.

    It is `$REIDLAB_ROOT`, or the nearest folder with `conf/experiment/` among the working folder and those above it, or
    reidlab's clone, or, without one, the working folder.
    """
    if given := os.environ.get("REIDLAB_ROOT"):
        return Path(given).absolute()
    here = Path.cwd()
    return next((f for f in (here, *here.parents) if (f / "conf" / "experiment").is_dir()), CLONE or here)


def find_files(folder: str, pattern: str) -> dict[str, Path]:
    """Released files of a folder and the workspace's own, by name without suffix; of two namesakes the workspace's."""
    found = {file.stem: file for place in (SHIPPED, root()) for file in (place / folder).glob(pattern)}
    return dict(sorted(found.items()))


def resolve_path(value: str | Path) -> Path:
    """An absolute path: from the working folder where it exists there, else from the workspace.

    Released models are found from anywhere, as `data/models/...`, unless the workspace has one of the same name.
    """
    path = Path(str(value)).expanduser()  # a folder 2024 is a number to Hydra
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(f"{str(path)[:80]}...: {error.strerror}") from error
    if path.is_absolute() or there:
        return path.absolute()
    released = path.parts[:2] == ("data", "models") and (SHIPPED / path).exists() and not (root() / path).exists()
    return (SHIPPED if released else root()) / path


def choices(group: str) -> list[str]:
    """The choices of a config group; empty for anything that is no group."""
    return [*find_files(f"conf/{group}", "[!_]*.yaml")]


def groups() -> list[str]:
    """The config groups."""
    return [name for name, place in find_files("conf", "*").items() if place.is_dir()]
