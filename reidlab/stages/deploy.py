"""Stage `deploy`: what a target needs, by `deploy=NAME`, then one table of networks and targets to choose from."""

import importlib
from pathlib import Path

from reidlab.deploy import choose
from reidlab.errors import InputError

TARGETS = {"c": "microcontroller", "stm32": "stm32", "edge_linux": "edge_linux", "nvidia": "nvidia"}


def run(cfg) -> Path:
    """Run the target of `conf/deploy/<name>.yaml`; returns what it made."""
    if cfg.deploy.name not in TARGETS:
        raise InputError(f"deploy.name={cfg.deploy.name}: choose from {', '.join(TARGETS)}")
    made = importlib.import_module(f"reidlab.deploy.{TARGETS[cfg.deploy.name]}").run(cfg)
    choose.run(cfg)
    return made
