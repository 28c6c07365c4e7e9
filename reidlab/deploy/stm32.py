"""Stage `deploy` with `deploy=stm32`: what an int8 model needs on STM32 boards: estimated, and by ST's own tool."""

from pathlib import Path

import pandas as pd

from reidlab import plots
from reidlab.config import run_folder
from reidlab.console import print_table
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.estimate import Estimate, cross_validation, estimate
from reidlab.deploy.features import features
from reidlab.deploy.stedgeai import Tool, find_tool
from reidlab.deploy.tflite_graph import read_tflite
from reidlab.errors import InputError
from reidlab.files import write_atomic
from reidlab.plots.saving import save_figure


def run(cfg) -> Path:
    """Write `deploy/stm32/estimates.csv` of the run; where STEdgeAI Core is installed, its figures stand beside.

    `errors.csv` and its picture show how far the estimates are off for published networks that they don't know.
    """
    options, folder = cfg.deploy, run_folder(cfg)
    model = folder / options.model
    if not model.is_file():
        raise InputError(f"{model}: no int8 model; run `reidlab quantize` first, or set deploy.model")
    out = folder / "deploy" / "stm32"
    table = estimates(model, options.boards, options.tool)
    tool = find_tool()
    if tool is None:
        print("STEdgeAI Core is not on the PATH or in STEDGEAI_CORE_DIR: estimates only")
    else:
        table = pd.concat([table, reported(tool, model, out, options)]).sort_index(kind="stable")
    shown = table.drop(columns="note").assign(fits=table["fits"].map({True: "yes", False: "no"}))
    print_table(shown, f"{folder.name}: {model.name}")
    for board, note in table["note"].dropna().items():
        if note:
            print(f"{board}: {note}")
    errors = cross_validation()
    save_figure(plots.estimate_errors(errors), out / "errors.png")
    write_atomic(out / "errors.csv", errors.to_csv(index=False))
    return write_atomic(out / "estimates.csv", table.to_csv())


def estimates(model: Path, boards: list[str], tool: str | None = None) -> pd.DataFrame:
    """Estimates of a .tflite file by board; figures with their 90 % intervals as text, and whether they fit."""
    graph = read_tflite(model)
    found = features(graph)
    rows = {}
    for name in boards:
        try:
            rows[name] = _row(estimate(graph, found, name, tool))
        except InputError as error:
            rows[name] = {"by": "–", "note": str(error)}
    table = pd.DataFrame(rows).T.rename_axis("board")
    return table.reindex(columns=["by", "ram_kib", "flash_kib", "latency_ms", "interval_ms", "fits", "note"])


def _row(found: Estimate) -> dict:
    figures = {name: round(figure.value, 2) for name, figure in found.figures.items()}
    flash = figures.get("flash_kib", figures.get("weights_kib"))
    row = {"by": f"estimate, {found.tool}", "ram_kib": figures.get("ram_kib"), "flash_kib": flash}
    if (latency := found.figures.get("latency_ms")) is not None:
        row["latency_ms"] = figures["latency_ms"]
        if latency.low == latency.low:
            row["interval_ms"] = f"{latency.low:.1f} to {latency.high:.1f}"
    row["fits"] = BOARDS[found.board].fits(row["ram_kib"], flash)
    return row | {"note": "; ".join(found.outside)}


def reported(tool: Tool, model: Path, out: Path, options) -> pd.DataFrame:
    """What STEdgeAI Core says of the model, by board."""
    rows = {}
    for name in options.boards:
        board = BOARDS[name]
        if board.target is None:
            continue
        place = out / board.target
        report = tool.analyze(model, board.target, place)
        tool.generate(model, board.target, place)
        if options.validate:
            on_board = "" if options.validate == "host" else options.validate
            report |= tool.validate(model, board.target, place, on_board)
        ram = report.get("ram_kib", report["activations_kib"])
        rows[name] = {
            "by": f"reported, {tool.version}",
            "ram_kib": ram,
            "flash_kib": report["weights_kib"],
            "latency_ms": report.get("latency_ms"),
            "fits": board.fits(ram, report["weights_kib"]),
        }
    return pd.DataFrame(rows).T.rename_axis("board")
