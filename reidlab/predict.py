"""What a run's network says of any images: their classes with confidences, or the gallery in the order of likeness."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from reidlab import plots
from reidlab.config import instantiate, resolve_path, run_folder
from reidlab.data import ClassDataModule, Samples, read_image
from reidlab.data.samples import IMAGE_EXTENSIONS
from reidlab.data.sources import found_in, walk
from reidlab.embedding import device_of, embed
from reidlab.errors import InputError
from reidlab.export.parity import embed_file
from reidlab.export.runtime import load
from reidlab.metrics import top_k
from reidlab.runs import read_json, write_atomic
from reidlab.show import print_table, save_figure
from reidlab.tasks import known_classes, trained_network

SHOWN = 30  # images in the printed table and in the picture

Embed = Callable[[Samples, str], Tensor]  # images and a label for the progress bar -> embeddings or confidences (N, D)


def run(cfg, images: Path) -> Path:
    """Predict a file or all images below a folder; returns `predict/<name>.csv` of the run folder, `.png` beside it.

    A classifier gives the likeliest classes of each image, another network the nearest gallery images, by the options
    of `conf/predict`. Raises InputError where there is no image or one that can't be read.
    """
    options, cfg.data.cache = cfg.predict, None
    if options.k < 1:
        raise InputError(f"predict.k={options.k}: ask for one or more")
    samples, call = images_of(images), _embedder(cfg)
    found = call(samples, "images")
    if isinstance(instantiate(cfg.data), ClassDataModule):
        table, figure = _classes(cfg, samples, found)
    else:
        table, figure = _nearest(cfg, samples, found, call)
    print_table(table[table["path"].isin(samples.table["path"].head(SHOWN))].set_index("path"), str(images))
    place = run_folder(cfg) / "predict"
    save_figure(figure, place / f"{images.stem}.png")
    return write_atomic(place / f"{images.stem}.csv", table.to_csv(index=False))


def images_of(place: Path) -> Samples:
    """An image, or all below a folder, as samples of nobody; InputError where there is none."""
    if place.is_dir():
        paths = [path for path in walk(place) if path.lower().endswith(IMAGE_EXTENSIONS)]
        if not paths:
            raise InputError(f"{place}: holds no image ({', '.join(IMAGE_EXTENSIONS)}); {found_in(place)}")
    elif place.exists():
        place, paths = place.parent, [place.name]
    else:
        raise InputError(f"{place}: no such file or folder; {found_in(place.parent)}")
    return Samples(pd.DataFrame({"path": paths, "pid": 0, "camid": 0, "split": "gallery"}), place)


def _embedder(cfg) -> Embed:
    """What images go through: the file of `predict.model`, or the run's network."""
    model = cfg.predict.model
    if model is None:
        network, weights = trained_network(cfg)
        if weights is None:
            print(f"{run_folder(cfg).name}: no trained checkpoint and no model.weights; predicting by initial weights")
    else:
        embedder = load(resolve_path(model))
        cfg.data.size = [own if own > 0 else set_ for own, set_ in zip(embedder.size, cfg.data.size, strict=True)]

    def call(samples: Samples, label: str) -> Tensor:
        datamodule = instantiate(cfg.data)
        datamodule.samples = samples
        if model is None:
            return embed(network, datamodule, samples.table, device_of(cfg), label).features
        return embed_file(embedder, datamodule, samples.table, label).features

    return call


def _classes(cfg, samples: Samples, confidences: Tensor) -> tuple[pd.DataFrame, Figure]:
    """The likeliest classes of each image, a row each, and the images with the first."""
    names = known_classes(cfg) or [str(number) for number in range(confidences.shape[1])]
    if len(names) != confidences.shape[1]:
        raise InputError(f"the network tells {confidences.shape[1]} classes, {run_folder(cfg)} knows {len(names)}")
    best = confidences.argsort(dim=1, descending=True, stable=True)[:, : cfg.predict.k]
    table = _ranked(samples, best.shape[1])
    table["class"] = np.array(names)[best.flatten()]
    table["confidence"] = confidences.gather(1, best).flatten()
    first = table[table["rank"] == 1].head(SHOWN)
    tiles = [
        plots.Tile(read_image(samples.root / row.path), f"{name} {row.confidence:.0%}")
        for row, name in zip(first.itertuples(), first["class"], strict=True)
    ]
    return table, plots.tile_grid(tiles)


def _nearest(cfg, samples: Samples, queries: Tensor, call: Embed) -> tuple[pd.DataFrame, Figure]:
    """The nearest gallery images of each image, a row each, and their pictures; framed by the run's threshold."""
    gallery = cfg.predict.gallery
    among = images_of(resolve_path(gallery)) if gallery else _test_gallery(cfg)
    found = call(among, "gallery")
    nobody = [torch.zeros(len(part), dtype=torch.int64) for part in (queries, found)]
    options = {"k": cfg.predict.k, "distance": cfg.model.distance, "exclude_same_camera": False}
    nearest = top_k(queries, found, *nobody, **options)
    table = _ranked(samples, nearest.index.shape[1])
    rows = among.table.iloc[nearest.index.flatten().tolist()]
    table["found"], table["distance"] = rows["path"].to_numpy(), nearest.distance.flatten()
    if not gallery:
        table["pid"] = rows["pid"].to_numpy()
    threshold = read_json(run_folder(cfg) / "verification.json").get("threshold")
    if threshold is not None:
        table["same"] = table["distance"] <= threshold
    pictured = [
        plots.Ranking(
            read_image(samples.root / path),
            [
                plots.Found(read_image(among.root / row.found), row.distance, _relation(row.distance, threshold))
                for row in own.itertuples()
            ],
            path,
        )
        for path, own in table[table["path"].isin(samples.table["path"].head(SHOWN))].groupby("path", sort=False)
    ]
    return table, plots.ranking_gallery(pictured)


def _test_gallery(cfg) -> Samples:
    samples = instantiate(cfg.data).samples
    return Samples(samples.split("gallery"), samples.root)


def _ranked(samples: Samples, k: int) -> pd.DataFrame:
    """Columns `path` and `rank`, k rows an image."""
    count = len(samples.table)
    return pd.DataFrame({"path": samples.table["path"].repeat(k).to_numpy(), "rank": np.tile(range(1, k + 1), count)})


def _relation(distance: float, threshold: float | None) -> plots.Relation:
    return "ignored" if threshold is None else "match" if distance <= threshold else "mismatch"
