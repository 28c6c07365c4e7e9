"""Pictures of OSNet's blocks: receptive fields of their streams, their gates and kernels."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from reidlab.plots.canvas import FAINT, INK, Tile, TileRow, blank, tidy, tile_sheet

SHADES = ("#cfe3f2", "#8fbfe0", "#3f8fc4", "#0b4f85")  # of the streams, smallest receptive field first


def windows(maps: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Small sensitivity maps (h, w), each in colors of its own range."""
    tiles = []
    for values, caption in zip(maps, captions, strict=True):
        shade = np.sqrt(values / (values.max() or 1))
        tiles.append(Tile((colormaps["inferno"](shade)[..., :3] * 255).astype(np.uint8), caption))
    return tile_sheet([TileRow(tiles)], tile_width=1.5)


def gate_weights(images: Sequence[np.ndarray], gates: np.ndarray, streams: Sequence[str]) -> Figure:
    """Images (H, W, 3) uint8 and, beside each, its gates: `gates` is (streams, images, channels), in (0, 1)."""
    figure = blank(9.2, 0.4 + 1.15 * len(images))
    grid = figure.subplots(len(images), 2, width_ratios=(0.6, 8), squeeze=False)
    for number, (left, right) in enumerate(grid):
        left.imshow(images[number])
        left.set_axis_off()
        picture = right.imshow(gates[:, number], cmap="viridis", vmin=gates.min(), vmax=gates.max(), aspect="auto")
        right.set_yticks(range(len(streams)), streams, fontsize=8, color=INK)
        right.set_xticks([])
        right.spines[:].set_visible(False)
    grid[-1, 1].set_xlabel("channels, grouped by the stream with the highest gate", fontsize=9.5, color=INK)
    figure.colorbar(picture, ax=grid[:, 1].tolist(), pad=0.01, label="gate").ax.tick_params(labelsize=8)
    return figure


def shares(table: pd.DataFrame, xlabel: str) -> Figure:
    """Shares that sum to 1 in each row, as one bar a row; a column is a shade."""
    figure = blank(8.4, 0.9 + 0.34 * len(table))
    axes = tidy(figure.subplots(), xlabel=xlabel, grid="")
    left = np.zeros(len(table))
    for number, (name, values) in enumerate(table.items()):
        axes.barh(table.index, values, left=left, color=SHADES[number % len(SHADES)], label=name, height=0.8)
        for place, (start, value) in enumerate(zip(left, values, strict=True)):
            if value >= 0.06:
                color = "white" if number > 1 else INK
                axes.text(start + value / 2, place, f"{value:.0%}", ha="center", va="center", fontsize=8, color=color)
        left += values.to_numpy()
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.legend(fontsize=8.5, frameon=False, ncols=len(table.columns), loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def kernel_patterns(kernels: Mapping[str, np.ndarray], channels: int = 8) -> Figure:
    """3x3 kernels (out, in, 3, 3) as sheets, an output channel a row, an input channel a column; the first ones.

    Colors follow the square root, so that small weights show.
    """
    figure = blank(3.2 * len(kernels), 3.5)
    for axes, (name, values) in zip(figure.subplots(1, len(kernels), squeeze=False)[0], kernels.items(), strict=True):
        some = np.sign(values) * np.sqrt(np.abs(values))
        some = some[:channels, :channels]
        out, inner, height, width = some.shape
        sheet = np.full((out, height + 1, inner, width + 1), np.nan)
        sheet[:, :height, :, :width] = some.transpose(0, 2, 1, 3)
        limit = np.abs(some).max()
        axes.imshow(sheet.reshape(out * (height + 1), -1), cmap="RdBu", vmin=-limit, vmax=limit)
        axes.set_title(name, fontsize=11, loc="left", color=INK)
        axes.set_xlabel("input channel", fontsize=9, color=FAINT)
        axes.set_ylabel("output channel", fontsize=9, color=FAINT)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure
