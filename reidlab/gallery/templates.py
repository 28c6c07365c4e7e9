"""One embedding for each identity that has several images: the mean of them, or the one in their middle."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import torch

from reidlab.gallery.search import Block
from reidlab.metrics.closeness import Distance, norms_of

Template = Literal["best", "mean", "medoid"]
Rows = Callable[[], Iterable[Block]]


def sums(rows: Rows, identity: np.ndarray, count: int, distance: Distance) -> np.ndarray:
    """The sum of each identity's embeddings, of unit length for the cosine distance. (count, D) float64

    Args:
        rows: the gallery's blocks.
        identity: of each position, 0..count-1, or -1 where the blocks lack it.
        count: of identities.
        distance: that embeddings are compared by.
    """
    total = np.zeros((0, 0))
    for own, values, _ in _blocks(rows, identity, distance):
        if not total.size:
            total = np.zeros((count, values.shape[1]))
        order = np.argsort(own, kind="stable")
        who, first = np.unique(own[order], return_index=True)
        total[who] += np.add.reduceat(values[order], first)
    return total


def means(rows: Rows, identity: np.ndarray, count: int, distance: Distance) -> Block:
    """The mean of each identity's embeddings, as a block. Arguments as of `sums`."""
    images = np.bincount(identity[identity >= 0], minlength=count)[:, None]
    found = (sums(rows, identity, count, distance) / images).astype(np.float32)
    return Block(np.arange(count), found, norms_of(torch.from_numpy(found), "gallery").numpy())


def medoids(rows: Rows, identity: np.ndarray, count: int, distance: Distance) -> np.ndarray:
    """The position of each identity's image with the least sum of (squared Euclidean) distances to its others. (count,)

    That sum is n |x|^2 + constant - 2 x.S for the sum S of all n, so that no pair is compared. Arguments as of `sums`.
    """
    total = sums(rows, identity, count, distance)
    images = np.bincount(identity[identity >= 0], minlength=count)
    best, position = np.full(count, np.inf), np.full(count, -1)
    for own, values, block in _blocks(rows, identity, distance):
        cost = images[own] * np.square(values).sum(1) - 2 * (values * total[own]).sum(1)
        order = np.lexsort((block.position, cost, own))
        who, first = np.unique(own[order], return_index=True)
        cost, found = cost[order][first], block.position[order][first]
        closer = cost < best[who]
        best[who[closer]], position[who[closer]] = cost[closer], found[closer]
    return position


def _blocks(rows: Rows, identity: np.ndarray, distance: Distance) -> Iterator[tuple[np.ndarray, np.ndarray, Block]]:
    """Identities (n,) and embeddings (n, D) float64 of each block, and the block."""
    for block in rows():
        values = block.embedding.astype(np.float64)
        if distance == "cosine":
            values /= np.maximum(block.norm, np.finfo(float).tiny)[:, None]
        yield identity[block.position], values, block
