"""Stage `evaluate`: mAP, CMC and mINP of a run's network, its baselines beside it, and pictures of what it found."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from reidlab import plots
from reidlab.config import instantiate, run_folder, write_config
from reidlab.data import Normalize, ReidDataModule, read_image
from reidlab.embedding import Embeddings, device_of, embed
from reidlab.errors import InputError
from reidlab.metrics import Ranking, rank, top_k
from reidlab.models import ColorHistogram
from reidlab.runs import read_json, record_metrics, write_atomic
from reidlab.show import print_table, save_figure
from reidlab.tasks import trained_network

MAIN_ROW = "checkpoint"
SHOWN_FIGURES = ("mAP", "rank-1", "rank-5", "rank-10", "mINP", "num_query", "num_gallery")


def run(cfg) -> Path:
    """Score the run's network on the test split, and the baselines that the config names; returns `metrics.json`.

    Writes `evaluate/<row>/per_query.csv` for every row, and pictures of the best, median and worst rankings of the
    network's own. Raises InputError where no query has a match in the gallery.
    """
    folder = run_folder(cfg)
    if not (folder / "checkpoints").exists():
        write_config(cfg, folder / "config.yaml")
    datamodule = instantiate(cfg.data)
    table = datamodule.samples.split("query", "gallery")
    for row, network, module in _networks(cfg, datamodule):
        embeddings = embed(network, module, table, device_of(cfg), row)
        ranking = rank_split(embeddings, cfg.evaluate.distance, cfg.evaluate.exclude_same_camera)
        if not ranking.valid.any():
            raise InputError(f"{datamodule.name}: no query has a match in the gallery; see `reidlab data`")
        record_metrics(folder, {row: ranking.summary()})
        place = folder / "evaluate" / row
        write_atomic(place / "per_query.csv", per_query(ranking, embeddings).to_csv(index=False))
        if row == MAIN_ROW:
            _report_unmatched(ranking, embeddings)
            _draw(cfg, embeddings, ranking, datamodule, place)
    print_results(folder)
    return folder / "metrics.json"


def rank_split(embeddings: Embeddings, distance: str, exclude_same_camera: bool) -> Ranking:
    """Rank the test gallery for each test query."""
    query, gallery = embeddings.split("query"), embeddings.split("gallery")
    return rank(
        query.features,
        gallery.features,
        query.column("pid"),
        gallery.column("pid"),
        query.column("camid"),
        gallery.column("camid"),
        distance=distance,
        exclude_same_camera=exclude_same_camera,
        query_names=query.table["path"].tolist(),
        gallery_names=gallery.table["path"].tolist(),
    )


def per_query(ranking: Ranking, embeddings: Embeddings) -> pd.DataFrame:
    """One row a query: its image, figures, and whether it counts; queries without a match have empty figures."""
    figures = pd.DataFrame(
        {
            "AP": ranking.average_precision,
            "INP": ranking.inverse_negative_penalty,
            "first_rank": ranking.first_rank.double(),
            "last_rank": ranking.last_rank.double(),
        }
    )
    figures.loc[ranking.queries_without_match] = np.nan
    queries = embeddings.split("query").table[["path", "pid", "camid"]].reset_index(drop=True)
    return pd.concat([queries, figures], axis=1).assign(num_matches=ranking.num_matches)


def print_results(folder: Path) -> None:
    """The table of `metrics.json` and where to look."""
    table = pd.DataFrame(read_json(folder / "metrics.json")).T
    table = table[[name for name in SHOWN_FIGURES if name in table]]
    counts = {name: int for name in table if str(name).startswith("num_")}
    print_table(table.astype(counts).rename_axis("network"), f"{folder.name}: test split")
    print(f"figures: {folder / 'metrics.json'}\npictures: {folder / 'evaluate' / MAIN_ROW}")


def _networks(cfg, datamodule: ReidDataModule) -> Iterator[tuple[str, nn.Module, ReidDataModule]]:
    """Row name, network and the data module that prepares its images, for the run's network and each baseline."""
    network, weights = trained_network(cfg)
    if weights is None and cfg.model.name != "color_histogram":
        print(f"{cfg.run.name}: no trained checkpoint and no model.weights; scoring initial weights")
    yield MAIN_ROW, network, datamodule
    for baseline in cfg.evaluate.baselines:
        if baseline == "untrained":
            torch.manual_seed(cfg.seed)
            yield baseline, instantiate(cfg.model.network, num_classes=0), datamodule
        elif baseline == "colour-histogram":
            module = copy.copy(datamodule)
            module.normalize = Normalize([0.0] * 3, [1.0] * 3)
            yield baseline, ColorHistogram(), module
        else:
            raise InputError(f"evaluate.baselines: {baseline} is none; there are untrained and colour-histogram")


def _report_unmatched(ranking: Ranking, embeddings: Embeddings) -> None:
    lonely = ranking.queries_without_match
    if lonely:
        paths = embeddings.split("query").table["path"].iloc[lonely[:3]].tolist()
        more = f" and {len(lonely) - 3} more" if len(lonely) > 3 else ""
        print(f"left out, no match in the gallery: {', '.join(paths)}{more}")


def _draw(cfg, embeddings: Embeddings, ranking: Ranking, datamodule: ReidDataModule, place: Path) -> None:
    """Pictures of the best, median and worst rankings by average precision."""
    order = torch.argsort(ranking.average_precision.nan_to_num(2.0), stable=True)[: int(ranking.valid.sum())].numpy()
    count = min(cfg.evaluate.pictured_queries, len(order))
    middle = (len(order) - count) // 2
    chosen = {"worst": order[:count], "median": order[middle : middle + count], "best": order[::-1][:count]}
    for name, queries in chosen.items():
        figure = picture_rankings(embeddings, ranking, queries, datamodule, cfg.evaluate)
        save_figure(figure, place / f"{name}.png")


def picture_rankings(embeddings: Embeddings, ranking: Ranking, queries, datamodule: ReidDataModule, options) -> Figure:
    """What some queries, given by position, found: their nearest gallery images with distances and frames."""
    query, gallery = embeddings.split("query"), embeddings.split("gallery")
    chosen = Embeddings(query.features[torch.as_tensor(queries.copy())], query.table.iloc[queries])
    nearest = top_k(
        chosen.features,
        gallery.features,
        chosen.column("pid"),
        gallery.column("pid"),
        chosen.column("camid"),
        gallery.column("camid"),
        k=options.pictured_matches,
        distance=options.distance,
        exclude_same_camera=options.exclude_same_camera,
    )

    def read(path: str) -> np.ndarray:
        return read_image(datamodule.samples.root / path, datamodule.size)

    rows = []
    for line, (position, sample) in enumerate(zip(queries, chosen.table.itertuples(), strict=True)):
        shown = nearest.index[line] >= 0
        others = gallery.table.iloc[nearest.index[line][shown].tolist()]
        found = [
            plots.Found(read(other.path), float(distance), "match" if other.pid == sample.pid else "mismatch")
            for other, distance in zip(others.itertuples(), nearest.distance[line][shown], strict=True)
        ]
        title = f"pid {sample.pid}, AP {ranking.average_precision[position]:.3f}"
        rows.append(plots.Ranking(read(sample.path), found, title))
    return plots.ranking_gallery(rows)
