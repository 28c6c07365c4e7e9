"""A card's top and end: main figures, what was left out, use, limits, licenses, and the commands that made the run."""

from collections.abc import Sequence
from importlib.metadata import metadata

from reidlab.card.facts import (
    NOT_RECORDED,
    emulated,
    form,
    is_present,
    is_tested_elsewhere,
    processor,
    results_of,
    tested_on,
    training,
)
from reidlab.card.network import NETWORK, stage_of, stale_files
from reidlab.card.parts import Cell, Code, Column, Figure, Missing, Paragraph, Part, Section, Table, two_columns
from reidlab.config import choices
from reidlab.files import read_json
from reidlab.plots import short
from reidlab.run import WITH_INTERVAL, File, Row, Run

NOT_STATED, ASK = "not stated in the config", "ask their publisher"
HUB_METRICS = {"mAP": "mean_average_precision", "top-1": "accuracy", "top-5": "top_5_accuracy"}
MADE_BY_STAGES = {  # files that name their checkpoint, and the stage that makes each
    File.TRAINING: "train run.overwrite=true",
    File.VERIFICATION: "evaluate",
    File.PARITY: "quantize",
    File.FIRMWARE: "deploy deploy=c",
    File.ESTIMATES: "deploy deploy=stm32",
}


def figures(run: Run) -> list[Figure]:
    """The few figures that a reader looks for first."""
    main, small, found = _figures_of(run, run.subject), _figures_of(run, Row.TFLITE_INT8), []
    intervals = run.intervals(run.subject) if main else {}
    for name in run.figures[:2]:
        ends = intervals.get(name) if name in WITH_INTERVAL else None
        detail = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "test split"
        found.append(Figure(name, f"{main[name]:.3f}" if name in main else None, detail, File.METRICS))
    network = read_json(run / NETWORK)
    if run.foreign_file:
        size = f"{network['bytes'] / 1024:,.0f} KiB" if "bytes" in network else None
        return [*found, Figure("size", size, run.foreign_file.suffix, NETWORK)]
    first = run.figures[0]
    int8 = f"{small[first]:.3f}" if first in small else None
    found.append(Figure(f"{first} in int8", int8, f"{small.get('size_kib', 0):,.0f} KiB .tflite", File.METRICS))
    parameters, macs = (short(network[key]) if key in network else None for key in ("parameters", "macs"))
    found.append(Figure("parameters", parameters, f"{macs} MACs", NETWORK))
    row, measured = next(iter(emulated(run).items()), ("", {}))
    ram = f"{measured['ram_kib']:.0f} KiB" if "ram_kib" in measured else None
    flash = f"{measured['flash_kib']:.0f} KiB flash, {row}" if "flash_kib" in measured else row
    return [*found, Figure("RAM as C", ram, flash, File.FIRMWARE)]


def left_out(run: Run) -> Section:
    """Rows and files of another checkpoint or file, with the commands that make them again; empty where none are."""
    stages: dict[str, list[str]] = {}
    for row in run.stale_results:
        stages.setdefault(form(row).stage, []).append(f"row {row}")
    for file, stage in MADE_BY_STAGES.items():
        if run.has(file) and not is_present(run, file):
            stages.setdefault(stage, []).append(file)
    for path in stale_files(run):
        stages.setdefault(stage_of(path), []).append(path)
    parts = []
    for stage, names in stages.items():
        command = run.command_from_config if stage.startswith("train") else run.command
        parts.append(Missing(", ".join(names), command(stage), "Made by another checkpoint or file, not shown"))
    return Section("Left out", parts)


def purpose(run: Run) -> Section:
    """Intended uses of the network."""
    return Section("Purpose", [Paragraph([run["card.use_case"]]), Paragraph(run["card.intended"], title="Meant for")])


def limits(run: Run) -> Section:
    """Uses that the network isn't for, and limits of the figures on this card."""
    parts: list[Part] = [Paragraph(run["card.limits"])]
    unmeasured = ["Milliseconds on a microcontroller were not measured: no board was attached."]
    if found := _figures_of(run, run.subject):
        if run.is_classifier:
            of = tested_on(run) if is_tested_elsewhere(run) else "the same data set"
            text = f"{found.get('num_images', 0):,.0f} test images of {of}."
        else:
            queries, gallery = (found.get(name, 0) for name in ("num_query", "num_gallery"))
            text = f"{queries:,.0f} queries in a gallery of {gallery:,.0f} images."
        tested = {result.protocol.get("test") for result in results_of(run).values()}
        which = "All figures are" if len(tested) == 1 else f"The figures of the {run.subject} are"
        unmeasured.insert(0, f"{which} of {text}")
    parts.append(Paragraph(unmeasured, run.there(File.METRICS), "What the figures leave open"))
    if contact := run["card.contact"]:
        parts.append(Paragraph([f"Questions: {contact}"]))
    return Section("Limits", parts)


def licenses(run: Run) -> Section:
    """Of the weights, the data and the code."""
    unknown = ASK if run.foreign_file else f"{NOT_STATED} (card.license)"
    rows: list[list[Cell]] = [["these weights", _license(run) or unknown, run.subject if run.foreign_file else None]]
    then = run.as_trained or run
    if weights := then["model.weights"]:
        rows.append(["weights that it started from", ASK, weights.rpartition("/")[2]])
    if is_tested_elsewhere(run):
        rows.append(["data that it learned", NOT_RECORDED, None] if then is run else _license_of_data(then))
    if tested_on(run) == run["data.name"]:
        rows.append(_license_of_data(run))
    else:
        rows.append([f"data set {tested_on(run)}", ASK, None])
    rows.append(["code", metadata("reidlab")["License-Expression"], "reidlab"])
    return Section("Licenses", [Table((Column("of"), Column("license"), Column("from")), rows, [File.CONFIG])])


def _license_of_data(run: Run) -> list[Cell]:
    """A row: the data set of a run's settings, its license and its publisher."""
    license = run["data.about.license"] or f"{NOT_STATED} (data.about.license)"
    return [f"data set {run['data.name']}", license, run["data.about.source"]]


def _license(run: Run) -> str | None:
    """Of the run's own weights; the settings know none of a file from elsewhere."""
    return None if run.foreign_file else run["card.license"]


def again(run: Run) -> Section:
    """The commands that made the run, and what they ran on."""
    if run.foreign_file:
        evaluated = [run.command_from_config("evaluate")] * (run.subject in run.all_results)
        return Section("Made by", [_listed([*evaluated, run.noted_command("report")])])
    commands = [run.command_from_config("train")] if training(run) and run.as_trained else []
    done = {
        "evaluate": Row.CHECKPOINT in run.all_results,
        "export": run.has(File.ONNX),
        "quantize": run.has(File.PARITY),
    }
    commands += [run.noted_command(stage) for stage, is_done in done.items() if is_done]
    made = {path.stem for path in (run / File.DEPLOY).glob("*")}
    for target in choices("deploy"):
        if any(name == target or name.endswith(f"_{target}") for name in made):
            commands.append(run.noted_command(f"deploy deploy={target}"))
    commands.append(run.noted_command("report"))
    parts: list[Part] = [_listed(commands)]
    source = next((file for file in (File.TRAINING, File.ONNX_ABOUT) if is_present(run, file)), None)
    if source is None:
        return Section("Made by", [Missing("what it was made with", run.command("export")), *parts])
    made_by = run.json_of(source)
    versions = ", ".join(f"{name} {version}" for name, version in (made_by.get("versions") or {}).items())
    machine = made_by.get("machine")
    rows = [
        ("packages", f"{versions}, Python {made_by.get('python')}"),
        ("commit", made_by.get("git_commit")),
        ("machine", processor(machine) if machine else None),
        ("begun", made_by.get("time")),
    ]
    return Section("Made by", [*parts, two_columns(rows, [source])])


def _listed(commands: Sequence[str]) -> Table:
    return Table((Column("command"),), [[Code(command)] for command in commands])


def front_matter(run: Run) -> dict:
    """Metadata for model hubs: license, task, data, and the figures as a model index."""
    main, small = _figures_of(run, run.subject), _figures_of(run, Row.TFLITE_INT8)
    names, data, tag = [name for name in run.figures if name in main], tested_on(run), run["card.pipeline_tag"]
    then = run.as_trained
    metrics = [
        {"type": HUB_METRICS.get(name, name), "name": f"{name}{suffix}", "value": round(found[name], 4)}
        for found, suffix in ((main, ""), (small, ", int8 .tflite"))
        for name in names
        if name in found
    ]
    task = {"type": tag, "name": "Classification" if run.is_classifier else "Re-identification"}
    results = [{"task": task, "dataset": {"type": data, "name": data, "split": "test"}, "metrics": metrics}]
    formats = [name for name, file in (("onnx", File.ONNX), ("tflite", File.TFLITE_INT8)) if is_present(run, file)]
    return {
        "license": (_license(run) or "unknown").lower(),
        "library_name": "reidlab",
        "pipeline_tag": tag,
        "tags": [*run["card.tags"], run.subject_name, *formats, *(["int8"] if small else [])],
        **({"datasets": [then["data.name"]]} if then else {}),  # that it learned, to hubs
        "metrics": [HUB_METRICS.get(name, name) for name in names],
        "model-index": [{"name": run.name, "results": results if metrics else []}],
    }


def _figures_of(run: Run, row: str) -> dict[str, float]:
    """The figures of a row, if the present checkpoint has it, on the test images that the card's main row is of."""
    found = results_of(run)
    if row not in found:
        return {}
    theirs, own = (found[name].protocol.get("test") if name in found else None for name in (row, run.subject))
    return found[row].figures if None in (theirs, own) or theirs == own else {}
