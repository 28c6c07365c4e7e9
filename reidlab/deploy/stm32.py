"""STM32 boards: RAM, flash and latency of an int8 model, estimated, and reported by ST's own tool."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reidlab import plots
from reidlab.console import log, print_table
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.estimate import Estimate, cross_validation, estimate
from reidlab.deploy.features import features
from reidlab.deploy.raw_codes import clamped, quantization_of, raw_code_scores
from reidlab.deploy.stedgeai import Tool, find_tool
from reidlab.deploy.target import Deployable, Figures, Target
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.export.parity import embed_file
from reidlab.export.runtime import open_model
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
    """

    model: str
    boards: Sequence[str]
    tool: str | None = None
    validate: str | None = None

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write `estimates.csv`, and the errors of the estimates on published networks that were left out."""
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
        errors = cross_validation()
        save_figure(plots.estimate_errors(errors), out / "errors.png")
        write_atomic(out / "errors.csv", errors.to_csv(index=False))
        write_atomic(out / "estimates.csv", table.to_csv())
        self.compare_raw_codes(given, model, out)
        return {}

    def compare_raw_codes(self, given: Deployable, model: Path, out: Path) -> None:
        """Score embeddings as an application does that ignores their zero point; a safe form where that costs mAP.

        Writes `raw_codes.csv` and, where zero isn't code 0, `model_clamped.tflite` with a warning.
        """
        if given.protocol is None:
            return
        try:
            graph = read_graph(model)
            scale, zero = quantization_of(graph)
            data = given.datamodule
            embeddings = embed_file(open_model(model), data, data.test, model.name)
            scores = raw_code_scores(embeddings, scale, zero, given.protocol)
        except InputError as error:
            log.warning(f"raw codes aren't scored: {error}")
            return
        write_atomic(out / "raw_codes.csv", scores.to_csv())
        if zero:
            print_table(scores, f"{given.name}: what an application compares")
            write_atomic(out / "model_clamped.tflite", clamped(graph, model))
            log.warning(
                f"the embedding's zero is code {zero}, not 0: an application that compares raw uint8 codes, as "
                f"ST's for the N6, lets {scores['fpr'].iloc[1]:.0%} of the pairs of two identities pass, at mAP "
                f"{scores['mAP'].iloc[1]:.3f} instead of {scores['mAP'].iloc[0]:.3f}; subtract the zero point there, "
                f"or deploy {out / 'model_clamped.tflite'} (mAP {scores['mAP'].iloc[2]:.3f}) with its own_threshold"
            )

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
