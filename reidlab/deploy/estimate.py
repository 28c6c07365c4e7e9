"""RAM, flash and time on STM32 boards, calibrated on published figures, with an interval and without silent guesses.

Each board and tool version is calibrated by itself: a non-negative least-squares fit of the relative error, in which
published networks weigh by their similarity to the graph. Its error is measured on networks that are left out; the
terms and the width of the similarity were chosen by the same measure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from reidlab.config import SHIPPED
from reidlab.deploy.features import FREE, PADDING, Features, kinds_of
from reidlab.deploy.tflite_graph import Graph
from reidlab.errors import InputError

PUBLISHED = SHIPPED / "data" / "stm32_published.csv"
NETWORKS = SHIPPED / "data" / "stm32_networks.csv"
KEY = ["family", "alpha", "dataset", "resolution"]
KIB = 1024
COVERAGE = 0.9  # of the intervals, where enough rows are published
MARGIN = 1.5  # how far outside of the calibration's range a feature may lie
FEWEST_MODELS = 2
NOTABLE = 0.01  # share of the elements from which a kind of operator counts
QUANTITIES = {  # estimated quantity -> column of the published table
    "ram_kib": "total_ram_kib",
    "weights_kib": "weights_flash_kib",
    "flash_kib": "total_flash_kib",
    "latency_ms": "inference_ms",
}
RANGED = ("macs", "weight_bytes", "streamed_peak_bytes", "operators")
TERMS: dict[str, Callable[[Features], list[float]]] = {
    "ram_kib": lambda f: [1, f.streamed_peak_bytes / KIB, f.input_bytes / KIB],
    "weights_kib": lambda f: [f.weight_bytes / KIB, f.operators],
    "flash_kib": lambda f: [1, f.weight_bytes / KIB, f.channels / KIB],
    "latency_ms": lambda f: [1, f.macs / 1e6, f.outputs / 1e6, f.operators, f.weight_bytes / KIB],
}
WIDTH = 0.15  # of the similarity between networks
FLOOR = 0.01  # the smallest weight of a network


@dataclass(frozen=True)
class Figure:
    """An estimate and the interval that holds the true figure with probability `coverage`; NaN where none is known."""

    value: float
    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class Estimate:
    """The estimated needs of a network on a board with a tool's version.

    `outside` lists in words where the network lies outside of what was published, and for which figures; those have
    no interval. `learned_from` is the published network that is this one, if there is: its figures are no test of the
    estimate.
    """

    board: str
    tool: str
    figures: Mapping[str, Figure]
    outside: Sequence[str]
    learned_from: str


@dataclass(frozen=True)
class Calibration:
    """The published rows of one quantity on one board with one tool.

    `errors` has a row for each: its model, the figure, and the estimate from all other models.
    """

    quantity: str
    rows: pd.DataFrame
    errors: pd.DataFrame

    def figure(self, features: Features, trusted: bool) -> Figure:
        """The estimate with its interval, whose width is the conformal quantile of the held-out errors."""
        value = _fitted(self.quantity, features, self.rows)
        sizes = np.sort(np.abs(np.log(self.errors["estimated"] / self.errors["published"])))
        if not trusted:
            return Figure(value, np.nan, np.nan, np.nan)
        rank = min(int(np.ceil(COVERAGE * (len(sizes) + 1))), len(sizes))
        factor = np.exp(sizes[rank - 1])
        return Figure(value, value / factor, value * factor, min(COVERAGE, rank / (len(sizes) + 1)))


def estimate(graph: Graph, features: Features, board: str, tool: str | None = None) -> Estimate:
    """Estimate the needs of a graph on a board.

    Raises InputError for a board or tool without published figures.

    Args:
        graph: of an int8 .tflite.
        features: of the graph.
        board: one of `BOARDS`.
        tool: such as "STEdgeAI Core 3.0.0"; None for the newest of the board.
    """
    table = published()
    boards = sorted(table["board"].unique())
    if board not in boards:
        raise InputError(f"board {board}: nothing is published to calibrate on; choose from {', '.join(boards)}")
    every = table.loc[table["board"] == board, "tool"].unique()
    tools = sorted((name for name in every if any(calibration(board, name, q) for q in QUANTITIES)), key=age_of_tool)
    tool = tool or tools[-1]
    if tool not in tools:
        raise InputError(f"tool {tool}: nothing is published for it on {board}; choose from {', '.join(tools)}")
    found = {name: found for name in QUANTITIES if (found := calibration(board, tool, name))}
    said = {name: reasons(one, graph, features) for name, one in found.items()}
    figures = {name: one.figure(features, not said[name]) for name, one in found.items()}
    rows = pd.concat(one.rows for one in found.values())
    same = rows[[own == features for own in rows["features"]]]
    return Estimate(board, tool, figures, _summary(said), "" if same.empty else _name(same.iloc[0]))


def _name(row: pd.Series) -> str:
    return f"{row['network']}, {row['dataset']}, {row['resolution']}"


def reasons(found: Calibration, graph: Graph, features: Features) -> list[str]:
    """The respects, in words, in which a network lies outside of a calibration's networks."""
    said = []
    known = set(" ".join(found.rows["kinds"]).split())
    if unknown := sorted(kinds_of(graph, NOTABLE) - known - {*FREE, *PADDING, "FULLY_CONNECTED"}):
        said.append(f"no published network has {', '.join(unknown)}")
    for name in RANGED:
        value = getattr(features, name)
        low, high = found.rows[name].min(), found.rows[name].max()
        if not low / MARGIN <= value <= high * MARGIN:
            said.append(f"{name.replace('_', ' ')} {value:,}: published networks have {low:,} to {high:,}")
    if floats := [op for op in graph.ops if op.kind == "CONV_2D" and graph.tensors[op.outputs[0]].dtype == "float32"]:
        said.append(f"{len(floats)} convolutions compute in float, published networks in int8")
    return said


def _summary(said: Mapping[str, Sequence[str]]) -> list[str]:
    """List each reason once, with the quantities that it concerns unless these are all."""
    concerned: dict[str, list[str]] = {}
    for quantity, words in said.items():
        for reason in words:
            concerned.setdefault(reason, []).append(quantity.rsplit("_", 1)[0])
    return [f"{', '.join(q) if len(q) < len(said) else 'all'}: {reason}" for reason, q in concerned.items()]


@cache
def published() -> pd.DataFrame:
    """The published rows of int8 networks beside the features of these networks."""
    rows = pd.read_csv(PUBLISHED, dtype={column: str for column in (*KEY, "tool_version")}, keep_default_na=False)
    for column in (*QUANTITIES.values(), "freq_mhz"):
        rows[column] = pd.to_numeric(rows[column])
    version = rows["tool_version"].str.removesuffix(" (not printed)")
    rows["tool"] = rows["tool"].where(~rows["tool"].str.startswith("X-LINUX-AI"), "X-LINUX-AI") + " " + version
    networks = pd.read_csv(NETWORKS, dtype={column: str for column in KEY}, keep_default_na=False)
    joined = rows[rows["format"] == "Int8"].merge(networks, on=KEY, validate="many_to_one")
    joined["features"] = [Features(*row) for row in joined[[field.name for field in fields(Features)]].to_numpy()]
    joined["network"] = (joined["family"] + " " + joined["alpha"]).str.strip()
    return joined


@cache
def calibration(board: str, tool: str, quantity: str) -> Calibration | None:
    """The calibration of one quantity; None where fewer than two models are published."""
    table, column = published(), QUANTITIES[quantity]
    rows = table[(table["board"] == board) & (table["tool"] == tool) & table[column].notna()].reset_index(drop=True)
    return calibrate(quantity, rows)


def calibrate(quantity: str, rows: pd.DataFrame) -> Calibration | None:
    """The calibration of one quantity on published rows; None where they are of fewer than two models."""
    column = QUANTITIES[quantity]
    if rows["network"].nunique() < FEWEST_MODELS:
        return None
    held_out = [
        _fitted(quantity, own, rows[rows["network"] != network])
        for network, own in zip(rows["network"], rows["features"], strict=True)
    ]
    errors = rows[["network", *KEY[2:]]].assign(published=rows[column], estimated=held_out)
    errors["error"] = errors["estimated"] / errors["published"] - 1
    return Calibration(quantity, rows, errors)


def cross_validation() -> pd.DataFrame:
    """Every published figure beside its estimate from the other models."""
    found = []
    for (board, tool), _ in published().groupby(["board", "tool"]):
        for quantity in QUANTITIES:
            if one := calibration(board, tool, quantity):
                found.append(one.errors.assign(board=board, tool=tool, quantity=quantity))
    return pd.concat(found, ignore_index=True)


def age_of_tool(tool: str) -> tuple[bool, list[int]]:
    """Sort key of tools with their versions, from the oldest to the newest: ST renamed them."""
    return tool.startswith(("STEdgeAI", "X-LINUX-AI")), [int(n) for n in tool.split()[-1].lstrip("v").split(".")]


def _fitted(quantity: str, features: Features, rows: pd.DataFrame) -> float:
    """Estimate by a non-negative fit with the least weighted sum of squared relative errors over the rows."""
    terms = (
        np.array([TERMS[quantity](each) for each in rows["features"]]) / rows[QUANTITIES[quantity]].to_numpy()[:, None]
    )
    away = ((np.array([_place(each) for each in rows["features"]]) - _place(features)) ** 2).sum(1)
    weights = np.sqrt(FLOOR + np.exp(-away / (2 * WIDTH**2)))
    factors, _ = nnls(terms * weights[:, None], weights)
    return float(np.dot(TERMS[quantity](features), factors))


def _place(f: Features) -> np.ndarray:
    """Coordinates of a network for its similarity to others: shares of work by kind, and work per byte of memory."""
    shares = np.array([f.pointwise_macs, f.conv_macs, f.depthwise_macs]) / max(f.macs, 1)
    return np.array([*2 * shares, 0.5 * np.log(max(f.macs, 1) / f.whole_peak_bytes)])
