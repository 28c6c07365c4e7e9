"""Settings of other tools, written as an experiment of reidlab."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from reidlab import config
from reidlab.console import log
from reidlab.errors import InputError
from reidlab.files import write_atomic

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of an experiment


def new_name(file: Path, name: str | None) -> str:
    """The name of the experiment to write, by default the file's; InputError where it isn't usable or is taken."""
    name = name or file.stem.replace(".", "_")
    if not NAME.fullmatch(name):
        raise InputError(f"--name={name!r}: not usable as an experiment's name; choose letters, digits, - and _")
    if name in config.choices("experiment"):
        raise InputError(f"experiment={name}: exists already; choose another name")
    return name


def write_experiment(
    name: str,
    origin: str,
    choices: Mapping[str, str],
    values: Mapping[str, Any],
    refused: Mapping[str, str],
    early_stopping: bool = False,
) -> Path:
    """Write `conf/experiment/<name>.yaml`, and log what isn't supported, and why.

    Args:
        name: of the experiment.
        origin: its first comment.
        choices: of config groups.
        values: by dotted key.
        refused: the reason for each key of the other tool that isn't supported.
        early_stopping: whether a training may stop before its last epoch.
    """
    target = config.root() / "conf" / "experiment" / f"{name}.yaml"
    values = {**values, "run.name": name} | ({} if early_stopping else {"callbacks.early_stopping": None})
    unsupported = [_one_line(f"not supported: {key}: {reason}") for key, reason in refused.items()]
    comments = ["@package _global_", _one_line(origin), *unsupported]
    text = "".join(
        [
            *(f"# {comment}\n" for comment in comments),
            yaml.safe_dump({"defaults": [{f"override /{group}": choice} for group, choice in choices.items()]}),
            yaml.safe_dump(config.as_text(_nested(values)), sort_keys=False),
        ]
    )
    write_atomic(target, text)
    for line in unsupported:
        log.info(line)
    log.info(f"{target}: train it with `reidlab train experiment={name}`")
    return target


def read_value(key: str, value: Any, read: Callable) -> Any:
    """A value as `read` understands it; InputError names the key."""
    try:
        return read(value)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise InputError(f"{key}={value}: not understood ({error})") from error


def flat(node: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each leaf; an empty section is a leaf, and one at the top that is null isn't given."""
    for name, child in node.items():
        if isinstance(child, Mapping) and child:
            yield from flat(child, f"{prefix}{name}.")
        elif prefix or child is not None:
            yield f"{prefix}{name}", child


def _one_line(text: str) -> str:
    """Replace line breaks and control characters, by which a comment would end or a terminal be written to."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _nested(values: Mapping[str, Any]) -> dict:
    tree: dict = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
