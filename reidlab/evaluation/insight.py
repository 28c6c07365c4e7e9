"""Beyond the headline figures: whom a network confuses, between which cameras, and where it looks.

Each picture has a twin table. All take a run's `Search`, which embeds its test split once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from reidlab import plots
from reidlab.data import ReidDataModule
from reidlab.evaluation.embeddings import Embeddings, embed
from reidlab.evaluation.protocols import protocol_of
from reidlab.evaluation.retrieval import Retrieval
from reidlab.plots import Drawn
from reidlab.run import Run

QUERIES_AT_A_TIME = 256


@dataclass(frozen=True)
class Search:
    """A run's network, its data, and its test queries searched in their gallery."""

    network: nn.Module
    datamodule: ReidDataModule
    found: Retrieval


def search(run: Run) -> Search:
    """Search the test split with a run's network, as stage `evaluate` does."""
    datamodule = run.datamodule()
    embeddings = embed(run.network, datamodule, datamodule.test, run.device, "test")
    return Search(run.network, datamodule, protocol_of(run, datamodule).evaluate(embeddings))


def confusions(search: Search, count: int = 12) -> Drawn:
    """The furthest misses: a query, the stranger that it found first, and its own nearest match.

    Of each two identities only the query where the stranger is nearer than the match by most.
    """
    found = search.found
    wrong = (found.ranking.first_rank > 1).nonzero().squeeze(1).tolist()
    rows = []
    for start in range(0, len(wrong), QUERIES_AT_A_TIME):
        chunk = wrong[start : start + QUERIES_AT_A_TIME]
        nearest = found.nearest(chunk, 1)
        for position, place, distance in zip(chunk, nearest.index[:, 0], nearest.distance[:, 0], strict=True):
            query, stranger = found.query.table.iloc[position], found.gallery.table.iloc[int(place)]
            match, match_distance = _nearest_match(found, position)
            gap = match_distance - float(distance)
            paths = (query["path"], stranger["path"], match)
            rows.append((query["pid"], stranger["pid"], float(distance), match_distance, gap, *paths))
    columns = ["pid", "mistaken_for", "distance", "match_distance", "gap", "query", "found", "match"]
    table = pd.DataFrame(rows, columns=columns).sort_values("gap", ascending=False, kind="stable")
    worst = table.drop_duplicates(["pid", "mistaken_for"]).head(count).reset_index(drop=True)
    read = search.datamodule.read
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


def camera_pairs(search: Search) -> Drawn:
    """MAP of the queries of each camera in the gallery of each, and how many queries have a match there."""
    found = search.found
    camids = np.union1d(found.query.table["camid"], found.gallery.table["camid"])
    values, counts = np.full((2, len(camids), len(camids)), np.nan)
    for row, column in np.ndindex(values.shape):
        query = _only(found.query, found.query.table["camid"] == camids[row])
        gallery = _only(found.gallery, found.gallery.table["camid"] == camids[column])
        if len(query.table) and len(gallery.table):
            ranking = replace(found, query=query, gallery=gallery).ranking
            counts[row, column] = ranking.valid.sum()
            values[row, column] = ranking.mean_average_precision if ranking.valid.any() else np.nan
    table = pd.DataFrame(values, pd.Index(camids, name="query camera"), pd.Index(camids, name="gallery camera"))
    return Drawn(plots.camera_pair_matrix(values, camids.tolist(), counts=counts), table)


def precision_drops(before: Retrieval, after: Retrieval) -> Tensor:
    """By how much the average precision of each query drops. (Q,)"""
    return before.ranking.average_precision.nan_to_num() - after.ranking.average_precision.nan_to_num()


def largest_drops(search: Search, after: Retrieval, name: str, count: int = 5, k: int = 10) -> Drawn:
    """The queries whose average precision drops most: their rankings before and, below, by the file `name`."""
    drops = precision_drops(search.found, after)
    worst = drops.argsort(descending=True, stable=True)[:count].tolist()
    figure = before_and_after(search.found, after, search.datamodule.read, name, worst, k)
    table = search.found.query.table.iloc[worst][["path", "pid", "camid"]].reset_index(drop=True)
    precisions = [side.ranking.average_precision[worst] for side in (search.found, after)]
    return Drawn(figure, table.assign(AP_float=precisions[0], AP_file=precisions[1], drop=drops[worst]))


def before_and_after(
    before: Retrieval, after: Retrieval, read: Callable[[str], np.ndarray], name: str, queries: Sequence[int], k: int
) -> Figure:
    """What queries found with the float network and, below it, with the file `name`."""
    sides = (("float", before), (name, after))
    named = [[row._replace(title=f"{side}: {row.title}") for row in found.pictured(queries, k, read)]
             for side, found in sides]  # fmt: skip
    return plots.ranking_gallery([row for pair in zip(*named, strict=True) for row in pair])


def embedding_map(search: Search, num_identities: int = 18, max_images: int = 40, seed: int = 0) -> Drawn:
    """Test images of the identities that have most, laid out so that near embeddings lie near (t-SNE).

    Distances between far groups mean nothing in such a map; groups of mixed colours do.
    """
    from sklearn.manifold import TSNE

    sides = (search.found.query, search.found.gallery)
    table = pd.concat([side.table for side in sides]).reset_index(drop=True)
    people = table[table["pid"] > 0]
    chosen = people["pid"].value_counts(sort=True).head(num_identities).index
    rows = people[people["pid"].isin(chosen)].groupby("pid").sample(frac=1, random_state=seed).groupby("pid")
    rows = rows.head(max_images).sort_values(["pid", "camid", "path"])
    features = torch.cat([side.features for side in sides])[rows.index.tolist()]
    if search.found.distance == "cosine":
        features = nn.functional.normalize(features)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    xy = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features.numpy())
    shown = rows[["path", "pid", "camid"]].assign(x=xy[:, 0], y=xy[:, 1]).reset_index(drop=True)
    return Drawn(plots.embedding_map(xy, shown["pid"].to_numpy(), shown["camid"].to_numpy()), shown)


@torch.inference_mode()
def attention(search: Search, queries: Sequence[int]) -> Drawn:
    """Where the network's last feature maps are strong, for the queries at these positions.

    The norm over channels at each place (Zagoruyko & Komodakis 2017, section 3.1).
    """
    table = search.found.query.table.iloc[list(queries)]
    batch = search.datamodule.preprocess(next(iter(search.datamodule.loader(table))))
    device = next(search.network.parameters()).device
    maps = search.network.featuremaps(batch["image"].to(device)).float().norm(dim=1).cpu().numpy()  # (B, h, w)
    images = [search.datamodule.read(path) for path in table["path"]]
    strongest = [np.unravel_index(m.argmax(), m.shape)[0] / max(m.shape[0] - 1, 1) for m in maps]
    twin = table[["path", "pid", "camid"]].assign(strongest_height=np.round(strongest, 2)).reset_index(drop=True)
    return Drawn(plots.activation_overlay(images, list(maps), [f"pid {pid}" for pid in table["pid"]]), twin)


def _nearest_match(found: Retrieval, position: int) -> tuple[str, float]:
    """Path and distance of the gallery image of the same identity that is nearest to a query."""
    query, others = found.query.table.iloc[position], found.gallery.table
    mine = _only(found.gallery, others["pid"] == query["pid"])
    nearest = replace(found, gallery=mine).nearest([position], 1)
    return mine.table["path"].iloc[int(nearest.index[0, 0])], float(nearest.distance[0, 0])


def _only(embeddings: Embeddings, chosen: pd.Series) -> Embeddings:
    """Those of the chosen rows of their table."""
    mask = chosen.to_numpy(copy=True)
    return Embeddings(embeddings.features[torch.from_numpy(mask)], embeddings.table[mask])
