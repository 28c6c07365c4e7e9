"""mAP, CMC and mINP without sorting the gallery: a match's rank is the count of gallery items closer than it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reidlab.metrics.closeness import Closeness, Distance
from reidlab.metrics.pairing import Pairing, spans

RANKS = (1, 5, 10, 20)
CHUNK = 2**22  # scores looked at together where a step needs copies of them
CROWDED = 1 / 64  # undecided share of a gallery from which a float64 product is cheaper than single pairs


@dataclass(frozen=True)
class Ranking:
    """The result of each query; one without a match has num_matches 0, rank 0 and NaN precision.

    Shapes: all (Q,). `first_rank` and `last_rank` count from 1 among the items the query is compared with.
    """

    average_precision: Tensor  # float64
    first_rank: Tensor  # int64, of the closest match
    last_rank: Tensor  # int64, of the hardest match
    num_matches: Tensor  # int64
    num_gallery: int

    @property
    def valid(self) -> Tensor:
        """Queries that have a match, hence count. (Q,) bool"""
        return self.num_matches > 0

    @property
    def queries_without_match(self) -> list[int]:
        """Positions of the queries that are left out."""
        return (~self.valid).nonzero().squeeze(1).tolist()

    @property
    def inverse_negative_penalty(self) -> Tensor:
        """Matches over the rank of the hardest one (Ye et al. 2021, TPAMI, section 4.1). (Q,)"""
        return self.num_matches.double() / self.last_rank

    @property
    def mean_average_precision(self) -> float:
        """MAP: the mean over queries of the mean precision at their matches (Zheng et al. 2015, section 5.1)."""
        return self.average_precision[self.valid].mean().item()

    @property
    def mean_inverse_negative_penalty(self) -> float:
        """MINP: how soon, on average, all matches are found."""
        return self.inverse_negative_penalty[self.valid].mean().item()

    def cmc(self, k: int) -> float:
        """The share of queries with a match among their k closest."""
        return (self.first_rank[self.valid] <= k).double().mean().item()

    def summary(self) -> dict[str, float | int]:
        """The headline figures, as fractions; NaN if no query has a match."""
        return {
            "mAP": self.mean_average_precision,
            **{f"rank-{k}": self.cmc(k) for k in RANKS},
            "mINP": self.mean_inverse_negative_penalty,
            "num_query": int(self.valid.sum()),
            "num_gallery": self.num_gallery,
        }


def rank(
    query: Tensor,
    gallery: Tensor,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    distance: Distance = "euclidean",
    exclude_same_camera: bool = True,
    query_names: Sequence[str] | None = None,
    gallery_names: Sequence[str] | None = None,
    block_rows: int | None = None,
) -> Ranking:
    """Rank a gallery for each query, exactly, in blocks; see `Pairing` for junk, distractors and cameras.

    Ties are broken against the model: a non-match that is as close as a match ranks before it, wherever it stands in
    the gallery, so that a network that maps everything to one point scores worst. Closeness is that of the float32
    embeddings in float64 arithmetic; a difference within its rounding error is a tie. Needs 512 MB above the
    embeddings. Raises InputError, which names the image, where an embedding isn't finite.

    Args:
        query: embeddings (Q, D), on the CPU or a GPU.
        gallery: embeddings (G, D), likewise.
        query_pids: (Q,).
        gallery_pids: (G,).
        query_camids: (Q,), or None where cameras are unknown.
        gallery_camids: (G,), or None.
        distance: euclidean or cosine.
        exclude_same_camera: leave out a query's matches of its own camera.
        query_names: of the images, for messages.
        gallery_names: likewise.
        block_rows: queries at a time; None for as many as fit 256 MB.

    >>> figures = rank(torch.eye(2), torch.eye(2), [1, 2], [1, 2]).summary()
    >>> figures["mAP"], figures["rank-1"], figures["num_query"]
    (1.0, 1.0, 2)
    """
    ids = Pairing.of(query_pids, gallery_pids, query_camids, gallery_camids, exclude_same_camera=exclude_same_camera)
    ids = ids.fitting(query, gallery)
    closeness = Closeness(query, gallery, distance, query_names, gallery_names)
    return rank_blocks(closeness.blocks(block_rows), ids, closeness)


def rank_blocks(blocks: Iterable[Tensor], protocol: Pairing, closeness: Closeness | None = None) -> Ranking:
    """Rank from blocks of scores of any origin: (n, G) for consecutive queries, the closest highest; overwritten here.

    With `closeness`, scores nearer to each other than its margin are compared again in float64; without, as they are.
    """
    parts, start = [], 0
    for scores in blocks:
        block = _Block(scores, start, protocol, closeness)
        parts.append(_figures(block.matches.row, block.ahead(), len(scores)))
        start += len(scores)
    precision, first, last, matches = (torch.cat(column) for column in zip(*parts, strict=True))
    return Ranking(precision, first, last, matches, protocol.num_gallery)


class _Block:
    """Scores of consecutive queries, split into those of their matches, `own` (M,), and of non-matches (n, G)."""

    def __init__(self, scores: Tensor, start: int, protocol: Pairing, closeness: Closeness | None):
        self.matches = protocol.mask(scores, start)
        self.own = scores[self.matches]
        self.scores = scores.index_put_(self.matches, scores.new_tensor(-torch.inf))
        self.start, self.closeness = start, closeness
        self.queries = start + self.matches.row  # (M,)

    def ahead(self) -> Tensor:
        """The number of non-matches that rank before each match. (M,) int64"""
        row = self.matches.row
        if self.closeness is None:
            return _reaching(self.scores, row, self.own[None])[0]
        margin = self.closeness.margin(self.scores.dtype)[self.queries]
        low, high = (self.own - margin).to(self.own.dtype), (self.own + margin).to(self.own.dtype)
        maybe, surely = _reaching(self.scores, row, torch.stack([low, high]))
        unsure = maybe - surely
        per_query = unsure.new_zeros(len(self.scores)).index_add_(0, row, unsure)
        crowded = (per_query > self.scores.shape[1] * CROWDED)[row]
        few, many = (~crowded & (unsure > 0)).nonzero().squeeze(1), crowded.nonzero().squeeze(1)
        surely[few] += self._undecided_ahead(few, low, high, self.closeness)
        surely[many] = self._ahead_in_float64(many, self.closeness)
        return surely

    def _undecided_ahead(self, which: Tensor, low: Tensor, high: Tensor, closeness: Closeness) -> Tensor:
        """The number of non-matches within the margin of a match that rank before it, by pairs in float64."""
        row, col, queries = self.matches.row[which], self.matches.col[which], self.queries[which]
        bounds = zip(row.tolist(), low[which].tolist(), high[which].tolist(), strict=True)
        rivals = [_between(self.scores[line].numpy(force=True), least, most) for line, least, most in bounds]
        match = torch.tensor([n for n, found in enumerate(rivals) for _ in found], dtype=torch.int64, device=row.device)
        rival = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *rivals])).to(row.device)
        own = closeness.pairs(queries, col) - closeness.margin(torch.float64)[queries]
        reached = closeness.pairs(queries[match], rival) >= own[match]
        return torch.bincount(match[reached], minlength=len(which))

    def _ahead_in_float64(self, which: Tensor, closeness: Closeness) -> Tensor:
        """The whole count in float64, for queries with many scores within the margin, as of a collapsed network."""
        ahead = torch.zeros_like(which)
        lines, line = self.matches.row[which].unique_consecutive(return_inverse=True)
        for begin, end in spans(len(lines), max(1, CHUNK // self.scores.shape[1])):
            part = ((line >= begin) & (line < end)).nonzero().squeeze(1)
            chosen, row, queries = which[part], line[part] - begin, self.queries[which[part]]
            scores = closeness.rows(self.start + lines[begin:end])
            own = scores[row, self.matches.col[chosen]] - closeness.margin(torch.float64)[queries]
            scores[self.scores[lines[begin:end]] == -torch.inf] = -torch.inf
            ahead[part] = _reaching(scores, row, own[None])[0]
        return ahead


def _between(line: np.ndarray, least: float, most: float) -> np.ndarray:
    return ((line >= least) & (line < most)).nonzero()[0]


def _reaching(scores: Tensor, row: Tensor, edges: Tensor) -> Tensor:
    """For each edge, how many scores of its row reach it. scores (n, G), row (M,) ascending, edges (E, M) -> (E, M)

    The first edge of each column is its lowest. Only a row's scores above its lowest edge are ever put in order.
    """
    if scores.device.type != "cpu":
        return _reaching_dense(scores, row, edges)
    counts = np.zeros(tuple(edges.shape), dtype=np.int64)
    rows, begins, sizes = np.unique(row.numpy(), return_index=True, return_counts=True)
    lines, bounds = scores.numpy(), edges.numpy()
    floors = np.minimum.reduceat(bounds[0], begins)
    groups = zip(rows.tolist(), floors.tolist(), begins.tolist(), (begins + sizes).tolist(), strict=True)
    for number, floor, begin, end in groups:
        line = lines[number]
        reach = (line >= floor).nonzero()[0]
        near = line[reach] if len(reach) * 8 < len(line) else line.copy()
        near.sort()
        counts[:, begin:end] = len(near) - near.searchsorted(bounds[:, begin:end])
    return torch.from_numpy(counts)


def _reaching_dense(scores: Tensor, row: Tensor, edges: Tensor) -> Tensor:
    """`_reaching` by plain comparison, which suits a GPU."""
    counts = [
        (scores[row[a:b]] >= edges[:, a:b, None]).sum(2) for a, b in spans(len(row), max(1, CHUNK // scores.shape[1]))
    ]
    return torch.cat([edges.new_zeros(len(edges), 0, dtype=torch.int64), *counts], dim=1)


def _figures(row: Tensor, ahead: Tensor, num_queries: int) -> tuple[Tensor, ...]:
    """Turn non-matches ahead of each match into figures per query. row (M,) ascending, ahead (M,) -> 4 x (n,)"""
    num_matches = torch.bincount(row, minlength=num_queries)  # (n,)
    begin = num_matches.cumsum(0) - num_matches
    ahead = (row << 32 | ahead).sort().values & 0xFFFFFFFF  # ascending within each query
    nth = torch.arange(1, len(row) + 1, device=row.device) - begin[row]  # 1 for a query's closest match
    ranks = ahead + nth
    precision = torch.zeros(num_queries, dtype=torch.float64, device=row.device).index_add_(
        0, row, nth / ranks.double()
    )
    found = num_matches > 0
    first, last = torch.zeros_like(num_matches), torch.zeros_like(num_matches)
    first[found], last[found] = ranks[begin[found]], ranks[(begin + num_matches - 1)[found]]
    return precision / num_matches, first, last, num_matches


@dataclass(frozen=True)
class TopK:
    """The gallery items nearest to each query, nearest first; all (Q, k).

    Where a query is compared with fewer than k items the rest has index -1 and distance inf.
    """

    index: Tensor  # int64, position in the gallery
    distance: Tensor  # float64: Euclidean, or 1 - cosine similarity
    match: Tensor  # bool
    left_out: Tensor  # bool: the protocol doesn't compare them; only with keep_left_out


def top_k(
    query: Tensor,
    gallery: Tensor,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    k: int = 10,
    distance: Distance = "euclidean",
    exclude_same_camera: bool = True,
    keep_left_out: bool = False,
) -> TopK:
    """The k nearest gallery items of each query, for pictures.

    Args: those of `rank`, and
        k: number of items.
        keep_left_out: show items that the protocol leaves out (junk, the same camera) among them, marked as such.
    """
    ids = Pairing.of(query_pids, gallery_pids, query_camids, gallery_camids, exclude_same_camera=exclude_same_camera)
    ids = ids.fitting(query, gallery)
    closeness = Closeness(query, gallery, distance)
    parts, start = [], 0
    for scores in closeness.blocks():
        parts.append(_nearest(scores, start, k, ids, closeness, keep_left_out))
        start += len(scores)
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _nearest(scores, start, k, protocol, closeness, keep_left_out) -> tuple[Tensor, ...]:
    """One block of `top_k`: more than k by float32 scores, then the first k of these by float64 distances."""
    kept = scores.clone() if keep_left_out else scores
    matches = protocol.mask(scores, start)
    is_match = torch.zeros_like(scores, dtype=torch.bool)
    is_match[matches] = True
    value, index = kept.topk(min(k + 8, kept.shape[1]), dim=1)  # (n, K)
    row = torch.arange(len(scores), device=scores.device)[:, None].expand_as(index)
    exact = closeness.distances(start + row.flatten(), index.flatten()).view_as(index)
    exact[value == -torch.inf] = torch.inf
    match = is_match.gather(1, index)
    order = match.to(torch.int8).argsort(dim=1, stable=True)  # a tie shows the non-match first, as `rank` counts it
    order = order.gather(1, exact.gather(1, order).argsort(dim=1, stable=True))[:, :k]
    index, exact, match = (part.gather(1, order) for part in (index, exact, match))
    left_out = (scores.gather(1, index) == -torch.inf) & exact.isfinite()
    return index.where(exact.isfinite(), -1), exact, match, left_out
