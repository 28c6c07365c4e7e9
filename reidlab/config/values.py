"""Values of a config: as plain trees, as text that refers to nothing, by dotted key, and held to their bounds."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reidlab.bounds import check_bounds
from reidlab.places import leaves

_REFERENCE = re.compile(r"(\\*)\$\{")  # to another value of a config, or to the environment


def as_config(tree: Mapping[str, Any]) -> DictConfig:
    """A config of plain values, in which no text refers to anything."""
    return OmegaConf.create(as_text(tree))


def settle(cfg: DictConfig, values: Mapping[str, Any]) -> None:
    """Make `as_config(values)` of the config that has these values: few refer to others, so it is soon done."""
    _settle(cfg, written(cfg), as_text(values))


def _settle(cfg: DictConfig, unresolved: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(unresolved[key], dict):
            _settle(cfg[key], unresolved[key], value)
        elif unresolved[key] != value:
            cfg[key] = value


def plain(cfg: Any) -> Any:
    """The values of a config, or of a part of it, as nested dicts and lists."""

    def value_of(parent: Any, key: Any, value: Any) -> Any:
        if isinstance(value, str) and ("${" in value or value == "???"):
            value = parent[key]
            return plain(value) if OmegaConf.is_config(value) else value
        return value

    return _tree(cfg, value_of)


def written(cfg: Any) -> Any:
    """Nested dicts and lists like `plain`'s, with references to other values in the place of these."""
    return _tree(cfg, lambda parent, key, value: value)


def _tree(node: Any, value_of: Callable[[Any, Any, Any], Any]) -> Any:
    """`OmegaConf.to_container` without its checks of each leaf, which took a third of composing's time."""
    content = node._content
    items = content.items() if isinstance(content, dict) else enumerate(content)
    values = {}
    for key, child in items:
        value = child._value()
        values[key] = _tree(child, value_of) if isinstance(value, dict | list) else value_of(node, key, value)
    return values if isinstance(content, dict) else [*values.values()]


def as_yaml(cfg: DictConfig) -> str:
    """A config as plain YAML."""
    return OmegaConf.to_yaml(cfg, resolve=True)


def as_text(node: Any) -> Any:
    r"""Values with each `${` written as `\${`, so that OmegaConf takes it for text."""
    if isinstance(node, Mapping):
        return {key: as_text(child) for key, child in node.items()}
    if isinstance(node, list):
        return [as_text(child) for child in node]
    return _REFERENCE.sub(r"\1\1\\${", node) if isinstance(node, str) else node


def prefixes(key: str) -> Iterator[str]:
    """`a`, `a.b` and `a.b.c` of a dotted key `a.b.c`."""
    parts = key.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def is_like(value: Any, default: Any) -> bool:
    """Whether a value may take the place of a leaf: it is of the same type, or one of them is null or the leaf text."""
    number = int | float
    return (
        default is None
        or value is None
        or isinstance(default, str)
        or isinstance(value, type(default))
        or (isinstance(default, number) and isinstance(value, number) and not isinstance(default, bool))
    )


def check_values(tree: Mapping[str, Any], given: list[str]) -> None:
    """Hold all values to `reidlab.bounds`; of those that depend on each other, a given one is named first."""
    values = leaves(tree)
    named = [key for key in values if {*prefixes(key)} & {*given}]
    check_bounds({key: values[key] for key in [*named, *values]})


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, by the whole name or by its last part, or nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        tails = {k.rpartition(".")[2]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""
