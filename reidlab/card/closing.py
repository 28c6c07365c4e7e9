"""What a card says at its top and at its end: what the network is for, limits, licences, and how to make it again."""

from importlib.metadata import metadata

from reidlab.card.network import NETWORK
from reidlab.card.parts import Code, Column, Figure, Missing, Part, Section, Table, Words, two_columns
from reidlab.card.record import Record
from reidlab.card.results import EMULATED
from reidlab.files import read_json
from reidlab.plots import short
from reidlab.stages.evaluate import MAIN_ROW, WITH_INTERVAL

NOT_STATED = "not stated in the config"
HUB_METRICS = {"mAP": "mean_average_precision", "top-1": "accuracy", "top-5": "top_5_accuracy"}


def figures(record: Record) -> list[Figure]:
    """The few figures that a reader looks for first."""
    plain, small = record.metrics.get(MAIN_ROW, {}), record.metrics.get("tflite int8", {})
    intervals = read_json(record.folder / "evaluate" / MAIN_ROW / "intervals.json")
    network = read_json(record.folder / NETWORK)
    main, second = record.figures[:2]
    found = []
    for name in (main, second):
        low_high = intervals.get(name) if name in WITH_INTERVAL else None
        detail = f"{low_high[0]:.3f} to {low_high[1]:.3f}" if low_high else "test split"
        found.append(Figure(name, f"{plain[name]:.3f}" if name in plain else None, detail, "metrics.json"))
    int8 = f"{small[main]:.3f}" if main in small else None
    found.append(Figure(f"{main} in int8", int8, f"{small.get('size_kib', 0):,.0f} KiB .tflite", "metrics.json"))
    stored = [short(network[key]) if key in network else None for key in ("parameters", "macs")]
    found.append(Figure("parameters", stored[0], f"{stored[1]} MACs", NETWORK))
    cores = {name: row for name, row in record.metrics.items() if name.startswith(EMULATED)}
    core, measured = next(iter(cores.items()), ("", {}))
    ram = f"{measured['ram_bytes'] / 1024:.0f} KiB" if measured else None
    flash = f"{measured['flash_bytes'] / 1024:.0f} KiB flash, {core}" if measured else ""
    found.append(Figure("RAM as C", ram, flash, "deploy/c/firmware.json"))
    return found


def purpose(record: Record) -> Section:
    """What the network is for."""
    card = record.cfg.card
    return Section("Use", [Words([card.use_case]), Words(list(card.intended), title="Meant for")])


def limits(record: Record) -> Section:
    """What the network isn't for, and what the figures on this card don't say."""
    card = record.cfg.card
    parts: list[Part] = [Words(list(card.limits))]
    unmeasured = ["Milliseconds on a microcontroller were not measured: no board was attached."]
    if record.tells_classes and record.evaluated:
        images = record.metrics[MAIN_ROW].get("num_images", 0)
        unmeasured.insert(0, f"All figures are of {images:,.0f} test images of the same data set.")
    elif record.evaluated:
        row = record.metrics[MAIN_ROW]
        text = f"All figures are of {row['num_query']:,.0f} queries in a gallery of {row['num_gallery']:,.0f} images."
        unmeasured.insert(0, text)
    parts.append(Words(unmeasured, record.there("metrics.json"), "What the figures leave open"))
    if card.contact:
        parts.append(Words([f"Questions: {card.contact}"]))
    return Section("Limits", parts)


def licences(record: Record) -> Section:
    """Of the weights, the data and the code."""
    cfg = record.cfg
    about = cfg.data.about
    rows = [
        ["these weights", cfg.card.licence or f"{NOT_STATED} (card.licence)", None],
        [f"data set {cfg.data.name}", about.licence or f"{NOT_STATED} (data.about.licence)", about.source],
    ]
    if cfg.model.weights:
        rows.insert(1, ["weights that it started from", "ask their publisher", cfg.model.weights.rpartition("/")[2]])
    rows.append(["code", metadata("reidlab")["License-Expression"], "reidlab"])
    return Section("Licences", [Table((Column("of"), Column("licence"), Column("from")), rows, ["config.yaml"])])


def again(record: Record) -> Section:
    """The commands that made the run, and what they ran on."""
    stages = [Code(record.command_from_config("train"))] if record.training else []
    done = {"evaluate": "metrics.json", "export": "export/model.onnx", "quantize": "quantize/parity.csv"}
    stages += [Code(record.command(stage)) for stage, file in done.items() if record.has(file)]
    for target in ("c", "stm32", "nvidia"):
        if record.has(f"deploy/{target}"):
            stages.append(Code(record.command("deploy", f"deploy={target}")))
    stages.append(Code(record.command("report")))
    parts: list[Part] = [Table((Column("command"),), [[stage] for stage in stages])]
    source = next(iter(record.there("train.json", "export/model.json")), None)
    if source is None:
        return Section("Made by", [Missing("what it was made with", record.command("export")), *parts])
    made_by = read_json(record.folder / source)
    versions = ", ".join(f"{name} {version}" for name, version in made_by["versions"].items())
    machine = made_by["machine"]
    rows = [
        ("packages", f"{versions}, Python {made_by['python']}"),
        ("commit", made_by["git_commit"]),
        ("machine", f"{machine.get('cpu', machine['processor'])}, {machine['cores']} cores"),
        ("begun", made_by["time"]),
    ]
    return Section("Made by", [*parts, two_columns(rows, [source])])


def front_matter(record: Record) -> dict:
    """What model hubs read: licence, task, data, and the figures as a model index."""
    cfg, plain = record.cfg, record.metrics.get(MAIN_ROW, {})
    names = [name for name in record.figures if name in plain]
    small = record.metrics.get("tflite int8", {})
    metrics = [
        {"type": HUB_METRICS.get(name, name), "name": f"{name}{words}", "value": round(row[name], 4)}
        for row, words in ((plain, ""), (small, ", int8 .tflite"))
        for name in names
        if name in row
    ]
    task = {"type": cfg.card.pipeline_tag, "name": "Classification" if record.tells_classes else "Re-identification"}
    results = [
        {"task": task, "dataset": {"type": cfg.data.name, "name": cfg.data.name, "split": "test"}, "metrics": metrics}
    ]
    formats = [
        name for name, file in (("onnx", "model.onnx"), ("tflite", "model_int8.tflite")) if record.has(f"export/{file}")
    ]
    return {
        "license": (cfg.card.licence or "unknown").lower(),
        "library_name": "reidlab",
        "pipeline_tag": cfg.card.pipeline_tag,
        "tags": [*cfg.card.tags, cfg.model.name, *formats, *(["int8"] if small else [])],
        "datasets": [cfg.data.name],
        "metrics": [HUB_METRICS.get(name, name) for name in names],
        "model-index": [{"name": record.folder.name, "results": results if metrics else []}],
    }
