"""Pictures of embeddings: distances, verification, the embedding space, and activation maps."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import color_sequences, colormaps
from matplotlib.figure import Figure

from reidlab.console import significant
from reidlab.plots.canvas import (
    FAINT,
    INK,
    MARKERS,
    MATCH,
    MISMATCH,
    SERIES,
    Tile,
    TileRow,
    blank,
    empty,
    literal,
    tidy,
    tile_sheet,
)

_IDENTITY_COLORS = [color for number, color in enumerate(color_sequences["tab20"]) if number // 2 != 7]  # no grays


class Roc(NamedTuple):
    """False and true positive rates (K,), both ascending, and the point (fpr, tpr) that a threshold stands for."""

    fpr: np.ndarray
    tpr: np.ndarray
    point: tuple[float, float] | None = None


def distance_histogram(
    edges: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    threshold: float | None = None,
    name: str = "distance",
    max_bins: int = 60,
) -> Figure:
    """Histograms of the distances of pairs of one identity and of two, each of area 1, with the threshold.

    Args:
        edges: of the bins (K + 1,), equally spaced.
        positives: number of pairs of one identity in each bin (K,).
        negatives: number of pairs of two identities (K,).
        threshold: a line.
        name: of the distance.
        max_bins: more than these are joined.
    """
    figure = blank(6.2, 3.3)
    axes = tidy(figure.subplots(), "Same identity, or not?", name, "density")
    inhabited = np.flatnonzero(positives + negatives)
    first, last = (inhabited[0], inhabited[-1] + 1) if len(inhabited) else (0, len(edges) - 1)
    starts = np.arange(first, last, -(-(last - first) // max_bins))
    ends = edges[np.append(starts, last)]
    for counts, color, label in ((negatives, MISMATCH, "different identities"), (positives, MATCH, "same identity")):
        if total := counts.sum():
            density = np.add.reduceat(counts[:last], starts) / total / np.diff(ends)
            axes.stairs(density, ends, fill=True, color=color, alpha=0.22)
            axes.stairs(density, ends, color=color, linewidth=1.4, label=f"{label} ({total:,.0f} pairs)")
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--", label=f"threshold {significant(threshold)}")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(fontsize=8.5, frameon=False, loc="outside lower left", ncols=3)
    return figure


def roc_curve(curves: Mapping[str, Roc], lowest_fpr: float = 1e-4) -> Figure:
    """True positive rate over false positive rate on a logarithmic axis: verification is used at few false alarms."""
    figure = blank(5.4, 3.8)
    axes = tidy(figure.subplots(), "Verification", "false positive rate", "true positive rate", "both")
    for number, (name, curve) in enumerate(curves.items()):
        color = SERIES[number % len(SERIES)]
        axes.plot(curve.fpr, curve.tpr, color=color, linewidth=1.7, label=name, drawstyle="steps-post")
        if curve.point:
            axes.plot(*curve.point, "o", color=color, markersize=6)
            axes.annotate(
                f"threshold: {curve.point[1]:.2f} at {curve.point[0]:.2g}",
                curve.point,
                xytext=(7, -11 if curve.point[1] > 0.15 else 6),
                textcoords="offset points",
                fontsize=8.5,
                color=color,
            )
    rates = np.geomspace(lowest_fpr, 1, 50)
    axes.plot(rates, rates, color="#b5b5b5", linewidth=1, linestyle=":", label="chance")
    axes.set(xscale="log", xlim=(lowest_fpr, 1), ylim=(0, 1.02))
    axes.legend(fontsize=8.5, loc="lower right", frameon=False)
    return figure


def threshold_spread(table: pd.DataFrame, wanted_fpr: float) -> Figure:
    """False and true positive rate on other identities, by how many calibrated the threshold; bands from 5 to 95 %.

    Args:
        table: index: number of identities; columns FPR and TPR, each also with " low" and " high".
        wanted_fpr: what the thresholds were calibrated to.
    """
    if table.empty:
        return empty("too few identities to draw some and measure on others")
    figure = blank(8.4, 3.4)
    for axes, name, long, color in zip(figure.subplots(1, 2), ("FPR", "TPR"), ("false", "true"), SERIES, strict=False):
        tidy(axes, "", "identities that calibrate the threshold", f"{long} positive rate on the others", "both")
        axes.fill_between(table.index, table[f"{name} low"], table[f"{name} high"], color=color, alpha=0.2, linewidth=0)
        axes.plot(table.index, table[name], "o-", color=color)
        axes.set_xscale("log", base=2)
        axes.set_xticks(table.index, [str(count) for count in table.index], minor=False)
        if name == "FPR":
            axes.axhline(wanted_fpr, color=INK, linewidth=1, linestyle="--")
            axes.set_ylim(bottom=0)
        else:
            axes.set_ylim(0, 1)
    return figure


def embedding_map(
    xy: np.ndarray,
    pids: np.ndarray,
    camids: np.ndarray,
    max_identities: int = 18,
    names: Mapping[int, object] | None = None,
    cameras: Mapping[int, object] | None = None,
) -> Figure:
    """Embeddings laid out in the plane, one color an identity, one marker a camera.

    Args:
        xy: the layout (N, 2).
        pids: (N,).
        camids: (N,).
        max_identities: those with the most images have a color, the others are gray.
        names: labels for pids.
        cameras: labels for camids.
    """
    figure = blank(6.6, 5.0)
    axes = figure.subplots()
    known, counts = np.unique(pids[pids > 0], return_counts=True)
    named = np.sort(known[np.argsort(-counts, kind="stable")][:max_identities])
    colors = dict(zip(named, cycle(_IDENTITY_COLORS), strict=False))
    for number, camid in enumerate(np.unique(camids)):
        own = camids == camid
        axes.scatter(
            xy[own, 0],
            xy[own, 1],
            s=26,
            marker=MARKERS[number % len(MARKERS)],
            linewidth=0.3,
            edgecolor="white",
            c=[colors.get(pid, (0.8, 0.8, 0.8, 0.7)) for pid in pids[own]],
        )
        camera = literal(f"camera {(cameras or {}).get(camid, camid)}")
        axes.scatter([], [], s=26, marker=MARKERS[number % len(MARKERS)], color=FAINT, label=camera)
    for pid in named:
        x, y = np.median(xy[pids == pid], axis=0)
        axes.text(
            x,
            y,
            literal(str((names or {}).get(pid, pid))),
            fontsize=7.5,
            ha="center",
            va="center",
            color=INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
        )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#d5d5d5")
    axes.set_title(f"{len(known)} identities, {len(pids)} images", fontsize=11, loc="left", color=INK)
    axes.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


def activation_overlay(
    images: Sequence[np.ndarray], maps: Sequence[np.ndarray], captions: Sequence[str] = ()
) -> Figure:
    """Images (H, W, 3) uint8 and, under each, the image with its activation map (h, w) over it.

    A map is stretched to [0, 1] and to the image's size; warm places are where the network responds.
    """
    above = [Tile(image) for image in images]
    captions = captions or [""] * len(images)
    below = [Tile(overlay(i, m), caption) for i, m, caption in zip(images, maps, captions, strict=True)]
    return tile_sheet([TileRow(above), TileRow(below)])


def overlay(image: np.ndarray, activation: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """An image (H, W, 3) uint8 with a map (h, w) in warm colors over it, stronger where the map is higher."""
    height, width = image.shape[:2]
    low, high = activation.min(), activation.max()
    heat = (activation - low) / (high - low) if high > low else np.zeros_like(activation, dtype=float)
    heat = _stretch(heat, height, width)[..., None]
    warm = colormaps["inferno"](heat[..., 0])[..., :3] * 255
    dim = image.mean(axis=2, keepdims=True) * 0.6 + image * 0.4
    return (dim + (warm - dim) * strength * (0.35 + 0.65 * heat)).round().astype(np.uint8)


def _stretch(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation of a map (h, w) to (height, width), pixel centers on pixel centers."""
    for axis, length in ((0, height), (1, width)):
        old = values.shape[axis]
        places = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        lower = np.minimum(places.astype(int), max(old - 2, 0))
        upper = np.minimum(lower + 1, old - 1)
        part = (places - lower).reshape((-1, 1) if axis == 0 else (1, -1))
        values = values.take(lower, axis) * (1 - part) + values.take(upper, axis) * part
    return values
