"""Trained networks that stay in git, in `data/models`: small folders that `Run` opens as those of runs."""

import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf

from reidlab.config import write_config
from reidlab.files import write_atomic, write_json
from reidlab.models import read_weights
from reidlab.run import File, Row, Run

OF_THIS_MACHINE = ("ms_", "memory")


def keep(run: Run, folder: Path, rows: Sequence[Row], card: str, half: bool = False) -> None:
    """Copy what a later training or prediction needs of a run.

    Args:
        run: a trained and evaluated run.
        folder: gets the best weights, the figures, what training recorded, and of the settings the experiment, the
            network and the size of its images.
        rows: of the figures, those to copy; those of this machine's speed and memory are left out.
        card: Markdown.
        half: whether weights are rounded to float16.
    """
    weights = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in read_weights(run / File.BEST).items()
        if "distillation" not in name
    }
    torch.save({"state_dict": weights}, buffer := io.BytesIO())
    settings = {
        "run": {"overrides": [given for given in run["run.overrides"] if given.startswith("experiment=")]},
        "model": run["model"] | {"weights": None},
        "data": {"size": run["data.size"]},
    }
    with tempfile.TemporaryDirectory() as place:  # since nothing is recorded in a released folder
        made = Path(place) / folder.name
        write_atomic(made / File.BEST, buffer.getvalue())
        write_json(made / File.TRAINING, {key: value for key, value in run.training.items() if key != "machine"})
        write_atomic(made / File.CARD_MARKDOWN, card)
        write_config(OmegaConf.create(settings), made / File.CONFIG)
        kept = Run(made)
        for row in rows:
            result = run.results[row]
            figures = {name: value for name, value in result.figures.items() if not name.startswith(OF_THIS_MACHINE)}
            kept.record({row: figures}, result.protocol, kept.checkpoint)
        (made / File.METRICS_LOCK).unlink()
        shutil.copytree(made, folder, dirs_exist_ok=True)
