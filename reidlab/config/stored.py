"""The configs in run folders: written, read as data, with overrides on top, and compared."""

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from reidlab.config.build import require_known
from reidlab.config.composition import check_normalization, compose, composed
from reidlab.config.earlier import NOT_OF_CLASSES, RENAMED_KEYS, RENAMED_VALUES, modernize
from reidlab.config.overrides import keys_of, latest, parse, quoted
from reidlab.config.values import as_config, as_text, as_yaml, check_values, is_like, nearest, plain
from reidlab.errors import InputError, one_line
from reidlab.files import read_yaml, write_atomic
from reidlab.places import choices, leaves, resolve_path

# A stage that follows training can do without a run where one of these says what to work on.
SOURCES = ("data", "experiment", "model", "model.weights", "evaluate.file", "predict.model")
# Ends of keys of where a run writes, or sends to: a stored one says nothing
PLACES = (
    *("dirpath", "save_dir", "base_url", "tracking_uri", "out"),
    *("gallery.folder", "predict.ray", "track.root"),
)
# Said of a file from elsewhere, or of a data set: it counts no longer where another one is chosen
OF_A_FILE = tuple(f"evaluate.{key}" for key in ("file", "mean", "std", "color_order", "output"))
OF_PLACES = ("model.weights", "evaluate.file", "data.root")
OF_A_DATA_SET = tuple(f"data.{key}" for key in ("root", "source", "name", "about", "exclude_same_camera"))
STORED = {  # schema of a run's config.yaml
    "run": (None, {"overrides": (None, [str])}),
    "task": (None, {}),
    "data": (None, {}),
    "model": (None, {"network": (None, {})}),
}
LONGEST_NAME = 200  # bytes, of a run: file systems allow 255, and files have longer names while they are written
# What a trained network depends on; anything else may change between the parts of one run.
TRAINING_KEYS = (
    *("seed", "task", "data", "model", "augment", "loss", "regime", "distill"),
    *("optimizer", "schedule", "trainer", "callbacks"),
)
NEUTRAL_KEYS = re.compile(  # the machine's, and what is only said of the data
    r"data\.(num_workers|cache|about)(\..*)?|trainer\.(accelerator|devices|num_nodes)|.*\.(root|dirpath)(\..*)?"
)


def compose_for(run_of: Iterable[str]) -> DictConfig:
    """The config of a stage that follows training: the run folder's own, with the overrides given now on top.

    Raises InputError, with the nearest name, where there is no such run and no override says what else to work on.
    """
    overrides = list(run_of)
    new = compose(overrides)
    folder = run_folder(new)
    if not (folder / "config.yaml").exists():
        if not keys_of(overrides) & {*SOURCES}:
            raise no_such_run(folder.name, folder.parent)
        return new
    cfg = stored_config(folder, overrides)
    cfg.run = as_text({**plain(new.run), "overrides": plain(cfg.run.overrides)})
    return cfg


def compose_to_begin(overrides: Iterable[str], trains: bool) -> DictConfig:
    """The config of the stages `data` and `train`, of which the second `trains`: they begin a run, or go on with one.

    Where `run.name` names a folder that has a config, and neither data nor an experiment is chosen, it is that config
    with the overrides on top: what was said once needn't be said again.
    """
    overrides = list(overrides)
    new, given = compose(overrides), keys_of(overrides)
    folder = run_folder(new)
    if "run.name" not in given or given & {"data", "experiment"} or not (folder / "config.yaml").exists():
        return new
    cfg = stored_config(folder, overrides, trains)
    on_top = _on_top(cfg.run.overrides, new.run.overrides, trains or is_begun(folder))
    cfg.run = as_text({**plain(new.run), "overrides": [*on_top.values()]})
    return cfg


def no_such_run(name: str, place: Path) -> InputError:
    """The error that there is no run of that name in a folder, with the nearest name that there is."""
    known = sorted(file.parent.name for file in place.glob("[!.]*/config.yaml"))
    what = "it holds no config.yaml, and so is no run" if (place / name).exists() else f"no such run in {place}"
    listed = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    guess = nearest(name, known) or (f"; there are {listed}" if known else "; `reidlab train` makes one")
    return InputError(f"run.name={name}: {what}{guess}")


def stored_config(folder: Path, overrides: Iterable[str] = (), own_network: bool = False) -> DictConfig:
    """The config in a run folder, with overrides on top; keys that it lacks are those of its own overrides.

    The file may be somebody else's and is data: it decides on values, not on what is built nor where it is written.
    Raises InputError where it has a mapping or a `_target_` that the composed config hasn't.

    Args:
        folder: of the run.
        overrides: given now.
        own_network: whether the run is to be about its own network, as one that was trained is: a file from elsewhere
            that it evaluated earlier is left out.
    """
    own_network |= is_begun(folder)
    file, silent = folder / "config.yaml", OF_A_FILE if own_network else ()
    stored = _read(file)
    place = {"root": str(folder.parent.absolute()), "name": folder.name}
    here = [f"run.{key}={quoted(as_text(value))}" for key, value in place.items()]
    try:
        earlier = _stored_overrides(stored, silent)
        then = _composed_again([*earlier, *here], file)
        new = {key: o for key, o in latest(overrides).items() if key not in ("run.root", "run.name")}
        now = composed(_on_top([*earlier, *here], new.values(), own_network).values()) if new else then
        given = {key for key in new if not choices(key) or key not in TRAINING_KEYS}
        merged = _merge(stored, plain(then), plain(now), given | {*silent})
        cfg = as_config(merged)
    except (ValueError, OmegaConfBaseException) as error:
        raise InputError(f"{file}: {one_line(error)}; mend it, or choose another run.name") from error
    cfg.run = as_text({**plain(now.run), **place, "overrides": earlier})
    check_values(merged, [])
    check_normalization(merged, str(file))
    return cfg


def is_place(key: str) -> bool:
    """Whether a dotted key says where a run writes, or sends to."""
    return f".{key}".endswith(tuple(f".{place}" for place in PLACES))


def is_begun(folder: Path) -> bool:
    """Whether a run folder holds a network that was trained there, which the run is then about."""
    return any((folder / "checkpoints" / f"{name}.ckpt").exists() for name in ("best", "last"))


def _on_top(earlier: Iterable[str], given: Iterable[str], own_network: bool = False) -> dict[str, str]:
    """By key, overrides with others on top, without what was said of something that another one takes the place of.

    A target begins anew where it is chosen, and a data set, a file from elsewhere and, unless it is the run's own, a
    network where another one is.
    """
    old, new = latest(earlier), latest(given)
    gone = [f"{key}." for key in new if choices(key) and key not in TRAINING_KEYS]
    changed = {key for key in new if key in OF_PLACES and _path(new[key]) != _path(old.get(key))}
    changed |= _changed_groups(old, new)
    if "data" in changed:
        gone += OF_A_DATA_SET
    if "data.root" in changed & old.keys() and not own_network:
        gone += ["data.name", "data.about"]
    if changed & {"model", "model.weights", "evaluate.file"} and not own_network:
        gone += [
            *OF_A_FILE,
            "evaluate.distance",
            *(["model."] if {*new, *changed} & {"model", "evaluate.file"} else []),
        ]
    return {key: override for key, override in old.items() if not key.startswith(tuple(gone))} | new


def _path(override: str | None) -> Path | None:
    """The path that an override gives, however it is written."""
    value = parse([override])[0].value() if override else None
    return resolve_path(str(value)) if value else None


def _changed_groups(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """The groups that new choices, of an experiment too, lead to other settings of than earlier ones do."""
    before, chosen = ({key: o for key, o in each.items() if choices(key)} for each in (old, new))
    then, now = (composed(each.values()) for each in (before, before | chosen)) if chosen else ({}, {})
    return {group for group in then if then[group] != now.get(group)}


def _composed_again(overrides: list[str], file: Path) -> DictConfig:
    try:
        return composed(overrides)
    except InputError as error:
        raise InputError(
            f"{file}: can't be composed again here ({error}); where its conf/ is elsewhere, work there (REIDLAB_ROOT)"
        ) from error


def read_config(file: Path) -> DictConfig:
    """A config written by `write_config`, in the present spelling whatever release wrote it."""
    content = _read(file)
    try:
        return as_config(content)
    except (ValueError, OmegaConfBaseException) as error:
        raise InputError(
            f"{file}: not readable as a config ({one_line(error)}); mend it, or choose another run.name"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    return modernize(read_yaml(file, STORED))


def write_config(cfg: DictConfig, file: Path, given: Iterable[str] = ()) -> Path:
    """Write the config as plain YAML, with overrides that were given on top of its own among these."""
    if given:
        cfg = cfg.copy()
        cfg.run.overrides = as_text([*_on_top(cfg.run.overrides, given).values()])
    return write_atomic(file, as_yaml(cfg))


def run_folder(cfg: DictConfig) -> Path:
    """`runs/<name>` of this config."""
    name = "" if cfg.run.name is None else str(cfg.run.name)
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"run.name={name[:20]}...: {len(name)} characters; a folder's name has {LONGEST_NAME} at most")
    if not name.strip() or name.startswith(".") or any(c in name for c in '/\\:*?"<>|\n'):
        raise InputError(f"run.name={name}: not usable as a folder's name; choose letters, digits, - and _")
    root = Path(str(cfg.run.root))
    if blocked := next(
        (place for place in (root / name, root, *root.parents) if place.exists() and not place.is_dir()), None
    ):
        raise InputError(f"run.root={root}: {blocked} is no folder; choose another")
    return root / name


def training_differences(stored: Mapping, new: Mapping) -> list[str]:
    """Lines `key: old -> new` for all that a trained network depends on and that differs between two configs."""
    then, now = training_settings(stored), training_settings(new)
    return [
        f"{key}: {then.get(key)} -> {now.get(key)}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key)
    ]


def training_settings(cfg: Mapping) -> dict[str, Any]:
    """Dotted key -> value of all that a trained network depends on."""
    values = leaves({key: cfg[key] for key in TRAINING_KEYS if key in cfg})
    return {key: value for key, value in values.items() if not NEUTRAL_KEYS.fullmatch(key)}


def _stored_overrides(stored: Mapping[str, Any], silent: Collection[str]) -> list[str]:
    """The overrides of a stored config in the present spelling, but for keys that are `silent` or decided on elsewhere.

    Of one that refers to other values, the value that it led to is stored. ValueError for one that adds a `_target_`.
    """
    gone = [f"data.{key}" for key in NOT_OF_CLASSES if key not in (stored.get("data") or {})]
    modern = []
    for override in (stored.get("run") or {}).get("overrides") or []:
        key, equals, value = override.partition("=")
        for old, new in RENAMED_VALUES.items():
            value = value.replace(old, new)
        override = f"{RENAMED_KEYS.get(key, key)}{equals}{value if '${' not in value else 'null'}"
        parsed = parse([override])[0]
        named, adds = parsed.key_or_group, parsed.is_add() or parsed.is_force_add()
        if (adds and "_target_" in named) or _names_target(parsed.value()):
            raise ValueError(f"run.overrides: {override} adds a _target_")
        elsewhere = named.partition(".")[0] in ("hydra", "run") or is_place(named) or named in silent
        if not (elsewhere or key in gone or ("${" in value and not adds)):
            modern.append(override)
    return modern


def _names_target(value: Any) -> bool:
    """Whether a value of an override holds a mapping with a `_target_`."""
    if isinstance(value, Mapping):
        return "_target_" in map(str, value) or any(map(_names_target, value.values()))
    return isinstance(value, list) and any(map(_names_target, value))


def _merge(stored: Any, then: Any, now: Any, given: Collection[str], key: str = "") -> Any:
    """Three-way merge: what the new overrides give or change comes from `now`, all the rest from `stored`.

    What is stored has the shape of `now`: ValueError for a mapping in the place of a leaf, or the other way round, and
    for a value of another type (lists have bounds); InputError for a `_target_` that isn't known.
    """
    if isinstance(now, dict) and isinstance(stored, dict) and key not in given:
        then = then if isinstance(then, dict) else {}
        below = f"{key}." if key else ""
        return {k: _merge(stored[k], then.get(k), now[k], given, f"{below}{k}") if k in stored else now[k] for k in now}
    name = key.rpartition(".")[2]
    if then != now or key in given or is_place(key) or stored == now:
        return now
    if isinstance(now, dict) or isinstance(stored, dict) or not (isinstance(now, list) or is_like(stored, now)):
        is_now, was = ("a mapping" if isinstance(n, dict) else f"{n!r:.60}" for n in (now, stored))
        raise ValueError(f"{key} is {was}, where this release and its conf/ have {is_now}")
    if isinstance(stored, list):
        like = now if isinstance(now, list) and len(now) == len(stored) else [None] * len(stored)
        return [_merge(*each, given, f"{key}[{n}]") for n, each in enumerate(zip(stored, like, like, strict=True))]
    if name == "_target_":
        require_known(stored)
    return stored
