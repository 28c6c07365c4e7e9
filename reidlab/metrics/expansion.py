"""Improved embeddings: averaged with those of the mirror image, or with those of the nearest neighbors."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from reidlab.metrics.closeness import Closeness


def flip_averaged(embed: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`embed`, averaged over an image and its mirror image: images (B, C, H, W) -> embeddings (B, D)."""

    def embed_both(images: Tensor) -> Tensor:
        return (embed(images) + embed(images.flip(-1))) / 2

    return embed_both


def expand_queries(query: Tensor, gallery: Tensor, k: int = 5, alpha: float = 0.0) -> Tensor:
    """Average each query with its k nearest gallery items by cosine, of any identity: (Q, D), (G, D) -> (Q, D).

    Results have length 1.

    Args:
        query: embeddings (Q, D).
        gallery: embeddings (G, D).
        k: number of neighbors.
        alpha: 0 weights all alike (Chum et al. 2007, ICCV); otherwise a neighbor's weight is its similarity to the
            power of alpha, 0 where negative (Radenovic et al. 2019, TPAMI 41, section 3.4).
    """
    query, gallery = normalize(query.detach().float()), normalize(gallery.detach().float())
    expanded, start = torch.empty_like(query), 0
    for scores in Closeness(query, gallery, "cosine").blocks():
        similarity, index = scores.topk(min(k, scores.shape[1]), dim=1)  # (n, k)
        rows = slice(start, start + len(scores))
        weights = similarity.clamp_min(0) ** alpha if alpha else torch.ones_like(similarity)
        expanded[rows] = query[rows] + torch.einsum("nk,nkd->nd", weights, gallery[index])
        start = rows.stop
    return normalize(expanded)
