"""A network as a row of its blocks' feature maps, above the parameters and MACs of each."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from reidlab.plots.canvas import FAINT, INK, SERIES, blank, empty

_FAMILIES = {  # legend -> (words in a block's kind, color); the first that fits
    "pooling": (("pool", "average", "GeM"), SERIES[4]),
    "block": (("Block", "Bottleneck", "Residual", " + "), SERIES[0]),
    "convolution": (("conv",), SERIES[2]),
    "linear": (("linear",), SERIES[3]),
}
_OTHER = SERIES[5]
_COLUMNS = 16  # more blocks than these are drawn with equal neighbors as one


def architecture(blocks: pd.DataFrame, image_shape: tuple[int, int, int], title: str = "") -> Figure:
    """The image (C, H, W) and the output of every block as boxes, with bars of parameters and MACs under each.

    `blocks` has a row a block: name, kind, shape (C, H, W) or (D,), parameters, macs. A box's front is as high as its
    maps (by square root), its depth as wide, and it is the broader the more channels it has. In a long network equal
    blocks that follow each other share a box, and their bar is their sum.
    """
    if blocks.empty:
        return empty("no blocks to draw")
    blocks = blocks if len(blocks) <= _COLUMNS else _joined(blocks)
    count = len(blocks)
    figure = blank(max(7.5, 0.66 * count + 1.6), 4.9)
    maps, stored, computed = figure.subplots(3, 1, sharex=True, height_ratios=(3.4, 1, 1))
    figure.set_layout_engine("constrained", h_pad=0.06, hspace=0.0)
    for axes in (maps, stored, computed):
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.set(xticks=[], yticks=[])
    shapes = [image_shape, *blocks["shape"]]
    names = ["image", *blocks["name"]]
    colors = [FAINT, *map(_color, blocks["kind"])]
    _draw_maps(maps, names, shapes, colors)
    maps.set_title(title, fontsize=11, loc="left", color=INK)
    drawn = [(name, color) for name, (_, color) in _FAMILIES.items() if color in colors]
    keys = [Rectangle((0, 0), 1, 1, color=color) for _, color in drawn]
    maps.legend(keys, [name for name, _ in drawn], ncols=len(drawn), loc="lower right", fontsize=8, frameon=False,
                labelcolor=FAINT, handlelength=0.9, handleheight=0.9, columnspacing=1.4)  # fmt: skip
    _bars(stored, blocks["parameters"], colors[1:], "parameters")
    _bars(computed, blocks["macs"], colors[1:], "MACs")
    maps.set_xlim(-0.7, count + 0.7)
    return figure


def short(value: float) -> str:
    """A count with three digits and K, M or G."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:.0f}"


def _joined(blocks: pd.DataFrame) -> pd.DataFrame:
    """Runs of blocks that are alike in all but their name, as one."""
    alike = blocks[["kind", "shape", "parameters", "macs"]].astype(str).agg("|".join, axis=1)
    runs = blocks.groupby((alike != alike.shift()).cumsum(), as_index=False)
    sums = runs.agg({"name": list, "kind": "first", "shape": "first", "parameters": "sum", "macs": "sum"})
    ends = sums["name"].map(lambda names: (names[0], names[-1].rpartition(".")[2], len(names)))
    return sums.assign(name=[first if count == 1 else f"{first}-{last}" for first, last, count in ends])


def _color(kind: str) -> str:
    return next((color for words, color in _FAMILIES.values() if any(word in kind for word in words)), _OTHER)


def _draw_maps(axes: Axes, names: list[str], shapes: list[tuple[int, ...]], colors: list[str]) -> None:
    tallest = max(shape[1] if len(shape) == 3 else 1 for shape in shapes)
    widest = max(shape[2] if len(shape) == 3 else 1 for shape in shapes)
    deepest = max(shape[0] for shape in shapes)
    for place, (name, shape, color) in enumerate(zip(names, shapes, colors, strict=True)):
        channels, height, width = (*shape, 1, 1)[:3]
        front = 0.12 + 0.34 * math.sqrt(channels / deepest)
        tall = 0.12 + 1.6 * math.sqrt(height / tallest)
        depth = 0.04 + 0.26 * math.sqrt(width / widest)
        _box(axes, place - (front + depth) / 2, front, tall, depth, color)
        axes.text(place, (tall + depth) / 2 + 0.1, name.replace("global_", ""), fontsize=8, ha="center", color=INK)
        label = f"{channels}" if height == width == 1 else f"{channels}\n{height} x {width}"
        axes.text(place, -(tall + depth) / 2 - 0.1, label, fontsize=7.5, ha="center", va="top", color=FAINT)
    axes.set_ylim(-1.6, 1.3)


def _box(axes: Axes, left: float, front: float, tall: float, depth: float, color: str) -> None:
    """A cuboid: its front, and its top and side in lighter shades; centered on y = 0."""
    bottom, right, lift = -(tall + depth) / 2, left + front, depth
    top = bottom + tall
    faces = {
        0.95: [(left, bottom), (right, bottom), (right, top), (left, top)],
        0.55: [(left, top), (right, top), (right + depth, top + lift), (left + depth, top + lift)],
        0.75: [(right, bottom), (right + depth, bottom + lift), (right + depth, top + lift), (right, top)],
    }
    for alpha, corners in faces.items():
        axes.add_patch(Polygon(corners, facecolor=color, alpha=alpha, edgecolor="none"))
        axes.add_patch(Polygon(corners, fill=False, edgecolor=color, linewidth=0.6))


def _bars(axes: Axes, values: pd.Series, colors: list[str], title: str) -> None:
    places = range(1, len(values) + 1)
    axes.bar(places, values, width=0.62, color=colors, alpha=0.9)
    largest = max(values.max(), 1)
    for place, value in zip(places, values, strict=True):
        axes.text(place, value + 0.06 * largest, short(value) if value else "–", fontsize=7.5, ha="center", color=FAINT)
    axes.set_ylim(0, 1.3 * largest)
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.text(-0.45, 0.35 * largest, f"{title}\n{short(values.sum())}", fontsize=8.5, color=INK)
