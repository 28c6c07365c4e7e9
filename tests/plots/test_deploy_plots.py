import pandas as pd
from pytest import approx

from reidlab import plots


def axes_of(figure):
    (axes,) = figure.axes
    return axes


def test_every_tensor_of_the_arena_is_a_box():
    rows = pd.DataFrame({"first": [0, 1], "last": [1, 3], "offset": [0, 1024], "bytes": [1024, 2048]})
    axes = axes_of(plots.memory_over_time(rows, lower_bound_bytes=2048))
    boxes = [(box.get_x(), box.get_y(), box.get_width(), box.get_height()) for box in axes.patches]
    assert boxes == [(0, 0, 2, 1), (1, 1, 3, 2)] and axes.get_xlim() == (0, 4)
    assert axes.get_title(loc="left").endswith("3.0 KiB") and axes.lines[0].get_ydata()[0] == 2
    assert plots.memory_over_time(rows[:0]).texts


def test_estimates_are_beside_published_figures():
    rows = pd.DataFrame({"quantity": ["ram_kib", "latency_ms"], "published": [100, 10], "estimated": [110, 9]})
    figure = plots.estimate_errors(rows.assign(error=[0.1, -0.1]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "ram: 10.0% median error",
        "latency: 10.0% median error",
    ]
    assert figure.axes[0].get_xlabel() == "published, KiB"


def test_front_joins_what_no_other_beats_and_misfits_are_hollow():
    rows = pd.DataFrame(
        {
            "model": ["a", "b", "c"],
            "target": ["board"] * 3,
            "fits": [True, None, False],
            "latency_ms": [1.0, 2.0, 0.5],
            "mAP": [0.5, 0.6, 0.9],
            "front": [True, True, False],
        }
    )
    axes = axes_of(plots.pareto(rows))
    assert axes.lines[0].get_ydata().tolist() == [0.5, 0.6]
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    assert sorted(len(points.get_facecolors()) for points in axes.collections) == [0, 1]
    assert plots.pareto(rows.drop(columns="mAP")).texts
    classes = axes_of(plots.pareto(rows.rename(columns={"mAP": "top-1"}), "top-1"))
    assert [text.get_text() for text in classes.texts] == ["a", "b"]
    close = axes_of(plots.pareto(rows.head(2).assign(mAP=[0.5, 0.501]))).get_ylim()
    assert close[0] < 0.5 < 0.501 < close[1] and close[1] - close[0] == approx(0.1)
    alone = axes_of(plots.pareto(rows.head(1)))
    assert not alone.texts and alone.get_title(loc="left").startswith("a: ")
