"""A card's sections about how good the network is, and what each step from the checkpoint to the device costs."""

from collections.abc import Iterator

from reidlab.card import published
from reidlab.card.parts import Column, Link, Missing, Part, Section, Table, Words
from reidlab.card.record import Record
from reidlab.files import read_json, write_atomic
from reidlab.stages.evaluate import MAIN_ROW, results_table
from reidlab.stages.quantize import ROWS
from reidlab.training.tasks import BEST_CHECKPOINT

PUBLISHED, MADE_BY = "card/published_accuracy.csv", "quantize/made_by.json"
EMULATED = "emulated "
STAGES = {  # row of metrics.json -> words, file, the stage that measures it
    MAIN_ROW: ("checkpoint", BEST_CHECKPOINT, "evaluate"),
    "onnx": ("ONNX", "export/model.onnx", "quantize"),
    "onnx int8": ("int8 ONNX, ONNX Runtime", "export/model_int8.onnx", "quantize"),
    "onnx int8 openvino": ("int8 ONNX, OpenVINO", "export/model_int8.onnx", "quantize"),
    "tflite": ("TFLite", "export/model.tflite", "quantize"),
    "tflite int8": ("int8 TFLite", "export/model_int8.tflite", "quantize"),
}


def results(record: Record) -> Section:
    """The figures of the test split with their intervals, the threshold, and what others have published."""
    parts: list[Part] = []
    if not record.evaluated:
        parts.append(Missing("figures of the test split", record.command("evaluate")))
    else:
        found = results_table(record.folder)
        found = found.drop(index=[row for row in found.index if row in ROWS or row.startswith(EMULATED)])
        found = found.dropna(axis="columns", how="all")
        counts = ("num_query", "num_gallery", "num_images")
        columns = [Column(name.replace("num_", ""), ",.0f" if name in counts else ".3f") for name in found]
        rows = [[name, *values] for name, values in zip(found.index, found.to_numpy(dtype=object), strict=True)]
        intervals = [f"evaluate/{row}/intervals.json" for row in found.index]
        sources = record.there("metrics.json", *intervals)
        parts.append(Table([Column("network or protocol"), *columns], rows, sources, "The test split"))
        parts += _reading(record)
    others = published.accuracy(record.cfg.data.name, record.cfg.model.name)
    if len(others):
        write_atomic(record.folder / PUBLISHED, others.to_csv(index=False))
        columns = [Column(name, ".3f" if others[name].dtype == float else "", "published") for name in others]
        parts.append(Table(columns, others.to_numpy(dtype=object).tolist(), [PUBLISHED], "Published for this data set"))
    return Section("Results", parts)


def _reading(record: Record) -> Iterator[Words]:
    """How to read the table, and where the threshold lies."""
    over = "images" if record.tells_classes else "identities"
    said = (
        f"Intervals are 95 %, over the test {over}. Rows after checkpoint+ are the same network under another protocol."
    )
    page = record.there("evaluation.html")
    yield Words(
        [said + (" What it confuses and where it looks is on the evaluation's own page." if page else "")], page
    )
    if verdict := read_json(record.folder / "verification.json"):
        text = (
            f"Two crops show the same one if their {verdict['distance']} distance is at most "
            f"{verdict['threshold']:.4g} ({verdict['threshold_low']:.4g} to {verdict['threshold_high']:.4g}), set "
            f"on the {verdict['calibrated_on']} identities to let {verdict['wanted_fpr']:g} of different ones pass. On "
            f"the test pairs it accepts {verdict['test_tpr']:.3f} of the same and {verdict['test_fpr']:.2g} of the "
            "different ones."
        )
        yield Words([text], ["verification.json"])


def parity(record: Record) -> Section:
    """One row for each form of the network, all scored alike; those that aren't measured name what measures them."""
    figures = record.figures[:3]
    known = {name for row in record.metrics.values() for name in row if name.startswith("ms_")}
    timings = sorted(known) or ["ms_1_thread"]
    columns = [
        Column("form"), *(Column(name, ".3f") for name in figures), Column("points lost", ".2f"), Column("test images"),
        Column("KiB", ".1f"),
        *(Column(name.removeprefix("ms_").replace("_", " "), ".2f", "ms an image") for name in timings),
        Column("M instructions", ".1f"),
    ]  # fmt: skip
    rows, notes, missing = [], [], {}
    for row, words, file, command in _stages(record):
        found = record.metrics.get(row)
        if found is None:
            rows.append([words, *[None] * (len(figures) + 1), "not measured", *[None] * (len(timings) + 2)])
            missing.setdefault(command, []).append(words)
            continue
        emulated = row.startswith(EMULATED)
        counts = [found[name] for name in ("num_query", "num_gallery", "num_images") if name in found]
        exact = f", {found['bit_exact_images']} images bit for bit" if emulated else ""
        rows.append(
            [
                Link(file, words + exact) if record.has(file) else words + exact,
                *(found.get(name) for name in figures),
                found.get("drop"),
                " + ".join(f"{count:,.0f}" for count in counts),
                found["flash_bytes"] / 1024 if emulated else found.get("size_kib"),
                *(found.get(name) for name in timings),
                found["instructions"] / 1e6 if emulated else None,
            ]
        )
    if any(row.startswith(EMULATED) for row in record.metrics):
        notes.append(
            "The C was compiled for the named core and run on its emulator: every output equals that of the int8 "
            "TFLite file's reference kernels, bit for bit. It saw only the images that its row counts, so that its "
            "figures can't be compared with those above it. Its KiB are code and constants in flash. An emulator "
            "counts instructions and knows no milliseconds."
        )
    if known:
        machine = read_json(record.folder / MADE_BY).get("machine", {})
        where = f": {machine.get('cpu', machine['processor'])}, {machine['cores']} cores" if machine else ""
        notes.append(f"Milliseconds are of the machine that ran `reidlab quantize`{where}.")
    sources = record.there("metrics.json", "quantize/parity.csv", MADE_BY, "deploy/c/firmware.json")
    parts: list[Part] = [Table(columns, rows, sources), *([Words(notes)] if notes else [])]
    return Section("Parity", [*parts, *(Missing("; ".join(words), command) for command, words in missing.items())])


def _stages(record: Record) -> Iterator[tuple[str, str, str, str]]:
    """(row of metrics.json, words, file, command that measures it) of every form."""
    for row, (words, file, stage) in STAGES.items():
        first = "export" if row == "onnx" and not record.has(file) else stage
        yield row, words, file, record.command(first)
    cores = [row for row in record.metrics if row.startswith(EMULATED)]
    for row in cores or [EMULATED]:
        core = row.removeprefix(EMULATED).replace("m", "Cortex-M")
        yield row, f"C, emulated {core or 'Cortex-M'}", "deploy/c/reid_model.c", record.command("deploy", "deploy=c")
