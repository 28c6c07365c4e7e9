"""Overrides such as `seed=1`: read them, and say precisely what is wrong with one."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from reidlab.bounds import bound_of
from reidlab.config.values import is_like, nearest, prefixes, written
from reidlab.errors import InputError
from reidlab.places import CONF, choices, groups, leaves

PATH_KEYS = ("run.root", "data.root", "data.cache", "model.weights", "track.root")
NAME_KEYS = (
    *("run.name", "evaluate.file", "evaluate.against", "predict.model", "predict.gallery", "distill.teacher"),
    *("predict.out", "gallery.folder", "gallery.model"),
)
PATTERN_KEYS = "gallery.pattern", "predict.pattern", "data.source.pattern", "data.source.camera"
TEXT_KEYS = (*PATH_KEYS, *NAME_KEYS, *PATTERN_KEYS, "data.source.file")  # text whatever it looks like
MEANT = {  # words of other tools, whose nearest key by spelling is another
    **dict.fromkeys(("epochs", "max_epochs", "num_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("lr", "lr0", "learning_rate"), "optimizer.lr"),
    **dict.fromkeys(("batch", "batch_size"), "data.batch_size"),
    **dict.fromkeys(("imgsz", "img_size", "image_size", "size", "height", "width"), "data.size"),
    **dict.fromkeys(("device", "gpu", "cuda"), "trainer.accelerator"),
    **dict.fromkeys(("workers", "num_workers"), "data.num_workers"),
    **dict.fromkeys(("pretrained", "checkpoint", "weights", "resume"), "model.weights"),
    **dict.fromkeys(("project", "output", "output_dir", "save_dir"), "run.root"),
    "dropout": "model.network.dropout",
    **dict.fromkeys(("root", "path", "dataset"), "data.root"),
    "name": "run.name",
}
OF_THE_IMAGES = ("classes", "num_classes", "nc", "class_names")  # counted, not set
ANYWHERE = {"name", "root", "path", "project", "output"}  # words that are keys of many groups
OPTIONAL_GROUPS = ("distill", "experiment")
OPEN_PARTS = ("callbacks", "logger", "loss", "augment")  # their entries are optional, and may be deleted by `~`
OPTIONAL_PARTS = ("data.crop", "task.mix")  # mappings that may be null
FREE_PARTS = "data.source."  # arguments of a class that may be the user's own: `images` is a mapping or a folder


def parse(overrides: list[str]) -> list[Override]:
    """Overrides as Hydra reads them; InputError, with how to write it, for one that can't be read."""
    parsed: list[Override] = []
    for override in overrides:
        found = _read_override(override)
        if found is None:
            before = parsed[-1].input_line if parsed else None
            raise InputError(f"override not understood: {override}; {_how_to_write(override, before)}")
        parsed.append(found)
    return parsed


def keys_of(overrides: Iterable[str]) -> set[str]:
    """The keys and groups that overrides set."""
    return {key_of(override) for override in overrides}


def latest(overrides: Iterable[str]) -> dict[str, str]:
    """The last override of each key or group."""
    return {key_of(override): override for override in overrides}


def key_of(override: str) -> str:
    """The key or group that an override sets."""
    return parse([override])[0].key_or_group


def _read_override(override: str) -> Override | None:
    """An override as Hydra reads it, a path or a name as text whatever it holds; None where it can't be read."""
    key, _, value = override.partition("=")
    found = _by_hydra(override)
    if key.lstrip("+") in TEXT_KEYS and value:
        types = str | None if key.lstrip("+") in (*NAME_KEYS, *PATTERN_KEYS) else str | list | dict | None
        kept = found and not found.is_sweep_override() and isinstance(found.value(), types)
        return found if kept else _by_hydra(f"{key}={quoted(value)}")
    return None if found and found.is_sweep_override() else found


def _by_hydra(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def quoted(value: str) -> str:
    """A value in the quotes that make Hydra read it as text."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'


def _how_to_write(override: str, before: str | None) -> str:
    """How to write an override that can't be read, by its own example."""
    key, equals, value = override.partition("=")
    if not equals:
        joined = f"; if it belongs to the one before it, {shlex.quote(f'{before} {override}')}" if before else ""
        return f"write key=value{joined}"
    items = value[1:-1].split(",") if value[:1] == "[" and value[-1:] == "]" else None
    text = quoted(value) if items is None else f"[{','.join(quoted(item.strip()) for item in items)}]"
    example = f"{key}={text}"
    return (
        f"quote its value, once for Hydra and once for the shell: {shlex.quote(example)}"
        if _by_hydra(example)
        else "write key=value, lists as [a,b]"
    )


def check_choice(override: Override) -> None:
    """Raise InputError, with the nearest choice, where an override chooses what a group hasn't."""
    group, choice = override.key_or_group, override.value()
    known = choices(group)
    if known and override.is_delete() and group not in OPTIONAL_GROUPS:
        raise InputError(f"~{group}: it can't be left out; choose {group}=NAME, of {', '.join(known)}")
    if known and choice not in known and not (choice is None and group in OPTIONAL_GROUPS):
        raise InputError(f"{group}={choice}: no such choice{nearest(str(choice), known)}; there are {', '.join(known)}")


def _meant(key: str, known: Collection[str]) -> str:
    """Guess what an unknown key was meant to be, by the words of other tools, else by its spelling."""
    word = key.rpartition(".")[2]
    if word in OF_THE_IMAGES:
        return ", it follows from the images: see data=class_folders and data=class_csv, or data=folders for identities"
    meant = MEANT.get(key if word in ANYWHERE else word)
    return f"; did you mean {meant}?" if meant in known else nearest(key, [*known, *groups()])


def check_keys(overrides: list[Override], defaults: DictConfig) -> None:
    """Raise InputError, with the nearest key, for a key that a config hasn't, and for a value of another type."""
    values = leaves(written(defaults))
    known = {prefix for leaf in values for prefix in prefixes(leaf)}
    for override in overrides:
        if not (override.is_add() or override.is_force_add()):
            _check_override(override, values, known)


def check_file(settings: DictConfig, defaults: DictConfig, chosen: Collection[str]) -> None:
    """Raise InputError likewise for what a file of an experiment sets.

    Keys of objects, which building them holds to their arguments, and of `OPEN_PARTS` may be new.

    Args:
        settings: of the file alone.
        defaults: the config without experiments.
        chosen: groups whose choice isn't the experiment's: what doesn't fit that is left out later.
    """
    values, own = leaves(written(defaults)), leaves(written(settings))
    known = {prefix for leaf in values for prefix in prefixes(leaf)}
    objects = {key.removesuffix("._target_") for key in (*values, *own) if key.endswith("._target_")}
    for key, value in own.items():
        group = key.partition(".")[0]
        if group in (*chosen, "hydra", ""):  # Hydra's own, of an experiment that other programs read, too
            continue
        above = [prefix for prefix in prefixes(key) if prefix in known]
        if key in known:
            _check_value(key, value, values)
        elif above and above[-1] in values:
            _check_value(above[-1], {key.removeprefix(f"{above[-1]}."): value}, values)
        elif value != {} and group not in OPEN_PARTS and not objects & {*prefixes(key)}:
            raise _unknown(key, known)


def _check_override(override: Override, values: Mapping[str, Any], known: set[str]) -> None:
    key = override.key_or_group
    if key not in known:
        raise _unknown(key, known)
    if override.is_delete():
        if key.rpartition(".")[0] not in OPEN_PARTS:
            example = f"give it a value, as in {key}={values[key]}" if key in values else "set what is in it instead"
            raise InputError(f"~{key}: no setting can be deleted; {example}")
        return
    _check_value(key, override.value(), values)


def _unknown(key: str, known: Collection[str]) -> InputError:
    return InputError(f"{key}: no such key{_meant(key, known)}; `reidlab config` prints all, {CONF} explains them")


def _check_value(key: str, value: Any, values: Mapping[str, Any]) -> None:
    """Raise InputError for a value of another type than the default's, or in place of a mapping of settings."""
    if str(value).startswith("${"):
        return
    if key in values:
        default, bound = values[key], bound_of(key)
        if not (is_like(value, default) or (bound and bound.holds(value))):
            raise InputError(f"{key}={value!r}: expected {type(default).__name__}, as in {key}={default}")
    elif not (isinstance(value, Mapping) or key.startswith(FREE_PARTS) or (value is None and _may_be_null(key))):
        switch = f"{key}.enabled"
        inside = [leaf for leaf in values if leaf.startswith(f"{key}.") and not leaf.endswith("._target_")]
        example = f"{switch}=true" if switch in values else (inside or [f"{key}._target_"])[0]
        raise InputError(f"{key}={value}: it has settings of its own; set these, as in {example}")


def _may_be_null(section: str) -> bool:
    return section in (*OPTIONAL_PARTS, *OPTIONAL_GROUPS) or section.partition(".")[0] in OPEN_PARTS
