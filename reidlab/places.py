"""Places: the workspace and the released files, and what is found in them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidlab.errors import InputError
from reidlab.files import read_yaml

_PACKAGE = Path(__file__).resolve().parent
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
    path = expanded(str(value))  # a folder 2024 is a number to Hydra
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(f"{str(path)[:80]}...: {error.strerror}") from error
    if path.is_absolute() or there:
        return path.absolute()
    released = path.parts[:2] == ("data", "models") and (SHIPPED / path).exists() and not (root() / path).exists()
    return (SHIPPED if released else root()) / path


def expanded(path: str | Path) -> Path:
    """The path with `~` or `~name` replaced by a home; as it is where nobody has the name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path's own fails at such a name


def choices(group: str) -> list[str]:
    """The choices of a config group; empty for anything that is no group."""
    return [*find_files(f"conf/{group}", "[!_]*.yaml")]


def config_files(place: Path) -> list[Path]:
    """The YAML files of a `conf/`, also of groups that are links to folders."""
    links = (folder for folder in place.glob("*") if folder.is_symlink())  # which rglob doesn't follow
    return [*place.rglob("*.yaml"), *(file for folder in links for file in folder.glob("*.yaml"))]


def groups() -> list[str]:
    """The config groups."""
    return [name for name, place in find_files("conf", "*").items() if place.is_dir()]


def group_keys(group: str) -> list[str]:
    """The dotted keys below a config group, or below a part of `conf/config.yaml`: those of all files that may set it.

    Read as plain YAML, since a shell that completes a word can't wait until a config is composed.
    """
    groups_within = {f"${{{name}}}": name for name in groups()}
    found = set()
    for part in (read_yaml(CONF / "config.yaml").get(group, {}), *map(read_yaml, _files_of(group))):
        for key, value in leaves(part).items():
            found.add(f"{group}.{key}")
            if within := groups_within.get(str(value)):
                found |= {name.replace(within, f"{group}.{key}", 1) for name in group_keys(within)}
    return sorted(found - {f"{group}.", f"{group}.defaults"})


def _files_of(group: str) -> list[Path]:
    """The files of a group that set keys below it; an experiment sets others."""
    return [] if group == "experiment" else [*find_files(f"conf/{group}", "*.yaml").values()]


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of nested dicts."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in leaves(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
