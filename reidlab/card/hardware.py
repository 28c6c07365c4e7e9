"""A card's section about boards: memory and time, published, estimated and measured figures apart."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

import pandas as pd

from reidlab import plots
from reidlab.card import published
from reidlab.card.facts import c_header, emulated, form, image_size, is_present
from reidlab.card.parts import Cell, Column, Missing, Paragraph, Part, Picture, Section, Table
from reidlab.deploy.boards import BOARDS
from reidlab.plots.saving import save_drawing
from reidlab.run import File, Run

CHIPS, ARENA = f"{File.CARD_PARTS}/boards.csv", f"{File.CARD_PARTS}/arena.svg"
STM32, NVIDIA = f"{File.CARD_PARTS}/published_stm32.csv", f"{File.CARD_PARTS}/published_nvidia.csv"


class BoardColumn(NamedTuple):
    """A column of a table of boards: the origin of its figures, and their key there."""

    column: Column
    origin: str
    key: str


def _columns(origin: str, unit: str, **columns: tuple[str, str]) -> list[BoardColumn]:
    group = f"{'on the chip' if origin == 'chip' else origin}{unit}"
    return [BoardColumn(Column(title, format, group), origin, key) for key, (title, format) in columns.items()]


FOOTPRINT = [
    *_columns("chip", ", KiB", ram_kib=("RAM", ",.0f"), flash_kib=("flash", ",.0f")),
    *_columns(
        "published", ", KiB", dataset=("data", ""), resolution=("input", ""),
        activation_ram_kib=("activations", ",.2f"), runtime_ram_kib=("runtime", ",.2f"),
        total_ram_kib=("RAM", ",.2f"), weights_flash_kib=("weights", ",.2f"), code_flash_kib=("code", ",.2f"),
        total_flash_kib=("flash", ",.2f"),
    ),
    *_columns("estimated", ", KiB", ram_kib=("RAM", ",.1f"), flash_kib=("flash", ",.1f"), fits=("fits", "")),
    *_columns("measured", ", KiB", ram_kib=("RAM", ",.1f"), flash_kib=("flash", ",.1f")),
]  # fmt: skip
LATENCY = [
    BoardColumn(Column("chip"), "chip", "chip"),
    *_columns(
        "published", "", dataset=("data", ""), resolution=("input", ""), inference_ms=("ms", ",.2f"), tool=("tool", "")
    ),
    *_columns("estimated", "", latency_ms=("ms", ",.1f"), interval_ms=("90 % interval", "")),
    *_columns("measured", "", latency_ms=("ms", ",.1f"), million_instructions=("M instructions", ",.1f")),
]
CLOCK = re.compile(r"estimated_ms_(\d+)_mhz_low")  # of the C's figures


def boards(run: Run) -> Section:
    """Footprint and latency in the layout of the makers' cards."""
    makers = published.stm32(run["model.name"], run["data.name"], run["data.size"])
    estimates = run.table_of(File.ESTIMATES) if is_present(run, File.ESTIMATES) else pd.DataFrame()
    rows = _rows(run, makers, estimates)
    parts: list[Part] = []
    if rows:
        run.write(CHIPS, pd.DataFrame(map(asdict, BOARDS.values())).to_csv(index=False))
        if len(makers):
            run.write(STM32, makers.to_csv(index=False))
        sources = run.there(*([STM32] if len(makers) else []), File.ESTIMATES, File.FIRMWARE, CHIPS)
        figures = [column for column in FOOTPRINT if column.origin != "chip" and column.column.format]
        stored = [row for row in rows if any(_cell(row, column) is not None for column in figures)]
        for title, layout, shown in (("Memory footprint", FOOTPRINT, stored), ("Inference time", LATENCY, rows)):
            parts.append(Table(*_table(layout, shown, image_size(run)), sources, title))
        parts.append(Paragraph(list(_notes(makers, estimates))))
    if estimates.empty:
        parts.append(Missing("estimates for STM32 boards", run.command("deploy", "deploy=stm32")))
    if not emulated(run):
        parts.append(Missing("RAM, flash and instructions of the C", run.command("deploy", "deploy=c")))
    return Section("Hardware", [*parts, *_arena(run), *_nvidia(run)])


def _rows(run: Run, makers: pd.DataFrame, estimates: pd.DataFrame) -> list[dict[str, dict]]:
    """A row for each target, by the origin of its figures; a board has more where more of its inputs are published."""
    ours: dict[str, dict[str, dict]] = {}
    for row in estimates.to_dict("records"):
        origin = "measured" if str(row["by"]).startswith("reported") else "estimated"
        ours.setdefault(row["board"], {})[origin] = row
    for row, figures in emulated(run).items():
        ours[form(row).name] = {"measured": figures}
        for mhz in sorted(int(found[1]) for found in map(CLOCK.fullmatch, figures) if found):
            value, low, high = (figures.get(f"estimated_ms_{mhz}_mhz{end}") for end in ("", "_low", "_high"))
            ours[f"{form(row).name}, {mhz} MHz"] = {
                "estimated": {"latency_ms": value, "interval_ms": f"{low:,.1f} to {high:,.1f}"}
            }
    found = []
    for target in dict.fromkeys([*makers["board"], *ours]):
        chip = {"chip": asdict(BOARDS[target])} if target in BOARDS else {}
        rows = makers[makers["board"] == target].to_dict("records") or [{}]
        found.append({"target": target, "published": rows[0]} | chip | ours.get(target, {}))
        found += [{"target": target, "published": row} | chip for row in rows[1:]]
    return found


def _cell(row: dict, column: BoardColumn) -> Cell:
    value = row.get(column.origin, {}).get(column.key)
    return None if value is None or value != value else value


def _table(layout: Sequence[BoardColumn], rows: Sequence[dict], size: str) -> tuple[list[Column], list[list[Cell]]]:
    """Columns and rows without empty columns of others' figures; empty ones of this run's figures stay."""
    columns, shown = [Column("target")], []
    for column in layout:
        ours = column.origin in ("estimated", "measured")
        if ours or any(_cell(row, column) is not None for row in rows):
            shown.append(column)
            group = f"{column.column.group}, {size}" if ours else column.column.group
            columns.append(column.column._replace(group=group))
    return columns, [[row["target"], *(_cell(row, column) for column in shown)] for row in rows]


def _notes(makers: pd.DataFrame, estimates: pd.DataFrame) -> Iterator[str]:
    """The source of the figures in the tables, and how reliable they are."""
    if len(makers):
        yield (
            f"Published figures are ST's own, of {makers['model'].iloc[0]} as ST trained it, by the newest tool for "
            "each board; data and input may differ from this run's, as their columns say."
        )
    if len(estimates):
        yield (
            "Estimates come from published figures of other networks; one without an interval is a guess, since "
            "nothing like this network was published for it."
        )
        tools = estimates.groupby("by", sort=False)["board"].agg(", ".join)
        yield "; ".join(f"{boards}: {by}" for by, boards in tools.items() if by != "–") + "."
        doubts = estimates.dropna(subset="note").groupby("note", sort=False)["board"].agg(", ".join)
        yield from (f"{names}: {note}." for note, names in doubts.items())


def _arena(run: Run) -> Iterator[Part]:
    """The RAM of the C, tensor by tensor, and by each rule of the memory plan."""
    if not (run.has(File.C_LIFETIMES) and is_present(run, c_header(run))):
        return
    save_drawing(plots.memory_over_time(run.table_of(File.C_LIFETIMES)), run / ARENA)
    yield Picture(ARENA, "Which tensor holds which bytes of the C's arena, step by step.")
    titles = ("rules", "RAM of activations, KiB", "lower bound of any order, KiB", "MACs")
    columns = [Column(title, format) for title, format in zip(titles, ("", ".1f", ".1f", ","), strict=True)]
    rows = run.table_of(File.C_MEMORY).to_numpy(dtype=object)
    cells = [[rule, peak / 1024, bound / 1024, macs] for rule, peak, bound, macs in rows]
    yield Table(columns, cells, [File.C_MEMORY], "What each rule of the memory plan saves", folded=True)


def _nvidia(run: Run) -> Iterator[Part]:
    """Figures published for NVIDIA's devices, and the scripts that measure an engine."""
    makers = published.nvidia(run["model.name"])
    if len(makers):
        run.write(NVIDIA, makers.to_csv(index=False))
        titles = ("format", "input", "device", "batch", "ms a batch", "images/s", "source")
        formats = ("", "", "", "", ".2f", ",.2f", "")
        columns = [Column(*pair, "published") for pair in zip(titles, formats, strict=True)]
        yield Table(columns, makers.to_numpy(dtype=object).tolist(), [NVIDIA], "NVIDIA devices")
    scripts = [f"{File.DEPLOY_NVIDIA}/{path.name}" for path in sorted((run / File.DEPLOY_NVIDIA).glob("build_*.sh"))]
    if scripts:
        yield Paragraph(["TensorRT engines are built and timed on the GPU that will serve, by these scripts."], scripts)
    else:
        yield Missing("a bundle for TensorRT, DeepStream and Triton", run.command("deploy", "deploy=nvidia"))
