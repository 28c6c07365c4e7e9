"""Pictures of rankings: nearest images of queries, confusions, and pairs of cameras."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from reidlab.plots.canvas import (
    IGNORED,
    INK,
    MATCH,
    MISMATCH,
    QUERY,
    SERIES,
    Tile,
    TileRow,
    blank,
    empty,
    literal,
    tidy,
    tile_sheet,
)

Relation = Literal["match", "mismatch", "ignored"]
_LOOK = {"match": (MATCH, "✓"), "mismatch": (MISMATCH, "✗"), "ignored": (IGNORED, "○")}


class Found(NamedTuple):
    """A gallery image (H, W, 3) uint8, its score to the query, and their relation under the protocol."""

    image: np.ndarray
    score: float
    relation: Relation


class Ranking(NamedTuple):
    """A query image (H, W, 3) uint8, its gallery images (nearest first), and a line of text."""

    query: np.ndarray
    found: Sequence[Found]
    title: str = ""


class Confusion(NamedTuple):
    """A query, the wrong gallery image that ranks before the right one, the right one (or None), and a line of text."""

    query: np.ndarray
    wrong: Found
    right: Found | None
    title: str = ""


def ranking_gallery(rankings: Sequence[Ranking], title: str = "") -> Figure:
    """One row a query: the query in blue, then its ranking, with scores.

    Green frames (✓) are matches, red ones (✗) are not, gray ones (○) are left out by the protocol: junk, or the same
    camera.
    """
    rows = [TileRow([Tile(r.query, "query", QUERY), *map(_tile, r.found)], r.title) for r in rankings]
    return tile_sheet(rows, title)


def confusions(pairs: Sequence[Confusion], title: str = "", columns: int = 4) -> Figure:
    """Query, wrong image and right image side by side, `columns` triples a row."""
    rows = []
    for start in range(0, len(pairs), columns):
        chunk = pairs[start : start + columns]
        tiles: list[Tile | None] = []
        for number, pair in enumerate(chunk):
            tiles += [None] * (number > 0)
            tiles += [
                Tile(pair.query, pair.title or "query", QUERY),
                _tile(pair.wrong),
                pair.right and _tile(pair.right),
            ]
        rows.append(TileRow(tiles))
    return tile_sheet(rows, title)


def camera_pair_matrix(
    values: np.ndarray, cameras: Sequence[object], name: str = "mAP", counts: np.ndarray | None = None
) -> Figure:
    """A figure in [0, 1] for queries of one camera (rows) in the gallery of another (columns).

    Args:
        values: (C, C); NaN is left empty.
        cameras: labels of the C cameras.
        name: of the figure.
        counts: number of queries behind each value (C, C).
    """
    size = max(2.6, 0.62 * len(cameras) + 1.4)
    figure = blank(size + 0.8, size)
    axes = tidy(figure.subplots(), f"{name} by camera", "gallery camera", "query camera", grid="")
    picture = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1)
    axes.set_facecolor("#efefef")
    axes.spines[:].set_visible(False)
    labels = [literal(str(camera)) for camera in cameras]
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels), default=0) > 6 else 0)
    axes.set_yticks(range(len(labels)), labels)
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        text = f"{value:.2f}" + (f"\n{counts[row, column]:.0f}" if counts is not None else "")
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if value < 0.62 else INK)
    figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02).ax.tick_params(labelsize=8)
    return figure


def cmc_curve(curves: Mapping[str, np.ndarray], max_rank: int = 20) -> Figure:
    """Fraction of queries with a match among the first k, for each named curve (K,) over k = 1..K."""
    figure = blank(5.6, 3.6)
    axes = tidy(
        figure.subplots(), "Cumulative matching characteristic", "rank k", "queries with a match within k", "both"
    )
    lowest = 1.0
    for number, (name, curve) in enumerate(curves.items()):
        shown = np.asarray(curve)[:max_rank]
        lowest = min(lowest, shown.min(initial=1.0))
        axes.plot(
            range(1, len(shown) + 1),
            shown,
            "o-",
            markersize=3.5,
            linewidth=1.6,
            color=SERIES[number % len(SERIES)],
            label=f"{name} (rank-1 {shown[0]:.3f})",
        )
    axes.set(xlim=(0.5, max_rank + 0.5), ylim=(max(0.0, np.floor(lowest * 10 - 0.5) / 10), 1.01))
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=8.5, loc="lower right", frameon=False)
    return figure


def metric_bars(rows: Mapping[str, Mapping[str, float]], names: Sequence[str] = ("mAP", "rank-1")) -> Figure:
    """Figures in [0, 1] of several rows of a results table, side by side; a row may lack some of them."""
    if not rows:
        return empty("no results yet")
    figure = blank(6.2, 0.9 + 0.30 * len(rows) * len(names))
    axes = tidy(figure.subplots(), grid="x")
    height = 0.8 / len(names)
    for number, name in enumerate(names):
        places = np.arange(len(rows)) + (number - (len(names) - 1) / 2) * height
        values = [row.get(name, np.nan) for row in rows.values()]
        bars = axes.barh(places, values, height * 0.92, color=SERIES[number % len(SERIES)], label=name)
        axes.bar_label(bars, [f"{v:.3f}" if np.isfinite(v) else "" for v in values], padding=3, fontsize=8.5)
    axes.set_yticks(range(len(rows)), rows, fontsize=9.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.0)
    axes.legend(fontsize=8.5, ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def _tile(found: Found) -> Tile:
    color, mark = _LOOK[found.relation]
    return Tile(found.image, f"{mark} {found.score:.3f}", color)
