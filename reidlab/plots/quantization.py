"""Pictures of quantization: the ranges of activations and the sensitivity of layers."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reidlab.plots.canvas import SERIES, blank, empty, tidy

NAMED = 8


def activation_ranges(ranges: pd.DataFrame) -> Figure:
    """The range of each tensor in the order of computation; `ranges` has columns tensor, low and high."""
    if ranges.empty:
        return empty("no ranges were observed")
    figure = blank(9.6, 3.2)
    axes = tidy(figure.subplots(), "Ranges of the activations", "tensor, in the order of computation", "value")
    edges = np.arange(len(ranges) + 1) - 0.5
    axes.stairs(ranges["high"], edges, baseline=ranges["low"], fill=True, color=SERIES[0])
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlim(-1, len(ranges))
    return figure


def layer_costs(costs: pd.DataFrame) -> Figure:
    """The relative error of the embeddings by each layer alone in int8, in the order of computation; the worst by name.

    `costs` is indexed by step, with a column `relative_error`.
    """
    if costs.empty:
        return empty("no layer was measured")
    figure = blank(10.4, 3.4)
    every, worst = figure.subplots(1, 2, width_ratios=(1.6, 1))
    tidy(every, "Error by each layer alone in int8", "layer, in the order of computation", "relative error")
    tidy(worst, f"The {min(NAMED, len(costs))} most sensitive", "relative error", grid="x")
    named = costs.nlargest(NAMED, "relative_error")
    colors = np.where(costs.index.isin(named.index), SERIES[1], SERIES[0])
    every.bar(np.arange(len(costs)), costs["relative_error"], width=0.9, color=colors)
    every.set_xlim(-1, len(costs))
    worst.barh(named.index[::-1], named["relative_error"][::-1], color=SERIES[1])
    worst.tick_params(axis="y", labelsize=8)
    worst.locator_params(axis="x", nbins=4)
    return figure
