"""A card's sections about what the network has learned from, and how."""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from reidlab.card.facts import NOT_RECORDED, image_size, is_tested_elsewhere, results_of, tested_on, training
from reidlab.card.parts import Cell, Code, Column, Missing, Paragraph, Part, Picture, Section, Table, two_columns
from reidlab.config import training_settings
from reidlab.console import log
from reidlab.data.samples import VALIDATION_SPLITS
from reidlab.files import read_bytes
from reidlab.run import UNFINISHED, File, Run

OTHERS_CARD = f"{File.CARD_PARTS}/as_found.md"
OWN_FRONT, FRONT_BYTES = b"\nlibrary_name: reidlab\n", 2000  # the front matter of a card that `report` wrote
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


def keep_others_card(run: Run) -> None:
    """Move a `card.md` that no `report` wrote, as that of a released network, to where the card can quote the first."""
    file = run / File.CARD_MARKDOWN
    if file.is_file() and OWN_FRONT not in file.read_bytes()[:FRONT_BYTES]:
        names = itertools.chain([OTHERS_CARD], (OTHERS_CARD.replace(".md", f"_{n}.md") for n in itertools.count(2)))
        place = run / next(name for name in names if not run.has(name))
        place.parent.mkdir(exist_ok=True)
        file.replace(place)
        log.info(f"{file}: wasn't written by report; kept as {place}")


def data(run: Run) -> Section:
    """The data set that was learned, the one that was tested on where it is another, and their splits."""
    summary, then, scored = _summary(run), run.as_trained, results_of(run).get(run.subject)
    digest = ("SHA-256 of images and split", training(run).get("data_hash"))
    tested: list[tuple[str, Cell]] = (
        _about(run) if tested_on(run) == run["data.name"] else [("data set", tested_on(run))]
    )
    parts: list[Part] = []
    rows, learned = tested, [digest, ("set aside for validation", _set_aside(then or run, summary))]
    if is_tested_elsewhere(run):
        theirs = [*_about(then), *learned] if then else [("data set", NOT_RECORDED), digest]
        parts.append(replace(two_columns(theirs, run.there(File.CONFIG, File.TRAINING)), title="Trained on"))
    else:
        rows = [*tested, *learned]
    rows.append(("read at", f"{image_size(run)}, height x width"))
    if then and then["data.size"] != run["data.size"]:
        rows.append(("trained at", "{}x{}, height x width".format(*then["data.size"])))
    if run.is_classifier:
        rows.append(("classes", ", ".join(run.classes)))
    else:
        rules = run.rules_of(run.subject)
        counted = "left out" if rules["exclude_same_camera"] else "counted"
        rows += [("tested by", f"{rules['distance']} distance"), ("matches of the query's own camera", counted)]
    if scored:
        counts = [f"{scored.figures[name]:,.0f} {word}" for name, word in TEST_SIZES.items() if name in scored.figures]
        rows.append(("test split", ", ".join(counts)))
        rows.append(("SHA-256 of its images", scored.protocol.get("test")))
    sources = run.there(File.CONFIG, File.TRAINING, File.DATA_SUMMARY, *[File.METRICS] * bool(scored))
    parts.append(replace(two_columns(rows, sources), title="Tested on" if parts else ""))
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


def _about(run: Run) -> list[tuple[str, Cell]]:
    """The data set of a run's settings: its content, its owner and its license."""
    return [
        ("data set", run["data.name"]),
        ("what it shows", run["data.about.description"]),
        ("published by", run["data.about.source"]),
        ("license", run["data.about.license"] or "not stated in the config (data.about.license)"),
    ]


def _summary(run: Run) -> pd.DataFrame:
    """`data/summary.csv`; empty where it has other identities to learn than the network learned."""
    summary = run.table_of(File.DATA_SUMMARY)
    learned = training(run).get("num_identities")
    if learned is None or not {"split", "identities"} <= {*summary}:
        return summary
    return summary if _counts(summary).get("train") == learned else summary[:0]


def _counts(summary: pd.DataFrame) -> pd.Series:
    """How many identities a split has, by its name."""
    return pd.to_numeric(summary["identities"], errors="coerce").fillna(0).groupby(summary["split"]).max()


def _set_aside(run: Run, summary: pd.DataFrame) -> str:
    """Say what chooses the best epoch: of identities how many, as counted, or else the rule."""
    fraction, least = f"{run['data.val_fraction'] or 0:g}", run["data.val_identities"]
    if run.is_classifier:
        return f"{fraction} of each class's images"
    if summary.empty or not {"split", "identities"} <= {*summary}:
        rule = f"{fraction} of the training {run.kind.several}"
        return f"{rule}, or {least} where that is more" if least else rule
    counts = _counts(summary)
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
    trained, weights, then = training(run), run["model.weights"], run.as_trained
    parts: list[Part]
    if trained.get("finished"):
        best = {name: value for name, value in trained.items() if name.startswith("best_val") and value is not None}
        done = [("epochs trained", str(trained.get("epochs")))]
        done += [("precision", trained["precision"])] if trained.get("precision") else []
        done += [(name.replace("_", " "), f"{value:.3f}") for name, value in best.items()]
        told = [two_columns(_main_settings(then), [File.CONFIG])] if then else [Paragraph([f"It is {NOT_RECORDED}."])]
        parts = [*told, two_columns(done, [File.TRAINING]), *_others_card(run)]
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
    if then or not (run.is_trained or trained):
        settings = [(Code(key), value) for key, value in _settings(then or run).items()]
        parts.append(Table((Column("key"), Column("value")), settings, [File.CONFIG], "Every setting", folded=True))
    return Section("Recipe", parts)


def _main_settings(run: Run) -> list[tuple[str, Cell]]:
    """List the settings of a training that a reader asks first."""
    unused = "trainer.max_epochs" if run["trainer.max_time"] else "trainer.max_time"
    main = [(name.format(one=run.kind.one), run[key]) for name, key in RECIPE.items() if key != unused]
    terms = [name for name, term in (run["loss"] or {}).items() if isinstance(term, Mapping)]
    main += [("loss", " + ".join(terms)), ("initial weights", "given" if run["model.weights"] else "random")]
    teacher = run["distill.teacher"]
    main.append(("teacher", teacher["_target_"] if isinstance(teacher, Mapping) else teacher and Path(teacher).name))
    return [(name, None if value is None else str(value).rpartition("torch.optim.")[2]) for name, value in main]


def _others_card(run: Run) -> Iterator[Part]:
    """The text of a card that came with the network, where its folder records no training."""
    if run.as_trained is None and run.has(OTHERS_CARD):
        text = read_bytes(run / OTHERS_CARD).decode(errors="replace")
        paragraphs = [words.strip("# \n") for words in text.split("\n\n") if words.strip()]
        yield Paragraph(paragraphs, [OTHERS_CARD], "From the card that came with it")


def _settings(run: Run) -> dict[str, str]:
    """All that training depends on, as JSON, without this machine's folders and what is set twice."""
    found = {key: value for key, value in training_settings(run.settings).items() if "data.augment." not in key}
    if weights := found.get("model.weights"):
        found["model.weights"] = weights.rpartition("/")[2]
    return {key: json.dumps(value) for key, value in found.items()}
