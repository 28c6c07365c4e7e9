"""Pictures of class scores: confusion matrix and calibration."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reidlab.plots.canvas import FAINT, INK, SERIES, blank, literal, tidy

NUMBERED = 20  # classes up to which every cell says its count


def confusion_matrix(counts: pd.DataFrame) -> Figure:
    """Number of images by their class (rows) and predicted class (columns), colored by their share of the row."""
    values = counts.to_numpy()
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    size = min(9.0, max(2.8, 0.55 * len(counts) + 1.6))
    figure = blank(size + 1.2, size)
    axes = tidy(figure.subplots(), "Confusion matrix", "predicted", "class", grid="")
    picture = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    if len(counts) <= NUMBERED:
        axes.set_xticks(range(len(counts)), [literal(str(name)) for name in counts.columns], rotation=40, ha="right")
        axes.set_yticks(range(len(counts)), [literal(str(name)) for name in counts.index])
        for row, column in np.argwhere(values):
            color = "white" if shares[row, column] < 0.62 else INK
            axes.text(column, row, str(values[row, column]), ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02, label="share of the class").ax.tick_params(labelsize=8)
    return figure


def calibration(count: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> Figure:
    """Accuracy over mean confidence in equal intervals of the confidence, (bins,) each; dots as large as their images.

    On the diagonal a confidence is the probability of being right; below it the network is overconfident.
    """
    figure = blank(3.9, 3.7)
    axes = tidy(figure.subplots(), "Calibration", "confidence", "accuracy", grid="both")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.9, linestyle=":")
    filled = count > 0
    areas = 12 + 240 * count[filled] / max(count.sum(), 1)
    axes.scatter(confidence[filled], accuracy[filled], areas, color=SERIES[0], alpha=0.85)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return figure
