"""The config of `conf/`, of the workspace's own files in it, and of overrides."""

import copy
import pickle
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Self

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.default_element import ResultDefault
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reidlab.config.overrides import OPTIONAL_GROUPS, PATH_KEYS, check_choice, check_file, check_keys, parse
from reidlab.config.values import as_text, check_values, plain, settle, written
from reidlab.errors import InputError, one_line
from reidlab.places import CONF, choices, config_files, resolve_path, root


def compose(overrides: Iterable[str] = ()) -> DictConfig:
    """The resolved config of `conf/config.yaml` under Hydra overrides such as `data=market1501` or `seed=1`.

    Files in `conf/` of the workspace are found beside the released ones, and in place of one with the same name.
    Relative paths are resolved by `resolve_path`.
    Raises InputError for a key, group or choice that doesn't exist (naming the nearest one that does), for a value
    of another type than the default's, or out of its bound, and for images normalized otherwise than the model's.
    """
    check_normalization(cfg := composed(overrides))
    return cfg


def check_normalization(cfg: Mapping, where: str = "") -> None:
    """InputError where a config's images are normalized otherwise than its model's."""
    for key in ("mean", "std"):
        of_data, of_model = (cfg[group].get(key) for group in ("data", "model"))
        if of_data is not None and of_data != of_model:
            raise InputError(
                f"{where and f'{where}: '}data.{key}={of_data}: the network would be exported for images of "
                f"model.{key}={of_model}; set model.{key}, which data.{key} follows"
            )


def composed(overrides: Iterable[str]) -> DictConfig:
    """Like `compose`, of a run that may have begun when data.mean could be another than the model's."""
    overrides = list(overrides)
    parsed = parse(overrides)
    for override in parsed:
        check_choice(override)
    absent = [o.key_or_group for o in parsed if o.key_or_group in OPTIONAL_GROUPS and o.value() is None]
    parsed = [o for o in parsed if o.key_or_group not in absent]  # Hydra knows no group=null on the command line
    chosen = [o for o in parsed if choices(o.key_or_group)]
    given = [o for o in parsed if o not in chosen]
    try:
        cfg = pickle.loads(_of_groups(tuple(str(o.input_line) for o in chosen), _conf_files()))
        check_keys(given, cfg)
        ConfigLoaderImpl._apply_overrides_to_config(given, cfg)  # what composing again would do, in a third of a second
        OmegaConf.set_struct(cfg, None)
        for group in absent:
            cfg.pop(group, None)
        for key in PATH_KEYS:
            if value := OmegaConf.select(cfg, key):
                OmegaConf.update(cfg, key, as_text(str(resolve_path(value))))
        settle(cfg, values := plain(cfg))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"config: {one_line(error)}") from error
    check_values(values, [o.key_or_group for o in given])
    cfg.run.overrides = as_text([o for o in overrides if not o.startswith("run.")])
    return cfg


class _ReadOnce(ConfigRepository):
    """Configs as their files have them, each read once for all that is composed of it: a third of composing's time."""

    def __init__(self, repository: ConfigRepository) -> None:
        self.sources, self.known = repository.sources, dict[str, bytes]()

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.known = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.known:
            try:
                self.known[config_path] = pickle.dumps(super().load_config(config_path))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(f"conf/{config_path}: can't be read ({one_line(error)}); mend that file") from error
        return pickle.loads(self.known[config_path])

    def __deepcopy__(self, memo: dict) -> Self:  # Hydra takes a copy for each config, should the sources change
        return copy.copy(self)


@lru_cache(maxsize=4)
def _repository(conf_files: tuple) -> ConfigRepository:
    """Of files as they are now, in place of Hydra's own."""
    return _ReadOnce(_loader().repository)


def _loader() -> ConfigLoaderImpl:
    """Looks into `conf/` of the workspace before it looks into the released one; a user's own Hydra isn't touched."""
    version.setbase("1.3")
    own, released = str(root() / "conf"), str(CONF)
    places = create_config_search_path(released)
    if own != released:
        places.prepend("workspace", own, SearchPathQuery(path=released))
    return ConfigLoaderImpl(places)


@lru_cache(maxsize=32)
def _of_groups(choices: tuple[str, ...], conf_files: tuple) -> bytes:
    """The config of some choices of groups, pickled (the fastest way to copy it), until a file changes."""
    loader = _loader()
    loader.repository = _repository(conf_files)
    overrides, repository = loader._parse_overrides_and_create_caching_repo("config", [*choices])
    defaults = create_defaults_list(repository, "config", overrides, prepend_hydra=False, skip_missing=False).defaults
    cfg = loader._compose_config_from_defaults_list(defaults, repository)
    others = [o for o in overrides if o.key_or_group != "experiment"]
    files = [file for file in defaults if str(file.config_path).startswith("experiment/")]
    if files:
        if bare := next((file.config_path for file in files if file.package and cfg.get("experiment")), None):
            raise InputError(f"conf/{bare}.yaml: nothing reads its settings; begin it with `# @package _global_`")
        _check_files(files, defaults, {o.key_or_group for o in others}, loader, repository)
    cfg.pop("hydra", None)  # of an experiment that other programs read, too
    if others != overrides:
        without = pickle.loads(_of_groups(tuple(str(o.input_line) for o in others), conf_files))
        for group in {o.key_or_group for o in others} & {*cfg} & {*without}:
            cfg[group] = _fitting(*(written(tree[group]) for tree in (cfg, without)))
    OmegaConf.set_struct(cfg, True)
    return pickle.dumps(cfg)


def _check_files(
    files: list[ResultDefault],
    defaults: list[ResultDefault],
    chosen: set[str],
    loader: ConfigLoaderImpl,
    repository: IConfigRepository,
) -> None:
    """Hold the files of an experiment, among those that a config is made of, to the config without them."""
    before = loader._compose_config_from_defaults_list([file for file in defaults if file not in files], repository)
    for file in files:
        try:
            check_file(loader._compose_config_from_defaults_list([file], repository), before, chosen)
        except InputError as error:
            raise InputError(f"conf/{file.config_path}.yaml: {error}") from error


def _fitting(node: Any, chosen: Any) -> Any:
    """A group as an experiment sets it, without keys that another choice hasn't; whole objects stay."""
    if not isinstance(node, dict) or (not isinstance(chosen, dict) and "_target_" in node):
        return node
    if not isinstance(chosen, dict):
        return chosen
    fitting = {key: _fitting(child, chosen.get(key)) for key, child in node.items()}
    return {key: child for key, child in fitting.items() if key in chosen or isinstance(child, dict)}


def _conf_files() -> tuple[tuple[str, int, int], ...]:
    """Path, time and size of every file that a config may be made of."""
    files = {file for place in {CONF, root() / "conf"} for file in config_files(place) if file.is_file()}
    return tuple((str(file), (state := file.stat()).st_ctime_ns, state.st_size) for file in sorted(files))
