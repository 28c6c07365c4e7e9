"""Find the workspace, compose a config, say precisely what is wrong with an override, and build what a config names."""

import difflib
import functools
import os
import pkgutil
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reidlab.bounds import check_bounds
from reidlab.errors import InputError
from reidlab.files import read_yaml, write_atomic

_PACKAGE = Path(__file__).resolve().parent
_IS_CLONE = all((_PACKAGE.parent / name).is_file() for name in ("pyproject.toml", "conf/config.yaml"))
CLONE = _PACKAGE.parent if _IS_CLONE else None
SHIPPED = CLONE or _PACKAGE / "share"  # holds conf/, notebooks/, and the tables and models of data/, as released
CONF = SHIPPED / "conf"
PATH_KEYS = ("run.root", "data.root", "data.cache", "model.weights")
NAME_KEYS = (
    *("run.name", "evaluate.file", "evaluate.against", "predict.model", "predict.gallery", "distill.teacher"),
    *("gallery.folder", "gallery.model"),
)
TEXT_KEYS = (*PATH_KEYS, *NAME_KEYS, "data.source.file")  # text whatever it looks like
RESERVED = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")  # keys of a node that are no arguments
OPTIONAL_GROUPS = ("distill", "experiment")
# A stage that follows training can do without a run where one of these says what to work on.
SOURCES = ("data", "experiment", "model", "model.weights", "evaluate.file", "predict.model")
PLACES = ("dirpath", "save_dir", "base_url")  # keys of where a run writes, or sends to: a stored one says nothing
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

MOVED_MODULES = {  # of classes in configs that earlier releases stored
    "reidlab.tasks": "reidlab.training.tasks",
    "reidlab.losses": "reidlab.training.losses",
    "reidlab.optimizers": "reidlab.training.optimizers",
    "reidlab.schedules": "reidlab.training.schedules",
    "reidlab.callbacks": "reidlab.training.callbacks",
    "reidlab.regimes": "reidlab.training.finetuning",
    "reidlab.distill": "reidlab.training.distillation",
}
RENAMED_KEYS = {
    "regime.trunk_rate": "regime.backbone_lr_scale",
    "data.about.licence": "data.about.license",
    "card.licence": "card.license",
}
RENAMED_VALUES = {"colour-histogram": "color-histogram"}
_REFERENCE = re.compile(r"(\\*)\$\{")  # to another value of a config, or to the environment
NOT_OF_CLASSES = ("num_instances", "camera_balanced", "class_balanced", "exclude_same_camera")  # keys of `data`


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


class _WorkspaceConfigs(SearchPathPlugin):
    """Lets Hydra look into `conf/` of the workspace before it looks into the released one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own, released = str(root() / "conf"), str(CONF)
        if own != released and any(element.path == released for element in search_path.get_path()):
            search_path.prepend("workspace", own, SearchPathQuery(path=released))


def compose(overrides: Iterable[str] = ()) -> DictConfig:
    """The resolved config of `conf/config.yaml` under Hydra overrides such as `data=market1501` or `seed=1`.

    Files in `conf/` of the workspace are found beside the released ones, and in place of one with the same name.
    Relative paths are resolved by `resolve_path`.
    Raises InputError for a key, group or choice that doesn't exist (naming the nearest one that does), and for a
    value of another type than the default's, or out of its bound.
    """
    overrides = list(overrides)
    parsed = _parse(overrides)
    for override in parsed:
        _check_choice(override)
    absent = [o.key_or_group for o in parsed if o.key_or_group in OPTIONAL_GROUPS and o.value() is None]
    parsed = [o for o in parsed if o.key_or_group not in absent]  # Hydra knows no group=null on the command line
    Plugins.instance().register(_WorkspaceConfigs)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            defaults = hydra_compose("config", [str(o.input_line) for o in parsed if choices(o.key_or_group)])
            for override in parsed:
                if not choices(override.key_or_group):
                    _check_key(override, defaults)
            cfg = hydra_compose("config", [str(o.input_line) for o in parsed])
            OmegaConf.set_struct(cfg, False)
            for group in absent:
                cfg.pop(group, None)
            for key in PATH_KEYS:
                if value := OmegaConf.select(cfg, key):
                    OmegaConf.update(cfg, key, as_text(str(resolve_path(value))))
            cfg = as_config(plain(cfg))
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(f"config: {_one_line(error)}") from error
    _check_values(cfg, [o.key_or_group for o in parsed if not choices(o.key_or_group)])
    cfg.run.overrides = as_text([o for o in overrides if not o.startswith("run.")])
    return cfg


def compose_for(run_of: Iterable[str]) -> DictConfig:
    """The config of a stage that follows training: the run folder's own, with the overrides given now on top.

    Raises InputError, with the nearest name, where there is no such run and no override says what else to work on.
    """
    overrides = list(run_of)
    new = compose(overrides)
    folder = run_folder(new)
    if not (folder / "config.yaml").exists():
        if not _keys_of(overrides) & {*SOURCES}:
            raise no_such_run(folder.name, folder.parent)
        return new
    cfg = stored_config(folder, overrides)
    cfg.run = as_text({**plain(new.run), "overrides": plain(cfg.run.overrides)})
    return cfg


def compose_to_train(overrides: Iterable[str]) -> DictConfig:
    """The config of the stages `data` and `train`, which begin a run, or go on with one.

    Where `run.name` names a folder that has a config, and neither data nor an experiment is chosen, it is that config
    with the overrides on top: what was said once needn't be said again.
    """
    overrides = list(overrides)
    new, given = compose(overrides), _keys_of(overrides)
    folder = run_folder(new)
    if "run.name" not in given or given & {"data", "experiment"} or not (folder / "config.yaml").exists():
        return new
    cfg = stored_config(folder, overrides)
    both = {_key_of(o): o for o in [*cfg.run.overrides, *new.run.overrides]}
    cfg.run = as_text({**plain(new.run), "overrides": [*both.values()]})
    return cfg


def no_such_run(name: str, place: Path) -> InputError:
    """The error that there is no run of that name in a folder, with the nearest name that there is."""
    known = sorted(file.parent.name for file in place.glob("[!.]*/config.yaml"))
    what = "it holds no config.yaml, and so is no run" if (place / name).exists() else f"no such run in {place}"
    listed = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
    guess = _nearest(name, known) or (f"; there are {listed}" if known else "; `reidlab train` makes one")
    return InputError(f"run.name={name}: {what}{guess}")


def stored_config(folder: Path, overrides: Iterable[str] = ()) -> DictConfig:
    """The config in a run folder, with overrides on top; keys that it lacks are those of its own overrides.

    The file may be somebody else's and is data: it decides on values, not on what is built nor where it is written.
    Raises InputError where it has a mapping or a `_target_` that the composed config hasn't.
    """
    file, stored = folder / "config.yaml", plain(read_config(folder / "config.yaml"))
    place = {"root": str(folder.parent.absolute()), "name": folder.name}
    here = [f"run.{key}={_quoted(as_text(value))}" for key, value in place.items()]
    try:
        earlier = _stored_overrides(stored)
        then = compose([*earlier, *here])
        both = {_key_of(o): o for o in [*earlier, *here, *overrides]}
        now = compose(both.values())
        cfg = as_config(_merge(stored, plain(then), plain(now)))
    except ValueError as error:
        raise InputError(f"{file}: {error}; mend it, or choose another run.name") from error
    cfg.run = as_text({**plain(now.run), **place, "overrides": earlier})
    _check_values(cfg, [])
    return cfg


def read_config(file: Path) -> DictConfig:
    """A config written by `write_config`, in the present spelling whatever release wrote it."""
    content = read_yaml(file, STORED)
    try:
        return as_config(modernize(content))
    except (ValueError, OmegaConfBaseException) as error:
        raise InputError(
            f"{file}: not readable as a config ({_one_line(error)}); mend it, or choose another run.name"
        ) from error


def as_config(tree: Mapping[str, Any]) -> DictConfig:
    """A config of plain values, in which no text refers to anything."""
    return OmegaConf.create(as_text(tree))


def plain(cfg: Any) -> Any:
    """The values of a config, or of a part of it, as nested dicts and lists."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def as_text(node: Any) -> Any:
    r"""The same values with `${` written as `\${`, which is how OmegaConf says that nothing is to be put there."""
    if isinstance(node, Mapping):
        return {key: as_text(child) for key, child in node.items()}
    if isinstance(node, list):
        return [as_text(child) for child in node]
    return _REFERENCE.sub(r"\1\1\\${", node) if isinstance(node, str) else node


def modernize(config: Any) -> Any:
    """A stored config in the present spelling: classes that have moved, keys and values that have other names."""
    config = _with_moved_targets(config)
    for old, new in RENAMED_KEYS.items():
        *parents, name = old.split(".")
        node = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            node[new.rpartition(".")[2]] = node.pop(name)
    task, data = config.get("task"), config.get("data")
    if isinstance(task, dict) and "kind" not in task:
        task["kind"] = "classification" if str(task.get("_target_")).endswith("ClassificationTask") else "reid"
    if isinstance(data, dict) and str(data.get("_target_")).endswith("ClassDataModule"):
        for key in NOT_OF_CLASSES:
            data.pop(key, None)
    elif isinstance(data, dict) and "exclude_same_camera" in data:
        data.setdefault("val_identities", 1)
    best = config["callbacks"].get("best") if isinstance(config.get("callbacks"), dict) else None
    if isinstance(best, dict) and str(best.get("_target_")).endswith(".ModelCheckpoint"):
        best["_target_"] = "reidlab.training.callbacks.BestEpoch"
    return config


def _with_moved_targets(node: Any) -> Any:
    if isinstance(node, dict):
        moved = {key: _with_moved_targets(value) for key, value in node.items()}
        if isinstance(target := moved.get("_target_"), str):
            module, _, name = target.rpartition(".")
            moved["_target_"] = f"{MOVED_MODULES.get(module, module)}.{name}"
        return moved
    if isinstance(node, list):
        return [_with_moved_targets(item) for item in node]
    return RENAMED_VALUES.get(node, node) if isinstance(node, str) else node


def _stored_overrides(stored: Mapping[str, Any]) -> list[str]:
    """The overrides of a stored config in the present spelling, without those that its data or its folder decides on.

    Of one that refers to other values, the value that it led to is stored. ValueError for one that adds a `_target_`.
    """
    gone = [f"data.{key}" for key in NOT_OF_CLASSES if key not in (stored.get("data") or {})]
    modern = []
    for override in (stored.get("run") or {}).get("overrides") or []:
        key, equals, value = override.partition("=")
        for old, new in RENAMED_VALUES.items():
            value = value.replace(old, new)
        override = f"{RENAMED_KEYS.get(key, key)}{equals}{value if '${' not in value else 'null'}"
        parsed = _parse([override])[0]
        named, adds = parsed.key_or_group, parsed.is_add() or parsed.is_force_add()
        if (adds and "_target_" in named) or _names_target(parsed.value()):
            raise ValueError(f"run.overrides: {override} adds a _target_")
        elsewhere = named.partition(".")[0] in ("hydra", "run") or named.rpartition(".")[2] in PLACES
        if not (elsewhere or key in gone or ("${" in value and not adds)):
            modern.append(override)
    return modern


def _names_target(value: Any) -> bool:
    """Whether a value of an override holds a mapping with a `_target_`."""
    if isinstance(value, Mapping):
        return "_target_" in map(str, value) or any(map(_names_target, value.values()))
    return isinstance(value, list) and any(map(_names_target, value))


def write_config(cfg: DictConfig, file: Path) -> Path:
    """Write the config as plain YAML."""
    return write_atomic(file, OmegaConf.to_yaml(cfg, resolve=True))


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
    leaves = _leaves({key: cfg[key] for key in TRAINING_KEYS if key in cfg})
    return {key: value for key, value in leaves.items() if not NEUTRAL_KEYS.fullmatch(key)}


def instantiate(node: Any, **changes: Any) -> Any:
    """Build what a config node's `_target_` names, and what the nodes below it name, as `hydra.utils.instantiate` does.

    Only a `_target_` that a file of `conf/` names is built, of the released one or the workspace's own. Raises
    InputError for any other, and where the values don't fit it.

    Args:
        node: a mapping; without a `_target_`, the values that it holds are built.
        changes: arguments in the place of the node's or beside them, taken as they are.
    """
    return _build(plain(node) if OmegaConf.is_config(node) else node, changes)


def _build(node: Any, changes: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_build(child, {}) for child in node]
    if not isinstance(node, Mapping):
        return node
    target, deep = node.get("_target_"), node.get("_recursive_", True)
    children = {key: child for key, child in node.items() if key not in RESERVED and key not in changes}
    arguments = {key: _build(child, {}) if deep else child for key, child in children.items()} | dict(changes)
    if target is None:
        return arguments
    require_known(target)
    try:
        made = functools.partial(pkgutil.resolve_name(target), *_build(node.get("_args_", []), {}), **arguments)
        return made if node.get("_partial_") else made()
    except InputError:
        raise
    except Exception as error:  # whatever the target makes of its arguments
        raise InputError(f"config: {target} can't be built ({type(error).__name__}: {_one_line(error)})") from error


def require_known(target: Any) -> None:
    """Raise InputError for a `_target_` that no file of the released `conf/` or of the workspace's names."""
    files = {file for conf in (CONF, root() / "conf") for file in conf.rglob("*.yaml")}
    if not isinstance(target, str) or not any(target in _targets_of(file, file.stat().st_mtime_ns) for file in files):
        raise InputError(
            f"_target_: {target} is named by no file of conf/ and isn't built; to use it, name it in a yaml "
            f"of {root() / 'conf'}"
        )


@functools.lru_cache(maxsize=4096)
def _targets_of(file: Path, changed_ns: int) -> frozenset[str]:
    """The `_target_`s that a file of `conf/` names; none where it can't be read, which Hydra says when it is chosen."""
    try:
        return frozenset(_targets_in(yaml.load(file.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))))
    except (OSError, yaml.YAMLError, ValueError):
        return frozenset()


def _targets_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["_target_"]] if isinstance(node.get("_target_"), str) else []
        node = list(node.values())
    for child in node if isinstance(node, list) else []:
        yield from _targets_in(child)


def choices(group: str) -> list[str]:
    """The choices of a config group; empty for anything that is no group."""
    return [*find_files(f"conf/{group}", "[!_]*.yaml")]


def groups() -> list[str]:
    """The config groups."""
    return [name for name, place in find_files("conf", "*").items() if place.is_dir()]


def keys(cfg: DictConfig) -> list[str]:
    """The dotted keys of all values of a config."""
    return sorted(_leaves(plain(cfg)))


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


def _parse(overrides: list[str]) -> list[Override]:
    parsed: list[Override] = []
    for override in overrides:
        found = _read_override(override)
        if found is None:
            before = parsed[-1].input_line if parsed else None
            raise InputError(f"override not understood: {override}; {_how_to_write(override, before)}")
        parsed.append(found)
    return parsed


def _keys_of(overrides: Iterable[str]) -> set[str]:
    return {_key_of(override) for override in overrides}


def _key_of(override: str) -> str:
    return _parse([override])[0].key_or_group


def _read_override(override: str) -> Override | None:
    """An override as Hydra reads it, a path or a name as text whatever it holds; None where it can't be read."""
    key, _, value = override.partition("=")
    found = _by_hydra(override)
    if key.lstrip("+") in TEXT_KEYS and value:
        types = str | None if key.lstrip("+") in NAME_KEYS else str | list | dict | None
        kept = found and not found.is_sweep_override() and isinstance(found.value(), types)
        return found if kept else _by_hydra(f"{key}={_quoted(value)}")
    return None if found and found.is_sweep_override() else found


def _by_hydra(override: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def _quoted(value: str) -> str:
    """A value in the quotes that make Hydra read it as text."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value) + '"'


def _how_to_write(override: str, before: str | None) -> str:
    """How to write an override that can't be read, by its own example."""
    key, equals, value = override.partition("=")
    if not equals:
        joined = f"; if it belongs to the one before it, {shlex.quote(f'{before} {override}')}" if before else ""
        return f"write key=value{joined}"
    items = value[1:-1].split(",") if value[:1] == "[" and value[-1:] == "]" else None
    text = _quoted(value) if items is None else f"[{','.join(_quoted(item.strip()) for item in items)}]"
    quoted = f"{key}={text}"
    return (
        f"quote its value, once for Hydra and once for the shell: {shlex.quote(quoted)}"
        if _by_hydra(quoted)
        else "write key=value, lists as [a,b]"
    )


def _check_choice(override: Override) -> None:
    group, choice = override.key_or_group, override.value()
    if (known := choices(group)) and choice not in known and not (choice is None and group in OPTIONAL_GROUPS):
        raise InputError(
            f"{group}={choice}: no such choice{_nearest(str(choice), known)}; there are {', '.join(known)}"
        )


def _check_key(override: Override, defaults: DictConfig) -> None:
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or override.is_delete():
        return
    leaves = _leaves(OmegaConf.to_container(defaults))
    known = {prefix for leaf in leaves for prefix in _prefixes(leaf)}
    if key not in known:
        raise InputError(f"{key}: no such key{_nearest(key, [*known, *groups()])}; see {CONF} for all keys")
    default, value = leaves.get(key), override.value()
    if key in leaves and not _is_like(value, default) and not str(value).startswith("${"):
        raise InputError(f"{key}={value}: expected {type(default).__name__}, as in {key}={default}")


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value may take the place of a leaf: it is of the same type, or one of them is null or the leaf text."""
    number = int | float
    return (
        default is None
        or value is None
        or isinstance(default, str)
        or isinstance(value, type(default))
        or (isinstance(default, number) and isinstance(value, number) and not isinstance(default, bool))
    )


def _check_values(cfg: DictConfig, given: list[str]) -> None:
    """Hold all values to `reidlab.bounds`; of those that depend on each other, a given one is named first."""
    leaves = _leaves(plain(cfg))
    named = [key for key in leaves if {*_prefixes(key)} & {*given}]
    check_bounds({key: leaves[key] for key in [*named, *leaves]})


def _nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, by the whole name or by its last part, or nothing."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        tails = {k.rpartition(".")[2]: k for k in known}
        close = [tails[t] for t in difflib.get_close_matches(name.rpartition(".")[2], tails, n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""


def _leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf of nested dicts."""
    if not isinstance(node, Mapping) or not node:
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in _leaves(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def _merge(stored: Any, then: Any, now: Any, key: str = "") -> Any:
    """Three-way merge: what the new overrides change comes from `now`, all the rest from `stored`.

    What is stored has the shape of `now`: ValueError for a mapping in the place of a leaf, or the other way round, and
    for a value of another type (lists have bounds); InputError for a `_target_` that isn't known.
    """
    if isinstance(now, dict) and isinstance(stored, dict):
        then = then if isinstance(then, dict) else {}
        below = f"{key}." if key else ""
        return {k: _merge(stored[k], then.get(k), now[k], f"{below}{k}") if k in stored else now[k] for k in now}
    name = key.rpartition(".")[2]
    if then != now or name in PLACES or stored == now:
        return now
    if isinstance(now, dict) or isinstance(stored, dict) or not (isinstance(now, list) or _is_like(stored, now)):
        is_now, was = ("a mapping" if isinstance(n, dict) else f"{n!r:.60}" for n in (now, stored))
        raise ValueError(f"{key} is {was}, where this release and its conf/ have {is_now}")
    if isinstance(stored, list):
        like = now if isinstance(now, list) and len(now) == len(stored) else [None] * len(stored)
        return [_merge(*each, f"{key}[{n}]") for n, each in enumerate(zip(stored, like, like, strict=True))]
    if name == "_target_":
        require_known(stored)
    return stored


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
