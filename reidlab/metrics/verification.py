"""Verification: whether two images show the same identity, decided by a threshold on their distance."""

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from reidlab.errors import InputError
from reidlab.metrics.closeness import Closeness, Distance
from reidlab.metrics.pairing import Pairing, spans

BINS = 2**14
GROUPS = 200
FPRS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Verification:
    """Numbers of pairs within each threshold; a pair is accepted as the same identity if distance <= threshold.

    All rates are exact counts at the `thresholds`, which are equally spaced; between two nothing is interpolated but
    the equal error rate, and the area under the curve is off by `auc_error` at most. Intervals are 95 %.
    Shapes: (BINS + 1,), float64.
    """

    thresholds: np.ndarray
    positives: np.ndarray  # pairs of one identity within each threshold
    negatives: np.ndarray  # pairs of two
    wanted_fpr: float
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def tpr(self) -> np.ndarray:
        """True positive rate at each threshold."""
        return self.positives / self.positives[-1]

    @property
    def fpr(self) -> np.ndarray:
        """False positive rate at each threshold."""
        return self.negatives / self.negatives[-1]

    @property
    def threshold(self) -> float:
        """The largest threshold whose false positive rate is at most the wanted one."""
        return self.figures["threshold"]

    @property
    def auc_error(self) -> float:
        """The largest error of the area under the curve, by pairs that share a bin."""
        return float(np.diff(self.tpr) @ np.diff(self.fpr) / 2)

    def summary(self) -> dict[str, float]:
        """All figures, each interval as `<name> low` and `<name> high`, and the numbers of pairs."""
        ends = {
            f"{name} {end}": v
            for name, pair in self.intervals.items()
            for end, v in zip(("low", "high"), pair, strict=True)
        }
        counts = {"num_positive": float(self.positives[-1]), "num_negative": float(self.negatives[-1])}
        return self.figures | ends | {"wanted_fpr": self.wanted_fpr} | counts


def verify(
    query: Tensor,
    gallery: Tensor,
    query_pids,
    gallery_pids,
    query_camids=None,
    gallery_camids=None,
    *,
    distance: Distance = "euclidean",
    exclude_same_camera: bool = True,
    wanted_fpr: float = 1e-3,
    resamples: int = 1000,
    seed: int = 0,
) -> Verification:
    """Compare every query with every gallery item that the protocol allows, and calibrate a threshold.

    Intervals come from a bootstrap over the query identities (in up to 200 random groups), for one gallery: queries of
    one identity aren't independent, and intervals over pairs would be too narrow. Memory: one block of scores and the
    groups' histograms, 52 MB. Raises InputError where there is no pair of one identity, or none of two.

    Args: those of `rank`, and
        wanted_fpr: the false positive rate that the threshold is calibrated to.
        resamples: number of bootstrap samples.
        seed: of these.
    """
    ids = Pairing.of(query_pids, gallery_pids, query_camids, gallery_camids, exclude_same_camera=exclude_same_camera)
    ids = ids.fitting(query, gallery)
    group = _groups(ids.query_pids.cpu(), seed)  # (Q,)
    order = group.argsort(stable=True)
    sizes = torch.bincount(group).tolist()
    at = order.to(query.device)
    ids = Pairing(ids.query_pids[at], ids.gallery_pids, ids.query_camids[at], ids.gallery_camids, exclude_same_camera)
    closeness = Closeness(query[at], gallery, distance)
    positives, negatives = _histograms(closeness, ids, sizes)  # (groups, BINS) each
    for pairs, kind in ((positives, "of the same identity"), (negatives, "of two identities")):
        if not pairs.sum():
            raise InputError(
                f"verification: no query and gallery image {kind} are compared; add such images or a split"
            )
    thresholds = np.arange(BINS + 1) * (_reach(closeness) / BINS)
    totals = [_cumulative(pairs.sum(0, keepdims=True)) for pairs in (positives, negatives)]  # (1, BINS + 1) each
    used = np.flatnonzero(positives.any(0) | negatives.any(0))  # between these bins, no figure changes
    positives, negatives = (_cumulative(pairs[:, used]) for pairs in (positives, negatives))
    edges = thresholds[np.append(used, BINS)]
    figures = _figures(positives.sum(0, keepdims=True), negatives.sum(0, keepdims=True), wanted_fpr, edges)
    return Verification(
        thresholds,
        totals[0][0],
        totals[1][0],
        wanted_fpr,
        {name: float(value[0]) for name, value in figures.items()},
        _bootstrap(positives, negatives, wanted_fpr, edges, resamples, seed),
    )


def _cumulative(histograms: np.ndarray) -> np.ndarray:
    """Counts below each bin's beginning, and below the last one's end: (B, bins) -> (B, bins + 1)."""
    return np.pad(histograms.cumsum(1), ((0, 0), (1, 0)))


def _groups(pids: Tensor, seed: int) -> Tensor:
    """The group of each query, of up to GROUPS random groups of identities. (Q,)"""
    _, identity = pids.unique(return_inverse=True)
    count = int(identity.max()) + 1 if len(identity) else 0
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return shuffled[identity] % GROUPS


def _reach(closeness: Closeness) -> float:
    """An upper bound of all distances; a little above, for rounding."""
    if closeness.distance == "cosine":
        return 2.001
    return 1.001 * float(closeness.query_norms.amax() + closeness.gallery_norms.amax()) or 1.0


def _histograms(closeness: Closeness, protocol: Pairing, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Distances of pairs of one identity and of two, per group of consecutive queries: 2 x (groups, BINS) float64."""
    ends = np.cumsum(sizes)
    positives, negatives = np.zeros((2, len(sizes), BINS))
    reach, start = _reach(closeness), 0
    for scores in closeness.blocks():
        distances = _distances_(scores, closeness, start)
        matches = protocol.mask(distances, start, value=-1.0)
        own = distances[matches]
        distances[matches] = -1.0  # outside of all bins, as the masked are
        begin = 0
        while begin < len(scores):
            group = int(np.searchsorted(ends, start + begin, side="right"))
            end = min(len(scores), int(ends[group]) - start)
            positives[group] += _histogram(own[(matches.row >= begin) & (matches.row < end)], reach)
            negatives[group] += _histogram(distances[begin:end], reach)
            begin = end
        start += len(scores)
    return positives, negatives


def _distances_(scores: Tensor, closeness: Closeness, start: int) -> Tensor:
    """Turn scores of queries start.. into distances, in place. (n, G)"""
    norms = closeness.query_norms[start : start + len(scores), None]
    if closeness.distance == "cosine":
        inverse = torch.where(norms > 0, 1 / norms, 0.0).to(scores.dtype)
        return scores.mul_(-inverse).add_(1).clamp_(0, 2)
    return scores.mul_(-2).add_(norms.square().to(scores.dtype)).clamp_min_(0).sqrt_()


def _histogram(distances: Tensor, reach: float) -> np.ndarray:
    """Counts of the distances in [0, reach] in BINS equal bins. (BINS,)"""
    counts = np.zeros(BINS)
    flat = distances.flatten()
    for start, stop in spans(len(flat), 2**23):  # histc counts in float32: exactly up to 2^24
        counts += flat[start:stop].histc(BINS, 0, reach).cpu().numpy()
    return counts


def _figures(positives: np.ndarray, negatives: np.ndarray, wanted_fpr: float, edges: np.ndarray) -> dict:
    """Figures of cumulative histograms (B, bins + 1), whose bins begin at `edges` and the last of which ends all.

    Returns name: (B,), without a number where a line has no pairs of a kind.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        tpr, fpr = positives / positives[:, -1:], negatives / negatives[:, -1:]
    lines, within = np.arange(len(tpr)), np.array([wanted_fpr, *FPRS]) * (1 + 1e-12)
    chosen, *at_rates = np.stack([line.searchsorted(within, side="right") - 1 for line in fpr], axis=1)
    after = np.array([line.searchsorted(1) for line in fpr + tpr])  # the first with more false positives than negatives
    after = after.clip(1, tpr.shape[1] - 1)
    gap_before, gap_after = (1 - tpr[lines, at] - fpr[lines, at] for at in (after - 1, after))
    share = gap_before / (gap_before - gap_after)
    eer = fpr[lines, after - 1] + share * (fpr[lines, after] - fpr[lines, after - 1])
    known = fpr[:, -1:] == 1
    tpr, edges = np.where(known, tpr, np.nan), np.where(known, edges, np.nan)  # (B, bins + 1) each
    tpr_at = {f"TPR@FPR={rate:g}": tpr[lines, at] for rate, at in zip(FPRS, at_rates, strict=True)}
    return {
        "threshold": edges[lines, chosen],
        "tpr": tpr[lines, chosen],
        "fpr": fpr[lines, chosen],
        **tpr_at,
        "EER": eer,
        "AUC": np.einsum("bn,bn->b", tpr[:, 1:] + tpr[:, :-1], np.diff(fpr)) / 2,
    }


def _bootstrap(positives, negatives, wanted_fpr, edges, resamples, seed) -> dict[str, tuple[float, float]]:
    """95 % intervals of all figures, of counts between edges (bins + 1,): BCa over identities or groups of them.

    A group that is drawn n times counts n times within itself, and not n x n times: its copies aren't compared.
    None where there is one group of queries: how figures vary between identities is unknown then.
    """
    draw, (rows, columns, bins) = np.random.default_rng(seed), negatives.shape
    if rows < 2:
        return {}
    flat, itself = negatives.reshape(rows, -1), negatives[np.arange(rows), np.arange(rows)]  # (R, bins)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """Figures of weighted groups (B, C), the first R of which are those of the queries."""
        own = weights[:, :rows]
        between = (own @ flat).reshape(-1, columns, bins)
        others = np.einsum("bc,bcn->bn", weights, between, optimize=True) - (own * (own - 1)) @ itself
        return _figures(_cumulative(own @ positives), _cumulative(others.clip(0)), wanted_fpr, edges)

    sides = [n for n in (rows, columns - rows) if n]
    drawn = np.concatenate([draw.multinomial(n, np.full(n, 1 / n), size=resamples) for n in sides], 1)
    weights = np.concatenate([drawn, 1 - np.eye(columns), np.ones((1, columns))]).astype(np.float32)
    parts = [figures(weights[start:stop]) for start, stop in spans(len(weights), 16)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: _bca(v[:resamples], v[resamples:-1], v[-1], rows) for name, v in found.items()}


def _bca(drawn: np.ndarray, left_out: np.ndarray, figure: float, groups: int) -> tuple[float, float]:
    """The bias-corrected and accelerated 95 % interval (Efron 1987, J. Am. Stat. Assoc. 82), which holds the figure.

    Wider by Student's t for a small number of groups, as Hesterberg 2015 (Am. Stat. 69) has it.

    Args:
        drawn: the figure of each resample; NaN where it has none.
        left_out: the figure without each group.
        figure: of all.
        groups: number of them.
    """
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float(figure), float(figure)
    below = ((drawn < figure).mean() + (drawn <= figure).mean()) / 2
    bias = stats.norm.ppf(below.clip(1 / len(drawn), 1 - 1 / len(drawn)) if len(drawn) > 1 else 0.5)
    away = np.nan_to_num(np.mean(left_out[~np.isnan(left_out)]) - left_out)
    spread = (away**2).sum() ** 1.5
    acceleration = (away**3).sum() / (6 * spread) if spread else 0.0
    reach = np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1)
    shifted = bias + np.array([-reach, reach])
    low, high = np.quantile(drawn, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    return float(min(low, figure)), float(max(high, figure))
