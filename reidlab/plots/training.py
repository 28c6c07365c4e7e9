"""Learning curves: losses, validation figures and the learning rate."""

import pandas as pd
from matplotlib.figure import Figure

from reidlab.plots.canvas import INK, SERIES, blank, empty, tidy

WATCHED = ("val/mAP", "val/top-1")  # figures that the best epoch is chosen by


def learning_curves(history: pd.DataFrame) -> Figure:
    """Losses, validation figures and the learning rate over epochs; the best validated epoch is marked.

    `history` has a column `epoch`, from 1, and any of `train/loss`, `train/<term>`, `val/<figure>`, `learning_rate`;
    gaps (NaN) are epochs without that figure. Figures of validation are those between 0 and 1.
    """
    if history.empty:
        return empty("no epoch has ended yet")
    figure = blank(10.4, 3.2)
    losses, scores, rate = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 0.8))
    tidy(losses, "Training loss", "epoch", grid="both")
    tidy(scores, "Validation", "epoch", grid="both")
    tidy(rate, "Learning rate", "epoch", grid="both")
    _lines(losses, history, "train/", first="loss")
    main = next((name for name in WATCHED if name in history and history[name].notna().any()), WATCHED[0])
    _lines(scores, history.drop(columns="val/log_likelihood", errors="ignore"), "val/", main.removeprefix("val/"))
    scores.set_ylim(0, 1.02)
    if main in history and history[main].notna().any():
        best = history.loc[history[main].idxmax()]
        scores.axvline(best.epoch, color=INK, linewidth=0.9, linestyle=":")
        scores.plot(best.epoch, best[main], "o", markersize=7, markerfacecolor="none", color=INK)
        scores.annotate(
            f"best {best[main]:.3f}",
            (best.epoch, best[main]),
            xytext=(-6, 7),
            ha="right",
            textcoords="offset points",
            fontsize=8.5,
            color=INK,
        )
    if "learning_rate" in history:
        rate.plot(history.epoch, history.learning_rate, color=SERIES[2], linewidth=1.7)
        rate.set_ylim(0)
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    for axes in (losses, scores, rate):
        axes.locator_params(axis="x", integer=True)
    return figure


def _lines(axes, history: pd.DataFrame, prefix: str, first: str) -> None:
    """A line for each column with the prefix, the one named `first` foremost and thick."""
    columns = [c for c in history if c.startswith(prefix) and history[c].notna().any()]
    columns.sort(key=lambda c: c != prefix + first)
    for number, column in enumerate(columns):
        known = history[history[column].notna()]
        main = column == prefix + first
        axes.plot(
            known.epoch,
            known[column],
            label=column.removeprefix(prefix),
            color=SERIES[number % len(SERIES)],
            linewidth=2.0 if main else 1.2,
            zorder=3 - number * 0.1,
            marker="o" if len(known) < 3 else None,
        )
    if columns:
        axes.legend(fontsize=8.5, frameon=False)


def time_spent(table: pd.DataFrame) -> Figure:
    """A bar for each part of each stage, as long as it took.

    `table` is indexed by stage, with columns part, seconds and share.
    """
    if table.empty:
        return empty("no part was timed")
    figure = blank(8.4, 0.6 + 0.26 * len(table))
    axes = tidy(figure.subplots(), "Where the time went", "seconds", grid="x")
    stages = list(dict.fromkeys(table.index))
    colors = [SERIES[stages.index(stage) % len(SERIES)] for stage in table.index]
    bars = axes.barh([f"{stage}: {part}" for stage, part in zip(table.index, table["part"], strict=True)],
                     table["seconds"], color=colors)  # fmt: skip
    axes.bar_label(bars, [f"{share:.0%}" for share in table["share"]], padding=3, fontsize=8)
    axes.invert_yaxis()
    return figure
