"""Stage `report`: a run's card, and one page about its evaluation; self-contained, to open, mail or archive."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reidlab import card
from reidlab.card import published
from reidlab.card.facts import NOT_RECORDED, emulated, form, is_tested_elsewhere, results_of, tested_on
from reidlab.card.parts import Table, of_frame
from reidlab.card.render import data_uri, page_environment
from reidlab.console import log, print_table
from reidlab.errors import InputError
from reidlab.evaluation import insight
from reidlab.files import storage_errors, sweep
from reidlab.plots import Drawn
from reidlab.plots.saving import save_figure
from reidlab.run import File, Row, Run, provenance

TABLE_ROWS = 30
CHARTS = ("cameras", "distances", "roc", "embedding_map", "confusion", "calibration")  # dark ink on white paper


@dataclass(frozen=True)
class Section:
    """A heading, what to look for, and PNG files in the evaluation's folder; each may have a CSV of the same name.

    `{one}` and `{several}` stand for what the crops show.
    """

    title: str
    text: str
    pictures: tuple[str, ...]


SECTIONS = (
    Section(
        "Rankings",
        "Worst, median and best queries by average precision: the query in blue, then its nearest gallery images with "
        "their distances. Green (✓) is the same {one}, red (✗) another.",
        ("worst", "median", "best"),
    ),
    Section(
        "Hardest confusions",
        "Each query with the first wrong match and its own nearest match; the largest gaps of all pairs of {several}. "
        "A similar appearance is an honest mistake; a shared background or a label error is not.",
        ("confusions",),
    ),
    Section(
        "Cameras",
        "mAP of the queries of one camera in the gallery of another, above the number of queries. A row or column of "
        "low mAP is a camera whose images differ from those of the others.",
        ("cameras",),
    ),
    Section(
        "Same {one}, or not?",
        "Distances of all pairs that the protocol compares, the calibrated threshold, and the ROC curve.",
        ("distances", "roc"),
    ),
    Section(
        "The embedding space",
        "Test images of some {several}, laid out by t-SNE: color stands for the {one}, shape for the camera. Groups of "
        "one color are good, groups of one shape are bad; distances between groups mean nothing.",
        ("embedding_map",),
    ),
    Section(
        "Where the network looks",
        "The strength of the last feature maps over the worst queries. Warm areas in the background are a warning.",
        ("attention",),
    ),
)
CLASS_SECTIONS = (
    Section(
        "Confusion and calibration",
        "Images of each class by the predicted class; confidence against accuracy; and the mistakes with the highest "
        "confidence.",
        ("confusion", "calibration", "mistakes"),
    ),
)


@storage_errors()
def run(run: Run) -> Run:
    """Write the card of a run, and `evaluation.html` of an evaluated one.

    The latter shows a re-id network's confusions and attention, which are drawn now, and the pictures that stage
    `evaluate` left. Raises InputError where there is no run yet, or a released one.
    """
    run.require_own()
    sweep(run.folder)
    row = evaluated_row(run)
    if row is None and not run.has(File.CONFIG):
        raise InputError(f"{run.folder}: not evaluated; run `{run.command('evaluate')}` first")
    if row is None:
        (run / File.EVALUATION_PAGE).unlink(missing_ok=True)  # which another checkpoint's evaluation left
    else:
        log.info(f"report: {_write_evaluation(run, row)}")
    run.note_command("report")
    log.info(f"report: {card.write_card(run)}")
    return run


def print_forms(run: Run) -> None:
    """The checkpoint, its int8 file and its C on emulated cores, a row each, and where the card is."""
    shown = (*run.figures[:2], "size_kib", "flash_kib", "ram_kib", "ms_1_thread", "million_instructions")
    found = results_of(run)
    rows = {row: found[row].figures for row in (run.subject, Row.TFLITE_INT8) if row in found}
    table = pd.DataFrame.from_dict({form(row).name: found for row, found in (rows | emulated(run)).items()}, "index")
    table = table[[name for name in shown if name in table]].rename_axis("network")
    print_table(table, f"{run.name}: on the test split, as int8, and on a device")
    log.info(f"{'card':>9}: {run / File.CARD}")


def evaluated_row(run: Run) -> str | None:
    """The row that `evaluation.html` is about: what the run is, or else a file from elsewhere; None without both."""
    found = results_of(run)
    rows = [run.subject, *(row for row in found if row not in [*Row])]
    return next((row for row in rows if row in found and run.has(f"{File.EVALUATE}/{row}")), None)


def _write_evaluation(run: Run, row: str) -> Path:
    folder = f"{File.EVALUATE}/{row}"
    if row == Row.CHECKPOINT and not run.is_classifier:
        for name, drawn in _drawn(run):
            save_figure(drawn.figure, run / folder / f"{name}.png")
            run.write(f"{folder}/{name}.csv", drawn.table.to_csv(index=drawn.table.index.name is not None))
    others = published.accuracy(tested_on(run), run.subject_name)
    page = page_environment().get_template("evaluation.html")
    html = page.render(
        name=run.name,
        facts=_facts(run, row),
        over="images" if run.is_classifier else run.kind.several,
        kind=run.kind,
        results=of_frame(run.table().reset_index()),
        published=None if others.empty else of_frame(others),
        careful=run.incomparable,
        verdict=run.verdict if row == Row.CHECKPOINT else {},
        has_protocols=any(name.startswith(Row.CHECKPOINT.under("")) for name in run.results),
        charts=CHARTS,
        sections=list(_sections(run, folder)),
        reentry=run.reentry_page,
        made_by=provenance(),
    )
    return run.write(File.EVALUATION_PAGE, html)


def _facts(run: Run, row: str) -> dict[str, str]:
    """The lines below the title of the page."""
    network = run["model.name"] if row == Row.CHECKPOINT else row
    facts = {"model": network, "data": tested_on(run)}
    if row == Row.CHECKPOINT and is_tested_elsewhere(run):
        facts["trained on"] = then["data.name"] if (then := run.as_trained) else NOT_RECORDED
    if run.is_classifier:
        return facts | ({"classes": ", ".join(run.classes)} if run.classes else {})
    rules = run.rules_of(row)
    left_out = "left out" if rules["exclude_same_camera"] else "counted"
    return facts | {"distance": rules["distance"], "same-camera matches": left_out}


def _drawn(run: Run) -> Iterator[tuple[str, Drawn]]:
    retrieved = insight.retrieve(run)
    yield "confusions", insight.confusions(retrieved)
    yield "cameras", insight.camera_pairs(retrieved)
    yield "embedding_map", insight.embedding_map(retrieved)
    if hasattr(retrieved.network, "featuremaps"):
        yield "attention", insight.attention(retrieved, retrieved.found.sorted_queries()[:10])


def _sections(run: Run, folder: str) -> Iterator[tuple[str, str, list[tuple[str, str, Table | None]]]]:
    """Title, text and pictures of each section that has any: name, image as a data URI, table or None."""
    for section in CLASS_SECTIONS if run.is_classifier else SECTIONS:
        pictures = []
        for name in section.pictures:
            picture, table = run / folder / f"{name}.png", run.table_of(f"{folder}/{name}.csv")
            if picture.exists():
                pictures.append((name, data_uri(picture), of_frame(table.head(TABLE_ROWS)) if len(table) else None))
        if pictures:
            words = run.kind._asdict()
            yield section.title.format(**words), section.text.format(**words), pictures
