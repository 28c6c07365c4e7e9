"""The single-gallery-shot protocol: one random image of each identity makes the gallery, many times over."""

import torch
from torch import Tensor

from reidlab.metrics.closeness import Closeness, Distance
from reidlab.metrics.pairing import DISTRACTOR, Pairing, spans
from reidlab.metrics.ranking import CHUNK, RANKS


def single_shot(
    query: Tensor,
    gallery: Tensor,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    distance: Distance = "euclidean",
    exclude_same_camera: bool = True,
    repeats: int = 100,
    seed: int = 0,
) -> dict[str, float | int]:
    """CMC of CUHK03's first protocol, the mean over random galleries, and `rank-k std` between them.

    Each repeat draws one image of every gallery identity (all distractors stay) and, for each query, one of the matches
    that the protocol compares it with. Ties count against the model; distances are float64. Li et al. 2014, CVPR,
    section 5.

    Args: those of `rank`, and
        repeats: number of random galleries.
        seed: of these.
    """
    ids = Pairing.of(query_pids, gallery_pids, query_camids, gallery_camids, exclude_same_camera=exclude_same_camera)
    ids = ids.fitting(query, gallery)
    closeness = Closeness(query, gallery, distance)
    draw = torch.Generator().manual_seed(seed)
    shots = [_one_each(ids.gallery_pids.cpu(), draw).to(query.device) for _ in range(repeats)]  # repeats x (K,)
    luck = torch.rand(repeats, len(query), dtype=torch.float64, generator=draw).to(query.device)
    found = torch.zeros(repeats, len(RANKS), dtype=torch.float64, device=query.device)
    num_query = 0
    for start, stop in spans(len(query), max(1, CHUNK // max(len(gallery), 1))):
        ranks = _ranks(start, stop, closeness, ids, shots, luck)  # (repeats, n)
        found += torch.stack([(ranks <= k).sum(1) for k in RANKS], 1)
        num_query += ranks.shape[1]
    cmc = found / num_query  # NaN if no query has a match
    spread = cmc.std(0, correction=0).tolist()
    return {
        **{f"rank-{k}": value for k, value in zip(RANKS, cmc.mean(0).tolist(), strict=True)},
        **{f"rank-{k} std": value for k, value in zip(RANKS, spread, strict=True)},
        "num_query": num_query,
        "num_gallery": len(shots[0]),
    }


def _one_each(pids: Tensor, draw: torch.Generator) -> Tensor:
    """Positions of one random image of each identity and of every distractor. (G,) -> (K,)"""
    shuffled = torch.randperm(len(pids), generator=draw)
    order = shuffled[pids[shuffled].argsort(stable=True)]
    kept = pids[order] >= DISTRACTOR
    kept[1:] &= (pids[order][1:] != pids[order][:-1]) | (pids[order][1:] == DISTRACTOR)
    return order[kept]


def _ranks(start: int, stop: int, closeness: Closeness, ids: Pairing, shots: list[Tensor], luck: Tensor) -> Tensor:
    """The drawn match's rank in each random gallery, for those of queries start..stop that have one. (repeats, n)"""
    matches, _ = ids.same_identity(start, stop)
    count = torch.bincount(matches.row, minlength=stop - start)
    row = count.nonzero().squeeze(1)  # (n,)
    first, count = (count.cumsum(0) - count)[row], count[row]
    scores = closeness.rows(start + row)  # (n, G)
    other_identity = ids.gallery_pids != ids.query_pids[start + row, None]  # (n, G)
    margin = closeness.margin(torch.float64)[start + row]
    nth = torch.arange(len(row), device=row.device)
    ranks = []
    for shot, share in zip(shots, luck[:, start + row], strict=True):
        own = scores[nth, matches.col[first + (share * count).long()]] - margin
        ranks.append(1 + ((scores[:, shot] >= own[:, None]) & other_identity[:, shot]).sum(1))
    return torch.stack(ranks)
