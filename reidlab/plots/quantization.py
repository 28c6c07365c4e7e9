"""Pictures of quantisation: what int8 has to span, and which layers pay for it."""

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
    axes = tidy(figure.subplots(), "What int8 spans, tensor by tensor", "tensor, in the order of computation", "value")
    places = np.arange(len(ranges))
    axes.bar(places, ranges["high"] - ranges["low"], bottom=ranges["low"], width=0.9, color=SERIES[0])
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlim(-1, len(ranges))
    return figure


def layer_costs(costs: pd.DataFrame) -> Figure:
    """What each layer loses alone in int8, in the order of computation, and the worst by name.

    `costs` is indexed by step, with a column `lost`, the share of what tells images apart.
    """
    if costs.empty:
        return empty("no layer was measured")
    figure = blank(10.4, 3.4)
    every, worst = figure.subplots(1, 2, width_ratios=(1.6, 1))
    tidy(every, "What each layer alone costs in int8", "layer, in the order of computation", "share lost")
    tidy(worst, f"The {min(NAMED, len(costs))} costliest", "share lost", grid="x")
    named = costs.nlargest(NAMED, "lost")
    colors = np.where(costs.index.isin(named.index), SERIES[1], SERIES[0])
    every.bar(np.arange(len(costs)), costs["lost"], width=0.9, color=colors)
    every.set_xlim(-1, len(costs))
    worst.barh(named.index[::-1], named["lost"][::-1], color=SERIES[1])
    worst.tick_params(axis="y", labelsize=8)
    worst.locator_params(axis="x", nbins=4)
    return figure
