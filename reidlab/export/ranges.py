"""Observers: which range of values each activation is quantised by."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from reidlab.errors import InputError

Values = Iterable[tuple[str, np.ndarray]]
OBSERVERS = ("minmax", "percentile", "entropy")
BINS = 2048
LEVELS = 256
EMPTY = 1e-6


class Range(NamedTuple):
    """The values from `low` to `high` that int8 codes are spread over; it always holds zero."""

    low: float
    high: float


def observe(
    values: Callable[[np.ndarray], Values], batches: Iterable[np.ndarray], observer: str, percentile: float = 99.99
) -> dict[str, Range]:
    """The range of each activation over all batches; `values(batch)` yields their names and arrays.

    - "minmax": all that occurs. One extreme image counts like any other, however late it comes
    - "percentile": without the outermost values, `100 - percentile` per cent of them on each side
    - "entropy": the clipping that loses least information (Kullback-Leibler, S. Migacz, GTC 2017)

    `batches` is iterated once for "minmax" and twice for the others. Ranges that hold nothing, as behind a dead ReLU,
    become [0, 1]: a scale of zero makes runtimes refuse the file.
    """
    seen: dict[str, Range] = {}
    for batch in batches:
        for name, array in values(batch):
            low, high = seen.get(name, Range(0.0, 0.0))
            seen[name] = Range(min(low, float(array.min())), max(high, float(array.max())))
    if not seen:
        raise InputError("calibration: no images; give the training split some, or another quantize.images")
    if observer != "minmax":
        seen = _clip(values, batches, seen, observer, percentile)
    return {name: r if r.high - r.low > EMPTY else Range(0.0, 1.0) for name, r in seen.items()}


def _clip(values, batches, seen: dict[str, Range], observer: str, percentile: float) -> dict[str, Range]:
    """The ranges of a second look, which counts how often the values within those of the first occur."""
    counts = {name: np.zeros(BINS) for name, full in seen.items() if full.high > full.low}
    for batch in batches:
        for name, array in values(batch):
            if name in counts:
                counts[name] += np.histogram(array, BINS, seen[name])[0]
    clipped = {
        name: by_percentile(count, seen[name], percentile)
        if observer == "percentile"
        else by_entropy(count, seen[name])
        for name, count in counts.items()
    }
    return seen | clipped


def by_percentile(counts: np.ndarray, full: Range, percentile: float) -> Range:
    """The range of a histogram over `full` without `100 - percentile` per cent of the values on each side."""
    edges = np.linspace(full.low, full.high, len(counts) + 1)
    share = np.cumsum(counts) / counts.sum()
    tail = 1 - percentile / 100
    low = edges[np.searchsorted(share, tail, side="right")]
    high = edges[min(np.searchsorted(share, 1 - tail) + 1, len(counts))]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def by_entropy(counts: np.ndarray, full: Range) -> Range:
    """The range of a histogram over `full` whose 256 levels diverge least from it, among 64 scalings of `full`.

    Values outside are counted at the border, as saturation does. Of equals the widest is taken.
    """
    edges = np.linspace(full.low, full.high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    best, least = full, np.inf
    for scaling in np.linspace(1, LEVELS / len(counts), 64):
        candidate = Range(full.low * scaling, full.high * scaling)
        inside = (centres >= candidate.low) & (centres <= candidate.high)
        divergence = _divergence(counts, inside, centres, candidate)
        if divergence < least:
            best, least = candidate, divergence
    return best


def _divergence(counts: np.ndarray, inside: np.ndarray, centres: np.ndarray, candidate: Range) -> float:
    """KL of the saturated histogram from its quantisation, which spreads a level evenly over its non-empty bins."""
    kept = counts[inside]
    first, last = np.flatnonzero(inside)[[0, -1]]
    reference = kept.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last + 1 :].sum()
    level = ((centres[inside] - candidate.low) / (candidate.high - candidate.low) * (LEVELS - 1)).round().astype(int)
    filled = kept > 0
    mass = np.bincount(level, kept, LEVELS)
    width = np.bincount(level, filled, LEVELS)
    quantised = np.where(filled, (mass / np.maximum(width, 1))[level], 0)
    p, q = reference / reference.sum(), quantised / max(quantised.sum(), 1)
    if np.any((p > 0) & (q == 0)):
        q = np.maximum(q, 1e-9)
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))
