"""A card's sections about how good the network is, and how far each form of it departs from the checkpoint."""

from collections.abc import Iterator

from reidlab.card import published
from reidlab.card.facts import EMULATED, FORMS, emulated, form, processor, results_of, tested_on
from reidlab.card.parts import Cell, Column, Link, Missing, Paragraph, Part, Section, Table
from reidlab.run import File, Row, Run

PUBLISHED = f"{File.CARD_PARTS}/published_accuracy.csv"
COUNTS = ("num_query", "num_gallery", "num_images")


def results(run: Run) -> Section:
    """The figures of the test split with their intervals, the threshold, and published results."""
    parts: list[Part] = []
    found, known = run.table(), results_of(run)
    hidden = [row for row in found.index if row not in known or row in [*FORMS][1:] or row.startswith(EMULATED)]
    found = found.drop(index=hidden)
    if run.subject not in found.index:
        what = run.subject if run.foreign_file else "the checkpoint"
        parts.append(Missing(f"figures of {what} on the test split", run.command("evaluate")))
    if len(found):
        found = found.dropna(axis="columns", how="all")
        columns = [Column(name.replace("num_", ""), ",.0f" if name in COUNTS else ".3f") for name in found]
        rows = [[name, *values] for name, values in zip(found.index, found.to_numpy(dtype=object), strict=True)]
        sources = run.there(File.METRICS, *(f"{File.EVALUATE}/{row}/intervals.json" for row in found.index))
        parts.append(Table([Column("network or protocol"), *columns], rows, sources, "The test split"))
        parts += _explanations(run)
    if (again := run.reentry_page) and not run.foreign_file:
        parts.append(
            Paragraph([f"Whether {run.kind.several} who were out of sight are recognized is on its own page."], again)
        )
    others = published.accuracy(tested_on(run), run.subject_name)
    if len(others):
        run.write(PUBLISHED, others.to_csv(index=False))
        columns = [Column(name, ".3f" if others[name].dtype == float else "", "published") for name in others]
        parts.append(Table(columns, others.to_numpy(dtype=object).tolist(), [PUBLISHED], "Published for this data set"))
    return Section("Results", parts)


def _explanations(run: Run) -> Iterator[Paragraph]:
    """How to read the table, and where the threshold lies."""
    one, several = run.kind
    texts = [f"Intervals are 95 %, over the test {'images' if run.is_classifier else several}."]
    results = results_of(run)
    if any(row.startswith(Row.CHECKPOINT.under("")) for row in results):
        texts.append("Rows after checkpoint+ are the same network under another protocol.")
    scored = results[Row.CHECKPOINT].protocol.get("size") if Row.CHECKPOINT in results else None
    if scored not in (None, run["data.size"]):
        here, now = (" x ".join(map(str, size)) for size in (scored, run["data.size"]))
        texts.append(f"The checkpoint's row is of images of {here}, the settings are of {now}.")
    if len(results) == len(run.results):  # else it may be about rows that aren't shown
        texts += [f"Careful: {line}." for line in run.incomparable]
    page = run.there(File.EVALUATION_PAGE)
    if page:
        texts.append("Pictures of its confusions are on the evaluation's own page.")
    yield Paragraph([" ".join(texts)], page)
    if (verdict := run.verdict) and not run.foreign_file:
        low, high = (verdict.get(f"threshold_{end}") for end in ("low", "high"))
        interval = "" if low is None or high is None else f" ({low:.4g} to {high:.4g})"
        text = (
            f"Two crops show the same {one} if their {verdict['distance']} distance is at most "
            f"{verdict['threshold']:.4g}{interval}, "
            f"calibrated on the {verdict['calibrated_on']} {several} for a false positive rate of "
            f"{verdict['wanted_fpr']:g}. On the test pairs its true positive rate is {verdict['test_tpr']:.3f}, its "
            f"false positive rate {verdict['test_fpr']:.2g}."
        )
        yield Paragraph([text], [File.VERIFICATION])


def _is_asked(runtime: str, run: Run) -> bool:
    """Whether `quantize` evaluates files in a runtime."""
    return runtime in (run["quantize.runtimes"] or [])


def parity(run: Run) -> Section:
    """A row for each form of the network, all evaluated alike; a form that isn't measured names its command."""
    found, cores = run.results, emulated(run)
    known = sorted({name for result in found.values() for name in result.figures if name.startswith("ms_")})
    timings, names = known or ["ms_1_thread"], run.figures[:3]
    columns = [
        Column("form"), *(Column(name, ".3f") for name in names), Column("drop, points", ".2f"), Column("test images"),
        Column("KiB", ".1f"),
        *(Column(name.removeprefix("ms_").replace("_", " "), ".2f", "ms an image") for name in timings),
        Column("M instructions", ".1f"),
    ]  # fmt: skip
    forms = [row for row in FORMS if row != Row.ONNX_INT8_OPENVINO or row in found or _is_asked("openvino", run)]
    rows: list[list[Cell]] = []
    missing: dict[str, list[str]] = {}
    for row in (*forms, *(cores or [EMULATED])):
        words, file, stage = form(row)
        if row not in found:
            rows.append([words, *[None] * (len(names) + 1), "not measured", *[None] * (len(timings) + 2)])
            stage = "export" if row == Row.ONNX and not run.has(file) else stage
            missing.setdefault(run.command(stage), []).append(words)
            continue
        figures = found[row].figures
        counts = [figures[name] for name in COUNTS if name in figures]
        if row in cores:
            exact, outputs = figures.get("bit_exact_images", 0), "outputs" if run.is_classifier else "embeddings"
            counts = counts or [exact] * bool(exact)
            words += f": {exact:.0f} of {sum(counts):.0f} {outputs} bit-equal" if exact else ""
            figures = {name: cores[row][name] for name in ("flash_kib", "million_instructions") if name in cores[row]}
        rows.append(
            [
                Link(file, words) if run.has(file) else words,
                *(figures.get(name) for name in (*names, "drop")),
                " + ".join(f"{count:,.0f}" for count in counts) or None,
                figures.get("flash_kib" if row in cores else "size_kib"),
                *(figures.get(name) for name in (*timings, "million_instructions")),
            ]
        )
    notes = []
    if cores:
        notes.append(
            "The C was compiled for the named core and run on its emulator. Bit-equal outputs are those of the int8 "
            "TFLite file's reference kernels, bit for bit, so that its accuracy is that file's. Its KiB are code and "
            "constants in flash. An emulator counts instructions; milliseconds are estimated from them."
        )
    if known:
        machine = run.json_of(File.QUANTIZE_MADE_BY).get("machine")
        where = f": {processor(machine)}" if machine else ""
        notes.append(f"Milliseconds are of the machine that ran `reidlab quantize`{where}.")
    sources = run.there(File.METRICS, File.PARITY, File.QUANTIZE_MADE_BY, File.FIRMWARE)
    parts: list[Part] = [Table(columns, rows, sources), *([Paragraph(notes)] if notes else [])]
    return Section("Parity", [*parts, *(Missing("; ".join(words), command) for command, words in missing.items())])
