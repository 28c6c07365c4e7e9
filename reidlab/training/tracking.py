"""Trackers: logging, runs that stay one when they are resumed, and the project's panels at Weights & Biases."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor, nn

from reidlab.data import read_image
from reidlab.errors import InputError, one_line
from reidlab.files import without_folders
from reidlab.run import File
from reidlab.training.callbacks import History

# TensorBoard's writer does without TensorFlow, which takes seconds to load and prints; by this name it is told to.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # of its tables, and of Git for Python
RANKINGS = "validation/worst_rankings"
EVENTS = re.compile(r"(events\.out\.tfevents\.\d+\.).*(\.\d+\.\d+)")
DECIDING = ("val/mAP", "val/rank-1", "val/top-1")


class ReplayEpochs(pl.Callback):
    """Logs to a resumed offline W&B run the epochs of its earlier parts, as they were logged when they ended.

    Without the server, each part of a resumed run is a file of its own, and an upload of one replaces what another
    left under the same id. So the newest part has everything, and the older ones are marked as synced.
    """

    def __init__(self, folder: Path, history: History):
        self.folder, self.history = folder, history

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The checkpoint is loaded, and no epoch has begun."""
        for logger in trainer.loggers:
            if trainer.is_global_zero and isinstance(logger, WandbLogger) and logger.experiment.offline:
                for row in self.history.rows:
                    for figures in _as_logged(row):
                        logger.log_metrics(figures, step=int(row["step"]) if "step" in row else None)
                present = Path(logger.experiment.dir).parent
                for part in (self.folder / "wandb").glob(f"offline-run-*/run-{logger.experiment.id}.wandb"):
                    if part.parent.resolve() != present.resolve():
                        part.with_suffix(".wandb.synced").touch()


def resumed_wandb_run(folder: Path) -> dict[str, str]:
    """The id of the newest W&B run in a run folder, as an argument of its logger; empty where there is none."""
    parts = sorted(
        (folder / "wandb").glob("*run-*/run-*.wandb"), key=lambda part: part.parent.name.rpartition("run-")[2]
    )
    return {"id": parts[-1].stem.removeprefix("run-")} if parts else {}


def count_from_one(tracker: Logger) -> Logger:
    """Let a tracker number epochs from 1, as `history.csv` does; Lightning numbers them from 0."""
    log_metrics = tracker.log_metrics

    def log(metrics: Mapping[str, float], step: int | None = None) -> None:
        counted = {"epoch": metrics["epoch"] + 1} if "epoch" in metrics else {}
        log_metrics({**metrics, **counted}, step)

    tracker.log_metrics = log  # type: ignore[method-assign]
    return tracker


def log_settings(trackers: Iterable[Logger], settings: Mapping, made_by: Mapping) -> None:
    """Log the settings of a training, of paths only the last name, and the versions and machine that it runs on."""
    for logger in trackers:
        logger.log_hyperparams({**_without_folders(settings), "made_by": made_by})


def log_graph(trackers: Iterable[Logger], network: nn.Module, size: Sequence[int]) -> None:
    """Log the graph of a network for images of a size to TensorBoard; where it can't be traced, there is none."""
    writers = [logger.experiment for logger in trackers if isinstance(logger, TensorBoardLogger)]
    was_training, image = network.training, torch.zeros(1, 3, *size)
    for writer in writers:
        with contextlib.suppress(RuntimeError), warnings.catch_warnings(action="ignore"):
            writer.add_graph(_Embedding(network).eval(), image.to(next(network.parameters()).device))
            writer.flush()
    network.train(was_training)


def log_test(folder: Path, settings: Mapping, figures: Mapping[str, float], pictures: Iterable[Path]) -> None:
    """Add the scores and pictures of the test split to what TensorBoard has of a training, if it has any.

    With the scores, the settings are a row of its table of hyper-parameters.

    Args:
        folder: of the run, below which `logger=tensorboard` writes.
        settings: of the run, by their dotted keys.
        figures: by name, such as `mAP`.
        pictures: PNG files.
    """
    versions = sorted((folder / "tensorboard").glob("version_*"), key=lambda place: int(place.name.rpartition("_")[2]))
    if not versions:
        return
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    scores = {f"test/{name}": value for name, value in figures.items()}
    plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()}
    with SummaryWriter(str(versions[-1])) as writer:
        for part in hparams(_without_folders(plain), scores):
            writer.file_writer.add_summary(part)
        for name, value in scores.items():
            writer.add_scalar(name, value)
        for picture in pictures:
            writer.add_image(f"test/{picture.stem}", read_image(picture), dataformats="HWC")
    _forget_host(versions[-1])


class _Embedding(nn.Module):
    """A network whose output is a tensor alone, which can be traced."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).embedding


def log_rankings(trackers: Iterable[Logger], draw: Callable[[], Figure], share: bool) -> None:
    """Log a picture of validation rankings to those trackers that take pictures; it is drawn only for these.

    W&B's, which leave the machine when a run is uploaded, have it only by `share`.
    """
    kinds = (WandbLogger, TensorBoardLogger) if share else (TensorBoardLogger,)
    takers = [logger for logger in trackers if isinstance(logger, kinds)]
    figure = draw() if takers else None
    for logger in takers:
        if isinstance(logger, WandbLogger):
            logger.log_image(RANKINGS, [figure])
        else:
            logger.experiment.add_figure(RANKINGS, figure)
            logger.experiment.flush()


@contextlib.contextmanager
def finishing(trackers: Iterable[Logger]) -> Iterator[None]:
    """End W&B's run with the block, as failed if that fails: the next training of this process has its own run.

    What trackers leave behind of this machine goes: W&B's debug logs, and its name in those of TensorBoard's files.
    """
    status = 1
    try:
        yield
        status = 0
    finally:
        for logger in trackers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(status)
                for log in Path(logger.save_dir or ".").glob("wandb/*run-*/logs/debug.log"):
                    log.unlink()
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.close()
                for version in Path(logger.root_dir).glob("version_*"):
                    _forget_host(version)


def save_workspace(place: str, root: Path) -> str:
    """Lay out `ENTITY/PROJECT` at Weights & Biases with panels of what the runs in `root` log; returns its address.

    Raises InputError where the tracking extra, a login or the network is missing.
    """
    entity, _, project = place.partition("/")
    if not entity or not project or "/" in project:
        raise InputError(f"--wandb {place}: write ENTITY/PROJECT, such as --wandb myteam/reidlab")
    figures = logged(root)
    try:
        view = workspace(entity, project, figures)
    except ImportError as error:
        raise InputError("W&B needs its packages: pip install 'reidlab[tracking]'") from error
    try:
        return view.save().url
    except Exception as error:  # each of its layers has exceptions of its own
        said = f"not saved ({one_line(error)}); `wandb login`, and sync a run there first"
        raise InputError(f"--wandb {place}: {said}") from error


def logged(root: Path) -> set[str]:
    """The names of the figures that the runs in a folder have logged, by their histories."""
    files = root.glob(f"*/{File.HISTORY}")
    figures = {name for file in files for name in file.read_text().partition("\n")[0].split(",")} - {"epoch", "step"}
    if not figures:
        raise InputError(f"{root}: no run has logged anything yet; `reidlab run experiment=demo` does")
    return figures


def workspace(entity: str, project: str, metrics: Iterable[str]):
    """The panels: validation figures, rankings, losses, the rest; `metrics` are the names that runs have logged."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def section(name: str, chosen: Iterable[str], is_open: bool = True) -> ws.Section:
        panels: list = [wr.LinePlot(title=metric, x="epoch", y=[metric]) for metric in chosen]
        return ws.Section(name=name, panels=panels, is_open=is_open)

    metrics = sorted(metrics)
    deciding = [metric for metric in DECIDING if metric in metrics]
    losses = [metric for metric in metrics if metric.startswith("train/")]
    rest = [metric for metric in metrics if metric not in (*deciding, *losses)]
    rankings = ws.Section(name="Worst rankings", panels=[wr.MediaBrowser(media_keys=[RANKINGS])], is_open=True)
    sections = [
        section("Validation", deciding),
        *([rankings] if "val/mAP" in metrics else []),
        section("Losses", losses),
        section("More", rest, is_open=False),
    ]
    return ws.Workspace(
        entity=entity, project=project, name="reidlab", sections=[section for section in sections if section.panels]
    )


def _forget_host(folder: Path) -> None:
    """Take the machine's name out of the names of TensorBoard's files."""
    for file in folder.glob("events.out.tfevents.*"):
        file.rename(file.with_name(EVENTS.sub(r"\1reidlab\2", file.name)))


def _without_folders(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_folders(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_without_folders(child) for child in node]
    return without_folders(node) if isinstance(node, str) else node


def _as_logged(row: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """The figures of an epoch, validation first, in the two portions in which Lightning logs them."""
    figures = {name: value for name, value in row.items() if name not in ("epoch", "step") and value == value}
    validation = {name: value for name, value in figures.items() if name.startswith("val/")}
    for portion in (validation, {name: value for name, value in figures.items() if name not in validation}):
        if portion:
            yield portion | {"epoch": row["epoch"]}
