"""Figures as files: PNG for run folders, SVG for pages that have a light and a dark theme."""

import io
import warnings
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reidlab.files import write_atomic
from reidlab.plots.canvas import FAINT, GRID, INK
from reidlab.timing import spent

THEMES = (
    f":root {{ --ink: {INK}; --faint: {FAINT}; --grid: {GRID}; }} "
    "@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --faint: #a6a6a6; --grid: #3a3f47; } }"
)
NO_GLYPH = r"Glyph (\d|[12]\d|3[01]|12[789]|1[345]\d) "  # matplotlib's warning of a control character, drawn as a box
SHARPNESS = 2  # pixels of a figure that a notebook shows, per CSS pixel


def save_figure(figure: Figure, file: Path) -> Path:
    """Write a figure as PNG, atomically."""
    with spent.within("pictures"):
        return write_atomic(file, png(figure, 110))


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as the content of a PNG file, drawn once: `savefig` draws one that has a layout twice."""
    content, own, canvas = io.BytesIO(), figure.dpi, figure.canvas
    try:
        figure.dpi = dpi
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_GLYPH)
            FigureCanvasAgg(figure).print_png(content, pil_kwargs={"compress_level": 1})  # 4 x as fast, a fifth larger
    finally:
        figure.dpi = own
        figure.set_canvas(canvas)
    return content.getvalue()


def save_drawing(figure: Figure, file: Path) -> Path:
    """Write a figure as SVG without paper, its ink dark or light as the reader's theme wants it; atomically."""
    for axes in figure.axes:
        axes.patch.set_visible(False)
    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": file.name}):
        figure.savefig(content, format="svg", facecolor="none", metadata={"Date": None, "Creator": None})
    svg = content.getvalue()
    for name, color in (("ink", INK), ("faint", FAINT), ("grid", GRID)):
        svg = svg.replace(color, f"var(--{name})")
    return write_atomic(file, svg.replace("<defs>", f"<style>{THEMES}</style>\n <defs>", 1))
