"""A card's sections about the network: its architecture, and what goes into and comes out of each of its files."""

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from reidlab import plots
from reidlab.card.facts import MODELS, NOT_RECORDED, c_constants, c_header, image_size, is_present, made_from, training
from reidlab.card.parts import Column, Link, Missing, Paragraph, Part, Picture, Section, Table, two_columns
from reidlab.export.backends import Port
from reidlab.export.foreign import assumed_order, open_foreign
from reidlab.export.runtime import Embedder, open_model
from reidlab.files import EXPORTED, file_hash, read_json, write_json
from reidlab.models import ReIdNetwork, blocks, count_classes
from reidlab.plots.saving import save_drawing
from reidlab.run import File, Run

BLOCKS, DRAWING = f"{File.CARD_PARTS}/blocks.csv", f"{File.CARD_PARTS}/network.svg"
NETWORK, FILES = f"{File.CARD_PARTS}/network.json", f"{File.CARD_PARTS}/files.csv"


def draw_network(run: Run) -> None:
    """Write the facts of the network and, where it has blocks, their table and drawing."""
    for path in (BLOCKS, DRAWING):
        (run / path).unlink(missing_ok=True)
    file = run.foreign_file
    if file and (file.suffix.lower() in EXPORTED or not file.is_file()):
        write_json(run / NETWORK, _facts_of_file(run, file))
        return
    num_classes, size = _num_classes(run), tuple(run["data.size"])
    network = run.untrained_network(num_classes)
    facts = {"model": run["model.name"], "class": run["model.network._target_"], "input_size": list(size)}
    if isinstance(network, ReIdNetwork):
        table = pd.DataFrame(map(asdict, blocks(network, size, classifier=bool(num_classes))))
        save_drawing(plots.architecture(table, (3, *size)), run / DRAWING)
        shapes = table["shape"].map(lambda shape: " x ".join(map(str, shape)))
        run.write(BLOCKS, table.assign(shape=shapes).to_csv(index=False))
        facts |= {"parameters": int(table["parameters"].sum()), "macs": int(table["macs"].sum())}
    outputs = (num_classes or None) if run.is_classifier else network.feat_dim
    write_json(run / NETWORK, facts | {"outputs": outputs})


def _opened(run: Run, file: Path) -> Embedder:
    """A file from elsewhere; a classifier with as many classes as it was evaluated on."""
    return open_foreign(run, file, len(_classes(run)))


def _classes(run: Run) -> list[str]:
    """The names of the classes that a file from elsewhere was evaluated on."""
    table = run.table_of(f"{File.EVALUATE}/{run.subject}/per_class.csv")
    return [*map(str, table["class"])] if run.is_classifier and len(table) else []


def _facts_of_file(run: Run, file: Path) -> dict:
    """The facts that a file from elsewhere tells of itself, and its size."""
    if not file.is_file():
        return {"model": file.name, "weights": "not found from here"}
    embedder = _opened(run, file)
    classes = [] if embedder.metadata.get("classes") else _classes(run)
    shape = embedder.output.shape[1:]
    return {
        "model": file.name,
        "runtime": embedder.runtime,
        "input_size": list(embedder.size_for(run["data.size"])),
        "outputs": math.prod(shape) if all(n > 0 for n in shape) else None,
        "tensors": f"{embedder.input} -> {embedder.output}",
        "bytes": file.stat().st_size,
        "assumed": [*embedder.assumed, *([assumed_order(classes, file)] if classes else [])],
    }


def _num_classes(run: Run) -> int:
    """How many classes the network has; 0 for re-identification, and where neither training nor weights tell."""
    weights = run.weights or run.foreign_file
    if not run.is_classifier or run.classes or weights is None:
        return len(run.classes)
    return count_classes(weights)


def architecture(run: Run) -> Section:
    """The drawing, what the network is, and its blocks."""
    facts = read_json(run / NETWORK)
    parity = run.table_of(File.PARITY) if is_present(run, File.PARITY) else pd.DataFrame()
    versions = training(run).get("versions") or {}
    distance = run.rules_of(run.subject)["distance"] if run.foreign_file else run["model.distance"]
    output = "class confidences" if run.is_classifier else "numbers, the embedding"
    rows = [
        ("network", facts["model"]),
        ("built by", facts.get("class")),
        ("framework", facts.get("runtime") or f"PyTorch {versions.get('torch', '')}".strip()),
        ("input", f"{image_size(run)} RGB"),
        ("output", f"{facts.get('outputs') or ''} {output}".strip()),
        ("tensors", facts.get("tensors")),
        ("assumed", "; ".join(facts.get("assumed", []))),
        ("compared by", None if run.is_classifier else f"{distance} distance"),
        ("size", f"{facts['bytes']:,} bytes" if "bytes" in facts else None),
        ("parameters", _grouped(facts.get("parameters"))),
        ("multiply-accumulates", _grouped(facts.get("macs"))),
        ("weights", facts.get("weights") or _origin(run)),
        ("int8 by", _method(run, parity) if "method" in parity else None),
        ("int8 chosen on", f"{parity['chosen_on'].iloc[0]} images" if "chosen_on" in parity else None),
    ]
    made = [] if run.foreign_file else [File.TRAINING, File.PARITY]
    sources = run.there(NETWORK, File.CONFIG, *made)
    parts: list[Part] = [two_columns(rows, sources)]
    if run.has(DRAWING):
        text = "Each block's output (channels, height x width), and below it what the block stores and computes."
        table = run.table_of(BLOCKS)
        columns = [Column("block"), Column("layers"), Column("output"), Column("parameters", ","), Column("MACs", ",")]
        parts.insert(0, Picture(DRAWING, text))
        parts.append(Table(columns, table.to_numpy().tolist(), [BLOCKS], "Block by block", folded=True))
    return Section("Network", parts)


def _method(run: Run, parity: pd.DataFrame) -> str:
    """Of quantization, and the files that an earlier one made, by whatever method."""
    made = run.json_of(File.QUANTIZE_MADE_BY).get("files")
    exported = [name for name in (File.ONNX_INT8, File.TFLITE_INT8) if run.has(name)]
    earlier = [Path(name).suffix for name in exported if made and name not in made]
    return parity["method"].iloc[0] + (f"; the {earlier[0]} by an earlier quantize" if earlier else "")


def _origin(run: Run) -> str:
    if training(run).get("finished"):
        then = run.as_trained
        if then is None:
            return NOT_RECORDED
        weights = Path(then["model.weights"] or "").name
        return f"trained by this run, starting from {weights}" if weights else "trained by this run, from scratch"
    if run.is_trained:
        return "a checkpoint that this run has no record of training"
    weights = run.subject if run.foreign_file else Path(run["model.weights"] or "").name
    return f"{weights}, as published" if weights else "initial, not trained"


def _grouped(count: int | None) -> str | None:
    return None if count is None else f"{count:,}"


def list_files(run: Run) -> None:
    """Write what goes into and comes out of every exported file, or the one from elsewhere, as the file says it."""
    if file := run.foreign_file:
        given = file.is_file() and file.suffix.lower() in EXPORTED
        rows = [_row(file, file.name, _opened(run, file)) | {"made_from": None}] if given else []
    else:
        found = [path for folder in (File.EXPORT, File.DEPLOY_NVIDIA) for path in sorted((run / folder).glob("*.*"))]
        rows = [_row(path, path.relative_to(run.folder), open_model(path)) for path in found if path.suffix in MODELS]
        rows += [_row_of_c(run)] if run.has(c_header(run)) else []
    if rows:
        run.write(FILES, pd.DataFrame(rows).to_csv(index=False))
    else:
        (run / FILES).unlink(missing_ok=True)


def stale_files(run: Run) -> list[str]:
    """The exported files that another checkpoint made."""
    table = run.table_of(FILES).reindex(columns=["file", "made_from"]).dropna()
    return table.loc[table["made_from"] != run.checkpoint, "file"].tolist()


def interfaces(run: Run) -> Section:
    """Types, layouts, scales and zero points of all files."""
    parts: list[Part] = []
    stale, table = stale_files(run), run.table_of(FILES)
    if len(table):
        table = table[~table["file"].isin(stale)].drop(columns="made_from")
    if len(table):
        columns = [
            Column("file"), Column("type", "", "input"), Column("layout", "", "input"), Column("scale", ".6g", "input"),
            Column("zero point", ".0f", "input"), Column("values", "", "input"), Column("type", "", "output"),
            Column("shape", "", "output"), Column("scale", ".6g", "output"), Column("zero point", ".0f", "output"),
            Column("KiB", ".1f"), Column("SHA-256 begins"),
        ]  # fmt: skip
        said = [place for place, name in enumerate(table) if table[name].notna().any()]
        table["sha256"] = table["sha256"].str[:12]
        rows = [
            [row[0] if run.foreign_file else Link(row[0]), *(row[place] for place in said[1:])]
            for row in table.to_numpy(dtype=object).tolist()
        ]
        parts.append(Table([columns[place] for place in said], rows, [FILES]))
        text = f"B is the batch; H x W is {image_size(run)}. Without a scale, numbers are what they are."
        parts.append(Paragraph([text]))
    if run.foreign_file:
        return Section("Inputs and outputs", parts)
    for path in (File.ONNX, File.TFLITE_INT8):
        if not run.has(path):
            parts.append(Missing(path, run.command(stage_of(path))))
    if not run.has(c_header(run)):
        parts.append(Missing("C99 for microcontrollers", run.command(stage_of(File.C_HEADER))))
    return Section("Inputs and outputs", parts)


def stage_of(path: str) -> str:
    """The stage that makes an exported file."""
    parts = Path(path).parts
    if parts[0] == File.DEPLOY:
        return f"deploy deploy={parts[1]}"
    return "export" if path == File.ONNX else "quantize"


def _row(file: Path, name: str | Path, embedder: Embedder) -> dict:
    given = "B, 3, H, W" if embedder.channels_first else "B, H, W, 3"
    return {
        "file": str(name),
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


def _values(embedder: Embedder) -> str:
    """The formula from a pixel of 0 to 255 to the value in the input."""
    order = embedder.color_order
    if embedder.mean is None or embedder.std is None:
        return f"{order} pixels as they are"
    mean, std = list(embedder.mean), list(embedder.std)
    plain = not any(mean) and set(std) == {1.0}
    return f"{order} / 255" if plain else f"({order} / 255 - {mean}) / {std}"


def _row_of_c(run: Run) -> dict:
    header, sizes = Path(c_header(run)), c_constants(run)
    return {
        "file": str(header),
        "input_type": "uint8",
        "input_layout": "H, W, 3",
        "input_scale": None,
        "input_zero_point": None,
        "values": "RGB pixels as they are",
        "output_type": "float32",
        "output_layout": sizes["EMBEDDING_SIZE"],
        "output_scale": None,
        "output_zero_point": None,
        "kib": (int(sizes["WEIGHT_BYTES"]) + int(sizes["TABLE_BYTES"])) / 1024,
        "sha256": file_hash(run / str(header.with_name(f"{header.stem}_model.c"))),
        "made_from": made_from(run, str(header)),
    }
