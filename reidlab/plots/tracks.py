"""Pictures of tracks: frames with the identities of their boxes, and what is recognized after which gap."""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from matplotlib import color_sequences
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from reidlab.files import write_atomic
from reidlab.plots.canvas import MARKERS, SERIES, blank, tidy

WIDEST = 640
RECOGNITION = {
    "rank-1": "rank-1",
    "MRR": "mean reciprocal rank",
    "missed": "known, missed",
    "mistaken": "unknown, taken for somebody",
}
COLORS = [tuple(round(255 * channel) for channel in to_rgb(color)) for color in color_sequences["tab20"]]


def frame_with_boxes(image: np.ndarray, boxes: np.ndarray, pids: Sequence[int]) -> np.ndarray:
    """A copy of a frame (H, W, 3) uint8 with boxes (N, 4), left, top, width and height, in colors by identity."""
    image = image.copy()
    for (left, top, width, height), pid in zip(boxes.round().astype(int).tolist(), pids, strict=True):
        color = COLORS[pid % len(COLORS)]
        cv2.rectangle(image, (left, top), (left + width, top + height), color, 2)
        cv2.putText(image, str(pid), (left + 2, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 2)
    return image


def small(image: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) no wider than `WIDEST` pixels."""
    height, width = image.shape[:2]
    scale = WIDEST / width
    side = (WIDEST, max(round(height * scale), 1))
    return image if scale >= 1 else cv2.resize(image, side, interpolation=cv2.INTER_AREA)


def save_animation(frames: Sequence[np.ndarray], file: Path, frames_a_second: float) -> Path:
    """Write frames as an animated WebP, which browsers play; those of another size are resized to the first's."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    others = [frame if frame.size == first.size else frame.resize(first.size) for frame in others]
    content = io.BytesIO()
    duration = round(1000 / frames_a_second)
    first.save(content, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, quality=60, method=0)
    return write_atomic(file, content.getvalue())


def recognition(table: pd.DataFrame) -> Figure:
    """Rank-1, MRR and both errors with their intervals by the length of a gap in frames, as `reentry` gives them."""
    figure = blank(5.6, 4)
    axes = figure.subplots()
    for (name, label), color, marker in zip(RECOGNITION.items(), SERIES, MARKERS, strict=False):
        axes.plot(table.index, table[name], marker=marker, color=color, label=label)
        axes.fill_between(table.index, table[f"{name}_low"], table[f"{name}_high"], color=color, alpha=0.15, lw=0)
    axes.set(xscale="log", ylim=(0, 1.02))
    axes.set_xticks(table.index, [str(gap) for gap in table.index])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    tidy(axes, "recognized after a gap", "frames out of sight", "share of people")
    return figure
