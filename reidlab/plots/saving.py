"""Figures as files: PNG for run folders, SVG for pages that have a light and a dark theme."""

import io
import warnings
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from reidlab.console import log
from reidlab.files import write_atomic
from reidlab.plots.canvas import FAINT, GRID, INK
from reidlab.timing import spent

THEMES = (
    f":root {{ --ink: {INK}; --faint: {FAINT}; --grid: {GRID}; }} "
    "@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --faint: #a6a6a6; --grid: #3a3f47; } }"
)
NO_GLYPH = r"Glyph \d+ "  # matplotlib's warning of a letter that its fonts lack, drawn as a box
FONT = "DejaVu Sans"  # matplotlib's own
FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Zen Hei",
         "WenQuanYi Micro Hei", "NanumGothic", "IPAGothic", "TakaoGothic", "Droid Sans Fallback", "Malgun Gothic",
         "Microsoft YaHei", "SimHei", "MS Gothic", "Yu Gothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo",
         "Arial Unicode MS", "Noto Emoji", "Segoe UI Emoji", "Symbola")  # fmt: skip  # of letters that it lacks
SHARPNESS = 2  # pixels of a figure that a notebook shows, per CSS pixel


def save_figure(figure: Figure, file: Path) -> Path:
    """Write a figure as PNG, atomically."""
    with spent.within("pictures"):
        return write_atomic(file, png(figure, 110))


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as the content of a PNG file, drawn once: `savefig` draws one that has a layout twice."""
    content, own, canvas = io.BytesIO(), figure.dpi, figure.canvas
    _find_letters(figure)
    try:
        figure.dpi = dpi
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", NO_GLYPH)
            FigureCanvasAgg(figure).print_png(content, pil_kwargs={"compress_level": 1})  # 4 x as fast, a fifth larger
    finally:
        figure.dpi = own
        figure.set_canvas(canvas)
    return content.getvalue()


def _find_letters(figure: Figure) -> None:
    """Give texts the installed fonts whose letters matplotlib's own lacks; says once where none has them."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text) and not text.get_text().isascii()]
    lacking = _lacking(FONT, {letter for text in texts for letter in text.get_text() if letter.isprintable()})
    if not lacking:
        return
    installed, family = {font.name for font in font_manager.fontManager.ttflist}, [FONT]
    for name in FONTS:
        if name in installed and (left := _lacking(name, lacking)) != lacking:
            family, lacking = [*family, name], left
    for text in texts:
        text.set_fontfamily(family)
    if lacking:
        _say_lacking()


def _lacking(font: str, letters: set[str]) -> set[str]:
    """Letters that a font lacks."""
    if not letters:
        return letters
    known = font_manager.get_font(font_manager.findfont(font)).get_charmap()
    return {letter for letter in letters if ord(letter) not in known}


@cache
def _say_lacking() -> None:
    log.info(
        f"the pictures' font, {FONT}, lacks letters of some labels and draws boxes in their place; the tables have "
        "them, and so have pictures where a font such as Noto Sans CJK is installed"
    )


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
