"""Networks beside targets: which fits where, how fast, how good, and which no other beats."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab import plots
from reidlab.config import read_config, run_folder
from reidlab.console import print_table
from reidlab.deploy import vela
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.estimate import estimate
from reidlab.deploy.features import features
from reidlab.deploy.tflite_graph import read_tflite
from reidlab.errors import InputError
from reidlab.files import read_json, write_atomic
from reidlab.plots.saving import save_figure

INT8 = "export/model_int8.tflite"
SCORES = ("mAP", "top-1")
EMULATED = "emulated "
COLUMNS = ["model", "target", "fits", "ram_kib", "flash_kib", "latency_ms", "note"]


def run(cfg) -> Path | None:
    """Print the table of all networks that share this run's data; write it as `deploy/choice.csv`, with a picture.

    Networks are the runs beside this one that have an int8 .tflite. None where there is none.
    """
    folder = run_folder(cfg)
    folders = [folder, *(other for other in alike(folder, cfg.data.name) if other != folder)]
    table = choice([each for each in folders if (each / INT8).is_file()])
    if table.empty:
        return None
    score = next((name for name in SCORES if name in table), SCORES[0])
    shown = table.assign(fits=table["fits"].map({True: "yes", False: "no"}), front=table["front"].map({True: "*"}))
    print_table(shown.set_index("model"), "Which network where (*: no other beats it there)")
    save_figure(plots.pareto(table, score), folder / "deploy" / "choice.png")
    return write_atomic(folder / "deploy" / "choice.csv", table.to_csv(index=False))


def alike(folder: Path, data: str) -> Iterator[Path]:
    """The run folders beside one that are of the same data set."""
    for config in sorted(folder.parent.glob("*/config.yaml")):
        try:
            if read_config(config).data.name == data:
                yield config.parent
        except (InputError, AttributeError):
            continue


def choice(folders: list[Path]) -> pd.DataFrame:
    """A row for each network and target; `front` marks those that no other network beats on their target."""
    rows = [row | {"model": folder.name} for folder in folders for row in _rows(folder)]
    table = pd.DataFrame(rows)
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


def pareto_front(costs: pd.Series, scores: pd.Series) -> np.ndarray:
    """Which rows no other beats: none costs as little with a higher score, or less with as high a one."""
    costs, scores = np.asarray(costs, float), np.asarray(scores, float)
    at_least = (costs[:, None] <= costs) & (scores[:, None] >= scores)
    better = (costs[:, None] < costs) | (scores[:, None] > scores)
    return ~(at_least & better).any(0)


def _rows(folder: Path) -> Iterator[dict]:
    """What is known of a run's network: on the emulated cores and this machine measured, on STM32 boards estimated."""
    metrics = read_json(folder / "metrics.json")
    scores = {name: value for name, value in metrics.get("tflite int8", {}).items() if name in SCORES}
    for stage, figures in metrics.items():
        if stage.startswith(EMULATED) and "instructions" in figures:
            yield scores | {
                "target": f"C99, {stage}",
                "fits": True,
                "ram_kib": figures["ram_bytes"] / 1024,
                "flash_kib": figures["flash_bytes"] / 1024,
                "note": f"{figures['instructions'] / 1e6:.1f} M instructions",
            }
    graph = read_tflite(folder / INT8)
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
    yield scores | {"target": vela.ACCELERATOR} | _by_vela(folder / INT8)
    for stage, figures in metrics.items():
        if latency := figures.get("ms_1_thread"):
            yield {"target": f"this CPU, {stage}", "latency_ms": latency, "note": "measured"} | {
                name: figures[name] for name in SCORES if name in figures
            }


def _by_vela(model: Path) -> dict:
    try:
        found = vela.report(model)
    except InputError as error:
        return {"note": str(error)}
    return {"note": f"needs Vela: {vela.INSTALL}"} if found is None else found | {"note": "Vela's estimate"}
