"""Retrieval of queries in their gallery: figures, a table of the queries, nearest images and their pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from reidlab import plots
from reidlab.errors import InputError
from reidlab.evaluation.outputs import Outputs
from reidlab.metrics import (
    Ranking,
    TopK,
    Verification,
    expand_queries,
    leave_one_out,
    rank,
    rank_reranked,
    single_shot,
    top_k,
    verify,
)
from reidlab.metrics.closeness import Distance

TEST = ("query", "gallery")
VALIDATION = ("val_query", "val_gallery")


def fitting(gallery: pd.DataFrame, pattern: str, key: str) -> np.ndarray:
    """Which images of a gallery (G,) have a path that fits a shell pattern; InputError, by the key, where none has."""
    fits = np.array([fnmatchcase(path, pattern) for path in gallery["path"]])
    if not fits.any():
        raise InputError(f"{key}: no gallery image's path fits {pattern!r}; they are like {gallery['path'].iloc[0]}")
    return fits


@dataclass(frozen=True)
class Retrieval:
    """Queries and gallery with their embeddings, under one protocol."""

    query: Outputs
    gallery: Outputs
    distance: Distance
    exclude_same_camera: bool

    @classmethod
    def of(
        cls, embeddings: Outputs, splits: tuple[str, str], distance: Distance, exclude_same_camera: bool
    ) -> "Retrieval":
        """Queries of one split in the gallery of another; InputError where no query has a match.

        Args:
            embeddings: of both splits.
            splits: of the queries and of the gallery.
            distance: euclidean or cosine.
            exclude_same_camera: whether matches of a query's own camera are left out.
        """
        query, gallery = (embeddings.split(side, "val") for side in splits)  # each image of `val` is on both sides
        found = cls(query, gallery, distance, exclude_same_camera)
        if not found.ranking.valid.any():
            rule = f" under data.exclude_same_camera={str(exclude_same_camera).lower()}"
            raise InputError(f"no query has a match in the gallery{rule}; see what `reidlab data` finds")
        return found

    @cached_property
    def ranking(self) -> Ranking:
        """Every query's figures."""
        return rank(
            *self._sides(self.query),
            **self._protocol,
            query_names=self.query.table["path"].tolist(),
            gallery_names=self.gallery.table["path"].tolist(),
        )

    def summary(self) -> dict[str, float]:
        """The figures of the ranking."""
        return self.ranking.summary()

    def nearest(self, queries: Sequence[int], k: int) -> TopK:
        """The k nearest gallery items of the queries at these positions."""
        return top_k(*self._sides(self.query.rows(queries)), **self._protocol, k=k)

    def expanded(self, k: int, alpha: float) -> "Retrieval":
        """Retrieval by expanded queries, see `expand_queries`; they are compared by cosine."""
        expanded = expand_queries(self.query.values, self.gallery.values, k, alpha)
        return replace(self, query=replace(self.query, values=expanded), distance="cosine")

    def within(self, pattern: str, key: str) -> "Retrieval":
        """Retrieval among the gallery images whose path fits a shell pattern; `key` names it in the InputErrors."""
        fits = fitting(self.gallery.table, pattern, key)
        found = replace(self, gallery=self.gallery.rows(fits))
        if not found.ranking.valid.any():
            raise InputError(f"{key}: no query has a match in the {fits.sum()} gallery images that fit {pattern!r}")
        return found

    def reranked(self, k1: int, k2: int, weight: float) -> Ranking:
        """Every query's figures by k-reciprocal re-ranking."""
        return rank_reranked(*self._sides(self.query), **self._protocol, k1=k1, k2=k2, weight=weight)

    def single_shot(self, repeats: int, seed: int) -> dict[str, float]:
        """CMC with one random gallery image an identity."""
        return single_shot(*self._sides(self.query), **self._protocol, repeats=repeats, seed=seed)

    def verify(self, wanted_fpr: float, resamples: int, seed: int) -> Verification:
        """Every pair that the protocol compares, as a decision."""
        sides = self._sides(self.query)
        found = verify(*sides, **self._protocol, wanted_fpr=wanted_fpr, resamples=resamples, seed=seed)
        times = 2 if self._leaves_one_out else 1  # that two identities are compared by the same images
        return replace(found, num_identity_pairs=found.num_identity_pairs // times)

    def per_query(self, ranking: Ranking) -> pd.DataFrame:
        """One row a query: its image, labels, figures and matches; queries without a match have empty figures."""
        figures = pd.DataFrame(
            {
                "AP": ranking.average_precision,
                "INP": ranking.inverse_negative_penalty,
                "first_rank": ranking.first_rank.double(),
                "last_rank": ranking.last_rank.double(),
            }
        )
        figures.loc[ranking.queries_without_match] = np.nan
        queries = self.query.labeled[["path", "pid", "camid"]].reset_index(drop=True)
        return pd.concat([queries, figures], axis=1).assign(num_matches=ranking.num_matches)

    def sorted_queries(self) -> list[int]:
        """Positions of the queries that count, worst average precision first."""
        order = self.ranking.average_precision.nan_to_num(nan=2.0).argsort(stable=True)
        return order[: int(self.ranking.valid.sum())].tolist()

    def picture(self, queries: Sequence[int], k: int, read: Callable[[str], np.ndarray], title: str = "") -> Figure:
        """Draw the nearest gallery images of some queries, with their distances, framed by whether they match.

        Args:
            queries: their positions.
            k: how many gallery images.
            read: gives a sample's image (H, W, 3).
            title: of the picture.
        """
        return plots.ranking_gallery(self.pictured(queries, k, read), title)

    def pictured(self, queries: Sequence[int], k: int, read: Callable[[str], np.ndarray]) -> list[plots.Ranking]:
        """The rows of `picture`, one a query."""
        nearest, rows, samples = self.nearest(queries, k), [], self.query.labeled
        for line, position in enumerate(queries):
            sample, shown = samples.iloc[position], nearest.index[line] >= 0
            found = [
                plots.Found(read(path), distance, "match" if match else "mismatch")
                for path, distance, match in zip(
                    self.gallery.table["path"].iloc[nearest.index[line][shown].tolist()],
                    nearest.distance[line][shown].tolist(),
                    nearest.match[line][shown].tolist(),
                    strict=True,
                )
            ]
            precision = self.ranking.average_precision[position]
            rows.append(plots.Ranking(read(sample["path"]), found, f"pid {sample['pid']}, AP {precision:.3f}"))
        return rows

    @property
    def _leaves_one_out(self) -> bool:
        """Whether the queries are the gallery, each ranked among all others."""
        return self.query.table.index.equals(self.gallery.table.index)

    @property
    def _protocol(self) -> dict[str, Any]:
        exclude = self.exclude_same_camera or self._leaves_one_out
        return {"distance": self.distance, "exclude_same_camera": exclude}

    def _sides(self, query: Outputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Features, pids and camids of some queries and of the gallery, in the order that `metrics` takes them."""
        sides = (query, self.gallery)
        values, pids = ([s.values for s in sides], [s.column("pid") for s in sides])
        camids = [s.column("camid") for s in sides]
        if self._leaves_one_out:
            index = [torch.tensor(s.table.index.to_numpy()) for s in sides]
            camids = [leave_one_out(*pair, self.exclude_same_camera) for pair in zip(camids, index, strict=True)]
        return values[0], values[1], pids[0], pids[1], camids[0], camids[1]
