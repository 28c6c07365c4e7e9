"""STM32 boards: RAM, flash and latency of an int8 model, estimated, and reported by ST's own tool."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reidlab import plots
from reidlab.console import log, print_table
from reidlab.deploy import n6
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.estimate import Estimate, cross_validation, estimate
from reidlab.deploy.features import features
from reidlab.deploy.stedgeai import Tool, find_tool
from reidlab.deploy.target import Deployable, Figures, Target
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.files import write_atomic
from reidlab.plots.saving import save_figure


@dataclass(frozen=True)
class Stm32(Target):
    """Estimates for STM32 boards, beside the report of STEdgeAI Core where that is installed.

    Args:
        name: of the target.
        model: path of the int8 .tflite.
        boards: names of `BOARDS`.
        tool: the tool whose figures are estimated, see `estimate`; None for each board's newest.
        validate: with STEdgeAI Core: None, "host", or a board's port.
        app: settings of ST's application for the STM32N6, see `n6.APP`.
    """

    model: str
    boards: Sequence[str]
    tool: str | None = None
    validate: str | None = None
    app: Mapping[str, Any] = field(default_factory=dict)

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write `estimates.csv`, the errors of estimates on networks left out, and files for ST's application."""
        model = given.file(self.model)
        table = estimates(model, self.boards, self.tool)
        tool = find_tool()
        if tool is None:
            log.info("STEdgeAI Core is not on the PATH or in STEDGEAI_CORE_DIR: estimates only")
        else:
            table = pd.concat([table, self.reported(tool, model, out)]).sort_index(kind="stable")
        shown = table.drop(columns="note").assign(fits=table["fits"].map({True: "yes", False: "no"}))
        print_table(shown, f"{given.name}: {model.name}")
        for board, note in table["note"].dropna().items():
            if note:
                log.info(f"{board}: {note}")
        if n6.BOARD in self.boards and "SOFTMAX" not in {op.kind for op in read_graph(model).ops}:
            remark = n6.write_application(model, out / "n6_application", given.cosine_threshold, self.app)
            log.info(f"{out / 'n6_application'}: for ST's re-identification application; see generate.sh")
            if remark:
                log.warning(remark)
        errors = cross_validation()
        save_figure(plots.estimate_errors(errors), out / "errors.png")
        write_atomic(out / "errors.csv", errors.to_csv(index=False))
        write_atomic(out / "estimates.csv", table.to_csv())
        return {}

    def reported(self, tool: Tool, model: Path, out: Path) -> pd.DataFrame:
        """The figures that STEdgeAI Core reports, by board; boards that run Linux have none."""
        rows = {}
        for board in (BOARDS[name] for name in self.boards if name in BOARDS):
            if board.target is None:
                continue
            place = out / board.target
            report = tool.analyze(model, board.target, place)
            tool.generate(model, board.target, place)
            if self.validate:
                report |= tool.validate(model, board.target, place, "" if self.validate == "host" else self.validate)
            ram = report.get("ram_kib", report["activations_kib"])
            rows[board.name] = {
                "by": f"reported, {tool.version}",
                "ram_kib": ram,
                "flash_kib": report["weights_kib"],
                "latency_ms": report.get("latency_ms"),
                "fits": board.fits(ram, report["weights_kib"]),
            }
        return pd.DataFrame(rows).T.rename_axis("board")


def estimates(model: Path, boards: Sequence[str], tool: str | None = None) -> pd.DataFrame:
    """Estimates of a .tflite file by board, with 90 % intervals of the latency as text, and whether it fits."""
    graph = read_graph(model)
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
    ram = figures.get("ram_kib")
    row: dict[str, object] = {"by": f"estimate, {found.tool}", "ram_kib": ram, "flash_kib": flash}
    if (latency := found.figures.get("latency_ms")) is not None:
        row["latency_ms"] = figures["latency_ms"]
        if latency.low == latency.low:
            row["interval_ms"] = f"{latency.low:.1f} to {latency.high:.1f}"
    row["fits"] = BOARDS[found.board].fits(ram, flash)
    return row | {"note": "; ".join(found.outside)}
