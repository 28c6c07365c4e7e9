"""Networks beside targets: whether they fit, latency, accuracy, and the Pareto front of each target."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab.deploy import vela
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.estimate import estimate
from reidlab.deploy.features import features
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.run import Row

SCORES = ("mAP", "top-1")
COLUMNS = ["model", "target", "fits", "ram_kib", "flash_kib", "latency_ms", "note"]


@dataclass(frozen=True)
class Candidate:
    """A network to choose from.

    Args:
        name: of the network.
        model: its int8 .tflite.
        figures: measured ones, by row of `metrics.json`.
        note: about its accuracy.
    """

    name: str
    model: Path
    figures: Mapping[str, Mapping[str, float]]
    note: str = ""


def choice(candidates: Sequence[Candidate]) -> pd.DataFrame:
    """A row for each network and target; `front` marks those that no other network beats on their target."""
    table = pd.DataFrame([_row(candidate, row) for candidate in candidates for row in _targets(candidate)])
    if table.empty:
        return table
    scores = [name for name in SCORES if name in table]
    table = table.reindex(columns=[*COLUMNS[:-1], *scores, COLUMNS[-1]])
    table["front"] = False
    if scores:
        known = table[table["latency_ms"].notna() & table["fits"].fillna(True).astype(bool)]
        for _, rows in known.groupby("target"):
            table.loc[rows.index, "front"] = pareto_front(rows["latency_ms"], rows[scores[0]])
    return table


def score_of(table: pd.DataFrame) -> str:
    """The accuracy that a table of `choice` has."""
    return next((name for name in SCORES if name in table), SCORES[0])


def pareto_front(costs: pd.Series, scores: pd.Series) -> np.ndarray:
    """Mark the rows for which no other has a lower cost and at least their score, or a higher score at no more cost."""
    costs, scores = np.asarray(costs, float), np.asarray(scores, float)
    at_least = (costs[:, None] <= costs) & (scores[:, None] >= scores)
    better = (costs[:, None] < costs) | (scores[:, None] > scores)
    return ~(at_least & better).any(0)


def _row(candidate: Candidate, row: dict) -> dict:
    return row | {"model": candidate.name, "note": "; ".join(filter(None, (row["note"], candidate.note)))}


def _targets(candidate: Candidate) -> Iterator[dict]:
    """Rows of a network: measured on emulated cores and on this machine, estimated on boards."""
    scores = _scores(candidate.figures.get(Row.TFLITE_INT8, {}))
    for row, figures in candidate.figures.items():
        if row.startswith(Row.EMULATED) and "instructions" in figures:
            yield scores | {
                "target": f"C99, {row}",
                "fits": True,
                "ram_kib": figures["ram_bytes"] / 1024,
                "flash_kib": figures["flash_bytes"] / 1024,
                "note": f"{figures['instructions'] / 1e6:.1f} M instructions",
            }
    graph = read_graph(candidate.model)
    found = features(graph)
    for name, board in BOARDS.items():
        try:
            expected = estimate(graph, found, name)
        except InputError:
            yield scores | {"target": name, "note": "nothing published"}
            continue
        figures = {key: figure.value for key, figure in expected.figures.items()}
        ram, flash = figures.get("ram_kib"), figures.get("flash_kib", figures.get("weights_kib"))
        needs = {"ram_kib": ram, "flash_kib": flash, "latency_ms": figures.get("latency_ms")}
        note = "a guess: unlike published ones" if expected.outside else "estimate"
        yield scores | {"target": name, "fits": board.fits(ram, flash), **needs, "note": note}
    yield scores | {"target": vela.ACCELERATOR} | _by_vela(candidate.model)
    for row, figures in candidate.figures.items():
        if latency := figures.get("ms_1_thread"):
            yield _scores(figures) | {"target": f"this CPU, {row}", "latency_ms": latency, "note": "measured"}


def _scores(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: figures[name] for name in SCORES if name in figures}


def _by_vela(model: Path) -> dict:
    try:
        found = vela.report(model)
    except InputError as error:
        return {"note": str(error)}
    return {"note": f"needs Vela: {vela.INSTALL}"} if found is None else found | {"note": "Vela's estimate"}
