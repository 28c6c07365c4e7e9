"""A card's sections about the network: its architecture, and what goes into and comes out of each of its files."""

import re
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from reidlab import plots
from reidlab.card.parts import Column, Link, Missing, Part, Picture, Section, Table, Words, two_columns
from reidlab.card.record import Record
from reidlab.config import instantiate
from reidlab.export.runtime import Port, open_model
from reidlab.files import file_hash, read_json, write_atomic, write_json
from reidlab.models import ReIdNetwork, blocks
from reidlab.plots.saving import save_drawing
from reidlab.training.tasks import BEST_CHECKPOINT

BLOCKS, DRAWING, NETWORK, FILES = "card/blocks.csv", "card/network.svg", "card/network.json", "card/files.csv"
C_HEADER = "deploy/c/reid.h"


def draw_network(record: Record) -> None:
    """Write the table of blocks, their sums and their drawing, where the network has blocks."""
    cfg, folder = record.cfg, record.folder
    network = instantiate(cfg.model.network, num_classes=len(record.classes))
    facts = {"model": cfg.model.name, "class": cfg.model.network["_target_"], "input_size": list(cfg.data.size)}
    if isinstance(network, ReIdNetwork):
        table = pd.DataFrame(map(asdict, blocks(network, tuple(cfg.data.size), classifier=bool(record.classes))))
        save_drawing(plots.architecture(table, (3, *cfg.data.size)), folder / DRAWING)
        shapes = table["shape"].map(lambda shape: " x ".join(map(str, shape)))
        write_atomic(folder / BLOCKS, table.assign(shape=shapes).to_csv(index=False))
        facts |= {"parameters": int(table["parameters"].sum()), "macs": int(table["macs"].sum())}
    write_json(folder / NETWORK, facts | {"outputs": len(record.classes) or network.feat_dim})


def architecture(record: Record) -> Section:
    """The drawing, what the network is, and its blocks."""
    cfg, facts = record.cfg, read_json(record.folder / NETWORK)
    weights = cfg.model.weights and Path(cfg.model.weights).name
    method = record.table("quantize/parity.csv").get("method", pd.Series(dtype=str))
    rows = [
        ("network", facts["model"]),
        ("built by", facts["class"]),
        ("framework", f"PyTorch {record.training.get('versions', {}).get('torch', '')}".strip()),
        ("input", f"{record.size} RGB"),
        ("output", f"{facts['outputs']} {'class confidences' if record.tells_classes else 'numbers, the embedding'}"),
        ("compared by", None if record.tells_classes else f"{cfg.model.distance} distance"),
        ("parameters", _grouped(facts.get("parameters"))),
        ("multiply-accumulates", _grouped(facts.get("macs"))),
        ("weights", _origin(record, weights)),
        ("int8 by", method.iloc[0] if len(method) else None),
    ]
    sources = record.there(NETWORK, "config.yaml", "train.json", "quantize/parity.csv")
    parts: list[Part] = [two_columns(rows, sources)]
    if record.has(DRAWING):
        text = "Each block's output (channels, height x width), and below it what the block stores and computes."
        table = record.table(BLOCKS)
        columns = [Column("block"), Column("layers"), Column("output"), Column("parameters", ","), Column("MACs", ",")]
        parts.insert(0, Picture(DRAWING, text))
        parts.append(Table(columns, table.to_numpy().tolist(), [BLOCKS], "Block by block", folded=True))
    return Section("Network", parts)


def _origin(record: Record, weights: str | None) -> str:
    if record.training.get("finished"):
        return f"trained by this run, starting from {weights}" if weights else "trained by this run, from scratch"
    return f"{weights}, as they were published" if weights else "initial, not trained"


def _grouped(count: int | None) -> str | None:
    return None if count is None else f"{count:,}"


def list_files(record: Record) -> None:
    """Write what goes into and comes out of every exported file, as the file itself says it."""
    found = [path for folder in ("export", "deploy/nvidia") for path in sorted((record.folder / folder).glob("*.*"))]
    rows = [_row(record, path) for path in found if path.suffix in (".onnx", ".tflite")]
    if record.has(C_HEADER):
        rows.append(_row_of_c(record))
    if rows:
        write_atomic(record.folder / FILES, pd.DataFrame(rows).to_csv(index=False))
    else:
        (record.folder / FILES).unlink(missing_ok=True)


def interfaces(record: Record) -> Section:
    """Types, layouts, scales and zero points of all files."""
    parts: list[Part] = []
    table = record.table(FILES)
    if len(table):
        columns = [
            Column("file"), Column("type", "", "input"), Column("layout", "", "input"), Column("scale", ".6g", "input"),
            Column("zero point", ".0f", "input"), Column("values", "", "input"), Column("type", "", "output"),
            Column("shape", "", "output"), Column("scale", ".6g", "output"), Column("zero point", ".0f", "output"),
            Column("KiB", ".1f"), Column("SHA-256"),
        ]  # fmt: skip
        made_from = table.pop("made_from")
        said = [place for place, name in enumerate(table) if table[name].notna().any()]
        rows = [[Link(row[0]), *(row[place] for place in said[1:])] for row in table.to_numpy(dtype=object).tolist()]
        parts.append(Table([columns[place] for place in said], rows, [FILES]))
        parts.append(Words([f"B is the batch; H x W is {record.size}. Without a scale, numbers are what they are."]))
        if record.has(BEST_CHECKPOINT):
            stale = made_from.notna() & (made_from != file_hash(record.folder / BEST_CHECKPOINT))
            parts += [
                Missing(f"{path} of this checkpoint: it was made from other weights", record.command(_stage_of(path)))
                for path in table.loc[stale, "file"]
            ]
    for path, stage in (("export/model.onnx", "export"), ("export/model_int8.tflite", "quantize")):
        if not record.has(path):
            parts.append(Missing(path, record.command(stage)))
    if not record.has(C_HEADER):
        parts.append(Missing("C99 for microcontrollers", record.command("deploy", "deploy=c")))
    return Section("Inputs and outputs", parts)


def _stage_of(path: str) -> str:
    """The stage that makes an exported file."""
    return (
        "deploy deploy=nvidia" if path.startswith("deploy") else "export" if path == "export/model.onnx" else "quantize"
    )


def _row(record: Record, file: Path) -> dict:
    embedder = open_model(file)
    given = "B, 3, H, W" if embedder.channels_first else "B, H, W, 3"
    return {
        "file": file.relative_to(record.folder).as_posix(),
        **_port("input", embedder.input, given),
        "values": _values(embedder),
        **_port("output", embedder.output, f"B, {embedder.output.shape[-1]}"),
        "kib": file.stat().st_size / 1024,
        "sha256": file_hash(file),
        "made_from": embedder.weights_hash,
    }


def _port(side: str, port: Port, layout: str) -> dict:
    quantized = port.scale and port.dtype.kind in "iu"
    return {
        f"{side}_type": port.dtype.name,
        f"{side}_layout": layout,
        f"{side}_scale": port.scale if quantized else None,
        f"{side}_zero_point": port.zero_point if quantized else None,
    }


def _values(embedder) -> str:
    """What stands for a pixel of 0 to 255 in the input."""
    order = embedder.color_order
    if embedder.input.dtype.kind in "iu":
        return f"{order} pixels as they are"
    mean, std = list(embedder.mean), list(embedder.std)
    plain = not any(mean) and set(std) == {1.0}
    return f"{order} / 255" if plain else f"({order} / 255 - {mean}) / {std}"


def _row_of_c(record: Record) -> dict:
    file = record.folder / C_HEADER
    sizes = dict(re.findall(r"#define (REID_\w+) (\d+)", file.read_text()))
    return {
        "file": C_HEADER,
        "input_type": "uint8",
        "input_layout": "H, W, 3",
        "input_scale": None,
        "input_zero_point": None,
        "values": "RGB pixels as they are",
        "output_type": "float32",
        "output_layout": sizes["REID_EMBEDDING_SIZE"],
        "output_scale": None,
        "output_zero_point": None,
        "kib": (int(sizes["REID_WEIGHT_BYTES"]) + int(sizes["REID_TABLE_BYTES"])) / 1024,
        "sha256": file_hash(file.with_name("reid_model.c")),
        "made_from": None,
    }
