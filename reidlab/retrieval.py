"""A split's queries searched in its gallery: figures, per-query table, nearest images and their pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from reidlab import plots
from reidlab.embedding import Embeddings
from reidlab.errors import InputError
from reidlab.metrics import Ranking, TopK, rank, top_k

TEST = ("query", "gallery")
VALIDATION = ("val_query", "val_gallery")


@dataclass(frozen=True)
class Retrieval:
    """Queries and gallery with their embeddings, under one protocol."""

    query: Embeddings
    gallery: Embeddings
    distance: str
    exclude_same_camera: bool

    @classmethod
    def of(
        cls, embeddings: Embeddings, splits: tuple[str, str], distance: str, exclude_same_camera: bool
    ) -> "Retrieval":
        """That of two splits among embeddings; InputError where no query has a match."""
        found = cls(*map(embeddings.split, splits), distance, exclude_same_camera)
        if not found.ranking.valid.any():
            raise InputError("no query has a match in the gallery; see what `reidlab data` finds")
        return found

    @cached_property
    def ranking(self) -> Ranking:
        """Every query's figures."""
        names = {"query_names": self.query.table["path"].tolist(), "gallery_names": self.gallery.table["path"].tolist()}
        return rank(*self._sides(self.query), **self._protocol, **names)

    def nearest(self, queries: Sequence[int], k: int) -> TopK:
        """The k nearest gallery items of the queries at these positions."""
        chosen = Embeddings(self.query.features[torch.as_tensor(queries)], self.query.table.iloc[queries])
        return top_k(*self._sides(chosen), **self._protocol, k=k)

    def per_query(self) -> pd.DataFrame:
        """One row a query: its image, figures and matches; queries without a match have empty figures."""
        figures = pd.DataFrame(
            {
                "AP": self.ranking.average_precision,
                "INP": self.ranking.inverse_negative_penalty,
                "first_rank": self.ranking.first_rank.double(),
                "last_rank": self.ranking.last_rank.double(),
            }
        )
        figures.loc[self.ranking.queries_without_match] = np.nan
        queries = self.query.table[["path", "pid", "camid"]].reset_index(drop=True)
        return pd.concat([queries, figures], axis=1).assign(num_matches=self.ranking.num_matches)

    def sorted_queries(self) -> list[int]:
        """Positions of the queries that count, worst average precision first."""
        order = self.ranking.average_precision.nan_to_num(nan=2.0).argsort(stable=True)
        return order[: int(self.ranking.valid.sum())].tolist()

    def picture(self, queries: Sequence[int], k: int, read: Callable[[str], np.ndarray], title: str = "") -> Figure:
        """What these queries found, with distances and frames; `read` gives a sample's image (H, W, 3)."""
        nearest, rows = self.nearest(queries, k), []
        for line, position in enumerate(queries):
            sample, shown = self.query.table.iloc[position], nearest.index[line] >= 0
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
        return plots.ranking_gallery(rows, title)

    @property
    def _protocol(self) -> dict:
        return {"distance": self.distance, "exclude_same_camera": self.exclude_same_camera}

    def _sides(self, query: Embeddings) -> tuple:
        """Features, pids and camids of some queries and of the gallery, in the order that `metrics` takes them."""
        sides = (query, self.gallery)
        return (
            *(side.features for side in sides),
            *(side.column("pid") for side in sides),
            *(side.column("camid") for side in sides),
        )
