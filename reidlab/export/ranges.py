"""Observers: the range of values by which each activation is quantized."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from reidlab.errors import InputError
from reidlab.export.steps import IMAGE, StepNetwork

Values = Iterable[tuple[str, np.ndarray]]
OBSERVERS = ("typical", "minmax", "percentile", "entropy")
FAR = 4  # times the median image's largest magnitude
UNUSUAL = 0.1  # of the tensors in which an unusual image goes that far
BINS = 2048
LEVELS = 256
EMPTY = 1e-6
LARGEST_FACTOR = 256  # of a sum of products, in XNNPACK


class Range(NamedTuple):
    """The interval of values that int8 spans; it always holds zero."""

    low: float
    high: float


def observe(
    values: Callable[[np.ndarray], Values], batches: Iterable[np.ndarray], observer: str, percentile: float = 99.99
) -> dict[str, Range]:
    """The range of each activation over all batches.

    - "typical": from the smallest to the largest value of any image, without unusual images: in a tenth of the tensors
      or more, their largest magnitude is over four times the median image's. A network may answer a few images with
      activations a hundred times those of all others; the others would share a handful of int8's codes
    - "minmax": from the smallest to the largest value of any image
    - "percentile": without the outermost values, `100 - percentile` per cent of them on each side
    - "entropy": the clipping with the least Kullback-Leibler divergence (S. Migacz, GTC 2017)

    Empty ranges, as behind a dead ReLU, become [0, 1]: runtimes reject a file with a scale of zero.

    Args:
        values: name and array of each activation of a batch.
        batches: iterated once for "typical" and "minmax", twice for the others.
        observer: one of OBSERVERS.
        percentile: of the observer of that name.
    """
    found: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        for name, array in values(batch):
            flat = array.reshape(len(array), -1)
            found.setdefault(name, []).append(np.stack([flat.min(1).clip(max=0), flat.max(1).clip(min=0)]))
    if not found:
        raise InputError("calibration: no images; give the training split some, or another quantize.images")
    ends = np.stack([np.concatenate(parts, 1) for parts in found.values()])  # (tensors, 2, images)
    if observer == "typical":
        ends = ends[:, :, ~unusual_images(ends)]
    limits = zip(ends[:, 0].min(1).tolist(), ends[:, 1].max(1).tolist(), strict=True)
    seen = {name: Range(*limit) for name, limit in zip(found, limits, strict=True)}
    if observer in ("percentile", "entropy"):
        seen = _clip(values, batches, seen, observer, percentile)
    return {name: r if r.high - r.low > EMPTY else Range(0.0, 1.0) for name, r in seen.items()}


def unusual_images(ends: np.ndarray) -> np.ndarray:
    """Which of N images are unusual, see `observe`, by each tensor's smallest and largest values (tensors, 2, N)."""
    reach = np.abs(ends).max(1)
    median = np.median(reach, axis=1, keepdims=True)
    far = (reach > FAR * median) & (median > 0)
    return far.sum(0) >= UNUSUAL * max((median > 0).sum(), 1)


def with_all_pixels(network: StepNetwork, ranges: dict[str, Range]) -> dict[str, Range]:
    """The ranges, that of the normalization widened to black and white, which calibration images may not hold."""
    first, *_ = network.steps
    if first.inputs != [IMAGE] or not first.is_depthwise or first.weight.shape[2:] != (1, 1):
        return ranges
    with torch.no_grad():
        ends = first(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1))
    low, high = ranges[first.name]
    return ranges | {first.name: Range(min(low, float(ends.min())), max(high, float(ends.max())))}


def wide_enough(network: StepNetwork, ranges: dict[str, Range]) -> dict[str, Range]:
    """The ranges, those of outputs that hardly vary widened to what XNNPACK multiplies a sum of products by at most.

    It refuses a file with a factor (scale of input times weights, by that of output) of `LARGEST_FACTOR` or more, as a
    channel gate has that is nearly constant after an epoch of training.
    """
    for step in network.steps:
        weight = getattr(step, "weight", None)
        if weight is None or weight.ndim < 2 or step.name not in ranges:
            continue
        source = ranges.get(step.inputs[0], Range(0, 1))  # the image
        least = (source.high - source.low) * float(weight.abs().max()) / 127 * 2 / LARGEST_FACTOR
        low, high = ranges[step.name]
        if high - low < least:
            ranges = ranges | {step.name: Range(low, low + least)}
    return ranges


def _clip(values, batches, seen: dict[str, Range], observer: str, percentile: float) -> dict[str, Range]:
    """The ranges after a second pass, which makes a histogram of each over the range of the first."""
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
    high = edges[min(int(np.searchsorted(share, 1 - tail)) + 1, len(counts))]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def by_entropy(counts: np.ndarray, full: Range) -> Range:
    """The range whose 256 levels diverge least from a histogram over `full`, among 64 scalings of `full`.

    Values outside saturate: they are counted at its ends. The widest of equally good ranges is taken.
    """
    edges = np.linspace(full.low, full.high, len(counts) + 1)
    centers = (edges[:-1] + edges[1:]) / 2
    best, least = full, np.inf
    for scaling in np.linspace(1, LEVELS / len(counts), 64):
        candidate = Range(full.low * scaling, full.high * scaling)
        inside = (centers >= candidate.low) & (centers <= candidate.high)
        divergence = _divergence(counts, inside, centers, candidate)
        if divergence < least:
            best, least = candidate, divergence
    return best


def _divergence(counts: np.ndarray, inside: np.ndarray, centers: np.ndarray, candidate: Range) -> float:
    """KL divergence of the saturated histogram from its quantized one, each level spread over its non-empty bins."""
    kept = counts[inside]
    first, last = np.flatnonzero(inside)[[0, -1]]
    reference = kept.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last + 1 :].sum()
    level = ((centers[inside] - candidate.low) / (candidate.high - candidate.low) * (LEVELS - 1)).round().astype(int)
    filled = kept > 0
    mass = np.bincount(level, kept, LEVELS)
    width = np.bincount(level, filled, LEVELS)
    quantized = np.where(filled, (mass / np.maximum(width, 1))[level], 0)
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1)
    if np.any((p > 0) & (q == 0)):
        q = np.maximum(q, 1e-9)
    return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))
