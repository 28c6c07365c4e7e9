"""Stage `evaluate`: mAP, CMC and mINP of a run's network, its baselines beside it, and pictures of what it found."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from reidlab.config import instantiate, run_folder, write_config
from reidlab.data import Normalize, ReidDataModule
from reidlab.embedding import device_of, embed
from reidlab.errors import InputError
from reidlab.models import ColorHistogram
from reidlab.retrieval import TEST, Retrieval
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
    table = datamodule.samples.split(*TEST)
    for row, network, module in _networks(cfg, datamodule):
        embeddings = embed(network, module, table, device_of(cfg), row)
        found = Retrieval.of(embeddings, TEST, cfg.evaluate.distance, cfg.evaluate.exclude_same_camera)
        record_metrics(folder, {row: found.ranking.summary()})
        place = folder / "evaluate" / row
        write_atomic(place / "per_query.csv", found.per_query().to_csv(index=False))
        if row == MAIN_ROW:
            _report_unmatched(found)
            _draw(found, datamodule, cfg.evaluate, place)
    return folder / "metrics.json"


def print_results(folder: Path) -> None:
    """The table of `metrics.json` and where to look."""
    table = pd.DataFrame(read_json(folder / "metrics.json")).T
    table = table[[name for name in SHOWN_FIGURES if name in table]]
    counts = {name: int for name in table if str(name).startswith("num_")}
    print_table(table.astype(counts).rename_axis("network"), f"{folder.name}: test split")
    places = {
        "figures": "metrics.json",
        "rankings": f"evaluate/{MAIN_ROW}",
        "data": "data",
        "training": "curves.png",
        "network": "export/model.onnx",
    }
    for what, place in places.items():
        if (folder / place).exists():
            print(f"{what:>9}: {folder / place}")


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


def _report_unmatched(found: Retrieval) -> None:
    if lonely := found.ranking.queries_without_match:
        paths = found.query.table["path"].iloc[lonely[:3]].tolist()
        more = f" and {len(lonely) - 3} more" if len(lonely) > 3 else ""
        print(f"left out, no match in the gallery: {', '.join(paths)}{more}")


def _draw(found: Retrieval, datamodule: ReidDataModule, options, place: Path) -> None:
    """Pictures of the worst, median and best rankings by average precision."""
    order = found.sorted_queries()
    count = min(options.pictured_queries, len(order))
    middle = (len(order) - count) // 2
    chosen = {"worst": order[:count], "median": order[middle : middle + count], "best": order[::-1][:count]}
    for name, queries in chosen.items():
        save_figure(found.picture(queries, options.pictured_matches, datamodule.read), place / f"{name}.png")
