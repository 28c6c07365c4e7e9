"""A card's sections about what the network has learned from, and how."""

import json
from collections.abc import Iterator, Mapping

from omegaconf import OmegaConf

from reidlab.card.parts import Code, Column, Missing, Part, Picture, Section, Table, Words, two_columns
from reidlab.card.record import Record
from reidlab.config import training_settings

RECIPE = (  # what a reader asks first: words of the card -> key of the config
    ("epochs at most", "trainer.max_epochs"),
    ("batch", "data.batch_size"),
    ("images of an identity in a batch", "data.num_instances"),
    ("optimizer", "optimizer._target_"),
    ("learning rate", "optimizer.lr"),
    ("weight decay", "optimizer.weight_decay"),
    ("schedule", "schedule._target_"),
    ("seed", "seed"),
)
ARTICLES = {False: "identities", True: "classes"}


def data(record: Record) -> Section:
    """What the data set is, whose it is, and how it is divided."""
    cfg, about, summary = record.cfg, record.cfg.data.about, record.table("data/summary.csv")
    rows = [
        ("data set", cfg.data.name),
        ("what it shows", about.description),
        ("published by", about.source),
        ("licence", about.licence or "not stated in the config (data.about.licence)"),
        ("SHA-256 of images and split", record.training.get("data_hash")),
        ("read at", f"{record.size}, height x width"),
        ("set aside for validation", f"{cfg.data.val_fraction:g} of the training {ARTICLES[record.tells_classes]}"),
    ]
    if record.tells_classes:
        rows[-1] = ("set aside for validation", f"{cfg.data.val_fraction:g} of each class's images")
        rows.append(("classes", ", ".join(record.classes)))
    else:
        counted = "left out" if cfg.data.exclude_same_camera else "counted"
        rows.append(("matches of the query's own camera", counted))
    parts: list[Part] = [two_columns(rows, record.there("config.yaml", "train.json"))]
    if summary.empty:
        parts.append(Missing("counts of images and identities", record.command_from_config("data")))
        return Section("Data and split", parts)
    columns = [Column(name, "" if name == "split" else ",") for name in summary.columns]
    parts.append(Table(columns, summary.to_numpy(dtype=object).tolist(), ["data/summary.csv"], "Split by split"))
    findings = record.table("data/findings.csv").reindex(columns=["level", "kind"])
    kinds = ", ".join(f"{kind} ({level})" for kind, level in findings.drop_duplicates("kind")[["kind", "level"]].values)
    text = f"`reidlab data` warns of {kinds}." if kinds else "`reidlab data` found nothing wrong with it."
    parts.append(Words([text], record.there("data/findings.csv")))
    return Section("Data and split", parts)


def recipe(record: Record) -> Section:
    """How the network was trained: the main settings, then all of them, and the curves."""
    cfg, trained = record.cfg, record.training
    if not trained.get("finished"):
        weights = f"weights from elsewhere ({cfg.model.weights.rpartition('/')[2]})" if cfg.model.weights else None
        what = f"This run trained nothing itself; it uses {weights}." if weights else None
        parts: list[Part] = [Words([what])] if what else [Missing("training", record.command_from_config("train"))]
    else:
        main = [(words, OmegaConf.select(cfg, key)) for words, key in RECIPE]
        terms = [name for name, term in cfg.loss.items() if isinstance(term, Mapping)]
        main += [("loss", " + ".join(terms)), ("weights at first", "random" if not cfg.model.weights else "given")]
        rows = [(words, None if value is None else str(value).rpartition("torch.optim.")[2]) for words, value in main]
        done = [("epochs trained", trained["epochs"])]
        done += [(key.replace("_", " "), f"{trained[key]:.3f}") for key in trained if key.startswith("best_val")]
        parts = [
            two_columns(rows, ["config.yaml"]),
            two_columns([(words, str(value)) for words, value in done], ["train.json"]),
        ]
        if record.has("curves.png"):
            parts.append(Picture("curves.png", "Losses and validation figures by epoch."))
    settings = [(Code(key), value) for key, value in _leaves(record)]
    parts.append(Table((Column("key"), Column("value")), settings, ["config.yaml"], "Every setting", folded=True))
    return Section("Recipe", parts)


def _leaves(record: Record) -> Iterator[tuple[str, str]]:
    for key, value in training_settings(record.cfg).items():
        if key == "model.weights" and value:
            value = value.rpartition("/")[2]
        if not key.startswith("data.augment."):  # which are those of augment
            yield key, json.dumps(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
