"""Trained networks that stay in git, in `data/models`: folders that later stages take for those of runs."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch

from reidlab.files import read_json, write_atomic, write_json
from reidlab.models import read_weights
from reidlab.training.tasks import BEST_CHECKPOINT

OF_THIS_MACHINE = ("ms_", "memory")


def keep(run: Path, folder: Path, stages: Sequence[str], card: str, half: bool = False) -> None:
    """Copy a run's best weights (in float16 if `half`), the figures of some stages, how it was trained; add a card."""
    weights = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in read_weights(run / BEST_CHECKPOINT).items()
        if "distillation" not in name
    }
    torch.save({"state_dict": weights}, buffer := io.BytesIO())
    write_atomic(folder / BEST_CHECKPOINT, buffer.getvalue())
    figures = {
        stage: {name: value for name, value in row.items() if not name.startswith(OF_THIS_MACHINE)}
        for stage, row in read_json(run / "metrics.json").items()
        if stage in stages
    }
    write_json(folder / "metrics.json", figures)
    trained = {key: value for key, value in read_json(run / "train.json").items() if key != "machine"}
    write_json(folder / "train.json", trained)
    write_atomic(folder / "card.md", card)
