"""Closeness of embeddings, in blocks of queries: float32 products for bulk, float64 where a decision needs it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reidlab.errors import InputError
from reidlab.metrics.pairing import spans

Distance = Literal["euclidean", "cosine"]
BLOCK_BYTES = 256 * 2**20
MAX_BLOCK_ROWS = 1024
PAIRS = 256  # embeddings taken to float64 at a time: few enough to stay in a core's cache
SHORTEST, LONGEST = 1e-12, 1e15  # lengths whose products float32 can hold


class Closeness:
    """Scores that order the gallery for each query as its distances would, the closest highest.

    euclidean: q.g - |g|^2 / 2, which is -d^2 / 2 up to a constant of the query; cosine: q.g / |g|, where a zero vector
    scores 0 against everything. Anything but float32 is converted. Raises InputError, which names the image, where an
    embedding isn't finite or is too long for float32 products.

    Args:
        query: embeddings (Q, D).
        gallery: embeddings (G, D) on the same device.
        distance: euclidean or cosine.
        query_names: of the images, for messages.
        gallery_names: likewise.
        gallery_norms: lengths of the gallery's embeddings (G,) float64 where they are known.
    """

    def __init__(
        self,
        query: Tensor,
        gallery: Tensor,
        distance: Distance = "euclidean",
        query_names: Sequence[str] | None = None,
        gallery_names: Sequence[str] | None = None,
        gallery_norms: Tensor | None = None,
    ):
        if distance not in ("euclidean", "cosine"):
            raise InputError(f"distance={distance!r}: choose euclidean or cosine")
        if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
            raise InputError(f"embeddings {tuple(query.shape)} and {tuple(gallery.shape)}: expected (Q, D) and (G, D)")
        self.distance = distance
        self.query, self.gallery = query.detach().float(), gallery.detach().float()
        self.query_norms = norms_of(self.query, "query", query_names)  # (Q,) float64
        if gallery_norms is None:
            gallery_norms = norms_of(self.gallery, "gallery", gallery_names)
        self.gallery_norms = gallery_norms  # (G,) float64

    def blocks(self, rows: int | None = None) -> Iterator[Tensor]:
        """Scores of consecutive queries, (rows, G) float32; each block overwrites the one before it."""
        rows = rows or block_rows(len(self.gallery))
        buffer = self.query.new_empty(min(rows, len(self.query)), len(self.gallery))
        for start, stop in spans(len(self.query), rows):
            block = buffer[: stop - start]
            with _true_float32():
                torch.mm(self.query[start:stop], self.gallery.T, out=block)
            yield self._score_(block, self.gallery_norms)

    def rows(self, index: Tensor) -> Tensor:
        """Scores of the queries at `index`, (n, G) float64."""
        scores = self.query.new_empty(len(index), len(self.gallery), dtype=torch.float64)
        queries = self.query[index].double()
        for start, stop in spans(len(self.gallery), 4096):
            torch.mm(queries, self.gallery[start:stop].double().T, out=scores[:, start:stop])
        return self._score_(scores, self.gallery_norms)

    def pairs(self, row: Tensor, col: Tensor) -> Tensor:
        """Scores of single pairs, (M,) float64."""
        scores = self.query.new_empty(len(row), dtype=torch.float64)
        for start, stop in spans(len(row), PAIRS):
            _dot(self.query, row[start:stop], self.gallery, col[start:stop], out=scores[start:stop])
        return self._score_(scores, self.gallery_norms[col])

    def distances(self, row: Tensor, col: Tensor) -> Tensor:
        """The distances of single pairs, (M,) float64: Euclidean, or 1 - cosine similarity."""
        scores, norms = self.pairs(row, col), self.query_norms[row]
        if self.distance == "cosine":
            return 1 - scores * _inverse(norms)
        return (norms.square() - 2 * scores).clamp_min(0).sqrt()

    def margin(self, dtype: torch.dtype) -> Tensor:
        """The difference of two scores of a query above which their order in `dtype` is exact. (Q,) float64

        The error of a D-term product grows like sqrt(D) roundings (Higham & Mary 2019, SIAM J. Sci. Comput. 41);
        16 + sqrt(D) leaves room over the most that was measured, 17 for parallel vectors of up to 2,048 terms.
        """
        rounding = torch.finfo(dtype).eps / 2
        terms = 16 + self.query.shape[1] ** 0.5
        if self.distance == "cosine":
            return terms * rounding * self.query_norms
        longest = self.gallery_norms.amax() if len(self.gallery) else 0.0
        return rounding * longest * (terms * self.query_norms + 2 * longest)

    def _score_(self, products: Tensor, gallery_norms: Tensor) -> Tensor:
        if self.distance == "cosine":
            return products.mul_(_inverse(gallery_norms).to(products.dtype))
        return products.sub_((gallery_norms.square() / 2).to(products.dtype))


def block_rows(num_gallery: int) -> int:
    """The number of rows of a block of float32 scores: within BLOCK_BYTES, and few enough for the caches."""
    return max(1, min(MAX_BLOCK_ROWS, BLOCK_BYTES // (4 * max(num_gallery, 1))))


def _dot(a: Tensor, rows: Tensor, b: Tensor, cols: Tensor, out: Tensor) -> None:
    """Inner products of the chosen rows of two float32 matrices, accumulated in float64. -> out (M,)"""
    if a.device.type == "cpu":  # torch would make float64 copies, and start all its threads for each few rows
        pairs = a.numpy()[rows.numpy()], b.numpy()[cols.numpy()]
        np.einsum("ij,ij->i", *pairs, dtype=np.float64, casting="unsafe", out=out.numpy())
    else:
        torch.sum(a[rows].double() * b[cols], 1, out=out)


def norms_of(embeddings: Tensor, role: str, names: Sequence[str] | None = None) -> Tensor:
    """The lengths of embeddings (N, D), (N,) float64; InputError where one can't be compared.

    Args:
        embeddings: float32.
        role: query or gallery, for messages.
        names: of the images, for messages.
    """
    norms = embeddings.new_empty(len(embeddings), dtype=torch.float64)
    for start, stop in spans(len(embeddings), PAIRS):
        torch.linalg.vector_norm(embeddings[start:stop].double(), dim=1, out=norms[start:stop])
    usable = (norms == 0) | ((norms > SHORTEST) & (norms < LONGEST))  # False for NaN and inf
    if not usable.all():
        culprit = int((~usable).nonzero()[0])
        name = names[culprit] if names is not None else f"number {culprit} (counted from 0)"
        raise InputError(
            f"{role} image {name}: its embedding has length {norms[culprit]:g} and can't be compared; "
            "look at the image, or at the weights that embedded it"
        )
    return norms


def _inverse(norms: Tensor) -> Tensor:
    return torch.where(norms > 0, 1 / norms, 0.0)


@contextmanager
def _true_float32():
    """Full float32 products, whatever speed-for-precision the training run chose (TF32, bfloat16)."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
