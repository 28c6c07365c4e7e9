"""k-reciprocal re-ranking, with neighbor lists in place of N x N matrices."""

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn.functional import normalize

from reidlab.metrics.closeness import Closeness, Distance
from reidlab.metrics.pairing import Pairing
from reidlab.metrics.ranking import Ranking, rank_blocks

GROUP = 16  # gallery items summarized by their best score when looking for the k best of a row
SPARE = 8  # neighbors looked at in float64 beyond those that are kept


def rank_reranked(
    query: Tensor,
    gallery: Tensor,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    distance: Distance = "euclidean",
    exclude_same_camera: bool = True,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> Ranking:
    """`rank` by re-ranked distances; junk takes no part in the neighborhoods.

    Args: those of `rank` and of `rerank`.
    """
    ids = Pairing.of(query_pids, gallery_pids, query_camids, gallery_camids, exclude_same_camera=exclude_same_camera)
    ids = ids.fitting(query, gallery)
    kept = ids.gallery_pids >= 0
    if not kept.all():
        gallery = gallery[kept]
        ids = Pairing(
            ids.query_pids, ids.gallery_pids[kept], ids.query_camids, ids.gallery_camids[kept], exclude_same_camera
        )
    blocks = rerank(query, gallery, distance, k1=k1, k2=k2, weight=weight)
    return rank_blocks((block.neg_() for block in blocks), ids)


def rerank(
    query: Tensor, gallery: Tensor, distance: Distance = "euclidean", *, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> Iterator[Tensor]:
    """Re-ranked distances of consecutive queries to the gallery, (n, G) float32; each block overwrites the last one.

    (1 - weight) x the Jaccard distance of two images' sets of reciprocal neighbors + weight x their squared distance
    over the largest one of the query (cosine: of normalized embeddings, which orders alike).
    Memory: a few times N x k1 x k2 numbers for N = Q + G, and one block. Zhong et al. 2017, arXiv 1701.08398, sections
    3.2-3.4, as the authors' code has it, from which all published figures come: an image is among its own neighbors,
    and a neighbor's set joins if it shares *more* than two thirds.

    Args:
        query: embeddings (Q, D).
        gallery: embeddings (G, D).
        distance: euclidean or cosine.
        k1: number of neighbors.
        k2: number of nearest neighbors whose sets are averaged.
        weight: of the original distance.
    """
    if distance == "cosine":
        query, gallery = normalize(query.detach().float()), normalize(gallery.detach().float())
    encodings, farthest = _encode(torch.cat([query, gallery]), k1, k2)
    closeness = Closeness(query, gallery)
    squares = closeness.query_norms.square().float()  # (Q,)
    columns = encodings[len(query) :].tocsc()
    start = 0
    for scores in closeness.blocks():
        rows = slice(start, start + len(scores))
        original = scores.mul_(-2).add_(squares[rows, None]).clamp_min_(0).div_(farthest[rows, None])  # (n, G)
        blended = original.mul_(weight).add_(1 - weight)
        for line, row in zip(blended, range(rows.start, rows.stop), strict=True):
            shared = _overlap(encodings, row, columns)  # (G,)
            line -= torch.from_numpy((1 - weight) * shared / (2 - shared)).to(line)
        yield blended
        start = rows.stop


def _encode(embeddings: Tensor, k1: int, k2: int) -> tuple[sparse.csr_array, Tensor]:
    """Each image as weights of sum 1 over its reciprocal neighbors (N, N), and its largest squared distance (N,)."""
    closeness = Closeness(embeddings, embeddings)
    nearest, farthest = _neighbors(closeness, min(max(k1, k2 - 1), len(embeddings) - 1))
    neighbors = nearest[:, : k1 + 1]
    reciprocal = _reciprocal(neighbors)
    half = _reciprocal(neighbors[:, : round(k1 / 2) + 1])
    row, col = _expand(reciprocal, half).nonzero()
    squared = closeness.distances(torch.from_numpy(row).to(farthest.device), torch.from_numpy(col).to(farthest.device))
    weights = torch.exp(-squared.square() / farthest[row]).cpu().numpy()
    weights /= np.bincount(row, weights, minlength=len(embeddings))[row]
    encodings = sparse.csr_array((weights.astype(np.float32), (row, col)), shape=reciprocal.shape)
    return _members(nearest[:, :k2]) @ encodings / np.float32(min(k2, nearest.shape[1])), farthest


def _neighbors(closeness: Closeness, k: int) -> tuple[np.ndarray, Tensor]:
    """Each image and its k nearest others, nearest first (N, 1 + k), and the largest squared distance of each (N,)."""
    squares = closeness.query_norms.square()
    neighbors, reaches, start = [], [], 0
    for scores in closeness.blocks():
        own = torch.arange(start, start + len(scores), device=scores.device)
        reaches.append(squares[own] - 2 * scores.amin(1))
        scores[own - start, own] = -torch.inf
        index = _best(scores, min(k + SPARE, scores.shape[1] - 1))  # (n, k + SPARE)
        exact = closeness.distances(own.repeat_interleave(index.shape[1]), index.flatten()).view_as(index)
        nearest = index.gather(1, exact.argsort(1)[:, :k])
        neighbors.append(torch.cat([own[:, None], nearest], 1).cpu().numpy())
        start += len(scores)
    farthest = torch.cat(reaches).float()
    return np.concatenate(neighbors), farthest.where(farthest > 0, 1)


def _best(scores: Tensor, k: int) -> Tensor:
    """The columns of the k highest scores of each row, in no order. (n, G) -> (n, k)

    The k-th best of the groups' best scores is a bound that at least k scores reach, and few others.
    """
    width = scores.shape[1] // GROUP * GROUP
    if scores.device.type != "cpu" or width < GROUP * k:
        return scores.topk(k, dim=1, sorted=False).indices
    groups = scores[:, :width].unflatten(1, (GROUP, -1)).amax(1)
    floors = groups.topk(k, dim=1).values[:, -1].tolist()
    best = np.empty((len(scores), k), dtype=np.int64)
    for line, floor, chosen in zip(scores.numpy(), floors, best, strict=True):
        cols = (line >= floor).nonzero()[0]
        chosen[:] = cols[np.argpartition(line[cols], -k)[-k:]]
    return torch.from_numpy(best)


def _members(neighbors: np.ndarray) -> sparse.csr_array:
    """Neighbor lists (N, k) as the rows of a 0/1 matrix (N, N)."""
    count, k = neighbors.shape
    ones = np.ones(neighbors.size, dtype=np.float32)
    return sparse.csr_array((ones, neighbors.ravel(), np.arange(0, count * k + 1, k)), shape=(count, count))


def _reciprocal(neighbors: np.ndarray) -> sparse.csr_array:
    """Pairs that are among each other's neighbors: the paper's R(p, k). (N, N)"""
    members = _members(neighbors)
    return (members * members.T).tocsr()


def _expand(reciprocal: sparse.csr_array, half: sparse.csr_array) -> sparse.csr_array:
    """Join the half-sized sets of those neighbors whose set is mostly shared: the paper's R*(p, k). (N, N)"""
    shared = (reciprocal * (reciprocal @ half.T)).tocsr()  # |R(p, k) and R(q, k/2)| where q is in R(p, k)
    sizes = np.diff(half.indptr)
    shared.data = (shared.data > sizes[shared.indices] * 2 / 3).astype(np.float32)
    shared.eliminate_zeros()
    return reciprocal + shared @ half


def _overlap(encodings: sparse.csr_array, row: int, columns: sparse.csc_array) -> np.ndarray:
    """The sum of element-wise minima of one image's encoding with each gallery item's. -> (G,)"""
    own = slice(encodings.indptr[row], encodings.indptr[row + 1])
    kept, begins = encodings.indices[own], columns.indptr[encodings.indices[own]]
    sizes = columns.indptr[kept + 1] - begins
    entries = np.arange(sizes.sum()) + np.repeat(begins - np.concatenate([[0], sizes.cumsum()[:-1]]), sizes)
    shared = np.minimum(np.repeat(encodings.data[own], sizes), columns.data[entries])
    return np.bincount(columns.indices[entries], shared, minlength=columns.shape[0])
