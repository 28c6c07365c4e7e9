"""Pictures of a data set, before anything is trained on it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reidlab.plots.canvas import FAINT, SERIES, Tile, TileRow, blank, empty, tidy, tile_sheet

Read = Callable[[str], np.ndarray]  # `path` of a sample -> RGB image (H, W, 3) uint8


def identity_sheet(
    table: pd.DataFrame,
    read: Read,
    num_identities: int = 6,
    num_images: int = 10,
    names: Mapping[int, str] | None = None,
    cameras: Mapping[int, str] | None = None,
) -> Figure:
    """Some identities or classes, one a row, their images ordered by camera and taken from all cameras evenly.

    Args:
        table: with columns `path`, `pid` and `camid`; an unknown camera (0) has no caption.
        read: gives the image of a path.
        num_identities: at even distances in the order of `pid`.
        num_images: of each.
        names: labels for pids.
        cameras: labels for camids.
    """
    pids = np.unique(table.pid[table.pid > 0] if (table.pid > 0).any() else table.pid)
    rows = []
    for pid in _spread(pids, num_identities):
        own = table[table.pid == pid].sort_values(["camid", "path"], kind="stable")
        turn = own.groupby("camid").cumcount()
        shown = own.loc[turn.sort_values(kind="stable").index[:num_images]].sort_values(["camid", "path"])
        tiles = [
            Tile(read(path), f"cam {(cameras or {}).get(camid, camid)}" if camid else "")
            for path, camid in zip(shown.path, shown.camid, strict=True)
        ]
        rows.append(TileRow(tiles, label=(names or {}).get(pid, f"pid {pid}")))
    return tile_sheet(rows)


def images_per_identity(table: pd.DataFrame, noun: str = "identity", plural: str = "identities") -> Figure:
    """Histogram of the number of images per identity, one panel a split; `table` has columns `pid` and `split`."""
    splits = list(dict.fromkeys(table.split))
    if not splits:
        return empty("no samples")
    figure = blank(1.6 + 2.4 * len(splits), 2.7)
    panels = figure.subplots(1, len(splits), squeeze=False)[0]
    for axes, split in zip(panels, splits, strict=True):
        own = table[(table.split == split) & (table.pid > 0)]
        counts = own.groupby("pid").size().to_numpy()
        tidy(axes, f"{split} ({len(counts)} {noun if len(counts) == 1 else plural})", f"images of one {noun}")
        if len(counts) and counts.min() == counts.max():
            axes.text(0.5, 0.5, f"{counts[0]} of each", transform=axes.transAxes, ha="center", va="center", color=FAINT)
            axes.set(xticks=[], yticks=[])
            continue
        if len(counts):
            step = max(1, int(np.ceil((counts.max() - counts.min() + 1) / 24)))
            axes.hist(counts, np.arange(counts.min(), counts.max() + step + 1, step) - 0.5, color=SERIES[0], rwidth=0.9)
            axes.axvline(counts.mean(), color=SERIES[1], linewidth=1.4, label=f"mean {counts.mean():.1f}")
            axes.set(xlim=(counts.min() - 2.5, counts.max() + 2.5), ylim=(0, axes.get_ylim()[1] * 1.18))
            axes.legend(fontsize=8.5, frameon=False, loc="upper right")
        axes.locator_params(integer=True)
    panels[0].set_ylabel(plural, fontsize=9.5)
    return figure


def image_sizes(sizes: np.ndarray, input_size: tuple[int, int] | None = None) -> Figure:
    """Widths and heights (N, 2) in pixels; a dot's area is proportional to the images of that size.

    `input_size` (height, width) draws the network's input over them.
    """
    if not len(sizes):
        return empty("no images")
    shapes, counts = np.unique(np.asarray(sizes), axis=0, return_counts=True)
    figure = blank(4.6, 4.2)
    title = f"{len(sizes):,} images, {len(shapes)} " + ("size" if len(shapes) == 1 else "sizes")
    axes = tidy(figure.subplots(), title, "width, pixels", "height, pixels", "both")
    axes.scatter(
        shapes[:, 0], shapes[:, 1], s=16 + 300 * counts / counts.max(), color=SERIES[0], alpha=0.55, linewidth=0
    )
    limit = shapes.max(axis=0).astype(float)
    if input_size:
        height, width = input_size
        label = f"network's input, {width} x {height}"
        axes.plot(width, height, "x", color=SERIES[1], markersize=9, markeredgewidth=2, linewidth=0, label=label)
        axes.legend(fontsize=8.5, frameon=False, loc="lower right")
        limit = np.maximum(limit, (width, height))
    axes.set(xlim=(0, limit[0] * 1.15), ylim=(0, limit[1] * 1.15))
    return figure


def augmentation_sheet(originals: Sequence[np.ndarray], drawn: Sequence[Sequence[np.ndarray]]) -> Figure:
    """Each original (H, W, 3) uint8 and, beside it, several augmented versions."""
    rows = [
        TileRow([Tile(original, "original" if number == 0 else ""), *(Tile(image) for image in images)])
        for number, (original, images) in enumerate(zip(originals, drawn, strict=True))
    ]
    return tile_sheet(rows)


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, at even distances."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))]
