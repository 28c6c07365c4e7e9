"""Pictures with a handle, for notebooks; a copy of the notebook that has no kernel shows them as they were at first."""

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from reidlab import plots
from reidlab.evaluation import insight
from reidlab.evaluation.retrieval import Retrieval
from reidlab.metrics import Verification
from reidlab.plots.saving import SHARPNESS, png

Read = Callable[[str], np.ndarray]  # `path` of a sample -> RGB image (H, W, 3) uint8


class Explorer(ipywidgets.VBox):
    """Controls above the picture that `draw` makes of their values."""

    def __init__(self, controls: Sequence[ipywidgets.Widget], draw: Callable[..., Figure]):
        self.page = lru_cache(maxsize=64)(lambda *values: _page(draw(*values)))
        self.controls, self.picture = controls, ipywidgets.Image(format="png", layout={"max_width": "100%"})
        for control in controls:
            control.observe(self._turn, "value")
        self._turn()
        super().__init__([*controls, self.picture])

    def _turn(self, change: dict | None = None) -> None:
        self.picture.value, self.picture.width = self.page(*(control.value for control in self.controls))

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        still = base64.b64encode(self.picture.value).decode()
        size = {"width": int(self.picture.width)}  # JupyterLab takes no text
        return {**super()._repr_mimebundle_(**kwargs), "image/png": still}, {"image/png": size}


def browse(found: Retrieval, read: Read, k: int = 10) -> Explorer:
    """All queries and what they found, worst average precision first; `read` gives a sample's image."""
    order = found.sorted_queries()
    return Explorer([_slider("query", len(order))], lambda place: found.picture([order[place]], k, read))


def decide(verification: Verification, threshold: float) -> Explorer:
    """The distances of pairs and a threshold to move between them, with what it lets pass."""
    positives, negatives = np.diff(verification.positives), np.diff(verification.negatives)
    reach = verification.thresholds[np.flatnonzero(positives + negatives)[-1] + 1]
    slider = ipywidgets.FloatSlider(threshold, min=0, max=reach, step=reach / 200, readout_format=".3f",
                                    description="threshold", layout={"width": "60%"})  # fmt: skip

    def draw(value: float) -> Figure:
        at = verification.thresholds.searchsorted(value, side="right") - 1
        figure = plots.distance_histogram(verification.thresholds, positives, negatives, value)
        title = f"{verification.tpr[at]:.1%} of the same people pass, and {verification.fpr[at]:.2%} of strangers"
        figure.axes[0].set_title(title, fontsize=11, loc="left")
        figure.axes[0].set_xlim(0, reach)  # wherever the threshold is
        return figure

    return Explorer([slider], draw)


def compare(before: Retrieval, after: Mapping[str, Retrieval], read: Read, k: int = 10) -> Explorer:
    """The ranking of a query before and, below it, after, for each of several files; greatest losses first."""
    orders = {
        name: insight.precision_drops(before, found).argsort(descending=True).tolist() for name, found in after.items()
    }
    file = ipywidgets.Dropdown(options=list(after), description="file")

    def draw(name: str, place: int) -> Figure:
        return insight.before_and_after(before, after[name], read, name, [orders[name][place]], k)

    return Explorer([file, _slider("query", len(before.query.table))], draw)


def _page(figure: Figure) -> tuple[bytes, str]:
    """A figure as PNG, sharp, and its width in CSS pixels."""
    return png(figure, 100 * SHARPNESS), f"{figure.get_figwidth() * 100:.0f}"


def _slider(name: str, count: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(0, 0, count - 1, description=name, layout={"width": "60%"})
