"""Command `predict`: the classes of any images with confidences, their nearest gallery images, or their embeddings."""

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from reidlab import plots
from reidlab.config import resolve_path
from reidlab.console import log, print_table, significant
from reidlab.data import Samples
from reidlab.data.folders import IMAGE_EXTENSIONS, note_hidden, require_utf8, walk
from reidlab.data.mot import refuse_bare_video
from reidlab.data.sources import compile_pattern, found_in
from reidlab.errors import InputError
from reidlab.evaluation import embed
from reidlab.export.foreign import assumed_order, file_distance, file_threshold, model_of, open_file
from reidlab.export.parity import embed_file
from reidlab.files import file_hash, locked, read_json, storage_errors, sweep, write_atomic, write_json
from reidlab.gallery.extraction import REFUSED, extract
from reidlab.metrics import top_k
from reidlab.metrics.classification import as_confidences
from reidlab.metrics.closeness import Distance
from reidlab.places import expanded
from reidlab.plots.saving import save_figure
from reidlab.run import File, Run
from reidlab.threads import with_its_threads
from reidlab.untrusted import printable

SOURCES = "sources.json"  # what tables are of, by their names: the hash of the paths
SHOWN = 30  # images in the printed table and in the picture


class _Model(NamedTuple):
    """A network or file on samples: the second argument of `embed` is a label for the progress bar."""

    embed: Callable[[Samples, str], Tensor]  # embeddings or confidences (N, D)
    distance: Distance
    threshold: float | None
    classes: Sequence[str] = ()  # as a file names them


@storage_errors()
@with_its_threads
def run(run: Run, *images: Path) -> Path:
    """Predict files, or all images below folders; returns `predict/<name>.csv` of the run folder, `.png` beside it.

    The name is the first's, with how many more there are, and a number where images of another place have it. A
    released network's predictions are written to `runs/`.

    A classifier gives the likeliest classes of each image, another network the nearest gallery images, by the options
    of `conf/predict`. With `predict.out`, the embeddings of any number of images are written there instead, see
    `reidlab.gallery.extraction`; returns that folder. Raises InputError where there is no image or, without
    `predict.out`, one that can't be read.
    """
    if run["predict.out"]:
        if len(images) > 1:
            raise InputError(f"{images[1]}: predict.out takes one source: a folder that holds all, or a CSV of them")
        return _extract(run, images[0])
    if run["predict.k"] < 1:
        raise InputError(f"predict.k={run['predict.k']}: ask for one or more")
    samples, model = images_of(*images), _model(run)
    among = None if run.is_classifier else _gallery(run)
    found = model.embed(samples, "images")
    table, figure = (
        _classes(run, samples, found, model.classes) if among is None else _nearest(run, samples, found, among, model)
    )
    more = f" and {len(images) - 1} more" if len(images) > 1 else ""
    shown = table[table["path"].isin(samples.table["path"].head(SHOWN))].set_index("path")
    if "distance" in shown:
        shown = shown.assign(distance=shown["distance"].map(significant))
    print_table(shown, f"{images[0]}{more}")
    folder = (resolve_path("runs") / run.name if run.is_released else run.folder) / File.PREDICT
    sweep(folder)
    first = images[0].absolute() if images[0].name not in ("", "..") else images[0].resolve()
    name = _own_name((first.name if first.is_dir() else first.stem) + more.replace(" ", "_"), images, folder)
    save_figure(figure, folder / f"{name}.png")
    return write_atomic(folder / f"{name}.csv", table.to_csv(index=False))


def _own_name(name: str, images: Sequence[Path], folder: Path) -> str:
    """The name, with a number where images of other places have it already."""
    source = hashlib.sha256(b"\n".join(os.fsencode(image.resolve()) for image in images)).hexdigest()[:16]
    name = printable(name)
    numbered = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    with locked(folder / ".lock", "another process names its table", wait_s=-1):
        known = read_json(folder / SOURCES, {str: str})
        own = next(
            name
            for name in numbered
            if known.get(name) == source or (name not in known and not (folder / f"{name}.csv").exists())
        )
        write_json(folder / SOURCES, {**known, own: source})
    return own


def _extract(run: Run, source: Path) -> Path:
    """Embed a source of any size, by the options of `conf/predict`."""
    if run.is_classifier:
        raise InputError(f"{run.folder}: its network classifies images; predict.out takes one that embeds them")
    file = resolve_path(run["predict.model"]) if run["predict.model"] else None
    about = {"file": file_hash(file)} if file else {key: run[f"model.{key}"] for key in ("mean", "std")}
    options = ("precision", "shard_images", "processes", "threads", "ray", "gpus")
    pattern = run["predict.pattern"]
    unloaded = Run.of(run.config)  # without its network, for other processes
    unloaded.given = run.given
    found = extract(
        source,
        expanded(run["predict.out"]),
        partial(model_of, unloaded, file),
        pattern=pattern and compile_pattern(pattern, "predict.pattern", "pid"),
        about=about,
        **{key: run[f"predict.{key}"] for key in options},
    )
    refused = f"; {found.refused} refused, see {REFUSED}" if found.refused else ""
    log.info(f"{found.folder}: embeddings of {found.images} images{refused}")
    return found.folder


def images_of(*places: Path) -> Samples:
    """Images, and all below folders, each once, as samples of nobody; InputError where there is none.

    Their paths begin below the folder that is given, or that holds all that are given.
    """
    found = [path for place in places for path in _below(place)]
    root = places[0] if places[0].is_dir() else places[0].parent
    if len(places) > 1:
        found = [path.absolute() for path in found]
        root = Path(os.path.commonpath([path.parent for path in found]))
    paths = dict.fromkeys(path.relative_to(root).as_posix() for path in found)
    return Samples(pd.DataFrame({"path": [*paths], "pid": 0, "camid": 0, "split": "gallery"}), root)


def _below(place: Path) -> list[Path]:
    """An image, or all below a folder; InputError where there is none."""
    if place.is_dir():
        hidden: list[str] = []
        paths = [path for path in walk(place, hidden) if path.lower().endswith(IMAGE_EXTENSIONS)]
        for note in note_hidden(hidden):
            log.info(f"{place}: {note}")
        if not paths:
            raise InputError(f"{place}: holds no image ({', '.join(IMAGE_EXTENSIONS)}); {found_in(place)}")
        return [place / path for path in paths]
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; {found_in(place.parent)}")
    require_utf8(place.name, place.parent)
    refuse_bare_video(place)
    return [place]


def _model(run: Run) -> _Model:
    """The file of `predict.model`, or the run's network."""
    embedder = open_file(run, resolve_path(run["predict.model"])) if run["predict.model"] else None
    size = embedder.size_for(run["data.size"]) if embedder else run["data.size"]

    def call(samples: Samples, label: str) -> Tensor:
        datamodule = run.datamodule(size=size, cache=None)
        datamodule.samples = samples
        if embedder:
            return embed_file(embedder, datamodule, samples.table, label).values
        return embed(run.network, datamodule, samples.table, run.device, label).values

    if embedder is None or run.is_classifier:
        classes = (embedder and embedder.metadata.get("classes")) or ()
        if embedder and run.classes and not classes:
            log.info(f"assumed: {assumed_order(run.classes, embedder.file)}")
        return _Model(call, run["model.distance"], run.threshold(run["model.distance"]), classes)
    distance = file_distance(run, embedder)
    return _Model(call, distance, file_threshold(run, embedder, distance))


def _classes(run: Run, samples: Samples, confidences: Tensor, names: Sequence[str]) -> tuple[pd.DataFrame, Figure]:
    """The likeliest classes of each image, a row each, and the images with the first; names are the file's, if any."""
    names = names or run.classes or [str(number) for number in range(confidences.shape[1])]
    if len(names) != confidences.shape[1]:
        raise InputError(f"the network has {confidences.shape[1]} classes, {run.folder} knows {len(names)}")
    confidences = as_confidences(confidences)
    best = confidences.argsort(dim=1, descending=True, stable=True)[:, : run["predict.k"]]
    table = _ranked(samples, best.shape[1])
    table["class"] = np.array(names)[best.flatten()]
    table["confidence"] = confidences.gather(1, best).flatten()
    first = table[table["rank"] == 1].head(SHOWN)
    tiles = [
        plots.Tile(run.picture(samples.root / row.path), f"{name} {row.confidence:.0%}")
        for row, name in zip(first.itertuples(), first["class"], strict=True)
    ]
    return table, plots.tile_grid(tiles)


def _nearest(run: Run, samples: Samples, queries: Tensor, among: Samples, model: _Model) -> tuple[pd.DataFrame, Figure]:
    """The nearest gallery images of each image, a row each, and their pictures; framed by the model's threshold."""
    distance, threshold = model.distance, model.threshold
    found = model.embed(among, "gallery")
    nobody = [torch.zeros(len(part), dtype=torch.int64) for part in (queries, found)]
    nearest = top_k(queries, found, *nobody, k=run["predict.k"], distance=distance, exclude_same_camera=False)
    table = _ranked(samples, nearest.index.shape[1])
    rows = among.table.iloc[nearest.index.flatten().tolist()]
    table["found"], table["distance"] = rows["path"].to_numpy(), nearest.distance.flatten()
    if not run["predict.gallery"]:
        table["pid"] = among.labeled(rows)["pid"].to_numpy()
    if threshold is not None:
        table["same"] = table["distance"] <= threshold
    pictured = [
        plots.Ranking(
            run.picture(samples.root / path),
            [
                plots.Found(run.picture(among.root / row.found), row.distance, _relation(row.distance, threshold))
                for row in own.itertuples()
            ],
            path,
        )
        for path, own in table[table["path"].isin(samples.table["path"].head(SHOWN))].groupby("path", sort=False)
    ]
    return table, plots.ranking_gallery(pictured)


def _gallery(run: Run) -> Samples:
    """The images of `predict.gallery`, or of the test gallery."""
    if run["predict.gallery"]:
        return images_of(resolve_path(run["predict.gallery"]))
    samples = run.datamodule().samples
    return replace(samples, table=samples.split("gallery"))


def _ranked(samples: Samples, k: int) -> pd.DataFrame:
    """Columns `path` and `rank`, k rows an image."""
    count = len(samples.table)
    return pd.DataFrame({"path": samples.table["path"].repeat(k).to_numpy(), "rank": np.tile(range(1, k + 1), count)})


def _relation(distance: float, threshold: float | None) -> plots.Relation:
    return "ignored" if threshold is None else "match" if distance <= threshold else "mismatch"
