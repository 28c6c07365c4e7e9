"""Command `import-st`: a `user_config.yaml` of ST's model zoo services as an experiment of reidlab."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from reidlab.console import log
from reidlab.errors import InputError
from reidlab.files import read_yaml
from reidlab.interop.experiments import flat, new_name, read_value, write_experiment

BODIES = ("training.optimizer.", "training.callbacks.")  # sections whose names are a choice
SECTIONS = ("general", "model", "dataset", "preprocessing", "training", "quantization", "deployment")
LETTERS = {  # of a chain -> the stages that do the same
    "t": "train", "q": "quantize", "e": "evaluate", "b": "deploy deploy=stm32", "d": "deploy deploy=stm32",
}  # fmt: skip
MODES = {
    "training": "t", "quantization": "q", "evaluation": "e", "benchmarking": "b", "deployment": "d", "prediction": "",
}  # fmt: skip
MODELS = {  # ST's name -> the model here
    **{f"osnet_a{width}": f"osnet_x{ours}" for width, ours in
       (("025", "0_25"), ("050", "0_5"), ("075", "0_75"), ("100", "1_0"))},
    **{f"fdmobilenet_a{width}": f"fdmobilenet_x{ours}" for width, ours in
       (("025", "0_25"), ("050", "0_5"), ("075", "0_75"), ("100", "1_0"))},
    "st_fdmobilenetv1": "st_fdmobilenet_v1",
    "st_fdmobilenet_v1": "st_fdmobilenet_v1",
    "mobilenetv2_a035": "mobilenetv2_x0_35",
    "mobilenetv2_a100": "mobilenetv2_x1_0",
}  # fmt: skip
OPTIMIZERS = {"adam": "adam", "adamw": "adamw", "sgd": "sgd"}
STRATEGIES = {"hard": "softmax_triplet", "semi_hard": "softmax_semihard", "simple": "softmax_batch_all"}
DISTANCES = {"softmax_semihard": "cosine", "softmax_triplet": "euclidean", "softmax_batch_all": "euclidean"}
FRACTION = re.compile(r"\s*([-+.\deE]+)\s*/\s*([-+.\deE]+)\s*")


def number(value: Any) -> float:
    """Read a number, or a fraction such as `1/127.5`; nothing is evaluated."""
    parts = FRACTION.fullmatch(value) if isinstance(value, str) else None
    return float(parts[1]) / float(parts[2]) if parts else float(value)


def integers(value: Any) -> list[int]:
    """Read whole numbers, listed or in text such as `(256, 128, 3)`."""
    listed = value.strip("()[] ").split(",") if isinstance(value, str) else value
    return [int(each) for each in listed if str(each).strip()]


def granularity(value: Any) -> bool:
    """Read whether each channel has a scale."""
    return {"per_channel": True, "per_tensor": False}[value] if value in ("per_channel", "per_tensor") else _bad(value)


def truth(value: Any) -> bool:
    """Read true or false."""
    return value if isinstance(value, bool) else _bad(value)


def _bad(value: Any) -> Any:
    raise ValueError("expected one of ST's values")


# ST's key -> how to read it, the key here
SAME: dict[str, tuple[Callable, str]] = {
    "general.global_seed": (int, "seed"),
    "dataset.validation_split": (float, "data.val_fraction"),
    "training.batch_size": (int, "data.batch_size"),
    "training.epochs": (int, "trainer.max_epochs"),
    "training.dropout": (float, "model.network.dropout"),
    "training.callbacks.EarlyStopping.patience": (int, "callbacks.early_stopping.patience"),
    "training.callbacks.ReduceLROnPlateau.factor": (float, "schedule.factor"),
    "training.callbacks.ReduceLROnPlateau.patience": (int, "schedule.patience"),
    "training.callbacks.ReduceLROnPlateau.min_lr": (float, "schedule.min_lr"),
    "training.callbacks.LRWarmupCosineDecay.warmup_steps": (int, "schedule.warmup_epochs"),
    "training.callbacks.LRWarmupCosineDecay.max_lr": (float, "optimizer.lr"),
    "training.callbacks.LRWarmupCosineDecay.hold_steps": (int, "schedule.hold_epochs"),
    "training.triplet_loss.margin": (float, "loss.triplet.loss.loss.margin"),
    "evaluation.reid_distance_metric": (str, "model.distance"),
    "quantization.granularity": (granularity, "quantize.per_channel"),
}

# Supported at these values alone, with the reason for all others.
FIXED: dict[str, tuple[tuple, str]] = {
    "model.framework": (("tf", "tensorflow"), "networks are PyTorch here; Keras files are read and written"),
    "preprocessing.resizing.aspect_ratio": (("fit",), "images are resized to the network's size as a whole"),
    "preprocessing.resizing.interpolation": (("bilinear",), "one resize everywhere, averaging where it shrinks"),
    "preprocessing.color_mode": (("rgb",), "networks here take RGB"),
    "data_augmentation.random_flip.mode": (("horizontal",), "mirroring left and right alone"),
    "training.callbacks.EarlyStopping.restore_best_weights": ((True,), "the best epoch is kept in any case"),
    "training.frozen_layers": ((None, "None"), "choose regime=tl, which trains the head alone"),
    "quantization.quantization_type": (("PTQ",), "quantize.method=qat is the other here"),
    "quantization.quantization_input_type": (("uint8",), "files take raw uint8 pixels"),
    "quantization.optimize": ((False, None), "quantize.method=equalized equalizes layers"),
    "deployment.IDE": (("GCC",), "what is written builds with any compiler"),
}

_PLACE = "each stage writes into the run folder, runs/<name>"
_SHRUNK = "augment=strong shifts, jitters colors, mirrors and erases; ranges of its own: conf/augment"
_TOOL = "STEdgeAI Core is taken from the PATH or STEDGEAI_CORE_DIR, and nothing is sent anywhere"
_WATCHED = "the validation figure, mAP or accuracy, is watched"
NEVER: dict[str, str] = {  # by key, or by the beginning of one that ends with a dot
    "general.": _PLACE,
    "model.pretrained": "nothing is downloaded; give a .keras, .h5 or checkpoint as model.weights=FILE",
    "dataset.class_names": "read from the folders",
    "dataset.classes_file_path": "read from the folders",
    "dataset.check_image_files": "`reidlab data` checks all images",
    "dataset.seed": "one seed for all, general.global_seed",
    "dataset.quantization_path": "ranges are observed on training images",
    "dataset.quantization_split": "quantize.images is a number of images",
    "dataset.prediction_": "give folders to `reidlab predict`",
    "data_augmentation.": _SHRUNK,
    "custom_data_augmentation.": _SHRUNK,
    "training.resume_training_from": "the same command goes on in its own run folder",
    "training.trained_model_path": _PLACE,
    "training.dryrun": "use experiment=smoke for a trial",
    "training.callbacks.ReduceLROnPlateau.": _WATCHED,
    "training.callbacks.EarlyStopping": "give its patience, by which a training stops",
    "training.callbacks.EarlyStopping.": _WATCHED,
    "training.callbacks.LRWarmupCosineDecay.": "the rate begins at schedule.warmup_factor and ends at "
    "schedule.final_factor of optimizer.lr behind the last epoch",
    "training.callbacks.": "choose a schedule of conf/schedule",
    "evaluation.": "every file is evaluated by the same protocol on this machine, a core in QEMU by deploy=c",
    "prediction.": "give the images to `reidlab predict`",
    "quantization.export_dir": _PLACE,
    "quantization.": "ONNX files are opset 18 with Q/DQ pairs; see conf/quantize",
    "tools.": _TOOL,
    "benchmarking.": "boards of estimates: deploy.boards",
    "deployment.": "`reidlab deploy deploy=stm32` writes what ST's application takes, and flashes no board",
    "app.": "give it to the stage, as deploy.app.score_threshold and the like",
    "mlflow.": "choose logger=wandb, tensorboard or csv",
    "hydra.": _PLACE,
}


def import_configuration(file: str | Path, name: str | None = None) -> Path:
    """Write `conf/experiment/<name>.yaml` (default: the file's name) and log what isn't supported, and why.

    Raises InputError for a file that is no configuration of the services, a value that isn't understood, a network that
    isn't here, a name that isn't usable, or an experiment that exists.
    """
    file = Path(file)
    name = new_name(file, name)
    given = read_configuration(file)
    mode = given.pop("operation_mode", "training")
    stages = stages_of(mode)
    choices, values, refused = translate(given)
    commands = ", then ".join(f"`reidlab {stage} experiment={name}`" for stage in stages) or "`reidlab predict FOLDER`"
    origin = f"From {file.name} of ST's model zoo services; operation_mode {mode}: {commands}."
    stops = "callbacks.early_stopping.patience" in values
    written = write_experiment(name, origin, choices, values, refused, early_stopping=stops)
    log.info(f"operation_mode {mode}: {commands}")
    if given.get("model.model_name") is None:
        log.info(f"model.model_name: not given; model={choices['model']} is taken")
    return written


def read_configuration(file: Path) -> dict[str, Any]:
    """Read dotted key -> value; `operation_mode` has no section."""
    content = read_yaml(file)
    if not content.keys() & {"operation_mode", "preprocessing", "training"} or not content.keys() & {*SECTIONS}:
        raise InputError(f"{file}: no user_config.yaml of ST's services; it has the sections {', '.join(SECTIONS)}")
    mode = content.get("operation_mode")
    return ({} if mode is None else {"operation_mode": mode}) | dict(flat(content))


def stages_of(mode: Any) -> list[str]:
    """The stages that do what an operation mode or a chain such as `chain_tqeb` does."""
    mode = str(mode)
    letters = MODES.get(mode, mode.removeprefix("chain_") if mode.startswith("chain_") else None)
    if letters is None or not {*letters} <= {*LETTERS}:
        raise InputError(f"operation_mode={mode}: unknown; there are {', '.join(MODES)}, and chains such as chain_tqeb")
    return [LETTERS[letter] for letter in letters]


def translate(given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], dict[str, str]]:
    """Return choices of config groups, values by dotted key, and unsupported keys with the reason of each."""
    chosen = {key for key in given if key.startswith(BODIES) and key.count(".") == 2}  # perhaps without settings
    left = {key: {} if value is None else value for key, value in given.items() if value is not None or key in chosen}
    choices: dict[str, str] = {}
    values: dict[str, Any] = {"optimizer.weight_decay": 0.0}
    refused: dict[str, str] = {}
    identifies = any(key.startswith(("dataset.test_query", "training.triplet_loss.")) or "ReID" in str(value)
                     or str(value).startswith("osnet") for key, value in left.items())  # fmt: skip
    for translated in (_model, _data, _pixels, _recipe, _files):
        translated(left, choices, values, refused, identifies)
    for key, (read, here) in SAME.items():
        if key in left and here.split(".")[0] in {
            *choices,
            "seed",
            "data",
            "trainer",
            "callbacks",
            "model",
            "quantize",
        }:
            values[here] = read_value(key, left.pop(key), read)
    for key, value in left.items():
        if key in FIXED:
            if value not in FIXED[key][0]:
                refused[key] = f"{value}: {FIXED[key][1]}"
        else:
            begins = [start for start in NEVER if key == start or (start[-1] in "._" and key.startswith(start))]
            if begins or value != {}:
                refused[key] = NEVER[max(begins, key=len)] if begins else "no key of the services that reidlab knows"
    return choices, values, refused


def _model(left: dict, choices: dict, values: dict, refused: dict, identifies: bool) -> None:
    """The network, as ST has it: no projection, padded as TensorFlow does."""
    name = left.pop("model.model_name", None)
    path = left.pop("model.model_path", None) or left.pop("general.model_path", None)
    if name is None and path is not None:
        spelled = str(path).replace("_0.", "_a0").replace("0.25", "a025").replace("mobilenet_v2", "mobilenetv2")
        name = max((st for st in MODELS if st in spelled), key=len, default=None)
    name = str(name or ("osnet_a025" if identifies else "fdmobilenet_a025")).lower()
    if "model.alpha" in left:
        percent = read_value("model.alpha", left["model.alpha"], lambda alpha: round(100 * float(alpha)))
        if (wide := f"{name}_a{percent:03}") in MODELS:
            name = wide
            del left["model.alpha"]
    if name not in MODELS:
        raise InputError(f"model.model_name={name}: not available here; there are {', '.join(MODELS)}")
    choices["model"] = MODELS[name]
    values |= {"model.network.feat_dim": None, "model.network.padding": "tensorflow"}
    if path is not None and str(path).lower().endswith((".keras", ".h5")):
        values["model.weights"] = str(path)
    elif path is not None:
        refused["model.model_path"] = f"{path}: give an exported file to the command, as `reidlab evaluate model=FILE`"
    if (shape := left.pop("model.input_shape", None)) is not None:
        size = read_value("model.input_shape", shape, integers)
        if len(size) != 3 or size[2] != 3:
            raise InputError(f"model.input_shape={shape}: networks here take RGB; give (height, width, 3)")
        values["data.size"] = size[:2]
    if left.get("model.pretrained") is False:
        del left["model.pretrained"]


def _data(left: dict, choices: dict, values: dict, refused: dict, identifies: bool) -> None:
    """The folders, to splits under their common parent."""
    named = str(left.pop("dataset.dataset_name", left.pop("dataset.name", "")))
    known = {"deepsportradar": "deepsportradar", "tf_flowers": "flowers", "flowers": "flowers", "food101": "food101",
             "food-101": "food101", "plant_leaf_diseases": "plant_leaves"}  # fmt: skip
    choices["data"] = known.get(named.lower(), "deepsportradar" if identifies else "class_folders")
    if named and named.lower() not in known:
        refused["dataset.dataset_name"] = f"{named}: read as {choices['data']}; see conf/data for other layouts"
    keys = {"train": "training_path", "query": "test_query_path", "gallery": "test_gallery_path"}
    if not identifies:
        keys = {"train": "training_path", "val": "validation_path", "test": "test_path"}
    given = {split: str(folder) for split, key in keys.items() if (folder := left.pop(f"dataset.{key}", None))}
    if identifies and (folder := left.pop("dataset.validation_path", None)):
        refused["dataset.validation_path"] = f"{folder}: validation identities are set aside, data.val_fraction"
    if not given:
        return
    if not identifies:
        choices["data"] = "class_folders"
    parents = [str(Path(folder).parent) for folder in given.values()]
    root = read_value("dataset.*_path", parents, os.path.commonpath) or "."
    values["data.root"] = root
    for split in keys:
        values[f"data.source.splits.{split}"] = os.path.relpath(given[split], root) if split in given else None


def _pixels(left: dict, choices: dict, values: dict, refused: dict, identifies: bool) -> None:
    """The rescaling of pixels, and the augmentation."""
    scale = left.pop("preprocessing.rescaling.scale", "1/255")
    offset = left.pop("preprocessing.rescaling.offset", 0)
    factor, shift = read_value("preprocessing.rescaling.scale", scale, number), read_value(
        "preprocessing.rescaling.offset", offset, number)  # fmt: skip
    if factor <= 0:
        raise InputError(f"preprocessing.rescaling.scale={scale}: not understood (expected a positive number)")
    deviation = 1 / (255 * factor)
    values["model.std"] = [round(deviation, 9)] * 3
    values["model.mean"] = [round(-shift * deviation, 9) + 0.0] * 3
    augmented = [key for key in left if key.startswith(("data_augmentation.", "custom_data_augmentation."))]
    if identifies:
        more = any("random_flip" not in key for key in augmented)
        choices["augment"] = "strong" if more else "flip" if augmented else "none"
    elif not augmented:
        choices["augment"] = "none"


def _recipe(left: dict, choices: dict, values: dict, refused: dict, identifies: bool) -> None:
    """Losses, optimizer and schedule."""
    if identifies:
        strategy = str(left.pop("training.triplet_loss.strategy", "hard"))
        if strategy not in STRATEGIES:
            raise InputError(f"training.triplet_loss.strategy={strategy}: there are {', '.join(STRATEGIES)}")
        choices["loss"] = STRATEGIES[strategy]
        metric, here = left.pop("training.triplet_loss.distance_metric", "cosine"), DISTANCES[choices["loss"]]
        if metric != here:
            refused["training.triplet_loss.distance_metric"] = f"{metric}: loss={choices['loss']} has {here} distances"
        values.setdefault("model.distance", "cosine")
        values["loss.softmax.loss.label_smoothing"] = 0.1
    elif (key := "evaluation.reid_distance_metric") in left:
        refused[key] = f"{left.pop(key)}: for re-identification alone"
    rates = {key: key.split(".")[2] for key in left if key.startswith("training.optimizer.")}
    _only_one("training.optimizer", dict.fromkeys(rates.values()))
    for optimizer in dict.fromkeys(rates.values()):
        if optimizer.lower() not in OPTIMIZERS:
            raise InputError(f"training.optimizer={optimizer}: not available here; there are {', '.join(OPTIMIZERS)}")
        choices["optimizer"] = OPTIMIZERS[optimizer.lower()]
    readers: dict[str, Callable] = {"learning_rate": float, "weight_decay": float}
    if choices.get("optimizer") == "sgd":
        values |= {"optimizer.momentum": 0.0, "optimizer.nesterov": False}
        readers |= {"momentum": float, "nesterov": truth}
    for key in rates:
        if (name := key.split(".")[-1]) in readers:
            ours = {"learning_rate": "lr"}.get(name, name)
            values[f"optimizer.{ours}"] = read_value(key, left.pop(key), readers[name])
    if values.get("optimizer.momentum") == 0:
        values["optimizer.nesterov"] = False  # the same in Keras, and refused by torch
    callbacks = {key.split(".")[2] for key in left if key.startswith("training.callbacks.")}
    schedules = ("ReduceLROnPlateau", "LRWarmupCosineDecay")
    _only_one("training.callbacks", [name for name in schedules if name in callbacks])
    for callback in schedules:
        if left.get(f"training.callbacks.{callback}") == {}:
            del left[f"training.callbacks.{callback}"]
    choices["schedule"] = "plateau" if "ReduceLROnPlateau" in callbacks else (
        "warmup_hold_cosine" if "LRWarmupCosineDecay" in callbacks else "constant")  # fmt: skip
    choices.setdefault("optimizer", "adam")


def _only_one(key: str, names: Collection[str]) -> None:
    """InputError where several names stand for one choice."""
    if len(names) > 1:
        raise InputError(f"{key}: holds {' and '.join(names)}, of which a training takes one; leave the others out")


def _files(left: dict, choices: dict, values: dict, refused: dict, identifies: bool) -> None:
    """The int8 files, and the files to write for ST's services."""
    if (quantizer := left.pop("quantization.quantizer", None)) is not None:
        formats = {"tflite_converter": "tflite", "onnx_quantizer": "onnx"}
        if (key := str(quantizer).lower()) not in formats:
            raise InputError(f"quantization.quantizer={quantizer}: there are TFlite_converter and Onnx_quantizer")
        values |= {"quantize.formats": [formats[key]], "quantize.method": "ptq"}
    output = left.pop("quantization.quantization_output_type", None)
    if output in ("int8", "float", "float32"):
        values["quantize.output"] = "int8" if output == "int8" else "float32"
    elif output is not None:
        refused["quantization.quantization_output_type"] = f"{output}: quantize.output is int8 or float32"
    boards = [left.pop(key) for key in ("deployment.hardware_setup.board", "benchmarking.board") if key in left]
    if boards:
        refused["benchmarking.board"] = f"{boards[0]}: give it to the stage, as deploy.boards=[{boards[0]}]"
