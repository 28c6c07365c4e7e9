"""Common parts of pictures: white figures, one meaning for each color, and sheets of image tiles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

MATCH, MISMATCH, IGNORED, QUERY = "#1b8a3d", "#d63030", "#8f8f8f", "#3b73cf"
INK, FAINT, GRID = "#1a1a1a", "#5f5f5f", "#e3e3e3"
ON_ANY = "#767676"  # ink of sheets of images, which have no paper: as far from white as from black
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito, 2008
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")

_MARGIN, _GAP, _CAPTION, _TITLE, _LABEL = 0.12, 0.10, 0.19, 0.26, 0.62  # inches
_LETTER = 0.0085  # inches, of a letter of each point of its size, wide ones being rare


class Drawn(NamedTuple):
    """A picture and the table of its values."""

    figure: Figure
    table: pd.DataFrame


@dataclass(frozen=True)
class Tile:
    """One image (H, W, 3) uint8 of a sheet, with a line or more under it and a frame where `color` is given."""

    image: np.ndarray
    caption: str = ""
    color: str | None = None


@dataclass(frozen=True)
class TileRow:
    """Tiles side by side (None leaves a place empty), with a line above them and a label to their left."""

    tiles: Sequence[Tile | None]
    title: str = ""
    label: str = ""


def blank(width: float, height: float) -> Figure:
    """An opaque white figure in inches, outside of pyplot's global list, legible in dark notebooks too."""
    return Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")


def literal(name: str, longest: int = 28) -> str:
    """A name as matplotlib draws it as it is, `$` beginning no formula; of a long one the middle is left out."""
    half = max(longest - 1, 2) // 2
    return (name if len(name) <= longest else f"{name[:half]}…{name[-half:]}").replace("$", r"\$")


def tidy(
    axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "", grid: Literal["x", "y", "both", ""] = "y"
) -> Axes:
    """Set titles, remove the frame on the right and above, draw a faint grid.

    Args:
        axes: returned.
        title: above.
        xlabel: of the x axis.
        ylabel: of the y axis.
        grid: the axes that it belongs to.
    """
    axes.set_title(title, fontsize=11, loc="left", color=INK)
    axes.set_xlabel(xlabel, fontsize=9.5, color=INK)
    axes.set_ylabel(ylabel, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=9, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    return axes


def empty(text: str) -> Figure:
    """A figure that says in words why there is nothing to draw."""
    figure = blank(6.4, 1.2)
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=10.5, color=FAINT)
    return figure


def tile_sheet(rows: Sequence[TileRow], title: str = "", tile_width: float = 0.82) -> Figure:
    """Rows of image tiles; all cells have one size (the tallest image's shape) and images keep theirs inside.

    Sheets have no paper, for pages of any color. Sizes in inches. Under a row with captions, above one with a title and
    left of labeled ones there is room for them; long labels and captions lose their middle.
    """
    if not any(tile for row in rows for tile in row.tiles):
        return empty(title or "no images to show")
    shapes = [tile.image.shape for row in rows for tile in row.tiles if tile]
    height = tile_width * min(max(h / w for h, w, *_ in shapes), 2.6)
    columns = max(len(row.tiles) for row in rows)
    label = max(len(literal(row.label)) for row in rows)
    left = _MARGIN + (max(_LABEL, 8.5 * _LETTER * label + _GAP) if label else 0.0)
    header = _TITLE + 0.06 if title else 0.0
    tops = list(_tops(rows, _MARGIN + header, height))
    words = max(_MARGIN + 11 * _LETTER * len(title), *(left + 8.5 * _LETTER * len(row.title) for row in rows))
    width = max(left + columns * (tile_width + _GAP) + _MARGIN, words + _MARGIN, 3.2)

    figure = Figure(figsize=(width, tops[-1] + _MARGIN), dpi=100, facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(tops[-1] + _MARGIN, 0))
    axes.set_axis_off()
    if title:
        axes.text(_MARGIN, _MARGIN, title.replace("$", r"\$"), fontsize=11, va="top", color=ON_ANY)
    for row, top in zip(rows, tops, strict=False):
        if row.title:
            axes.text(left, top + 0.03, row.title.replace("$", r"\$"), fontsize=8.5, va="top", color=ON_ANY)
            top += _TITLE
        if row.label:
            place = left - _GAP, top + height / 2
            axes.text(*place, literal(row.label), fontsize=8.5, va="center", ha="right", color=ON_ANY)
        for column, tile in enumerate(row.tiles):
            if tile:
                _draw(axes, tile, left + column * (tile_width + _GAP), top, tile_width, height)
    return figure


def tile_grid(tiles: Sequence[Tile], columns: int = 5, title: str = "", tile_width: float = 1.3) -> Figure:
    """Tiles one after the other.

    Args:
        tiles: in reading order.
        columns: tiles a row.
        title: of the sheet.
        tile_width: in inches.
    """
    rows = [TileRow(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return tile_sheet(rows, title, tile_width)


def _tops(rows: Sequence[TileRow], start: float, height: float) -> Iterator[float]:
    """The top of each row, and at last the end of the sheet."""
    for row in rows:
        yield start
        captions = _CAPTION * max((len(tile.caption.splitlines()) for tile in row.tiles if tile), default=0)
        start += (_TITLE if row.title else 0.0) + height + captions + _GAP
    yield start


def _draw(axes: Axes, tile: Tile, x: float, y: float, width: float, height: float) -> None:
    """One tile in the cell whose upper left corner is (x, y)."""
    h, w = tile.image.shape[:2]
    scale = min(width / w, height / h)
    x0, y0 = x + (width - w * scale) / 2, y + (height - h * scale) / 2
    image = AxesImage(axes, cmap="gray", extent=(x0, x0 + w * scale, y0 + h * scale, y0))
    image.set_data(tile.image)
    axes.add_artist(image)  # unlike imshow and add_patch, looks for no new limits: a fifth of the time
    if tile.color:
        axes.add_artist(Rectangle((x0, y0), w * scale, h * scale, fill=False, edgecolor=tile.color, linewidth=2.6))
    if tile.caption:
        longest = round((width + _GAP) / (7.5 * _LETTER))
        axes.text(
            x + width / 2,
            y + height + 0.05,
            "\n".join(literal(line, longest) for line in tile.caption.splitlines()),
            fontsize=7.5,
            ha="center",
            va="top",
            color=tile.color or ON_ANY,
        )
