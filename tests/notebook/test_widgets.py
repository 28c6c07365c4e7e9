"""Widgets as a user moves them, on features made by hand."""

import base64
import io

import numpy as np
import pandas as pd
import torch
from PIL import Image

from reidlab.evaluation.outputs import Outputs
from reidlab.evaluation.retrieval import Retrieval
from reidlab.notebook import widgets


def read(path):
    return np.full((8, 4, 3), 128, np.uint8)


def retrieval(*query):
    """Three people on a line, and where their queries were put."""
    sides = []
    for split, camid, places in (("query", 1, query), ("gallery", 2, (0, 1, 9))):
        rows = [(f"{split}/{pid}.png", pid, camid, split) for pid in range(1, len(places) + 1)]
        table = pd.DataFrame(rows, columns=["path", "pid", "camid", "split"])
        sides.append(Outputs(torch.tensor(places, dtype=torch.float32)[:, None], table))
    return Retrieval(*sides, "euclidean", True)


def test_browse_pages_through_queries_worst_first(monkeypatch):
    pages, found = [], retrieval(0, 9, 2)
    picture = found.picture
    monkeypatch.setattr(Retrieval, "picture", lambda self, *how: pages.append(how[:2]) or picture(*how))
    explorer = widgets.browse(found, read, k=2)
    slider, first = explorer.controls[0], explorer.picture.value
    assert slider.max == 2
    slider.value = 1
    assert [queries for queries, _ in pages] == [[n] for n in found.sorted_queries()[:2]]
    assert explorer.picture.value != first
    slider.value = 0
    assert len(pages) == 2 and explorer.picture.value == first


def test_a_widget_carries_its_picture_for_copies_without_a_kernel():
    explorer = widgets.browse(retrieval(0, 1, 9), read)
    shown, sizes = explorer._repr_mimebundle_()
    width = Image.open(io.BytesIO(explorer.picture.value)).width
    assert width == 2 * sizes["image/png"]["width"] == 2 * int(explorer.picture.width)  # sharp
    assert base64.b64decode(shown["image/png"]) == explorer.picture.value
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_decide_says_who_passes_a_threshold(monkeypatch):
    verification = retrieval(0, 3, 9).verify(0.1, resamples=0, seed=0)  # same: 0, 2, 0; others: 1, 9, 3, 6, 9, 8
    titles = []
    drawn = widgets.plots.distance_histogram
    monkeypatch.setattr(widgets.plots, "distance_histogram", lambda *how: titles.append(drawn(*how)) or titles[-1])
    slider = widgets.decide(verification, 0.5).controls[0]
    slider.value = 2.5
    assert [figure.axes[0].get_title(loc="left") for figure in titles] == [
        "66.7% of the same people pass, and 0.00% of strangers",
        "100.0% of the same people pass, and 16.67% of strangers",
    ]


def test_compare_begins_with_the_query_that_lost_most(monkeypatch):
    shown = []
    drawn = widgets.insight.before_and_after
    monkeypatch.setattr(widgets.insight, "before_and_after", lambda *how: shown.append((how[3], how[4])) or drawn(*how))
    before = retrieval(0, 1, 9)
    after = {"one": retrieval(0, 9, 9), "two": retrieval(0, 1, 0)}
    file, query = widgets.compare(before, after, read, k=2).controls
    file.value = "two"
    query.value = 1
    assert shown == [("one", [1]), ("two", [2]), ("two", [0])]


def test_the_picture_of_a_threshold_keeps_its_size_and_its_axis(monkeypatch):
    verification, drawn = retrieval(0, 3, 9).verify(0.1, resamples=0, seed=0), []
    plot = widgets.plots.distance_histogram
    monkeypatch.setattr(widgets.plots, "distance_histogram", lambda *how: drawn.append(plot(*how)) or drawn[-1])
    explorer = widgets.decide(verification, 0.5)
    sizes = set()
    for threshold in (0, 2.5, explorer.controls[0].max):
        explorer.controls[0].value = threshold
        sizes.add(Image.open(io.BytesIO(explorer.picture.value)).size)
    assert len(sizes) == 1 and len({figure.axes[0].get_xlim() for figure in drawn}) == 1
