"""Command `import-tao`: a TAO ReIdentificationNet experiment specification as an experiment of reidlab."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reidlab.errors import InputError
from reidlab.files import read_yaml
from reidlab.interop.experiments import flat, new_name, read_value, write_experiment

SECTIONS = ("model", "dataset", "re_ranking", "train", "evaluate", "inference", "export")
BACKBONES = {"resnet_18": "resnet18", "resnet_34": "resnet34", "resnet_50": "resnet50", "resnet_101": "resnet101"}
OPTIMIZERS = {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd"}


def flag(value: Any) -> bool:
    """Read True or False; other words for them are refused."""
    if not isinstance(value, bool):
        raise ValueError("expected True or False")
    return value


def numbers(value: Any) -> list[float]:
    """Read a list of numbers."""
    return [float(number) for number in value]


def epochs(value: Any) -> list[int]:
    """Read a list of whole numbers."""
    return [int(number) for number in value]


# TAO's key -> (its default, how to read it, the key here)
SAME: dict[str, tuple[Any, Callable, str]] = {
    "model.last_stride": (1, int, "model.network.last_stride"),
    "model.pretrained_model_path": (None, str, "model.weights"),
    "model.feat_dim": (256, int, "model.network.feat_dim"),
    "model.neck_feat": ("after", str, "model.network.neck_feat"),
    "model.with_flip_feature": (False, flag, "evaluate.flip"),
    "model.dropout_rate": (0, float, "model.network.dropout"),
    "dataset.batch_size": (64, int, "data.batch_size"),
    "dataset.val_batch_size": (128, int, "data.eval_batch_size"),
    "dataset.num_workers": (8, int, "data.num_workers"),
    "dataset.pixel_mean": ([0.485, 0.456, 0.406], numbers, "model.mean"),
    "dataset.pixel_std": ([0.226, 0.226, 0.226], numbers, "model.std"),
    "dataset.padding": (10, int, "augment.crop.padding"),
    "dataset.prob": (0.5, float, "augment.flip.p"),
    "dataset.re_prob": (0.5, float, "augment.erasing.p"),
    "re_ranking.re_ranking": (False, flag, "evaluate.rerank.enabled"),
    "re_ranking.k1": (20, int, "evaluate.rerank.k1"),
    "re_ranking.k2": (6, int, "evaluate.rerank.k2"),
    "re_ranking.lambda_value": (0.3, float, "evaluate.rerank.weight"),
    "re_ranking.max_rank": (10, int, "evaluate.pictured_matches"),
    "re_ranking.num_query": (10, int, "evaluate.pictured_queries"),
    "train.num_epochs": (120, int, "trainer.max_epochs"),
    "train.validation_interval": (1, int, "trainer.check_val_every_n_epoch"),
    "train.grad_clip": (None, float, "trainer.gradient_clip_val"),
    "train.num_gpus": (1, int, "trainer.devices"),
    "train.num_nodes": (1, int, "trainer.num_nodes"),
    "train.seed": (1234, int, "seed"),
    "train.results_dir": (None, str, "run.root"),
    "train.optim.base_lr": (3.5e-4, float, "optimizer.lr"),
    "train.optim.weight_decay": (5e-4, float, "optimizer.weight_decay"),
    "train.optim.lr_steps": ([40, 70], epochs, "schedule.milestones"),
    "train.optim.gamma": (0.1, float, "schedule.gamma"),
    "train.optim.warmup_factor": (0.01, float, "schedule.warmup_factor"),
    "train.optim.warmup_iters": (10, int, "schedule.warmup_epochs"),
    "train.optim.triplet_loss_margin": (0.3, float, "loss.triplet.loss.loss.margin"),
}

# What a function below turns into several keys or a choice: key -> TAO's default
TRANSLATED: dict[str, Any] = {
    "model.backbone": "resnet_50",
    "model.input_width": 128,
    "model.input_height": 256,
    "model.neck": "bnneck",
    "model.metric_loss_type": "triplet",
    "model.with_center_loss": False,
    "model.label_smooth": True,
    "dataset.train_dataset_dir": None,
    "dataset.test_dataset_dir": None,
    "dataset.query_dataset_dir": None,
    "dataset.sampler": "softmax_triplet",
    "dataset.num_instances": 4,
    "train.optim.name": "Adam",
    "train.optim.momentum": 0.9,
    "train.optim.center_loss_weight": 5e-4,
    "train.optim.center_lr": 0.5,
}

# Supported at this value alone, with the reason for all others.
FIXED: dict[str, tuple[Any, str]] = {
    "model.input_channels": (3, "networks here take RGB"),
    "model.id_loss_type": ("softmax", "choose loss=arcface or loss=cosface for another loss on identities"),
    "model.cos_layer": (False, "choose loss=arcface or loss=cosface for a cosine classifier"),
    "model.reduce_feat_dim": (False, "for swin backbones only; feat_dim is the width here"),
    "train.optim.bias_lr_factor": (1, "biases learn at the rate of the weights"),
    "train.optim.weight_decay_bias": (5e-4, "biases decay as the weights, by train.optim.weight_decay"),
    "train.optim.warmup_method": ("linear", "warm-up is linear"),
}

_OWN_PLACE = "each stage writes into the run folder, runs/<name>"
_GIVEN_LATER = "give it to the stage, as model.weights=FILE"
NEVER: dict[str, str] = {
    "results_dir": f"{_OWN_PLACE}; run.root is the folder of all",
    "encryption_key": "files aren't encrypted here",
    "random_seed": "give it as train.seed",
    "model.pretrain_hw_ratio": "for swin backbones only",
    "dataset.num_classes": "counted in the training folder",
    "train.checkpoint_interval": "the best and the last epoch are kept, the last one every epoch",
    "train.gpu_ids": "choose devices with CUDA_VISIBLE_DEVICES",
    "train.resume_training_checkpoint_path": "the same command goes on in its own run folder; model.weights starts "
    "from another's weights",
    "evaluate.checkpoint": _GIVEN_LATER,
    "evaluate.test_dataset": "stages share the data of the run; data.source.splits.gallery changes it",
    "evaluate.query_dataset": "stages share the data of the run; data.source.splits.query changes it",
    "evaluate.results_dir": _OWN_PLACE,
    "evaluate.output_cmc_curve_plot": _OWN_PLACE,
    "evaluate.output_sampled_matches_plot": _OWN_PLACE,
    "inference.checkpoint": _GIVEN_LATER,
    "inference.test_dataset": "stages share the data of the run; data.source.splits.gallery changes it",
    "inference.query_dataset": "stages share the data of the run; data.source.splits.query changes it",
    "inference.results_dir": _OWN_PLACE,
    "inference.output_file": _OWN_PLACE,
    "export.checkpoint": _GIVEN_LATER,
    "export.onnx_file": _OWN_PLACE,
}


def import_specification(file: str | Path, name: str | None = None) -> Path:
    """Write `conf/experiment/<name>.yaml` (default: the file's name) and log what isn't supported, and why.

    A key that the file leaves out has TAO's default. Raises InputError for a file that is no specification, a value of
    the wrong type, a backbone or optimizer that isn't here, a name that isn't usable, or an experiment that exists.
    """
    file = Path(file)
    name = new_name(file, name)
    choices, values, refused = translate(read_specification(file))
    return write_experiment(name, f"From the TAO specification {file.name}.", choices, values, refused)


def read_specification(file: Path) -> dict[str, Any]:
    """Read dotted key -> value, in the present spelling; `model_config` and the like are the older one."""
    content = read_yaml(file)
    names = {str(name): str(name).removesuffix("_config") for name in content}
    if twins := [name for name, section in names.items() if name != section and section in names]:
        raise InputError(f"{file}: has both {names[twins[0]]} and {twins[0]}; leave one out")
    sections = {names[str(name)]: section for name, section in content.items()}
    if not sections.keys() & {"model", "dataset", "train"}:
        raise InputError(f"{file}: no experiment specification; it has the sections {', '.join(SECTIONS)}")
    return dict(flat(sections))


def translate(given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict[str, str]]:
    """Return choices of config groups, values by dotted key, and unsupported keys with the reason of each."""
    refused = {}
    for key, value in given.items():
        if key in NEVER:
            refused[key] = NEVER[key]
        elif key in FIXED and value != FIXED[key][0]:
            refused[key] = f"{value}: {FIXED[key][1]}"
        elif value != {} and key not in {*FIXED, *SAME, *TRANSLATED, "model.pretrain_choice"}:
            refused[key] = "no key of this network's specification that reidlab knows"
    spec = {key: default for key, (default, *_) in SAME.items()} | TRANSLATED | dict(given)
    values = {}
    for key, (_, read, here) in SAME.items():
        if spec[key] is not None:
            values[here] = read_value(key, spec[key], read)
    choices = {"data": "market1501", "model": "reidentificationnet", "augment": "standard",
               "schedule": "warmup_multistep", "optimizer": _one_of("train.optim.name", spec, OPTIMIZERS)}  # fmt: skip
    choices["loss"] = _loss(spec, values, refused)
    _network(spec, values, refused)
    _data(spec, values)
    if choices["optimizer"] == "sgd":
        values["optimizer.momentum"] = read_value("train.optim.momentum", spec["train.optim.momentum"], float)
        values["optimizer.nesterov"] = False
    return choices, values, refused


def _network(spec: Mapping[str, Any], values: dict, refused: dict) -> None:
    """Translate backbone, neck, size of the image, initial weights."""
    values["model.network._target_"] = f"reidlab.models.{_one_of('model.backbone', spec, BACKBONES)}"
    values["model.network.neck"] = "bnneck" if spec["model.neck"] == "bnneck" else None
    values["data.size"] = [read_value(f"model.{side}", spec[f"model.{side}"], int) for side in
                           ("input_height", "input_width")]  # fmt: skip
    if spec.get("model.pretrain_choice", "imagenet") == "imagenet" and not spec["model.pretrained_model_path"]:
        refused["model.pretrain_choice"] = "nothing is downloaded; give ImageNet weights as model.weights=FILE"


def _loss(spec: Mapping[str, Any], values: dict, refused: dict) -> str:
    """Return the choice of `loss`, and translate its values."""
    values["loss.softmax.loss.label_smoothing"] = (
        0.1 if read_value("model.label_smooth", spec["model.label_smooth"], flag) else 0.0
    )
    if spec["model.metric_loss_type"] not in ("triplet", "triplet_center"):
        refused["model.metric_loss_type"] = f"{spec['model.metric_loss_type']}: the triplet loss is used"
    centered = spec["model.metric_loss_type"] == "triplet_center"
    if not (centered or read_value("model.with_center_loss", spec["model.with_center_loss"], flag)):
        return "softmax_triplet"
    for key, here in {"center_loss_weight": "loss.center.weight", "center_lr": "loss.center.loss.lr"}.items():
        values[here] = read_value(f"train.optim.{key}", spec[f"train.optim.{key}"], float)
    return "softmax_triplet_center"


def _data(spec: Mapping[str, Any], values: dict) -> None:
    """Translate the folders, to splits under their common parent, and the sampler of batches."""
    folders = {split: spec[f"dataset.{key}_dataset_dir"] for split, key in
               (("train", "train"), ("query", "query"), ("gallery", "test"))}  # fmt: skip
    if given := {split: str(folder) for split, folder in folders.items() if folder}:
        parents = [str(Path(folder).parent) for folder in given.values()]
        root = read_value("dataset.*_dataset_dir", parents, os.path.commonpath) or "."
        values["data.root"] = root
        for split in folders:
            values[f"data.source.splits.{split}"] = os.path.relpath(given[split], root) if split in given else None
    instances = read_value("dataset.num_instances", spec["dataset.num_instances"], int)
    values["data.num_instances"] = instances if "triplet" in str(spec["dataset.sampler"]) else None


def _one_of(key: str, spec: Mapping[str, Any], known: Mapping[str, str]) -> str:
    if (value := str(spec[key])) not in known:
        raise InputError(f"{key}={value}: not available here; there are {', '.join(known)}")
    return known[value]
