"""A card's section about boards: memory and time, what is published apart from what is estimated or measured here."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import NamedTuple

import pandas as pd

from reidlab import plots
from reidlab.card import published
from reidlab.card.parts import Cell, Column, Missing, Part, Picture, Section, Table, Words
from reidlab.card.record import Record
from reidlab.card.results import EMULATED
from reidlab.deploy.boards import BOARDS
from reidlab.files import write_atomic
from reidlab.plots.saving import save_drawing

ESTIMATES, FIRMWARE = "deploy/stm32/estimates.csv", "deploy/c/firmware.json"
MEMORY, LIFETIMES = "deploy/c/memory.csv", "deploy/c/lifetimes.csv"
CHIPS, PUBLISHED, NVIDIA = "card/boards.csv", "card/published_stm32.csv", "card/published_nvidia.csv"
ARENA = "card/arena.svg"


class Cited(NamedTuple):
    """A column of a board's table: how its figures are known, and their key there."""

    column: Column
    known: str
    key: str


def _cited(known: str, unit: str, **columns: tuple[str, str]) -> list[Cited]:
    group = f"{'on the chip' if known == 'chip' else known}{unit}"
    return [Cited(Column(title, format, group), known, key) for key, (title, format) in columns.items()]


FOOTPRINT = [
    *_cited("chip", ", KiB", ram_kib=("RAM", ",.0f"), flash_kib=("flash", ",.0f")),
    *_cited(
        "published", ", KiB", dataset=("data", ""), resolution=("input", ""),
        activation_ram_kib=("activations", ",.2f"), runtime_ram_kib=("runtime", ",.2f"),
        total_ram_kib=("RAM", ",.2f"), weights_flash_kib=("weights", ",.2f"), code_flash_kib=("code", ",.2f"),
        total_flash_kib=("flash", ",.2f"),
    ),
    *_cited("estimated", ", KiB", ram_kib=("RAM", ",.1f"), flash_kib=("flash", ",.1f"), fits=("fits", "")),
    *_cited("measured", ", KiB", ram_kib=("RAM", ",.1f"), flash_kib=("flash", ",.1f")),
]  # fmt: skip
LATENCY = [
    Cited(Column("chip"), "chip", "chip"),
    *_cited(
        "published", "", dataset=("data", ""), resolution=("input", ""), inference_ms=("ms", ",.2f"), tool=("tool", "")
    ),
    *_cited("estimated", "", latency_ms=("ms", ",.1f"), interval_ms=("90 % interval", "")),
    *_cited("measured", "", latency_ms=("ms", ",.1f"), instructions=("M instructions", ",.1f")),
]


def boards(record: Record) -> Section:
    """Footprint and latency in the layout of the makers' cards."""
    theirs = published.stm32(record.cfg.model.name, record.cfg.data.name, record.cfg.data.size)
    rows = _rows(record, theirs)
    parts: list[Part] = []
    if rows:
        write_atomic(record.folder / CHIPS, pd.DataFrame(map(asdict, BOARDS.values())).to_csv(index=False))
        if len(theirs):
            write_atomic(record.folder / PUBLISHED, theirs.to_csv(index=False))
        sources = record.there(*([PUBLISHED] if len(theirs) else []), ESTIMATES, FIRMWARE, CHIPS)
        figures = [cited for cited in FOOTPRINT if cited.known != "chip" and cited.column.format]
        stored = [row for row in rows if any(_cell(row, cited) is not None for cited in figures)]
        for title, layout, shown in (("Memory footprint", FOOTPRINT, stored), ("Inference time", LATENCY, rows)):
            parts.append(Table(*_table(layout, shown, record.size), sources, title))
        parts.append(Words(list(_notes(record, theirs))))
    if not record.has(ESTIMATES):
        parts.append(Missing("estimates for STM32 boards", record.command("deploy", "deploy=stm32")))
    if not any(row.startswith(EMULATED) for row in record.metrics):
        parts.append(Missing("RAM, flash and instructions of the C", record.command("deploy", "deploy=c")))
    return Section("Hardware", [*parts, *_arena(record), *_nvidia(record)])


def _rows(record: Record, theirs: pd.DataFrame) -> list[dict[str, dict]]:
    """A row for each target, by how its figures are known; a board has more where more of its inputs are published."""
    ours: dict[str, dict[str, dict]] = {}
    for row in record.table(ESTIMATES).to_dict("records"):
        known = "measured" if str(row["by"]).startswith("reported") else "estimated"
        ours.setdefault(row["board"], {})[known] = row
    for name, row in record.metrics.items():
        if name.startswith(EMULATED):
            figures = {"ram_kib": row["ram_bytes"] / 1024, "flash_kib": row["flash_bytes"] / 1024}
            measured = figures | {"instructions": row["instructions"] / 1e6}
            ours[f"C99, emulated {name.removeprefix(EMULATED).replace('m', 'Cortex-M')}"] = {"measured": measured}
    found = []
    for target in dict.fromkeys([*theirs["board"], *ours]):
        chip = {"chip": asdict(BOARDS[target])} if target in BOARDS else {}
        rows = theirs[theirs["board"] == target].to_dict("records") or [{}]
        found.append({"target": target, "published": rows[0]} | chip | ours.get(target, {}))
        found += [{"target": target, "published": row} | chip for row in rows[1:]]
    return found


def _cell(row: dict, cited: Cited) -> Cell:
    value = row.get(cited.known, {}).get(cited.key)
    return None if value is None or value != value else value


def _table(layout: Sequence[Cited], rows: Sequence[dict], size: str) -> tuple[list[Column], list[list[Cell]]]:
    """Columns and rows without others' figures that are all unknown; ours stay, to show what isn't known."""
    columns, shown = [Column("target")], []
    for cited in layout:
        ours = cited.known in ("estimated", "measured")
        if ours or any(_cell(row, cited) is not None for row in rows):
            shown.append(cited)
            group = f"{cited.column.group}, {size}" if ours else cited.column.group
            columns.append(cited.column._replace(group=group))
    return columns, [[row["target"], *(_cell(row, cited) for cited in shown)] for row in rows]


def _notes(record: Record, theirs: pd.DataFrame) -> Iterator[str]:
    """What the figures in the tables are of, and how far to trust them."""
    if len(theirs):
        yield (
            f"Published figures are ST's own, of {theirs['model'].iloc[0]} as ST trained it, by the newest tool for "
            "each board; data and input may differ from this run's, as their columns say."
        )
    estimates = record.table(ESTIMATES)
    if len(estimates):
        yield (
            "Estimates come from published figures of other networks; one without an interval is a guess, since "
            "nothing like this network was published for it."
        )
        tools = estimates.groupby("by", sort=False)["board"].agg(", ".join)
        yield "; ".join(f"{boards}: {by}" for by, boards in tools.items() if by != "–") + "."
        doubts = estimates.dropna(subset="note").groupby("note", sort=False)["board"].agg(", ".join)
        yield from (f"{names}: {note}." for note, names in doubts.items())


def _arena(record: Record) -> Iterator[Part]:
    """What the C's RAM consists of."""
    lifetimes = record.table(LIFETIMES)
    if len(lifetimes):
        save_drawing(plots.memory_over_time(lifetimes), record.folder / ARENA)
        yield Picture(ARENA, "Which tensor holds which bytes of the C's arena, step by step.")
        titles = ("rules", "RAM of activations, KiB", "no order needs less, KiB", "MACs")
        columns = [Column(title, format) for title, format in zip(titles, ("", ".1f", ".1f", ","), strict=True)]
        rows = record.table(MEMORY).to_numpy(dtype=object)
        cells = [[rule, peak / 1024, bound / 1024, macs] for rule, peak, bound, macs in rows]
        yield Table(columns, cells, [MEMORY], "What each rule of the memory plan saves", folded=True)


def _nvidia(record: Record) -> Iterator[Part]:
    """What is published for NVIDIA's devices, and that an engine has to be measured where it will run."""
    theirs = published.nvidia(record.cfg.model.name)
    if len(theirs):
        write_atomic(record.folder / NVIDIA, theirs.to_csv(index=False))
        titles = ("format", "input", "device", "batch", "ms a batch", "images/s", "source")
        formats = ("", "", "", "", ".2f", ",.2f", "")
        columns = [Column(*pair, "published") for pair in zip(titles, formats, strict=True)]
        yield Table(columns, theirs.to_numpy(dtype=object).tolist(), [NVIDIA], "NVIDIA devices")
    scripts = record.there("deploy/nvidia/build_tensorrt_8_to_10.sh", "deploy/nvidia/build_tensorrt_11.sh")
    if scripts:
        yield Words(["TensorRT engines are built and timed on the GPU that will serve, by these scripts."], scripts)
    else:
        yield Missing("a bundle for TensorRT, DeepStream and Triton", record.command("deploy", "deploy=nvidia"))
