"""A .tflite or .onnx in the place of a run's network, by what the run's settings say of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from reidlab.config import keys_of, resolve_path
from reidlab.console import log
from reidlab.errors import InputError
from reidlab.export.model import Model, load
from reidlab.export.runtime import Embedder, open_model
from reidlab.files import EXPORTED, file_hash, read_json
from reidlab.metrics.closeness import Distance
from reidlab.run import File, Run
from reidlab.run.contract import SCHEMAS

FILE_SETTINGS = ("mean", "std", "color_order", "output")  # settings of `evaluate`, of what a file doesn't say of itself


def file_settings(run: Run, file: Path) -> dict[str, Any]:
    """The settings of `evaluate` that hold for a file: those of the run's own file, if it has one, are no other's."""
    own, given = run["evaluate.file"], keys_of(run.given)
    hold = not own or resolve_path(own).absolute() == file.absolute()
    return {key: run[f"evaluate.{key}"] if hold or f"evaluate.{key}" in given else None for key in FILE_SETTINGS}


def open_foreign(run: Run, file: Path, classes: int = 0) -> Embedder:
    """A .tflite or .onnx from elsewhere by the settings of `evaluate`, see `open_model`.

    `classes` is their number where the data say it, of a classifier; by default that of the run's training.
    """
    wanted = classes or len(run.classes) if run.is_classifier else None
    return open_model(file, **file_settings(run, file), classes=wanted)


def assumed_order(names: Sequence[str], file: Path) -> str:
    """In words, that the outputs of a file, which names no classes, are of these in this order."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"its outputs are {', '.join(names[:8])}{more}, in this order, which {file.name} doesn't say"


def open_file(run: Run, file: Path, classes: int = 0) -> Embedder:
    """See `open_foreign`; what the file takes is logged, and what is assumed of it."""
    embedder = open_foreign(run, file, classes)
    port, order = embedder.input, "B, 3, H, W" if embedder.channels_first else "B, H, W, 3"
    size = embedder.size_for(run["data.size"])
    log.info(f"{file.name}: {port.dtype} ({order}), images of {size}, run by {embedder.runtime}")
    for assumption in embedder.assumed:
        log.info(f"assumed: {assumption}; evaluate.mean, evaluate.std and evaluate.color_order say otherwise")
    if min(embedder.size) < 1:
        log.info(f"assumed: images of {size}, since the file takes any; data.size says otherwise")
    return embedder


def file_distance(run: Run, embedder: Embedder) -> Distance:
    """The distance of a file's embeddings: its own, unless `evaluate.distance` is another than the network's."""
    own, wanted, trained = embedder.metadata.get("distance"), run["evaluate.distance"], run["model.distance"]
    name = embedder.file.name
    if own is None and wanted != trained:
        log.info(f"compared by the {wanted} distance, as evaluate.distance says")
    elif own is None:
        log.info(f"assumed: the {wanted} distance, which {name} doesn't say; evaluate.distance says otherwise")
    elif own not in get_args(Distance):
        raise InputError(f"{embedder.file}: its metadata say distance {own}; there are {', '.join(get_args(Distance))}")
    elif wanted != own:
        by_file = wanted == trained
        source = f"as {name} says" if by_file else f"as evaluate.distance says, though {name} says {own}"
        log.info(f"compared by the {own if by_file else wanted} distance, {source}")
        return own if by_file else wanted
    return wanted


def file_threshold(run: Run, embedder: Embedder, distance: Distance, as_network: bool = True) -> float | None:
    """The threshold of a file on a distance: as `evaluate model=FILE` calibrated it, else as it says.

    `as_network`: that of the run's network before the latter, where the file was made of it. By settings that the file
    doesn't say itself, a threshold of `evaluate` by the same ones counts, and no other.
    """
    known, by = embedder.metadata, said_besides(run, embedder)
    place = run / File.EVALUATE / embedder.file.name / File.VERIFICATION
    found = read_json(place, SCHEMAS[File.VERIFICATION])
    if found.get("checkpoint") == file_hash(embedder.file) + by and found.get("distance") == distance:
        return found.get("threshold")
    if by:
        return None
    own = run.threshold(distance) if as_network and embedder.weights_hash == run.checkpoint else None
    return known.get("threshold") if own is None and known.get("distance") == distance else own


def said_besides(run: Run, embedder: Embedder) -> str:
    """The settings of `evaluate` that hold for a file and that it doesn't say itself, to be added to a hash."""
    said = file_settings(run, embedder.file).items()
    by = " ".join(f"{key}={value}" for key, value in said if value not in (None, embedder.metadata.get(key)))
    return f" by {by}" if by else ""


def model_of(run: Run, file: Path | None) -> Model:
    """Load what embeds images for a run: its network, or a file in its place, an exported one by `evaluate`'s settings.

    Embeddings depend on these settings: the `checkpoint` names those that the file doesn't say itself.
    """
    if file is None:
        return Model.of(run)
    if file.suffix.lower() not in EXPORTED:
        return load(file)
    embedder = open_file(run, file)
    distance = file_distance(run, embedder)
    checkpoint = f"{embedder.weights_hash or file_hash(file)}{said_besides(run, embedder)}"
    threshold = file_threshold(run, embedder, distance)
    about: dict[str, Any] = {"weights_hash": checkpoint, "distance": distance}
    if threshold is not None:
        about["threshold"] = threshold
    return Model(embedder, embedder.size_for(run["data.size"]), file.name, about)
