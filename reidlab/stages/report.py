"""Stage `report`: a run's card, and one page of what its evaluation found; self-contained, to open, mail or archive."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reidlab import card
from reidlab.card import published
from reidlab.card.render import data_uri, environment
from reidlab.config import run_folder
from reidlab.errors import InputError
from reidlab.evaluation import insight
from reidlab.files import provenance, read_json, write_atomic
from reidlab.plots.saving import save_figure
from reidlab.stages.evaluate import MAIN_ROW, results_table
from reidlab.training.tasks import known_classes

TABLE_ROWS = 30


@dataclass(frozen=True)
class Section:
    """A heading, what to look for, and PNG files in the evaluation's folder; each may have a CSV of the same name."""

    title: str
    text: str
    pictures: tuple[str, ...]


SECTIONS = (
    Section(
        "Rankings",
        "Worst, median and best queries by average precision: the query in blue, then its nearest gallery images with "
        "their distances. Green (✓) is the same person, red (✗) somebody else.",
        ("worst", "median", "best"),
    ),
    Section(
        "Hardest confusions",
        "Each query with the stranger that it found first and its own nearest match; the furthest misses of all pairs "
        "of identities. Alike clothes are an honest mistake; a shared background or label error is not.",
        ("confusions",),
    ),
    Section(
        "Cameras",
        "mAP of the queries of one camera in the gallery of another, above the number of queries. A dark row or column "
        "is a camera that sees differently from the others.",
        ("cameras",),
    ),
    Section(
        "Same person, or not?",
        "Distances of all pairs that the protocol compares, the calibrated threshold, and what it lets pass.",
        ("distances", "roc"),
    ),
    Section(
        "The embedding space",
        "Test images of some identities, laid out by t-SNE: colour says who, shape says which camera. Groups of one "
        "colour are good, groups of one shape are bad; how far groups are apart means nothing.",
        ("plane",),
    ),
    Section(
        "Where the network looks",
        "The strength of the last feature maps over the worst queries. Warmth off the person is a warning.",
        ("attention",),
    ),
)
CLASS_SECTIONS = (
    Section(
        "What is taken for what",
        "Images of each class by the class that they were taken for; whether a confidence is the chance to be right; "
        "and the mistakes that the network was surest of.",
        ("confusion", "calibration", "mistakes"),
    ),
)


def run(cfg) -> Path:
    """Write the card of a run, and of an evaluated one `evaluation.html` too, which is returned if it is there.

    The latter shows what the network confuses and sees; what stage `evaluate` drew of a network that tells classes is
    shown as it is. Raises InputError where there is no run yet.
    """
    folder = run_folder(cfg)
    evaluated = MAIN_ROW in read_json(folder / "metrics.json")
    if not evaluated and not (folder / "config.yaml").exists():
        raise InputError(f"{folder}: not evaluated; run `reidlab evaluate run.name={folder.name}` first")
    pages = [_evaluation(cfg, folder)] if evaluated else []
    pages.append(card.run(cfg))
    for page in pages:
        print(f"report: {page}")
    return pages[0]


def _evaluation(cfg, folder: Path) -> Path:
    place = folder / "evaluate" / MAIN_ROW
    tells_classes = bool(known_classes(cfg))
    for name, drawn in () if tells_classes else _drawn(cfg):
        save_figure(drawn.figure, place / f"{name}.png")
        write_atomic(place / f"{name}.csv", drawn.table.to_csv(index=drawn.table.index.name is not None))
    others = published.accuracy(cfg.data.name, cfg.model.name)
    facts = {"model": cfg.model.name, "data": cfg.data.name}
    if tells_classes:
        facts["classes"] = ", ".join(known_classes(cfg))
    else:
        same_camera = "left out" if cfg.evaluate.exclude_same_camera else "counted"
        facts |= {"distance": cfg.evaluate.distance, "same-camera matches": same_camera}
    html = (
        environment(escape=True)
        .get_template("evaluation.html")
        .render(
            name=folder.name,
            facts=facts,
            results=_html(results_table(folder).reset_index()),
            published="" if others.empty else _html(others),
            verdict=read_json(folder / "verification.json"),
            sections=[
                (section, list(_pictures(section, place)))
                for section in (CLASS_SECTIONS if tells_classes else SECTIONS)
            ],
            made_by=provenance(),
        )
    )
    return write_atomic(folder / "evaluation.html", html)


def _drawn(cfg) -> Iterator[tuple[str, insight.Drawn]]:
    search = insight.search(cfg)
    yield "confusions", insight.confusions(search)
    yield "cameras", insight.camera_pairs(search)
    yield "plane", insight.plane(search)
    if hasattr(search.network, "featuremaps"):
        yield "attention", insight.attention(search, search.found.sorted_queries()[:10])


def _pictures(section: Section, place: Path) -> Iterator[tuple[str, str, str | None]]:
    """Name, image as a data URI, and table as HTML or None, of each picture that is there."""
    for name in section.pictures:
        picture, table = place / f"{name}.png", place / f"{name}.csv"
        if picture.exists():
            yield name, data_uri(picture), _html(pd.read_csv(table).head(TABLE_ROWS)) if table.exists() else None


def _html(table: pd.DataFrame) -> str:
    return table.to_html(border=0, na_rep="–", float_format="{:.3f}".format, index=False, justify="left")
