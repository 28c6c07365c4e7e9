import io

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from reidlab import plots
from reidlab.plots import saving
from reidlab.plots.canvas import IGNORED, MATCH, MISMATCH, ON_ANY, QUERY
from reidlab.plots.saving import png

RNG = np.random.default_rng(0)
RATES = {f"{name}{end}": [0.1, 0.2] for name in ("FPR", "TPR") for end in ("", " low", " high")}
SPREAD = pd.DataFrame(RATES, index=[5, 10])
IMAGE = RNG.integers(0, 255, (64, 32, 3), dtype=np.uint8)
TABLE = pd.DataFrame(
    [
        (f"{pid}/{camid}_{shot}.png", pid, camid, "train" if pid < 3 else "query")
        for pid in (-1, 0, 1, 2, 3)
        for camid in (2, 1)
        for shot in range(4)
    ],
    columns=["path", "pid", "camid", "split"],
)
FOUND = [plots.Found(IMAGE, 0.25, "match"), plots.Found(IMAGE, 0.5, "mismatch"), plots.Found(IMAGE, 1.0, "ignored")]
HISTORY = pd.DataFrame(
    {
        "epoch": [0, 1, 2],
        "train/loss": [3.0, 2.0, 1.0],
        "train/triplet": [0.3, 0.2, 0.1],
        "val/mAP": [np.nan, 0.6, 0.4],
        "learning_rate": [1e-3, 1e-3, 1e-4],
    }
)
TESTED_APART = ("quantization", "deploy", "architecture")
COUNTS = pd.DataFrame([[8, 2], [0, 0]], index=["daisy", "rose"], columns=["daisy", "rose"])
SPENT = pd.DataFrame({"part": ["wait", "other"], "seconds": [1.0, 3.0], "share": [0.25, 0.75]}, index=["train"] * 2)
EVERY = {
    "identity_sheet": lambda: plots.identity_sheet(TABLE, lambda path: IMAGE),
    "images_per_identity": lambda: plots.images_per_identity(TABLE),
    "images_per_identity, empty": lambda: plots.images_per_identity(TABLE.iloc[:0]),
    "image_sizes": lambda: plots.image_sizes(np.array([[48, 128], [64, 128]]), (256, 128)),
    "image_sizes, empty": lambda: plots.image_sizes(np.empty((0, 2))),
    "augmentation_sheet": lambda: plots.augmentation_sheet([IMAGE], [[IMAGE] * 3]),
    "ranking_gallery": lambda: plots.ranking_gallery([plots.Ranking(IMAGE, FOUND, "AP 0.5")], "Worst"),
    "ranking_gallery, empty": lambda: plots.ranking_gallery([]),
    "confusions": lambda: plots.confusions([plots.Confusion(IMAGE, FOUND[1], None)] * 5),
    "camera_pair_matrix": lambda: plots.camera_pair_matrix(np.array([[np.nan, 0.5], [0.9, np.nan]]), [1, 2]),
    "cmc_curve": lambda: plots.cmc_curve({"trained": np.array([0.5, 0.75, 1.0])}),
    "metric_bars": lambda: plots.metric_bars({"trained": {"mAP": 0.5, "rank-1": 0.7}, "untrained": {"mAP": 0.1}}),
    "time_spent": lambda: plots.time_spent(SPENT),
    "metric_bars, empty": lambda: plots.metric_bars({}),
    "distance_histogram": lambda: plots.distance_histogram(np.arange(5), np.eye(4)[0], np.eye(4)[2], 1.5),
    "roc_curve": lambda: plots.roc_curve({"trained": plots.Roc(np.array([0, 1e-3, 1]), np.array([0, 0.9, 1]))}),
    "threshold_spread": lambda: plots.threshold_spread(SPREAD, 0.01),
    "threshold_spread, empty": lambda: plots.threshold_spread(SPREAD.iloc[:0], 0.01),
    "embedding_map": lambda: plots.embedding_map(np.eye(5, 2), np.array([1, 1, 2, 0, -1]), np.array([1, 2, 1, 2, 1])),
    "activation_overlay": lambda: plots.activation_overlay([IMAGE], [np.ones((8, 4))]),
    "confusion_matrix": lambda: plots.confusion_matrix(COUNTS),
    "calibration": lambda: plots.calibration(np.array([0, 5, 90]), np.array([0, 0.4, 0.9]), np.array([0, 0.2, 1.0])),
    "tile_grid": lambda: plots.tile_grid([plots.Tile(IMAGE, "daisy 93%")] * 7),
    "tile_grid, empty": lambda: plots.tile_grid([]),
    "windows": lambda: plots.windows([np.eye(9)] * 4, ["1 layer: 3 x 3"] * 4),
    "gate_weights": lambda: plots.gate_weights([IMAGE] * 2, RNG.random((4, 2, 16)), ["1 layer", "2", "3", "4"]),
    "shares": lambda: plots.shares(pd.DataFrame({"a": [0.5, 0.97], "b": [0.5, 0.03]}, index=["x", "y"]), "share"),
    "kernel_patterns": lambda: plots.kernel_patterns({"lite": RNG.normal(size=(16, 16, 3, 3))}),
    "learning_curves": lambda: plots.learning_curves(HISTORY),
    "learning_curves, empty": lambda: plots.learning_curves(HISTORY.iloc[:0]),
}


def contrast(ink, paper):
    """Of WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""
    linear = [
        np.where((c := np.array(to_rgb(x))) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for x in (ink, paper)
    ]
    low, high = sorted(float(channels @ [0.2126, 0.7152, 0.0722]) + 0.05 for channels in linear)
    return high / low


@pytest.mark.parametrize("ink", [ON_ANY, MATCH, MISMATCH, QUERY])
def test_words_of_a_sheet_without_paper_are_read_on_light_and_dark_pages(ink):
    assert min(contrast(ink, paper) for paper in ("#ffffff", "#101318")) > 3.5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY.keys())
def test_every_picture_renders_on_white_paper_or_none_and_leaves_pyplot_alone(draw):
    before = pyplot.get_fignums()
    content = io.BytesIO()
    draw().savefig(content, format="png", dpi=50)
    pixels = np.asarray(Image.open(content).convert("RGBA"))
    assert (pixels[0, 0, :3] == 255).all() and set(np.unique(pixels[[0, -1], :, 3])) in ({255}, {0})
    assert (pixels[..., :3] < 128).any()
    assert pyplot.get_fignums() == before


def test_every_public_function_is_drawn_above():
    functions = {name for name in plots.__all__ if name[0].islower()} - {"overlay", "tile_sheet"}
    functions -= {name for name in functions if getattr(plots, name).__module__.endswith(TESTED_APART)}
    assert functions == {name.partition(",")[0] for name in EVERY}


def test_a_ranking_says_what_each_image_is_by_frame_and_sign():
    axes = plots.ranking_gallery([plots.Ranking(IMAGE, FOUND, "AP 0.5")]).axes[0]
    assert [to_hex(frame.get_edgecolor()) for frame in axes.patches] == [QUERY, MATCH, MISMATCH, IGNORED]
    assert [text.get_text() for text in axes.texts] == ["AP 0.5", "query", "✓ 0.250", "✗ 0.500", "○ 1.000"]
    assert len(axes.images) == 4


def test_tiles_keep_their_shape_and_do_not_overlap():
    wide, tall = np.zeros((20, 40, 3), np.uint8), np.zeros((80, 40, 3), np.uint8)
    boxes = [
        i.get_extent() for i in plots.tile_sheet([plots.TileRow([plots.Tile(wide), plots.Tile(tall)])]).axes[0].images
    ]
    shapes = [(bottom - top) / (right - left) for left, right, bottom, top in boxes]
    assert shapes == pytest.approx([0.5, 2.0])
    assert boxes[0][1] < boxes[1][0]


@pytest.mark.parametrize(
    "name", ["Apple___Cedar_apple_rust_seen_on_leaves", "$\\frac$", "$5-$10", "Ромашка обыкновенная"]
)
def test_any_names_fit_a_sheet_and_a_confusion_matrix(name):
    tile = plots.Tile(IMAGE, f"{name}\nnot {name}")
    sheet = plots.tile_sheet([plots.TileRow([tile, tile], f"a row of {name}", name)], f"a sheet of {name}")
    counts = pd.DataFrame(np.eye(2, dtype=int), [name, "b"], [name, "b"])
    for figure in (sheet, plots.confusion_matrix(counts)):
        png(figure, 100)
        (left, bottom), (right, top) = figure.get_tightbbox().get_points()
        width, height = figure.get_size_inches()
        assert left >= -0.01 and right <= width + 0.01 and bottom >= -0.01 and top <= height + 0.01
    first, second = (t.get_window_extent() for t in sheet.axes[0].texts if "not" in t.get_text())
    assert first.x1 < second.x0


@pytest.mark.filterwarnings("error:Glyph")
def test_control_characters_in_names_are_drawn_without_a_warning_of_the_font():
    name = "a\tb\x1f\x7f\x85"
    sheet = plots.tile_sheet([plots.TileRow([plots.Tile(IMAGE, name)], f"a row of {name}", name)], f"a sheet of {name}")
    for figure in (sheet, plots.confusion_matrix(pd.DataFrame(np.eye(2, dtype=int), [name, "b"], [name, "b"]))):
        png(figure, 100)


def test_an_identity_sheet_shows_all_cameras_evenly_and_in_order():
    read = []
    axes = plots.identity_sheet(TABLE, lambda path: read.append(path) or IMAGE, num_identities=2, num_images=4).axes[0]
    assert read == [f"{pid}/{camid}_{shot}.png" for pid in (1, 3) for camid in (1, 2) for shot in (0, 1)]
    assert [t.get_text() for t in axes.texts if "pid" in t.get_text()] == ["pid 1", "pid 3"]


def test_images_per_identity_counts_people_only():
    one_less = TABLE.drop(index=TABLE[TABLE["pid"] == 1].index[0])
    train, query = plots.images_per_identity(one_less).axes
    assert [sum(bar.get_height() for bar in axes.patches) for axes in (train, query)] == [2, 0]
    assert "2 identities" in train.get_title(loc="left")
    assert [text.get_text() for text in query.texts] == ["8 of each"]


def test_learning_curves_mark_the_best_validated_epoch_and_skip_gaps():
    losses, scores, _ = plots.learning_curves(HISTORY).axes
    assert [line.get_label() for line in losses.lines] == ["loss", "triplet"]
    assert scores.lines[0].get_xdata().tolist() == [1, 2]
    assert [text.get_text() for text in scores.texts] == ["best 0.600"]


def test_distance_histogram_has_two_unit_areas_however_fine_its_bins():
    edges = np.linspace(0, 2, 4097)
    counts = [np.histogram(RNG.normal(mean, 0.1, size), edges)[0] for mean, size in ((0.5, 300), (1.2, 9000))]
    axes = plots.distance_histogram(edges, *counts, threshold=1.5e-4).figure.axes[0]
    assert [line.get_label() for line in axes.lines] == ["threshold 0.00015"]
    steps = [patch.get_data() for patch in axes.patches]
    assert [float(s.values @ np.diff(s.edges)) for s in steps] == pytest.approx([1.0] * 4)
    assert all(len(s.values) <= 60 for s in steps)


def test_camera_pairs_without_queries_stay_empty():
    axes = plots.camera_pair_matrix(np.array([[np.nan, 0.5], [0.9, np.nan]]), [3, 7], counts=np.array([[0, 4], [5, 0]]))
    assert [text.get_text() for text in axes.axes[0].texts] == ["0.50\n4", "0.90\n5"]


def test_cmc_curve_starts_at_rank_1():
    line = plots.cmc_curve({"trained": np.array([0.5, 0.75, 1.0])}, max_rank=2).axes[0].lines[0]
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == [0.5, 0.75]


def test_an_embedding_map_grays_whom_it_has_no_color_for():
    pids = np.repeat([1, 2, 3], [3, 2, 1])
    axes = plots.embedding_map(RNG.normal(size=(6, 2)), pids, np.ones(6, int), max_identities=2).axes[0]
    colors = axes.collections[0].get_facecolors()
    assert len(np.unique(colors[:3], axis=0)) == 1 and not (colors[0] == colors[3]).all()
    assert len(set(colors[5][:3])) == 1
    assert [text.get_text() for text in axes.texts] == ["1", "2"]


@pytest.mark.parametrize("shape", [(8, 4), (16, 8), (1, 1), (5, 7)])
def test_an_activation_map_is_stretched_bilinearly(shape):
    from reidlab.plots.embedding import _stretch

    small = RNG.random(shape)
    assert _stretch(small, 64, 32) == pytest.approx(
        cv2.resize(small, (32, 64), interpolation=cv2.INTER_LINEAR), abs=1e-6
    )


def test_an_overlay_is_warmest_where_the_map_is_highest():
    image, activation = np.full((64, 32, 3), 90, np.uint8), np.zeros((8, 4))
    activation[6, 1] = 3.0
    shown = plots.overlay(image, activation).astype(int)
    warmth = shown[..., 0] - shown[..., 2]
    assert np.unravel_index(warmth.argmax(), warmth.shape)[0] // 8 == 6
    assert shown.shape == image.shape


def test_a_confusion_matrix_says_every_count_that_is_not_zero():
    axes = plots.confusion_matrix(COUNTS).axes[0]
    assert [text.get_text() for text in axes.texts] == ["8", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["daisy", "rose"]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.8, 0.2], [0, 0]])
    many = pd.DataFrame(np.eye(30, dtype=int))
    assert len(plots.confusion_matrix(many).axes[0].texts) == 0


def test_calibration_shows_filled_intervals_alone():
    axes = plots.calibration(np.array([0, 5]), np.array([0, 0.9]), np.array([0, 0.4])).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0.9, 0.4]]


def test_learning_curves_mark_the_best_epoch_by_accuracy_too():
    history = HISTORY.rename(columns={"val/mAP": "val/top-1"})
    texts = [text.get_text() for text in plots.learning_curves(history).axes[1].texts]
    assert texts == [text.get_text() for text in plots.learning_curves(HISTORY).axes[1].texts] == ["best 0.600"]


def test_known_names_label_an_identity_sheet():
    axes = plots.identity_sheet(TABLE.assign(camid=0), lambda path: IMAGE, 2, 4, {1: "daisy"}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["daisy", "pid 3"]


HANGUL = "\ud55c"


@pytest.mark.filterwarnings("error")
def test_letters_that_no_font_has_are_said_once_in_a_line(capsys, monkeypatch):
    monkeypatch.setattr(saving, "FONTS", ())
    saving._say_lacking.cache_clear()
    for name in (HANGUL, f"{HANGUL} \N{PEDESTRIAN}"):
        png(plots.tile_sheet([plots.TileRow([plots.Tile(IMAGE, name)], name, name)], name), 100)
    assert capsys.readouterr().out.count("lacks letters of some labels") == 1
    png(plots.tile_sheet([plots.TileRow([plots.Tile(IMAGE, "Žofie ✓")])]), 100)
    saving._say_lacking.cache_clear()
    png(plots.tile_sheet([plots.TileRow([plots.Tile(IMAGE, "Žofie ✓\t")])]), 100)
    assert capsys.readouterr().out == ""


def test_letters_of_an_installed_font_are_drawn(capsys, monkeypatch):
    """A letter that STIX has, which comes with matplotlib, drawn as STIX alone draws it."""
    letter, saved = "\N{COMBINING ENCLOSING CIRCLE}", []
    for fonts in ((), ("No such font", "STIXGeneral")):
        monkeypatch.setattr(saving, "FONTS", fonts)
        saving._say_lacking.cache_clear()
        figure = Figure(figsize=(1, 1))
        figure.text(0.3, 0.3, letter, fontsize=30)
        saved.append(png(figure, 100))
    alone = Figure(figsize=(1, 1))
    alone.text(0.3, 0.3, letter, fontsize=30, family="STIXGeneral")
    monkeypatch.setattr(saving, "_find_letters", lambda figure: None)
    assert saved[1] == png(alone, 100) != saved[0]
    assert capsys.readouterr().out.count("lacks letters") == 1
