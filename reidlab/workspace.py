"""Command `init`: a folder to work in, for reidlab installed without its clone."""

import re
from pathlib import Path

from reidlab.console import log
from reidlab.errors import InputError, StorageError
from reidlab.files import write_atomic
from reidlab.places import find_files

RECIPE = """\
# @package _global_
# A recipe of your own: `reidlab run experiment=mine`. It is the experiment that it starts from, with the changes below;
# remove a # to make one more. `reidlab run experiment=mine KEY=VALUE` tries a change without writing it down.
defaults:
  - smoke                          # drawn people, over in a minute; `demo` is larger
  # - override /data: folders      # your crops, one folder per identity; market1501, csv and others are there too
  # - override /model: osnet_x0_5  # a larger network
run:
  name: mine                       # results go into runs/mine
# data:
#   root: data/crops               # relative to this folder
trainer:
  max_epochs: 10
# optimizer:
#   lr: 1.0e-3
"""
README = """\
# A reidlab workspace

- `conf/experiment/mine.yaml` is a recipe to change: `reidlab run experiment=mine`
- `conf/<group>/<name>.yaml` adds a choice to a group; one with the name of a released choice takes its place
- `notebooks/` are yours to change: `jupyter lab` here opens them beside your runs, `reidlab notebooks` executes all
- `data/` is for your crops: `reidlab data data=folders data.root=data/crops` checks them
- `runs/<name>/` holds all that a run made; `reidlab dashboard` shows them
- `reidlab` lists all commands, `reidlab doctor` says what this machine lacks
"""


def init(folder: Path) -> list[Path]:
    """Lay out a workspace: a recipe, the notebooks, `data/` and a README; files that exist stay as they are.

    Returns the files that were written. Raises InputError where a file stands in the way of a folder.
    """
    contents = {
        "README.md": README,
        "conf/experiment/mine.yaml": RECIPE,
        **{f"notebooks/{file.name}": _alone(file.read_text()) for file in find_files("notebooks", "*.ipynb").values()},
    }
    written = []
    try:
        (folder / "data").mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            if not (folder / name).exists():
                written.append(write_atomic(folder / name, text))
    except (OSError, StorageError) as error:
        raise InputError(f"{folder}: no workspace can be laid out here ({error})") from error
    kept = len(contents) - len(written)
    log.info(f"{folder.absolute()}: {len(written)} files written" + (f", {kept} left as they were" if kept else ""))
    log.info(f"next: cd {folder} && reidlab run experiment=mine")
    return written


def _alone(notebook: str) -> str:
    """A notebook's text without links to pages that a workspace doesn't have; their names stay."""
    return re.sub(r"\[([^\[\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2` of reidlab's repository)", notebook)
