"""Exact nearest neighbors in blocks of a gallery: float32 products find candidates, float64 distances order them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reidlab.metrics.closeness import Closeness, Distance


class Block(NamedTuple):
    """Some rows of a gallery: `position` (n,) int64, `embedding` (n, D) float32, `norm` (n,) float64, its length."""

    position: np.ndarray
    embedding: np.ndarray
    norm: np.ndarray


class Nearest(NamedTuple):
    """The k rows nearest to each query, nearest first, all (Q, k); of equally near ones the first in the gallery.

    Where there are fewer than k the rest has position -1 and distance inf.
    """

    distance: np.ndarray  # float64: Euclidean, or 1 - cosine similarity
    position: np.ndarray  # int64


def nearest(query: Tensor, blocks: Iterable[Block], k: int, distance: Distance) -> Nearest:
    """Search blocks of a gallery that needn't fit into memory; the same as `metrics.top_k` of the whole of it.

    Args:
        query: embeddings (Q, D) float32.
        blocks: of the gallery, each row in one of them.
        k: how many to find.
        distance: euclidean or cosine.
    """
    best, margin = _Best(len(query), k), np.zeros(len(query))
    for block in blocks:
        norm = torch.from_numpy(block.norm)
        closeness = Closeness(query, torch.from_numpy(block.embedding), distance, gallery_norms=norm)
        margin, start = np.maximum(margin, closeness.margin(torch.float32).numpy()), 0
        for scores in closeness.blocks():
            row, col = best.rivals(scores.numpy(), start, margin)
            exact = closeness.distances(torch.from_numpy(row), torch.from_numpy(col)).numpy()
            best.add(row, exact, block.position[col], scores.numpy()[row - start, col], start, start + len(scores))
            start += len(scores)
    return Nearest(best.distance, best.position)


def rescore(query: Tensor, rows: Block, candidates: np.ndarray, k: int, distance: Distance) -> Nearest:
    """The k nearest of each query's candidates by their exact distances.

    Args:
        query: embeddings (Q, D) float32.
        rows: all candidates, in the order of their positions.
        candidates: positions (Q, m), -1 for none.
        k: how many of them to keep.
        distance: euclidean or cosine.
    """
    closeness = Closeness(query, torch.from_numpy(rows.embedding), distance, gallery_norms=torch.from_numpy(rows.norm))
    row, column = np.nonzero(candidates >= 0)
    position = candidates[row, column]
    col = torch.from_numpy(np.searchsorted(rows.position, position))
    exact = closeness.distances(torch.from_numpy(row), col).numpy()
    best = _Best(len(query), k)
    best.add(row, exact, position, -exact.astype(np.float32), 0, len(query))
    return Nearest(best.distance, best.position)


def merge(first: Nearest, second: Nearest) -> Nearest:
    """The nearest of two searches for the same queries in different rows."""
    best = _Best(*first.distance.shape)
    for part in (first, second):
        row, column = np.nonzero(part.position >= 0)
        exact = part.distance[row, column]
        best.add(row, exact, part.position[row, column], -exact.astype(np.float32), 0, len(part.position))
    return Nearest(best.distance, best.position)


class _Best:
    """The k nearest rows so far, with their float32 scores."""

    def __init__(self, num_query: int, k: int) -> None:
        self.distance = np.full((num_query, k), np.inf)
        self.position = np.full((num_query, k), -1, np.int64)
        self.score = np.full((num_query, k), -np.inf, np.float32)

    def rivals(self, scores: np.ndarray, start: int, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a query and a row of the block (n, G) that may belong to its k nearest: query (M,), row (M,)."""
        k = self.score.shape[1]
        floors = self.score[start : start + len(scores)].min(1)
        cols = []
        for line, known, error in zip(scores, floors, margin[start:], strict=False):
            floor = known if known > -np.inf or k >= len(line) else np.partition(line, len(line) - k)[len(line) - k]
            cols.append(np.flatnonzero(line >= np.nextafter(np.float32(floor - error), np.float32(-np.inf))))
        row = np.repeat(np.arange(start, start + len(cols)), [len(found) for found in cols])
        return row, np.concatenate(cols)

    def add(
        self, row: np.ndarray, distance: np.ndarray, position: np.ndarray, score: np.ndarray, start: int, stop: int
    ) -> None:
        """Keep the k nearest of what was found and of new pairs, all (M,), of the queries start..stop."""
        n, k = stop - start, self.score.shape[1]
        part = slice(start, stop)
        row = np.concatenate([np.repeat(np.arange(n), k), row - start])
        distance = np.concatenate([self.distance[part].ravel(), distance])
        position = np.concatenate([self.position[part].ravel(), position])
        score = np.concatenate([self.score[part].ravel(), score])
        order = np.lexsort((position, distance, row))
        kept = order[np.searchsorted(row[order], np.arange(n))[:, None] + np.arange(k)]  # (n, k)
        self.distance[part], self.position[part], self.score[part] = distance[kept], position[kept], score[kept]
