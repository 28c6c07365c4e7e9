"""Objects of config nodes: what a `_target_` names is built, where a file of `conf/` names it."""

import functools
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from reidlab.config.values import nearest, plain
from reidlab.errors import InputError, one_line
from reidlab.places import CONF, config_files, root

RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # keys of a node that are no arguments
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def instantiate(node: Any, **changes: Any) -> Any:
    """Build what a config node's `_target_` names, and what the nodes below it name, as `hydra.utils.instantiate` does.

    Only a `_target_` that a file of `conf/` names is built, of the released one or the workspace's own. Raises
    InputError for any other, and, by its key, for a value that doesn't fit it.

    Args:
        node: a mapping; without a `_target_`, the values that it holds are built.
        changes: arguments in the place of the node's or beside them, taken as they are.
    """
    if OmegaConf.is_config(node):
        return _build(plain(node), changes, node._get_full_key(""))
    return _build(node, changes, "")


def _build(node: Any, changes: Mapping[str, Any], key: str) -> Any:
    if isinstance(node, list):
        return [_build(child, {}, f"{key}[{at}]") for at, child in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    target, deep = node.get("_target_"), node.get("_recursive_", True)
    children = {key: child for key, child in node.items() if key not in RESERVED and key not in changes}
    below = f"{key}." if key else ""
    if target is not None:
        require_known(target)
        _require_arguments(target, children, below)
    built = {name: _build(child, {}, f"{below}{name}") if deep else child for name, child in children.items()}
    arguments = built | dict(changes)
    if target is None:
        return arguments
    try:
        first = _build(node.get("_args_", []), {}, f"{below}_args_")
        made = functools.partial(pkgutil.resolve_name(target), *first, **arguments)
        return made if node.get("_partial_") else made()
    except InputError:
        raise
    except Exception as error:  # whatever the target makes of its arguments
        if (unknown := _UNEXPECTED.search(str(error))) and unknown[1] in children:
            raise InputError(f"{below}{unknown[1]}: {target} has no such argument; leave it out") from error
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{below or 'config.'}*: {target} can't be built ({reason})") from error


def _require_arguments(target: str, names: Iterable[str], below: str) -> None:
    """InputError for a name that the target hasn't among its arguments."""
    try:
        arguments = inspect.signature(pkgutil.resolve_name(target)).parameters
    except (ImportError, AttributeError, ValueError, TypeError):  # absent, which building it says, or written in C
        return
    unknown = [name for name in names if name not in arguments]
    if unknown and inspect.Parameter.VAR_KEYWORD not in {argument.kind for argument in arguments.values()}:
        guess = nearest(unknown[0], arguments)
        raise InputError(f"{below}{unknown[0]}: {target} has no such argument{guess or '; leave it out'}")


_named_in: dict[str, Path] = {}  # where each target was found last


def require_known(target: Any) -> None:
    """Raise InputError for a `_target_` that no file of the released `conf/` or of the workspace's names."""
    if not (isinstance(target, str) and _is_named(target)):
        raise InputError(
            f"_target_: {target} is named by no file of conf/ and isn't built; to use it, name it in a yaml "
            f"of {root() / 'conf'}"
        )


def _is_named(target: str) -> bool:
    places = CONF, root() / "conf"
    last = _named_in.get(target)
    if last and any(last.is_relative_to(place) for place in places) and target in _targets_of(last):
        return True
    for file in (file for place in places for file in config_files(place)):
        if target in _targets_of(file):
            _named_in[target] = file
            return True
    return False


def _targets_of(file: Path) -> frozenset[str]:
    """The `_target_`s that a file of `conf/` names; none where it can't be read, which Hydra says when it is chosen."""
    try:
        return _targets_then(file, file.stat().st_ctime_ns)
    except (OSError, yaml.YAMLError, ValueError):
        return frozenset()


@functools.lru_cache(maxsize=4096)
def _targets_then(file: Path, changed_ns: int) -> frozenset[str]:
    return frozenset(_targets_in(yaml.load(file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))))


def _targets_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["_target_"]] if isinstance(node.get("_target_"), str) else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _targets_in(child)
