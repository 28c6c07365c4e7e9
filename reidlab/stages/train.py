"""Stage `train`: from settings to the checkpoint that is best on the validation samples."""

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from reidlab import plots
from reidlab.config import instantiate, resolve_path
from reidlab.console import log
from reidlab.data import ClassDataModule, ImageDataModule
from reidlab.data.overlap import learned_images, seen_in_training
from reidlab.errors import InputError, one_line
from reidlab.evaluation import VALIDATION, Retrieval, embed, protocol_of
from reidlab.files import alone, storage_errors, write_atomic, write_json
from reidlab.models import ReIdNetwork, check_size, load_weights
from reidlab.plots.saving import save_figure
from reidlab.run import File, Run, provenance
from reidlab.threads import pace
from reidlab.training import tracking
from reidlab.training.callbacks import (
    CollapseNotice,
    EpochLines,
    History,
    KeepsPace,
    ResumedPlateau,
    StaysStopped,
    TimeBudget,
    ValidatesLast,
    interruptible,
    progress,
    quiet_lightning,
)
from reidlab.training.checkpoints import WholeCheckpoints, forget_predecessors, is_whole, resume_point
from reidlab.training.distillation import Teacher
from reidlab.training.images import LightningImages
from reidlab.training.tasks import Task

PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"


@storage_errors()
def run(run: Run, callbacks: Iterable[pl.Callback] = ()) -> Run:
    """Train, or go on where an interrupted training with the same settings stopped.

    Raises InputError where the folder holds a training with other settings or another process trains there,
    KeyboardInterrupt on Ctrl-C; what was reached stays in the run folder.

    Args:
        run: the run; `callbacks` are joined to those of its settings.
        callbacks: of Lightning.
    """
    run.require_own()
    with alone(run.folder):
        run.claim()
        if is_finished(run):
            log.info(f"{run.name}: already trained; run.overwrite=true trains it again")
        else:
            with pace.fixed(run["threads"]):
                _train(run, callbacks)
        if run.training.get("finished"):
            forget_predecessors(run / File.BEST, run / File.LAST)
    return run


def is_finished(run: Run) -> bool:
    """Whether there is nothing left to train."""
    return not run["run.overwrite"] and bool(run.training.get("finished")) and is_whole(run / File.BEST)


def best_key(figure: str) -> str:
    """The key of `train.json` for the best value of a validation figure: `val/mAP` -> `best_val_mAP`."""
    return f"best_{figure.replace('/', '_')}"


def _train(run: Run, callbacks: Iterable[pl.Callback]) -> None:
    pl.seed_everything(run["seed"], workers=True, verbose=False)
    check(run)
    datamodule = run.datamodule()
    if datamodule.samples.split("train").empty:
        raise InputError("; ".join([f"{run['data.root']}: no images to train on", *datamodule.samples.notes]))
    datamodule.setup()
    if not run.is_classifier and datamodule.num_classes < 2:
        raise InputError(f"{run['data.root']}: one identity to train on; a network learns to tell two or more apart")
    for note in datamodule.notes:
        log.info(f"note: {note}")
    _note_learned(run, datamodule)
    made_by = provenance() | {"data_hash": datamodule.samples.content_hash()}
    task = build_task(run, datamodule, made_by["data_hash"])
    loggers, history, paced = _loggers(run), History(run.folder), KeepsPace()
    tracking.log_settings(loggers, run.settings, made_by)
    tracking.log_graph(loggers, task.network, run["data.size"])
    with quiet_lightning(), tracking.finishing(loggers):
        replay = tracking.ReplayEpochs(run.folder, history)
        more = [*callbacks, paced, history, replay, CollapseNotice(history), ResumedPlateau(history)]
        trainer = build_trainer(run, datamodule, loggers, more)
        if not _fit(run, trainer, task, datamodule):
            return
        if len(datamodule.validation) and not run.is_classifier:
            tracking.log_rankings(loggers, lambda: _rankings(run, datamodule), share=bool(run["privacy.share_images"]))
    _record(run, trainer, task, datamodule, made_by | {"steps_by_threads": dict(paced.steps)})


def _note_learned(run: Run, datamodule: ImageDataModule) -> None:
    """Keep which images are learned, and as of class 0 those that the weights to start from or the teacher learned.

    InputError where those weights learned what is held out here, and where a training that goes on has learned other
    images so far.
    """
    held_out = pd.concat([datamodule.validation, datamodule.test])
    learned, noted = learned_images(datamodule.samples, held_out), run.table_of(File.LEARNED)
    if run.has(File.LAST) and not noted.empty:
        if noted[noted["class"] > 0].equals(learned):
            return
        raise InputError(
            f"{run.folder}: its training began with other images or another division of them; bring those back, choose "
            "another run.name, or run.overwrite=true to start again"
        )
    weights, teacher = run["model.weights"], run["distill.teacher"]
    if weights:
        run.require_unlearned(datamodule.samples, held_out, file=Path(weights))
        if Run.noted(Path(weights)).empty:
            log.info(f"{weights}: nobody noted what it learned; of images that are held out here, figures are too good")
    for file in (weights, Run(teacher) / File.BEST if isinstance(teacher, str) else None):
        if file:
            learned = pd.concat([learned, Run.noted(Path(file)).assign(**{"class": 0})])
            learned = learned[(learned["class"] > 0) | ~learned["sha256"].duplicated()]
    run.write(File.LEARNED, learned.to_csv(index=False))


def check(run: Run) -> None:
    """InputError, before any image is read, for what can't be trained.

    That is from absent files, by a recipe that teaches nothing, and on this machine.
    """
    _require_files(run)
    _require_taught(run)
    _require_trainer(run)
    if not run["trainer.max_time"]:
        _warn_of_frozen(run, run["trainer.max_epochs"])


def _require_files(run: Run) -> None:
    """InputError where the weights to start from or the teacher aren't there."""
    if (weights := run["model.weights"]) and not Path(weights).is_file():
        raise InputError(f"model.weights={weights}: no such file; give the path of a checkpoint")
    if isinstance(teacher := run["distill.teacher"], str):
        _teacher_run(teacher)
    if (weights := run["distill.weights"]) and not resolve_path(weights).is_file():
        raise InputError(f"distill.weights={weights}: no such file; give that of the teacher's weights")


def _require_taught(run: Run) -> None:
    """InputError where no term of the recipe teaches anything, or none the classifier."""
    distilled, terms = run["distill"] or {}, [term for term in _terms(run) if term.get("weight", 1) > 0]
    if not terms and not any(distilled.get(key) for key in ("feature", "local", "distance", "angle", "logits")):
        raise InputError("loss.*.weight: no term has one above 0, so that nothing is learned; choose loss=softmax, say")
    if run.is_classifier and not distilled.get("logits") and all(term.get("sees") != "logits" for term in terms):
        raise InputError(
            "loss: no term with a weight teaches the classifier, which would stay random; choose loss=softmax, or give "
            "distill.logits a weight"
        )


def _warn_of_frozen(run: Run, epochs: int) -> None:
    """Say that so many epochs are over before the backbone learns."""
    head = run["regime.head_epochs"] or 0
    if run["regime.backbone_lr_scale"] and epochs <= head:
        log.warning(
            f"regime.head_epochs={head}: the backbone learns in none of {epochs} epochs; lower it, or train for longer"
        )


def _require_trainer(run: Run) -> None:
    """InputError where Lightning can't train on this machine as `trainer` says."""
    _time_budget(run)
    with quiet_lightning():
        trainer = bare_trainer(run, logger=False, enable_checkpointing=False)
    processors = os.cpu_count() or 1
    if isinstance(trainer.accelerator, pl.accelerators.CPUAccelerator) and trainer.num_devices > max(processors, 2):
        raise InputError(f"trainer.devices={run['trainer.devices']}: this machine has {processors} processors, no more")


def build_task(run: Run, datamodule: ImageDataModule, data_hash: str) -> Task:
    """The Lightning module: network, losses, optimizer, schedule and distillation."""
    cfg = run.config
    network = build_network(run, datamodule.num_classes if _needs_classifier(run) else 0)
    if cfg.compile:
        network.compile()
    options = copy.copy(cfg.task)
    for key in ("kind", "_partial_"):
        options.pop(key, None)
    return instantiate(
        options,
        network=network,
        loss=instantiate(cfg.loss, num_classes=datamodule.num_classes, embedding_size=network.feat_dim),
        optimizer=instantiate(cfg.optimizer),
        schedule=instantiate(cfg.schedule),
        regime=instantiate(cfg.regime),
        distillation=build_distillation(run, network, datamodule, data_hash),
        seed=cfg.seed,
    )


def build_network(run: Run, num_classes: int) -> nn.Module:
    """The network to train, with the weights that its settings name; says what they leave as it was."""
    cfg = run.config
    if not cfg.regime.backbone_lr_scale and not cfg.model.weights:
        raise InputError(
            "regime.backbone_lr_scale=0 freezes the backbone, and its weights would be random: give model.weights=FILE"
        )
    network = instantiate(cfg.model.network, num_classes=num_classes)
    if not any(True for _ in network.parameters()):
        name = cfg.model.name
        raise InputError(f"model={name}: there is nothing to train; score it by `reidlab evaluate model={name}`")
    check_size(network, run["data.size"])
    if small := run["callbacks.small_first"]:
        try:
            check_size(network, instantiate(small).size(run["data.size"]))
        except InputError as error:
            raise InputError(f"callbacks.small_first.scale={small['scale']}: {error}") from error
    if cfg.model.weights:
        log.info(run.load(network, cfg.model.weights))
        run.warn_of_other_settings(cfg.model.weights)
    return network


def build_distillation(run: Run, student: nn.Module, datamodule: ImageDataModule, data_hash: str) -> nn.Module | None:
    """The terms by which the network follows a teacher; None where the settings have none.

    Args:
        run: whose settings name the teacher and the weights of the terms.
        student: the network to train.
        datamodule: of its images.
        data_hash: of its samples; class scores come only from a teacher of the same ones.
    """
    options = run.config.get("distill")
    if not options:
        return None
    if isinstance(options.teacher, Mapping):  # a network with ImageNet weights, and not a run
        return instantiate(options, student=student, datamodule=datamodule, data_hash=data_hash)
    teacher = _teacher(options.teacher, options.logits, data_hash, datamodule)
    return instantiate(options, student=student, datamodule=datamodule, teacher=teacher)


def build_trainer(
    run: Run, datamodule: ImageDataModule, loggers: list[Logger], callbacks: Iterable[pl.Callback]
) -> pl.Trainer:
    """Lightning's trainer; callbacks that watch a validation figure are left out where nothing is validated."""
    shown = progress()
    chosen = [instantiate(callback) for callback in run.config.callbacks.values() if callback]
    if not len(datamodule.validation):
        if run["schedule._target_"] == PLATEAU:
            raise InputError("schedule=plateau watches a validation figure, and nothing is validated; choose another")
        chosen = [callback for callback in chosen if getattr(callback, "monitor", None) is None]
    return bare_trainer(
        run,
        callbacks=[*chosen, *_time_budget(run), *callbacks, ValidatesLast(), StaysStopped(), shown],
        plugins=[WholeCheckpoints()],
        logger=loggers,
        default_root_dir=str(run.folder),
        enable_progress_bar=not isinstance(shown, EpochLines),
    )


def bare_trainer(run: Run, **options: Any) -> pl.Trainer:
    """Lightning's trainer of the settings, with other arguments of it; `trainer.precision=auto` becomes a precision."""
    precision = run["trainer.precision"]
    if precision == "auto":
        precision = "bf16-mixed" if _has_bf16(run.device) else "32-true"
    return instantiate(run.config.trainer, max_time=None, precision=precision, **options)


def _has_bf16(device: str) -> bool:
    """Whether a GPU or an x86 processor has instructions for bf16; what it is worth on others, nobody measured."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16"))


def _time_budget(run: Run) -> list[pl.Callback]:
    """The callback that ends a training within `trainer.max_time`, not Lightning's own timer; none without it."""
    return [TimeBudget(time)] if (time := run["trainer.max_time"]) else []


def _fit(run: Run, trainer: pl.Trainer, task: Task, datamodule: ImageDataModule) -> bool:
    """Train to the end; False in all processes of a distributed training but the first, which goes on alone."""
    begun = resume_point(run / File.BEST, run / File.LAST)
    if begun:
        log.info(f"{run.name}: going on from {begun}")
    with interruptible(), pace.kept():
        try:
            trainer.fit(task, datamodule=LightningImages(datamodule), ckpt_path=begun and str(begun), weights_only=True)
        except MisconfigurationException as error:
            raise InputError(f"trainer.*: {one_line(error)}") from error
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
            if not trainer.is_global_zero:
                return False
    if not len(datamodule.validation):
        write_atomic(run / File.BEST, (run / File.LAST).read_bytes())
    if not run.is_trained:
        raise InputError(f"{run.folder}: no epoch was validated; lower trainer.check_val_every_n_epoch or add epochs")
    return True


def _record(run: Run, trainer: pl.Trainer, task: Task, datamodule: ImageDataModule, made_by: Mapping[str, Any]) -> None:
    save_figure(plots.learning_curves(pd.read_csv(run / File.HISTORY)), run / File.CURVES)
    if run["trainer.max_time"] or trainer.current_epoch < run["trainer.max_epochs"]:  # else `check` said it
        _warn_of_frozen(run, trainer.current_epoch)
    keeper = cast(pl.callbacks.ModelCheckpoint, trainer.checkpoint_callback)
    best = keeper.best_model_score if len(datamodule.validation) else None
    write_json(
        run / File.TRAINING,
        {
            "finished": True,
            "epochs": trainer.current_epoch,
            "precision": trainer.precision,
            best_key(task.monitor): None if best is None or not best.isfinite() else float(best),
            "num_identities": datamodule.num_classes,
            **({"classes": cast(ClassDataModule, datamodule).class_names} if run.is_classifier else {}),
            "parameters": sum(  # of what embeds, whatever the number of identities
                parameter.numel()
                for name, parameter in task.network.named_parameters()
                if run.is_classifier or not name.startswith("classifier.")
            ),
            "checkpoint": run.checkpoint,
            **made_by,
        },
    )


def _needs_classifier(run: Run) -> bool:
    """Whether classes are learned, or a term of the loss or of distillation reads logits."""
    cfg = run.config
    taught = cfg.get("distill") and cfg.distill.logits
    return run.is_classifier or bool(taught) or any(term.get("sees") == "logits" for term in _terms(run))


def _terms(run: Run) -> list[Mapping[str, Any]]:
    """The terms of the recipe."""
    return [term for term in run["loss"].values() if isinstance(term, Mapping)]


def _teacher(folder: str | Path | None, logits: float, data_hash: str, datamodule: ImageDataModule) -> Teacher:
    """The network of a finished run, as a teacher; with class scores only for the identities that it learned.

    InputError where it learned from samples that the student is validated or tested on.
    """
    if folder is None:
        raise InputError("distill.teacher: name the folder of a trained run, as distill.teacher=runs/NAME")
    run = _teacher_run(folder)
    network = cast(ReIdNetwork, run.untrained_network(run.training.get("num_identities") or 0 if logits else 0))
    missing = load_weights(network, run / File.BEST).missing
    if logits and (missing or run.training.get("data_hash") != data_hash):
        raise InputError(
            f"distill.logits={logits}: {folder} has no scores for the identities learned here; "
            "set distill.logits=0, or train both on the same data, data.seed and data.val_fraction"
        )
    if run.training.get("data_hash") != data_hash:
        _refuse_overlap(run, datamodule)
    run.require_unlearned(datamodule.samples, datamodule.validation, datamodule.test)
    return Teacher(network, run["model.mean"], run["model.std"], tuple(run["data.size"]))


def _teacher_run(folder: str | Path) -> Run:
    """The finished run of a teacher; InputError where there is none."""
    try:
        run = Run(folder)
    except InputError as error:
        raise InputError(f"distill.teacher={folder}: {error}") from error
    if not run.training.get("finished"):
        raise InputError(f"distill.teacher={folder}: no finished training there; train it first")
    return run


def _refuse_overlap(teacher: Run, datamodule: ImageDataModule) -> None:
    """InputError where a teacher learned what the student is chosen or reported on; a note where nobody can tell."""
    root = teacher["data.root"]
    if root is None or not resolve_path(root).exists():
        log.warning(f"{teacher.folder}: its images are not in {root}: not checked whether it learned any held out here")
        return
    learned = teacher.datamodule().samples
    for what, splits in (("validation", datamodule.validation_splits), ("test", datamodule.test_splits)):
        if len(seen := seen_in_training(learned, datamodule.samples, *splits)):
            raise InputError(
                f"distill.teacher={teacher.folder}: it learned {seen['pid'].nunique()} of the {what} identities or "
                f"classes, {len(seen)} images such as {seen['path'].iloc[0]}; train both on the same data, data.seed "
                "and data.val_fraction, or give a teacher of other data"
            )


def _loggers(run: Run) -> list[Logger]:
    """The trackers of the settings; a training that goes on does so in the W&B run that its folder holds."""
    kept = {} if run["run.overwrite"] else tracking.resumed_wandb_run(run.folder)
    chosen = [logger for logger in run.config.logger.values() if logger]
    made = (instantiate(logger, **(kept if logger._target_.endswith("WandbLogger") else {})) for logger in chosen)
    return [tracking.count_from_one(logger) for logger in made]


def _rankings(run: Run, datamodule: ImageDataModule) -> Figure:
    """The gallery images that the best checkpoint ranks first for its worst validation queries."""
    network, _ = run.network_with(run / File.BEST)
    embeddings = embed(network, datamodule, datamodule.validation, run.device, "validation")
    found = cast(Retrieval, protocol_of(run, datamodule).evaluate(embeddings, VALIDATION))
    return found.picture(found.sorted_queries()[: run["evaluate.pictured_queries"]], 10, datamodule.read)
