"""Verification: whether two images show the same identity, decided by a threshold on their distance."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from scipy.special import ndtr, ndtri, stdtrit
from torch import Tensor

from reidlab.errors import InputError
from reidlab.metrics.closeness import Closeness, Distance
from reidlab.metrics.pairing import DISTRACTOR, Pairing, spans

BINS = 2**14
GROUPS, GALLERY_GROUPS = 200, 100  # of identities that are drawn together: of queries, and of the gallery alone
CELLS = 2**24  # counts that the bootstrap keeps: query groups x gallery groups x bins
MOST_BINS = 2**10  # of these
SPARSE = 0.1  # the share of them below which those that aren't 0 are faster alone
PAIRS = 2**22  # counted at a time
FPRS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True)
class Verification:
    """Numbers of pairs within each threshold; a pair is accepted as the same identity if distance <= threshold.

    All rates are exact counts at the `thresholds`, which are equally spaced, but for the last one, which no distance is
    beyond; between two nothing is interpolated but the equal error rate, and the area under the curve is off by
    `auc_error` at most. Intervals are 95 %.
    Shapes: (BINS + 1,), float64.
    """

    thresholds: np.ndarray
    positives: np.ndarray  # pairs of one identity within each threshold
    negatives: np.ndarray  # pairs of two
    wanted_fpr: float
    num_identity_pairs: int  # of a query's identity and another one in the gallery; each distractor is another one
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

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """True and false positive rate at a threshold that may have been calibrated elsewhere."""
        at = self.thresholds.searchsorted(threshold, side="right") - 1
        return float(self.tpr[at]), float(self.fpr[at])

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
        counts = {
            "num_positive": float(self.positives[-1]),
            "num_negative": float(self.negatives[-1]),
            "num_identity_pairs": float(self.num_identity_pairs),
        }
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

    Intervals come from a bootstrap over identities: one that is drawn n times counts n times as a query and n times in
    the gallery, so that a pair of two weighs the product of both (the vertex bootstrap of Snijders & Borgatti 1999,
    Connections 22, with the product weights of Owen 2007, Ann. Appl. Stat. 1). An identity that is easily taken for
    others is so on both sides: to draw queries alone gives intervals that are too narrow. Identities that only the
    gallery has, and distractors, are drawn among themselves. Many identities are drawn in random groups, and their
    pairs counted in fewer bins, most of them about the wanted rate: 64 MB, beside a block of scores. Queries of one
    identity have no intervals. Raises InputError where there is no pair of one identity, or none of two.

    Args: those of `rank`, and
        wanted_fpr: the false positive rate that the threshold is calibrated to.
        resamples: number of bootstrap samples.
        seed: of these.
    """
    if not 0 < wanted_fpr < 1:
        raise InputError(f"wanted_fpr={wanted_fpr}: a false positive rate lies between 0 and 1, such as 0.001")
    ids = Pairing.of(query_pids, gallery_pids, query_camids, gallery_camids, exclude_same_camera=exclude_same_camera)
    ids = ids.fitting(query, gallery)
    rows, columns = _groups(ids, seed)
    order = rows.argsort(stable=True)
    at = order.to(query.device)
    ids = Pairing(ids.query_pids[at], ids.gallery_pids, ids.query_camids[at], ids.gallery_camids, exclude_same_camera)
    closeness = Closeness(query[at], gallery, distance)
    bound = _bound(closeness)
    reach = min(bound, _usual_reach(closeness, ids))
    positives, negatives = (_cumulative(pairs) for pairs in _totals(closeness, ids, reach))
    for pairs, kind in ((positives, "of the same identity"), (negatives, "of two identities")):
        if not pairs[-1]:
            raise InputError(
                f"verification: no query and gallery image {kind} are compared; add such images or a split"
            )
    thresholds = np.append(np.arange(BINS) * (reach / BINS), bound)
    figures = _figures(positives[None], negatives[None], wanted_fpr, thresholds)
    intervals = {}
    if resamples:
        most = CELLS // ((int(rows.max()) + 1) * (int(torch.maximum(rows.max(), columns.max())) + 1))
        edges = _edges(positives, negatives, wanted_fpr, min(MOST_BINS, most))
        cells = _cells(closeness, ids, rows[order], columns, edges, reach)
        intervals = _bootstrap(*cells, wanted_fpr, thresholds[edges], resamples, seed)
    return Verification(
        thresholds,
        positives,
        negatives,
        wanted_fpr,
        _identity_pairs(ids),
        {name: float(value[0]) for name, value in figures.items()},
        intervals,
    )


def _cumulative(histograms: np.ndarray) -> np.ndarray:
    """Counts below each bin's beginning, and below the last one's end: (..., bins) -> (..., bins + 1)."""
    return np.pad(histograms.cumsum(-1, dtype=float), [(0, 0)] * (histograms.ndim - 1) + [(1, 0)])


def _identity_pairs(ids: Pairing) -> int:
    query, gallery = ids.query_pids.unique(), ids.gallery_pids[ids.gallery_pids > DISTRACTOR].unique()
    distractors = int((ids.gallery_pids == DISTRACTOR).sum())
    return len(query) * (len(gallery) + distractors) - int(torch.isin(query, gallery).sum())


def _groups(ids: Pairing, seed: int) -> tuple[Tensor, Tensor]:
    """Groups of identities at random: of each query (Q,) and of each gallery item (G,), those of no query after them.

    Each distractor is an identity of its own; the group of junk doesn't matter.
    """
    draw = torch.Generator().manual_seed(seed)
    query, gallery = ids.query_pids.cpu(), ids.gallery_pids.cpu().clone()
    distractors = (gallery == DISTRACTOR).nonzero().squeeze(1)
    gallery[distractors] = gallery.min() - 1 - distractors
    known, identity = query.unique(return_inverse=True)
    others, other = gallery.unique(return_inverse=True)
    queried = torch.isin(others, known)
    group = torch.randperm(len(known), generator=draw) % GROUPS  # of each identity that is queried
    columns = torch.empty_like(others)
    columns[queried] = group[torch.searchsorted(known, others[queried])]
    alone = torch.randperm(len(others) - int(queried.sum()), generator=draw) % GALLERY_GROUPS
    columns[~queried] = min(len(known), GROUPS) + alone
    return group[identity], columns[other]


def _bound(closeness: Closeness) -> float:
    """An upper bound of all distances; a little above, for rounding."""
    if closeness.distance == "cosine":
        return 2.001
    return 1.001 * float(closeness.query_norms.amax() + closeness.gallery_norms.amax()) or 1.0


def _usual_reach(closeness: Closeness, ids: Pairing) -> float:
    """Four times the distance that nine in ten pairs of two identities are within, of the first queries.

    By the bound of all distances a single long embedding, or those that are nearly parallel, as of networks that have
    learned little, would leave all others a few bins.
    """
    distances = _distances_(next(closeness.blocks(max(1, PAIRS // len(closeness.gallery)))), closeness, 0)
    matches = ids.mask(distances, 0, torch.inf)
    distances[matches] = torch.inf
    others = distances[distances.isfinite()]
    if not len(others):
        return torch.inf
    return 4 * float(others.kthvalue(1 + 9 * len(others) // 10).values) or torch.inf


def _binned(closeness: Closeness, ids: Pairing, reach: float) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Bins of the distances of consecutive queries.

    The last bin holds what is beyond the reach, too. Yields the first query's position; the rows (M,) and bins (M,) of
    matches; and the bins (n, G) of pairs of two identities, with BINS for all other pairs.
    """
    start = 0
    for scores in closeness.blocks():
        bins = _distances_(scores, closeness, start).mul_(BINS / reach).clamp_max_(BINS - 1).short()
        matches = ids.mask(bins, start, value=BINS)
        own = bins[matches]
        bins[matches] = BINS
        yield start, matches.row, own, bins
        start += len(scores)


def _totals(closeness: Closeness, ids: Pairing, reach: float) -> np.ndarray:
    """Numbers of pairs of one identity and of two in each bin. (2, BINS)"""
    totals = np.zeros((2, BINS + 1), np.int64)
    for _, _, own, bins in _binned(closeness, ids, reach):
        for side, pairs in enumerate((own, bins.flatten())):
            for part in pairs.split(PAIRS):
                totals[side] += torch.bincount(part, minlength=BINS + 1).cpu().numpy()
    return totals[:, :-1]


def _edges(positives: np.ndarray, negatives: np.ndarray, wanted_fpr: float, most: int) -> np.ndarray:
    """The bins' edges (BINS + 1) between which the bootstrap counts, at most so many; most of them at low rates."""
    used = np.flatnonzero(np.diff(positives) + np.diff(negatives))  # between these bins, no figure changes
    if len(used) < most:
        return np.append(used, BINS)
    tpr, fpr = positives / positives[-1], negatives / negatives[-1]
    logs = (np.log(np.maximum(fpr, low) / low) / np.log(high / low) for low, high in ((1e-5, 1), _around(wanted_fpr)))
    rising = tpr + fpr + sum(2 * log.clip(0, 1) for log in logs)
    return np.unique(rising.searchsorted(np.linspace(0, rising[-1], most)))


def _around(rate: float) -> tuple[float, float]:
    return rate / 8, rate * 8


def _cells(
    closeness: Closeness, ids: Pairing, rows: Tensor, columns: Tensor, edges: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of pairs between the edges: of one identity (R, bins), of two by both groups (R, C, bins); float32.

    Args:
        closeness: of queries in the order of their groups.
        ids: of these.
        rows: group of each query (Q,), ascending.
        columns: group of each gallery item (G,).
        edges: (bins + 1,).
        reach: up to which bins are equally wide.
    """
    sizes = torch.bincount(rows).tolist()
    ends, count, width = np.cumsum(sizes), max(len(sizes), int(columns.max()) + 1), len(edges)
    coarse = torch.from_numpy(edges.searchsorted(np.arange(BINS + 1), side="right") - 1)  # BINS: width - 1, dropped
    coarse, offset = coarse.to(closeness.query.device), columns.to(closeness.query.device) * width
    positives = np.zeros((len(sizes), width), np.float32)
    negatives = np.zeros((len(sizes), count, width), np.float32)
    for start, row, own, bins in _binned(closeness, ids, reach):
        own, first = coarse[own.long()], 0
        while first < len(bins):
            group = int(np.searchsorted(ends, start + first, side="right"))
            last = min(len(bins), int(ends[group]) - start, first + max(1, PAIRS // len(columns)))
            within = (row >= first) & (row < last)
            positives[group] += torch.bincount(own[within], minlength=width).cpu().numpy()
            pairs = coarse[bins[first:last].long()].add_(offset).flatten()
            counts = torch.bincount(pairs, minlength=count * width).view(count, width)
            negatives[group] += counts.cpu().numpy()
            first = last
    return positives[..., :-1], negatives[..., :-1]


def _distances_(scores: Tensor, closeness: Closeness, start: int) -> Tensor:
    """Turn scores of queries start.. into distances, in place. (n, G)"""
    norms = closeness.query_norms[start : start + len(scores), None]
    if closeness.distance == "cosine":
        inverse = torch.where(norms > 0, 1 / norms, 0.0).to(scores.dtype)
        return scores.mul_(-inverse).add_(1).clamp_(0, 2)
    return scores.mul_(-2).add_(norms.square().to(scores.dtype)).clamp_min_(0).sqrt_()


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
    None where there is one group of queries, or two groups in all, whose only draw with pairs of two identities is
    themselves: how figures vary between identities is unknown then.
    """
    draw, (rows, columns, bins) = np.random.default_rng(seed), negatives.shape
    if rows < 2 or columns < 3:
        return {}
    counts, itself = negatives.reshape(-1, bins), negatives[np.arange(rows), np.arange(rows)]  # (R C, bins), (R, bins)
    if np.count_nonzero(counts) < SPARSE * counts.size:
        counts = sparse.csr_array(counts)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """Figures of weighted groups (B, C), the first R of which are those of the queries."""
        own = weights[:, :rows]
        both = (own[:, :, None] * weights[:, None]).reshape(len(own), -1)
        others = both @ counts - (own * (own - 1)) @ itself
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
    bias = ndtri(below.clip(1 / len(drawn), 1 - 1 / len(drawn)) if len(drawn) > 1 else 0.5)
    known = left_out[~np.isnan(left_out)]
    away = np.nan_to_num((known.mean() if len(known) else 0.0) - left_out)
    spread = (away**2).sum() ** 1.5
    acceleration = (away**3).sum() / (6 * spread) if spread else 0.0
    reach = np.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, 0.975)
    shifted = bias + np.array([-reach, reach])
    low, high = np.quantile(drawn, ndtr(bias + shifted / (1 - acceleration * shifted)))
    return float(min(low, figure)), float(max(high, figure))
