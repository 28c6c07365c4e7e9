"""Stage `train`: from a config to the checkpoint that ranks its validation identities best."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure

from reidlab import plots, tracking
from reidlab.callbacks import EpochLines, History, interruptible, progress
from reidlab.config import instantiate, read_config, run_folder, training_differences, write_config
from reidlab.data import ClassDataModule, ReidDataModule
from reidlab.embedding import device_of, embed
from reidlab.errors import InputError
from reidlab.retrieval import VALIDATION, Retrieval
from reidlab.runs import alone, provenance, read_json, write_atomic, write_json
from reidlab.show import save_figure
from reidlab.tasks import BEST_CHECKPOINT, LAST_CHECKPOINT, ReidTask, build_network, trained_network


def run(cfg, watchers: Iterable[pl.Callback] = ()) -> Path:
    """Train, or go on where an interrupted training of the same config stopped; returns the best checkpoint.

    `watchers` are callbacks beside those of the config. Raises InputError where the folder holds a training of another
    config or another process trains there, KeyboardInterrupt on Ctrl-C (what was reached stays in the run folder).
    """
    with alone(run_folder(cfg)):
        return _train(cfg, watchers)


def _train(cfg, watchers: Iterable[pl.Callback]) -> Path:
    folder = run_folder(cfg)
    last, best = folder / LAST_CHECKPOINT, folder / BEST_CHECKPOINT
    _claim(folder, cfg)
    if read_json(folder / "train.json").get("finished") and best.exists():
        print(f"{folder.name}: already trained; run.overwrite=true trains it again")
        return best

    _quiet()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule = instantiate(cfg.data)
    datamodule.setup("fit")
    network = _network(cfg, datamodule)
    if cfg.compile:
        network.compile()
    made_by = provenance() | {"data_hash": datamodule.samples.content_hash()}
    task = instantiate(cfg.task)(
        network=network,
        loss=instantiate(cfg.loss, num_classes=datamodule.num_classes, embedding_size=network.feat_dim),
        optimizer=instantiate(cfg.optimizer),
        schedule=instantiate(cfg.schedule),
        regime=instantiate(cfg.regime),
        distillation=cfg.get("distill")
        and instantiate(
            cfg.distill,
            student=network,
            datamodule=datamodule,
            data_hash=made_by["data_hash"],
        ),
        seed=cfg.seed,
    )
    loggers = tracking.loggers(cfg, folder)
    shown, history = progress(), History(folder)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values() if callback]
    validated = len(datamodule.samples.split(*datamodule.validation_splits)) > 0
    if not validated:
        callbacks = [c for c in callbacks if getattr(c, "monitor", None) is None]
    trainer = instantiate(
        cfg.trainer,
        callbacks=[*callbacks, *watchers, history, tracking.Retell(folder, history), shown],
        logger=loggers,
        default_root_dir=str(folder),
        enable_progress_bar=not isinstance(shown, EpochLines),
    )
    tracking.log_config(loggers, cfg, made_by)
    if last.exists():
        print(f"{folder.name}: going on from {last}")
    with tracking.finishing(loggers), interruptible():
        trainer.fit(task, datamodule=datamodule, ckpt_path=str(last) if last.exists() else None, weights_only=True)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()  # from here on the first process works alone
            if not trainer.is_global_zero:
                return best
        if not validated:
            write_atomic(best, last.read_bytes())
        if not best.exists():
            raise InputError(f"{folder}: no epoch was validated; lower trainer.check_val_every_n_epoch or add epochs")
        save_figure(plots.learning_curves(pd.read_csv(folder / "history.csv")), folder / "curves.png")
        if validated and isinstance(task, ReidTask):
            tracking.log_rankings(loggers, lambda: _rankings(cfg, datamodule))
    write_json(
        folder / "train.json",
        {
            "finished": True,
            "epochs": trainer.current_epoch,
            best_key(task.monitor): float(trainer.checkpoint_callback.best_model_score) if validated else None,
            "num_identities": datamodule.num_classes,
            **({"classes": datamodule.class_names} if isinstance(datamodule, ClassDataModule) else {}),
            "parameters": sum(p.numel() for p in network.parameters()),
            **made_by,
        },
    )
    return best


def best_key(figure: str) -> str:
    """The key of `train.json` that has the best value of a validation figure: `val/mAP` -> `best_val_mAP`."""
    return f"best_{figure.replace('/', '_')}"


def _claim(folder: Path, cfg) -> None:
    """Write config.yaml into the run folder, unless another training lives there."""
    stored = folder / "config.yaml"
    trained = (folder / LAST_CHECKPOINT).exists() or (folder / BEST_CHECKPOINT).exists()
    same_place = trained and stored.exists() and not cfg.run.overwrite
    if same_place and (differences := training_differences(read_config(stored), cfg)):
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"{folder}: holds a training of another config ({'; '.join(differences[:3])}{more}); "
            "choose another run.name, or run.overwrite=true to start again"
        )
    if cfg.run.overwrite:
        for name in (LAST_CHECKPOINT, BEST_CHECKPOINT, "train.json", "history.csv"):
            (folder / name).unlink(missing_ok=True)
    write_config(cfg, stored)


def _network(cfg, datamodule: ReidDataModule):
    """The network, with a classifier if classes are to be told or a term of the loss or of distillation sees logits."""
    if not cfg.regime.trunk_rate and not cfg.model.weights:
        raise InputError(
            "regime.trunk_rate=0 keeps the trunk as it is, and it would be random: give model.weights=FILE"
        )
    classifies = any(isinstance(term, Mapping) and term.get("sees") == "logits" for term in cfg.loss.values())
    classifies = (
        classifies or bool(cfg.get("distill") and cfg.distill.logits) or isinstance(datamodule, ClassDataModule)
    )
    return build_network(cfg.model, datamodule.num_classes if classifies else 0)


def _rankings(cfg, datamodule: ReidDataModule) -> Figure:
    """What the best checkpoint's worst validation queries find."""
    network, _ = trained_network(cfg)
    embeddings = embed(network, datamodule, datamodule.samples.split(*VALIDATION), device_of(cfg), "validation")
    found = Retrieval.of(embeddings, VALIDATION, cfg.model.distance, cfg.data.exclude_same_camera)
    return found.picture(found.sorted_queries()[: cfg.evaluate.pictured_queries], 10, datamodule.read)


def _quiet() -> None:
    """Lightning's tips are for its developers; what concerns the user is printed here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    for message in (
        "does not have many workers",
        "smaller than the logging interval",
        "isinstance.treespec",
        "is zero",
        "in eval mode at the start of training",
        "exists and is not empty",
    ):
        warnings.filterwarnings("ignore", f".*{message}")
