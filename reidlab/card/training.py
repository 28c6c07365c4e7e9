"""A card's sections about what the network has learned from, and how."""

import json
from collections.abc import Iterator, Mapping

import pandas as pd

from reidlab.card.facts import image_size, results_of, training
from reidlab.card.parts import Code, Column, Missing, Paragraph, Part, Picture, Section, Table, two_columns
from reidlab.config import training_settings
from reidlab.data.samples import VALIDATION_SPLITS
from reidlab.run import UNFINISHED, File, Run

TEST_SIZES = {"num_query": "queries", "num_gallery": "gallery images", "num_images": "images"}
RECIPE = {  # what a reader asks first -> key of the settings
    "epochs at most": "trainer.max_epochs",
    "time (minutes, or days:hours:minutes:seconds)": "trainer.max_time",
    "batch": "data.batch_size",
    "images per {one} in a batch": "data.num_instances",
    "optimizer": "optimizer._target_",
    "learning rate": "optimizer.lr",
    "weight decay": "optimizer.weight_decay",
    "schedule": "schedule._target_",
    "seed": "seed",
}


def data(run: Run) -> Section:
    """The data set: its content, its owner and license, and its splits."""
    fraction, summary = f"{run['data.val_fraction']:g}", run.table_of(File.DATA_SUMMARY)
    rows = [
        ("data set", run["data.name"]),
        ("what it shows", run["data.about.description"]),
        ("published by", run["data.about.source"]),
        ("license", run["data.about.license"] or "not stated in the config (data.about.license)"),
        ("SHA-256 of images and split", training(run).get("data_hash")),
        ("read at", f"{image_size(run)}, height x width"),
    ]
    if run.is_classifier:
        rows.append(("set aside for validation", f"{fraction} of each class's images"))
        rows.append(("classes", ", ".join(run.classes)))
    else:
        rows.append(("set aside for validation", _set_aside(run, summary)))
        rules = run.rules_of(run.subject)
        counted = "left out" if rules["exclude_same_camera"] else "counted"
        rows += [("tested by", f"{rules['distance']} distance"), ("matches of the query's own camera", counted)]
    scored = results_of(run).get(run.subject)
    if scored:
        counts = [f"{scored.figures[name]:,.0f} {word}" for name, word in TEST_SIZES.items() if name in scored.figures]
        rows.append(("test split", ", ".join(counts)))
        rows.append(("SHA-256 of its images", scored.protocol.get("test")))
    sources = run.there(File.CONFIG, File.TRAINING, File.DATA_SUMMARY, *[File.METRICS] * bool(scored))
    parts: list[Part] = [two_columns(rows, sources)]
    parts += _samples(run)
    if summary.empty:
        parts.append(Missing(f"counts of images and {run.kind.several}", run.command_from_config("data")))
        return Section("Data and split", parts)
    columns = [Column(name, "" if name == "split" else ",") for name in summary.columns]
    parts.append(Table(columns, summary.to_numpy(dtype=object).tolist(), [File.DATA_SUMMARY], "Split by split"))
    findings = run.table_of(File.DATA_FINDINGS).reindex(columns=["level", "kind"])
    kinds = ", ".join(f"{kind} ({level})" for kind, level in findings.drop_duplicates("kind")[["kind", "level"]].values)
    text = f"`reidlab data` warns of {kinds}." if kinds else "`reidlab data` found nothing wrong with it."
    parts.append(Paragraph([text], run.there(File.DATA_FINDINGS)))
    return Section("Data and split", parts)


def _set_aside(run: Run, summary: pd.DataFrame) -> str:
    """How many identities choose the best epoch, as counted, or else by the rule."""
    if not {"split", "identities"} <= {*summary}:
        least = run["data.val_identities"]
        return f"{run['data.val_fraction']:g} of the training {run.kind.several}, or {least} where that is more"
    counts = pd.to_numeric(summary["identities"], errors="coerce").fillna(0).groupby(summary["split"]).max()
    chosen, learned = max(counts.get(split, 0) for split in VALIDATION_SPLITS), counts.get("train", 0)
    return f"{chosen:.0f} {run.kind.several}, beside {learned:.0f} to learn from" if chosen else "nobody"


def _samples(run: Run) -> Iterator[Part]:
    """Images of the data set, where its settings let them be seen elsewhere."""
    sheet = f"{File.DATA}/{'classes' if run.is_classifier else 'identities'}.png"
    if not run["privacy.share_images"]:
        yield Missing("sample images", run.command("report", "privacy.share_images=true"), "Not shared")
    elif run.has(sheet):
        yield Picture(sheet, f"Images of the data set, one {'class' if run.is_classifier else 'identity'} a row.")


def recipe(run: Run) -> Section:
    """How the network was trained: the main settings, then all of them, and the curves."""
    trained, weights = training(run), run["model.weights"]
    parts: list[Part]
    if trained.get("finished"):
        unused = "trainer.max_epochs" if run["trainer.max_time"] else "trainer.max_time"
        main = [(name.format(one=run.kind.one), run[key]) for name, key in RECIPE.items() if key != unused]
        terms = [name for name, term in run["loss"].items() if isinstance(term, Mapping)]
        main += [("loss", " + ".join(terms)), ("initial weights", "given" if weights else "random")]
        rows = [(name, None if value is None else str(value).rpartition("torch.optim.")[2]) for name, value in main]
        best = {name: value for name, value in trained.items() if name.startswith("best_val") and value is not None}
        done = [("epochs trained", str(trained.get("epochs")))]
        done += [("precision", trained["precision"])] if trained.get("precision") else []
        done += [(name.replace("_", " "), f"{value:.3f}") for name, value in best.items()]
        parts = [two_columns(rows, [File.CONFIG]), two_columns(done, [File.TRAINING])]
        if run.has(File.CURVES):
            parts.append(Picture(File.CURVES, "Losses and validation figures by epoch.", is_chart=True))
    elif run.is_unfinished and run.has(File.LAST):
        parts = [Paragraph([f"Careful: {UNFINISHED}."], run.there(File.LAST))]
    elif run.is_trained:
        parts = [Paragraph(["This run has no record of how its checkpoint was trained."])]
    elif weights:
        parts = [Paragraph([f"This run trained nothing itself; it uses {weights.rpartition('/')[2]}."])]
    else:
        parts = [Missing("training", run.command_from_config("train"))]
    settings = [(Code(key), value) for key, value in _settings(run).items()]
    parts.append(Table((Column("key"), Column("value")), settings, [File.CONFIG], "Every setting", folded=True))
    return Section("Recipe", parts)


def _settings(run: Run) -> dict[str, str]:
    """All that training depends on, as JSON, without this machine's folders and what is set twice."""
    found = {key: value for key, value in training_settings(run.settings).items() if "data.augment." not in key}
    if weights := found.get("model.weights"):
        found["model.weights"] = weights.rpartition("/")[2]
    return {key: json.dumps(value) for key, value in found.items()}
