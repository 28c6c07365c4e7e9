"""Uncertainty of retrieval figures: intervals over queries, and tests between two runs."""

from typing import NamedTuple

import numpy as np

from reidlab.errors import InputError
from reidlab.metrics.pairing import spans
from reidlab.metrics.ranking import RANKS, Ranking

RESAMPLES = 2000
CHUNK = 100  # resamples drawn at a time
TAIL = 0.025  # at either end of an interval


class Interval(NamedTuple):
    """The middle 95 % of a figure's resamples."""

    low: float
    high: float


class Difference(NamedTuple):
    """The second run's figure minus the first's, its 95 % interval and its p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def confidence_intervals(
    ranking: Ranking, groups=None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """95 % percentile bootstrap over queries of mAP, rank-k and mINP; empty where there is but one query, or group.

    Efron & Tibshirani 1993, chapter 13; groups as in Field & Welsh 2007, J. R. Stat. Soc. B 69. Where a figure is 0 or
    1 of all, resamples don't differ, and the other end is that of Clopper & Pearson 1934, for their number.

    Args:
        ranking: of the queries.
        groups: (Q,), such as the queries' pids, to draw whole groups: images of one person aren't independent, and
            intervals over single queries are too narrow where there are several of each.
        resamples: number of bootstrap samples.
        seed: of these.
    """
    names, figures = _per_query(ranking)
    totals, sizes = _per_group(figures[_valid(ranking)], groups, _valid(ranking))
    if len(totals) < 2:
        return {}
    low, high = map(np.array, _ends(_resampled_means(totals, sizes, resamples, seed)))
    rare = TAIL ** (1 / len(totals))  # the least share of a value that so many groups all have by chance
    low, high = np.where(low == 1, rare, low), np.where(high == 0, 1 - rare, high)
    return dict(zip(names, map(Interval, low.tolist(), high.tolist()), strict=True))


def mean_interval(values, groups=None, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """95 % percentile bootstrap of the mean of values (N,), such as the differences between two runs, query by query.

    NaN where there is but one value, or group.

    Args:
        values: drawn one by one, or group by group.
        groups: (N,), see `confidence_intervals`.
        resamples: number of bootstrap samples.
        seed: of these.
    """
    column = np.asarray(values, float)[:, None]
    drawn = _resampled_means(*_per_group(column, groups, np.ones(len(column), bool)), resamples, seed)
    (low,), (high,) = _ends(drawn)
    return Interval(low, high)


def paired_test(
    first: Ranking, second: Ranking, groups=None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Test whether two runs differ on the same queries, in mAP, rank-k and mINP.

    The interval is a paired bootstrap, the p-value a two-sided sign-flip permutation test: were the runs alike, each
    query (or group of them) could as well have favored the other. Queries that either leaves out don't count. Raises
    InputError where the numbers of queries differ.

    Args:
        first: ranking of one run.
        second: ranking of the other.
        groups: see `confidence_intervals`.
        resamples: number of bootstrap samples and of permutations.
        seed: of these.
    """
    if len(first.valid) != len(second.valid):
        raise InputError(
            f"{len(first.valid)} and {len(second.valid)} queries: only two runs on the same test split can be compared"
        )
    valid = _valid(first) & _valid(second)
    names, figures = _per_query(first)
    gains = (_per_query(second)[1] - figures)[valid]  # (V, F)
    totals, sizes = _per_group(gains, groups, valid)
    low, high = _ends(_resampled_means(totals, sizes, resamples, seed))
    observed = gains.mean(0) if len(gains) else np.full(len(names), np.nan)
    p_values = _sign_flips(totals, resamples, seed)
    rows = zip(observed.tolist(), low, high, p_values.tolist(), strict=True)
    return {name: Difference(*row) for name, row in zip(names, rows, strict=True)}


def _valid(ranking: Ranking) -> np.ndarray:
    return ranking.valid.numpy(force=True)


def _per_query(ranking: Ranking) -> tuple[list[str], np.ndarray]:
    """Names of the headline figures and what each query adds to them. (Q, F)"""
    columns = {
        "mAP": ranking.average_precision,
        **{f"rank-{k}": ranking.first_rank <= k for k in RANKS},
        "mINP": ranking.inverse_negative_penalty,
    }
    return list(columns), np.stack([column.double().numpy(force=True) for column in columns.values()], 1)


def _per_group(figures: np.ndarray, groups, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sizes of the groups that are drawn together: by default each query is one. (V, F) -> (N, F), (N,)"""
    if groups is None:
        return figures, np.ones(len(figures))
    _, group = np.unique(np.asarray(groups)[valid], return_inverse=True)
    totals = np.zeros((group.max() + 1 if len(group) else 0, figures.shape[1]))
    np.add.at(totals, group, figures)
    return totals, np.bincount(group).astype(float)


def _resampled_means(totals: np.ndarray, sizes: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over as many groups as there are, drawn with replacement; NaN of one. (N, F), (N,) -> (resamples, F)"""
    if len(totals) < 2:
        return np.full((resamples, totals.shape[1]), np.nan)
    random, count = np.random.default_rng(seed), len(totals)
    means = []
    for start, stop in spans(resamples, CHUNK):
        draws = random.multinomial(count, np.full(count, 1 / count), size=stop - start).astype(float)
        means.append(draws @ totals / (draws @ sizes)[:, None])
    return np.concatenate(means)


def _sign_flips(totals: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The share of random sign patterns whose sum is as far from zero as the observed one. (N, F) -> (F,)"""
    random, observed = np.random.default_rng(seed), np.abs(totals.sum(0))
    as_far = np.ones(totals.shape[1])  # the observed pattern is one of them, so that no p-value is 0
    for start, stop in spans(resamples, CHUNK):
        signs = random.integers(0, 2, size=(stop - start, len(totals))) * 2.0 - 1
        as_far += (np.abs(signs @ totals) >= observed * (1 - 1e-12)).sum(0)
    return as_far / (resamples + 1)


def _ends(drawn: np.ndarray) -> tuple[list[float], list[float]]:
    low, high = np.percentile(drawn, [100 * TAIL, 100 - 100 * TAIL], axis=0)
    return low.tolist(), high.tolist()
