"""Find the workspace, compose a config, say precisely what is wrong with an override, and build what a config names.

The way of a config: `reidlab.places` finds the files, `overrides` reads what was given, `composition` puts both
together, `stored` keeps it in a run folder and reads it there (`earlier` puts those of old releases into the present
spelling), and `build` makes the objects.
"""

from reidlab.config.build import instantiate, require_known
from reidlab.config.composition import compose
from reidlab.config.earlier import modernize
from reidlab.config.overrides import keys_of
from reidlab.config.stored import (
    NEUTRAL_KEYS,
    TRAINING_KEYS,
    compose_for,
    compose_to_begin,
    is_begun,
    is_place,
    no_such_run,
    read_config,
    run_folder,
    stored_config,
    training_differences,
    training_settings,
    write_config,
)
from reidlab.config.values import as_config, as_text, as_yaml, plain
from reidlab.places import CLONE, CONF, SHIPPED, choices, find_files, groups, resolve_path, root

__all__ = [
    "CLONE",
    "CONF",
    "NEUTRAL_KEYS",
    "SHIPPED",
    "TRAINING_KEYS",
    "as_config",
    "as_text",
    "as_yaml",
    "choices",
    "compose",
    "compose_for",
    "compose_to_begin",
    "find_files",
    "groups",
    "instantiate",
    "is_begun",
    "is_place",
    "keys_of",
    "modernize",
    "no_such_run",
    "plain",
    "read_config",
    "require_known",
    "resolve_path",
    "root",
    "run_folder",
    "stored_config",
    "training_differences",
    "training_settings",
    "write_config",
]
