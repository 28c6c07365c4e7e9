"""Pictures of deployment: memory over time, estimates beside what was published, and which network to choose."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reidlab.plots.canvas import FAINT, INK, MARKERS, SERIES, blank, empty, tidy

KIB = 1024
LEAST_SPAN = 0.1  # of a score's axis, so that a small difference looks small


def memory_over_time(lifetimes: pd.DataFrame, lower_bound_bytes: int | None = None) -> Figure:
    """The arena of a memory plan: who holds which bytes while the steps run; columns first, last, offset and bytes."""
    if lifetimes.empty:
        return empty("nothing to place")
    peak = (lifetimes["offset"] + lifetimes["bytes"]).max() / KIB
    figure = blank(9.6, 3.6)
    axes = tidy(figure.subplots(), f"The arena while the network runs: {peak:.1f} KiB", "step", "KiB")
    for number, row in enumerate(lifetimes.itertuples()):
        corner, width = (row.first, row.offset / KIB), row.last + 1 - row.first
        color = SERIES[number % (len(SERIES) - 1)]
        axes.add_patch(Rectangle(corner, width, row.bytes / KIB, facecolor=color, edgecolor="white", linewidth=0.4))
    if lower_bound_bytes is not None:
        axes.axhline(lower_bound_bytes / KIB, color=INK, linewidth=1.2, linestyle="--")
        label = f"no order needs less than {lower_bound_bytes / KIB:.1f}"
        axes.annotate(label, (1, lower_bound_bytes / KIB), xycoords=("axes fraction", "data"), fontsize=8.5, color=INK,
                      xytext=(-4, 4), textcoords="offset points", ha="right")  # fmt: skip
    axes.set(xlim=(lifetimes["first"].min(), lifetimes["last"].max() + 1), ylim=(0, 1.08 * peak))
    return figure


def estimate_errors(errors: pd.DataFrame) -> Figure:
    """Estimates over published figures, both logarithmic, a panel a quantity; columns as `cross_validation` has."""
    quantities = list(errors["quantity"].unique())
    if not quantities:
        return empty("nothing was estimated")
    figure = blank(2.9 * len(quantities), 3.1)
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        rows = errors[errors["quantity"] == quantity]
        median = rows["error"].abs().median()
        name, unit = quantity.replace("kib", "KiB").rsplit("_", 1)
        tidy(axes, f"{name}: {median:.1%} median error", f"published, {unit}", f"estimated, {unit}", grid="both")
        axes.scatter(rows["published"], rows["estimated"], s=16, color=SERIES[0], alpha=0.7, linewidths=0)
        ends = np.array([rows["published"].min(), rows["published"].max()])
        axes.plot(ends, ends, color=FAINT, linewidth=1)
        axes.set(xscale="log", yscale="log")
        axes.tick_params(labelsize=7.5, which="both")
    return figure


def pareto(table: pd.DataFrame, score: str = "mAP") -> Figure:
    """Score over latency, a color a target; a line joins the networks that no other beats in both.

    `table` has columns model, target, fits, latency_ms, front and the score; a hollow point doesn't fit its target.
    Where there is one network only, the title names it.
    """
    known = table.dropna(subset=["latency_ms", score]) if score in table else table[:0]
    if known.empty:
        return empty(f"no network has both a latency and a {score} yet")
    figure, models = blank(8.6, 3.8), known["model"].unique()
    title = f"{score} and latency, by target" if len(models) > 1 else f"{models[0]}: {score} and latency, by target"
    axes = tidy(figure.subplots(), title, "ms an image", score, grid="both")
    for number, (target, rows) in enumerate(known.groupby("target", sort=False)):
        color, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
        for fits, some in rows.groupby(rows["fits"].fillna(True).astype(bool)):
            face = color if fits else "none"
            axes.scatter(some["latency_ms"], some[score], marker=marker, facecolors=face, edgecolors=color)
        front = rows[rows["front"]].sort_values("latency_ms")
        axes.plot(front["latency_ms"], front[score], color=color, marker=marker, linewidth=1.2, label=target)
        named = front if len(models) > 1 else front[:0]
        for model, *place in named[["model", "latency_ms", score]].itertuples(index=False, name=None):
            axes.annotate(model, place, fontsize=7.5, color=INK, xytext=(4, 4), textcoords="offset points")
    axes.set_xscale("log")
    low, high = axes.get_ylim()
    if (spare := (LEAST_SPAN - (high - low)) / 2) > 0:
        axes.set_ylim(low - spare, high + spare)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
