"""The definitions as slow loops over plain numbers: what every fast path in reidlab.metrics is held against."""

import math


def distance(a, b, kind):
    if kind == "euclidean":
        return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return 1 - (math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0)


def compared(q, g, exclude_same_camera=True):
    """Whether query q = (pid, camid) is compared with gallery item g at all."""
    same_camera = q == g and q[1] != 0
    return g[0] >= 0 and not (exclude_same_camera and same_camera and q[0] > 0)


def matching(q, g):
    return q[0] == g[0] and g[0] > 0


def query_figures(distances, query, gallery, exclude_same_camera=True, tie=1e-9):
    """(AP, rank of the first match, rank of the last, matches) of one query, or None if it has no match."""
    kept = [
        (d, matching(query, g))
        for d, g in zip(distances, gallery, strict=True)
        if compared(query, g, exclude_same_camera)
    ]
    matches = sorted(d for d, match in kept if match)
    if not matches:
        return None
    others = [d for d, match in kept if not match]
    ranks = [sum(other <= d + tie for other in others) + n for n, d in enumerate(matches, start=1)]
    return sum(n / rank for n, rank in enumerate(ranks, start=1)) / len(ranks), ranks[0], ranks[-1], len(ranks)


def summary(distances, query, gallery, exclude_same_camera=True):
    """distances: rows of numbers; query, gallery: lists of (pid, camid)."""
    figures = [query_figures(d, q, gallery, exclude_same_camera) for d, q in zip(distances, query, strict=True)]
    found = [f for f in figures if f is not None]

    def mean(values):
        values = list(values)
        return sum(values) / len(values) if values else math.nan

    return {
        "mAP": mean(f[0] for f in found),
        **{f"rank-{k}": mean(f[1] <= k for f in found) for k in (1, 5, 10, 20)},
        "mINP": mean(f[3] / f[2] for f in found),
        "num_query": len(found),
        "num_gallery": sum(g[0] >= 0 for g in gallery),
    }
