"""Pictures of retrieval with their tables: confused identities, camera pairs, embeddings and attention.

All take a `Retrieved`, which embeds the test split once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from reidlab import plots
from reidlab.data import ReidDataModule
from reidlab.errors import InputError
from reidlab.evaluation.outputs import embed
from reidlab.evaluation.protocols import RetrievalProtocol
from reidlab.evaluation.retrieval import Retrieval
from reidlab.models import ReIdNetwork
from reidlab.plots import Drawn
from reidlab.run import File, Row, Run

QUERIES_AT_A_TIME = 256


@dataclass(frozen=True)
class Retrieved:
    """A network, its data, and its test queries retrieved in their gallery."""

    network: ReIdNetwork
    datamodule: ReidDataModule
    found: Retrieval


def retrieve(run: Run) -> Retrieved:
    """Retrieve the test queries with a run's network by the rules of its figures, as stage `evaluate` did.

    Raises InputError where it was given other test images.
    """
    rules, scored = run.rules_of(Row.CHECKPOINT), run.results.get(Row.CHECKPOINT)
    datamodule = cast(ReidDataModule, run.datamodule(size=rules["size"]))
    protocol = RetrievalProtocol(rules["distance"], rules["exclude_same_camera"])
    if scored and scored.protocol.get("test", test := protocol.record(datamodule)["test"]) != test:
        raise InputError(
            f"{run / File.METRICS}: figures of other test images than {datamodule.samples.root} has by these settings; "
            f"give the data.* that they were measured on, or run `{run.command('evaluate')}` again"
        )
    found = protocol.evaluate(embed(run.network, datamodule, datamodule.test, run.device, "test"))
    return Retrieved(cast(ReIdNetwork, run.network), datamodule, found)


def confusions(retrieved: Retrieved, count: int = 12) -> Drawn:
    """Draw the worst confusions: a query, the image of another identity that ranks first, and its own nearest match.

    Of each pair of identities the query with the largest gap between the two distances, largest first.
    """
    found = retrieved.found
    queries, others = found.query.labeled, found.gallery.labeled
    wrong = (found.ranking.first_rank > 1).nonzero().squeeze(1).tolist()
    rows = []
    for start in range(0, len(wrong), QUERIES_AT_A_TIME):
        chunk = wrong[start : start + QUERIES_AT_A_TIME]
        nearest = found.nearest(chunk, 1)
        for position, place, distance in zip(chunk, nearest.index[:, 0], nearest.distance[:, 0], strict=True):
            query, other = queries.iloc[position], others.iloc[int(place)]
            match, match_distance = _nearest_match(found, position)
            gap = match_distance - float(distance)
            paths = (query["path"], other["path"], match)
            rows.append((query["pid"], other["pid"], float(distance), match_distance, gap, *paths))
    columns = ["pid", "mistaken_for", "distance", "match_distance", "gap", "query", "found", "match"]
    table = pd.DataFrame(rows, columns=columns).sort_values("gap", ascending=False, kind="stable")
    worst = table.drop_duplicates(["pid", "mistaken_for"]).head(count).reset_index(drop=True)
    read = retrieved.datamodule.read
    pairs = [
        plots.Confusion(
            read(row.query),
            plots.Found(read(row.found), row.distance, "mismatch"),
            plots.Found(read(row.match), row.match_distance, "match"),
            f"pid {row.pid}",
        )
        for row in worst.itertuples()
    ]
    return Drawn(plots.confusions(pairs), worst)


def camera_pairs(retrieved: Retrieved) -> Drawn:
    """Draw the mAP of the queries of each camera in the gallery of each, with the number of queries with a match."""
    found = retrieved.found
    camids = np.union1d(found.query.table["camid"], found.gallery.table["camid"])
    values, counts = np.full((2, len(camids), len(camids)), np.nan)
    for row, column in np.ndindex(values.shape):
        query = found.query.rows(found.query.table["camid"] == camids[row])
        gallery = found.gallery.rows(found.gallery.table["camid"] == camids[column])
        if len(query.table) and len(gallery.table):
            ranking = replace(found, query=query, gallery=gallery).ranking
            counts[row, column] = ranking.valid.sum()
            values[row, column] = ranking.mean_average_precision if ranking.valid.any() else np.nan
    names = _labels(found, "camid")
    labels = [names[camid] for camid in camids]
    table = pd.DataFrame(values, pd.Index(labels, name="query camera"), pd.Index(labels, name="gallery camera"))
    return Drawn(plots.camera_pair_matrix(values, labels, counts=counts), table)


def threshold_spread(
    retrieved: Retrieved, wanted_fpr: float, counts: Sequence[int] = (2, 4, 8, 16, 32, 64, 128), repeats: int = 100,
    seed: int = 0,
) -> Drawn:  # fmt: skip
    """Draw how far a threshold can be trusted that so many identities calibrated.

    That many of the test identities are drawn at random, the threshold is set on their pairs, and the rates are
    measured on the pairs of all others, again and again. A row for each count of up to half the identities: the median
    and the 5th and 95th percentiles of threshold, FPR and TPR.

    Args:
        retrieved: whose test identities are drawn.
        wanted_fpr: the false positive rate that each threshold is calibrated to.
        counts: of identities.
        repeats: draws of each.
        seed: of these.
    """
    found, draw = retrieved.found, np.random.default_rng(seed)
    pids = np.intersect1d(found.query.table["pid"], found.gallery.table["pid"])
    rows: dict[int, dict[str, float]] = {}
    for count in (n for n in counts if 2 <= n <= len(pids) // 2):
        figures = [_on_others(found, draw.permutation(pids), count, wanted_fpr) for _ in range(repeats)]
        values = np.array([row for row in figures if row]).reshape(-1, 3)
        rows[count] = {
            f"{name}{end}": float(value)
            for name, column in zip(("threshold", "FPR", "TPR"), values.T, strict=True)
            for end, value in zip(("", " low", " high"), np.quantile(column, (0.5, 0.05, 0.95)), strict=True)
        } if len(values) else {}  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("identities")
    return Drawn(plots.threshold_spread(table, wanted_fpr), table)


def _on_others(found: Retrieval, pids: np.ndarray, count: int, fpr: float) -> tuple[float, float, float] | None:
    """Threshold by the first identities, FPR and TPR at it of the others; None without pairs of both kinds."""
    sides = []
    for of in (pids[:count], pids[count:]):
        parts = [side.rows(np.isin(side.table["pid"], of)) for side in (found.query, found.gallery)]
        try:
            part = replace(found, query=parts[0], gallery=parts[1])
            sides.append(part.verify(fpr, resamples=0, seed=0))
        except InputError:
            return None
    tpr, reached = sides[1].rates_at(sides[0].threshold)
    return sides[0].threshold, reached, tpr


def precision_drops(before: Retrieval, after: Retrieval) -> Tensor:
    """Drops of the average precision of each query. (Q,)"""
    return before.ranking.average_precision.nan_to_num() - after.ranking.average_precision.nan_to_num()


def largest_drops(retrieved: Retrieved, after: Retrieval, name: str, count: int = 5, k: int = 10) -> Drawn:
    """Draw the queries whose average precision drops most: their rankings before and, below, by an exported file.

    Args:
        retrieved: by the checkpoint.
        after: the same queries by the file.
        name: of the file.
        count: of queries.
        k: gallery images a ranking.
    """
    drops = precision_drops(retrieved.found, after)
    worst = drops.argsort(descending=True, stable=True)[:count].tolist()
    figure = before_and_after(retrieved.found, after, retrieved.datamodule.read, name, worst, k)
    table = retrieved.found.query.labeled.iloc[worst][["path", "pid", "camid"]].reset_index(drop=True)
    precisions = [side.ranking.average_precision[worst] for side in (retrieved.found, after)]
    return Drawn(figure, table.assign(AP_float=precisions[0], AP_file=precisions[1], drop=drops[worst]))


def before_and_after(
    before: Retrieval, after: Retrieval, read: Callable[[str], np.ndarray], name: str, queries: Sequence[int], k: int
) -> Figure:
    """Draw the rankings of queries by the float network and, below each, by an exported file.

    Args:
        before: by the float network.
        after: by the file.
        read: gives a sample's image (H, W, 3).
        name: of the file.
        queries: their positions.
        k: gallery images a ranking.
    """
    sides = (("float", before), (name, after))
    named = [[row._replace(title=f"{side}: {row.title}") for row in found.pictured(queries, k, read)]
             for side, found in sides]  # fmt: skip
    return plots.ranking_gallery([row for pair in zip(*named, strict=True) for row in pair])


def embedding_map(retrieved: Retrieved, num_identities: int = 18, max_images: int = 40, seed: int = 0) -> Drawn:
    """Draw test images of the identities with most images, close embeddings close together (t-SNE).

    Distances between far groups mean nothing in such a map; groups of mixed colors do.

    Args:
        retrieved: whose test images are shown.
        num_identities: the number of identities.
        max_images: of each.
        seed: of the layout and of the choice of images.
    """
    from sklearn.manifold import TSNE

    sides = (retrieved.found.query, retrieved.found.gallery)
    table = pd.concat([side.table for side in sides]).reset_index(drop=True)
    people = table[table["pid"] > 0]
    chosen = people["pid"].value_counts(sort=True).head(num_identities).index
    rows = people[people["pid"].isin(chosen)].groupby("pid").sample(frac=1, random_state=seed).groupby("pid")
    rows = rows.head(max_images).sort_values(["pid", "camid", "path"])
    embeddings = torch.cat([side.values for side in sides])[rows.index.tolist()]
    if retrieved.found.distance == "cosine":
        embeddings = nn.functional.normalize(embeddings)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    xy = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(embeddings.numpy())
    names, cameras = (_labels(retrieved.found, column) for column in ("pid", "camid"))
    figure = plots.embedding_map(xy, rows["pid"].to_numpy(), rows["camid"].to_numpy(), names=names, cameras=cameras)
    shown = rows[["path", "pid", "camid"]].assign(pid=rows["pid"].map(names), camid=rows["camid"].map(cameras))
    return Drawn(figure, shown.assign(x=xy[:, 0], y=xy[:, 1]).reset_index(drop=True))


@torch.inference_mode()
def attention(retrieved: Retrieved, queries: Sequence[int]) -> Drawn:
    """Draw where the last feature maps are strong, for the queries at these positions.

    The norm over channels at each place (Zagoruyko & Komodakis 2017, section 3.1).
    """
    shown = retrieved.found.query.rows(queries)
    table, labels = shown.table, shown.labeled
    batch = retrieved.datamodule.preprocess(next(iter(retrieved.datamodule.loader(table))))
    device = next(retrieved.network.parameters()).device
    maps = retrieved.network.featuremaps(batch["image"].to(device)).float().norm(dim=1).cpu().numpy()  # (B, h, w)
    images = [retrieved.datamodule.read(path) for path in table["path"]]
    strongest = [np.unravel_index(m.argmax(), m.shape)[0] / max(m.shape[0] - 1, 1) for m in maps]
    about = labels[["path", "pid", "camid"]].assign(strongest_height=np.round(strongest, 2)).reset_index(drop=True)
    return Drawn(plots.activation_overlay(images, list(maps), [f"pid {pid}" for pid in labels["pid"]]), about)


def _labels(found: Retrieval, column: str) -> dict[int, Any]:
    """The label of each number of `pid` or `camid`; "unknown" of camera 0."""
    sides = (found.query, found.gallery)
    pairs = ((number, label) for s in sides for number, label in zip(s.table[column], s.labeled[column], strict=True))
    return {number: label or "unknown" for number, label in pairs}


def _nearest_match(found: Retrieval, position: int) -> tuple[str, float]:
    """Path and distance of the gallery image of the same identity that is nearest to a query."""
    query, others = found.query.table.iloc[position], found.gallery.table
    mine = found.gallery.rows(others["pid"] == query["pid"])
    nearest = replace(found, gallery=mine).nearest([position], 1)
    return mine.table["path"].iloc[int(nearest.index[0, 0])], float(nearest.distance[0, 0])
