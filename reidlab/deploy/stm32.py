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
from reidlab.deploy.raw_codes import clamped, quantization_of, raw_code_scores
from reidlab.deploy.stedgeai import Tool, find_tool
from reidlab.deploy.target import Deployable, DeployableFile, Figures, Target
from reidlab.deploy.tflite_graph import read_graph
from reidlab.deploy.thresholds import file_thresholds
from reidlab.errors import InputError
from reidlab.export.parity import embed_file
from reidlab.files import write_atomic
from reidlab.plots.saving import save_figure

FIGURES = {  # figure -> its interval, in the table of estimates
    "ram_kib": "ram_interval_kib",
    "flash_kib": "flash_interval_kib",
    "latency_ms": "interval_ms",
}


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
        print_table(_shown(table), f"{given.name}: {model.name}")
        if (table[[*FIGURES]].notna() & table[[*FIGURES.values()]].isna().to_numpy())[_is_estimate(table)].any(
            axis=None
        ):
            log.info("?: no interval, as the network is unlike all that were published; it may be off by any factor")
        for board, note in table["note"].dropna().items():
            if note:
                log.info(f"{board}: {note}")
        remark = ""
        if n6.BOARD in self.boards and not given.classes and "SOFTMAX" not in {op.kind for op in read_graph(model).ops}:
            if isinstance(given, DeployableFile):
                given.require_channels_last()
            threshold = file_thresholds(model, given).get("cosine")
            remark = n6.write_application(model, out / "n6_application", threshold, self.app)
            log.info(f"{out / 'n6_application'}: for ST's re-identification application; see generate.sh")
        errors = cross_validation()
        save_figure(plots.estimate_errors(errors), out / "errors.png")
        write_atomic(out / "errors.csv", errors.to_csv(index=False))
        made_from = given.origin_of(model, self.model)
        write_atomic(out / "estimates.csv", table.assign(**made_from).to_csv())
        if not self.compare_raw_codes(given, model, out) and remark:
            log.warning(remark)
        return {}

    def compare_raw_codes(self, given: Deployable, model: Path, out: Path) -> bool:
        """Score embeddings as an application does that ignores their zero point; a safe form where that costs mAP.

        Writes `raw_codes.csv` and, where zero isn't code 0, `model_clamped.tflite` with a warning; whether it warned.
        """
        if given.protocol is None:
            return False
        try:
            graph = read_graph(model)
            scale, zero = quantization_of(graph)
            data = given.datamodule
            embeddings = embed_file(given.opened(model), data, data.test, model.name)
            scores = raw_code_scores(embeddings, scale, zero, given.protocol)
        except InputError as error:
            log.warning(f"raw codes aren't scored: {error}")
            return True
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
        return bool(zero)

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
    """Estimates of a .tflite file by board, with 90 % intervals as text where they are known, and whether it fits."""
    graph = read_graph(model)
    found = features(graph)
    rows = {}
    for name in boards:
        try:
            rows[name] = _row(estimate(graph, found, name, tool))
        except InputError as error:
            rows[name] = {"by": "–", "note": str(error)}
    table = pd.DataFrame(rows).T.rename_axis("board")
    return table.reindex(columns=["by", *(name for pair in FIGURES.items() for name in pair), "fits", "note"])


def _row(found: Estimate) -> dict:
    figures = found.figures
    known = {name: figures[name] for name in ("ram_kib", "latency_ms") if name in figures}
    if (flash := figures.get("flash_kib", figures.get("weights_kib"))) is not None:
        known["flash_kib"] = flash
    row: dict[str, object] = {"by": f"estimate, {found.tool}"}
    for name, figure in known.items():
        row[name] = round(figure.value, 2)
        if figure.low == figure.low:
            row[FIGURES[name]] = f"{figure.low:.1f} to {figure.high:.1f}"
    row["fits"] = BOARDS[found.board].fits(*(known[n].value if n in known else None for n in ("ram_kib", "flash_kib")))
    own = [f"learned from this network's own published figures ({found.learned_from})"] if found.learned_from else []
    return row | {"note": "; ".join([*own, *found.outside])}


def _is_estimate(table: pd.DataFrame) -> pd.Series:
    return table["by"].str.startswith("estimate")


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The table to print: each estimate with its interval, or with a question mark, never alone."""
    shown = table[["by"]].copy()
    for name, interval in FIGURES.items():
        shown[name] = [
            "" if pd.isna(value) else f"{value:.4g}" if not estimated else f"{value:.4g} ?" if pd.isna(ends)
            else f"{value:.4g} ({ends})"
            for value, ends, estimated in zip(table[name], table[interval], _is_estimate(table), strict=True)
        ]  # fmt: skip
    return shown.assign(fits=table["fits"].map({True: "yes", False: "no"}))
