"""Pictures: pure functions from arrays and tables to matplotlib figures, outside of pyplot's global list."""

from reidlab.plots.anatomy import gate_weights, kernel_patterns, shares, windows
from reidlab.plots.architecture import architecture, short
from reidlab.plots.canvas import MATCH, MISMATCH, Drawn, Tile, TileRow, tile_grid, tile_sheet
from reidlab.plots.classification import calibration, confusion_matrix
from reidlab.plots.data import augmentation_sheet, identity_sheet, image_sizes, images_per_identity
from reidlab.plots.deploy import estimate_errors, memory_over_time, pareto
from reidlab.plots.embedding import (
    Roc,
    activation_overlay,
    distance_histogram,
    embedding_map,
    overlay,
    roc_curve,
    threshold_spread,
)
from reidlab.plots.quantization import activation_ranges, layer_costs
from reidlab.plots.ranking import (
    Confusion,
    Found,
    Ranking,
    Relation,
    camera_pair_matrix,
    cmc_curve,
    confusions,
    metric_bars,
    ranking_gallery,
)
from reidlab.plots.training import learning_curves, time_spent

__all__ = [
    "MATCH",
    "MISMATCH",
    "Confusion",
    "Drawn",
    "Found",
    "Ranking",
    "Relation",
    "Roc",
    "Tile",
    "TileRow",
    "activation_overlay",
    "activation_ranges",
    "architecture",
    "augmentation_sheet",
    "calibration",
    "camera_pair_matrix",
    "cmc_curve",
    "confusion_matrix",
    "confusions",
    "distance_histogram",
    "embedding_map",
    "estimate_errors",
    "gate_weights",
    "identity_sheet",
    "image_sizes",
    "images_per_identity",
    "kernel_patterns",
    "layer_costs",
    "learning_curves",
    "memory_over_time",
    "metric_bars",
    "overlay",
    "pareto",
    "ranking_gallery",
    "roc_curve",
    "shares",
    "short",
    "threshold_spread",
    "tile_grid",
    "tile_sheet",
    "time_spent",
    "windows",
]
