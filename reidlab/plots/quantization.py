"""Pictures of quantisation: what int8 has to span, and which layers pay for it."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reidlab.plots.canvas import FAINT, SERIES, blank, empty, tidy

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
    """What each layer loses alone in int8, in the order of computation; the worst are named.

    `costs` is indexed by step, with a column `lost`, the share of what tells images apart.
    """
    if costs.empty:
        return empty("no layer was measured")
    figure = blank(9.6, 4.2)
    axes = tidy(
        figure.subplots(), "What each layer alone costs in int8", "layer, in the order of computation", "share lost"
    )
    lost = costs["lost"].to_numpy()
    worst = np.argsort(lost)[::-1][:NAMED]
    colors = np.full(len(lost), SERIES[0], object)
    colors[worst] = SERIES[1]
    axes.bar(np.arange(len(lost)), lost, width=0.9, color=colors.tolist())
    for rank, place in enumerate(worst):
        height = 0.97 - 0.07 * rank
        axes.annotate(
            costs.index[place], (place, lost[place]), xytext=(0.99, height), textcoords="axes fraction", ha="right",
            va="top", fontsize=7.5, color=FAINT, arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.6},
        )  # fmt: skip
    axes.set_xlim(-1, len(lost))
    return figure
