"""Stage `report`: one self-contained HTML page of what an evaluation found, to open, mail or archive."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment

from reidlab import insight
from reidlab.config import ROOT, run_folder
from reidlab.errors import InputError
from reidlab.evaluate import MAIN_ROW, results_table
from reidlab.runs import provenance, read_json, write_atomic
from reidlab.show import save_figure
from reidlab.tasks import known_classes

TABLE_ROWS = 30
PUBLISHED = ROOT / "data" / "published_results.csv"


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
    """Draw what an evaluated run's network confuses and sees, and write `evaluation.html`, which is returned.

    What stage `evaluate` drew of a network that tells classes is shown as it is.

    Raises InputError where the run isn't evaluated yet.
    """
    folder = run_folder(cfg)
    place = folder / "evaluate" / MAIN_ROW
    if MAIN_ROW not in read_json(folder / "metrics.json"):
        raise InputError(f"{folder}: not evaluated; run `reidlab evaluate run.name={folder.name}` first")
    tells_classes = bool(known_classes(cfg))
    for name, drawn in () if tells_classes else _drawn(cfg):
        save_figure(drawn.figure, place / f"{name}.png")
        write_atomic(place / f"{name}.csv", drawn.table.to_csv(index=drawn.table.index.name is not None))
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    others = published(cfg.data.name, cfg.model.name)
    facts = {"model": cfg.model.name, "data": cfg.data.name}
    if tells_classes:
        facts["classes"] = ", ".join(known_classes(cfg))
    else:
        same_camera = "left out" if cfg.evaluate.exclude_same_camera else "counted"
        facts |= {"distance": cfg.evaluate.distance, "same-camera matches": same_camera}
    html = page.render(
        name=folder.name,
        facts=facts,
        results=_html(results_table(folder).reset_index()),
        published="" if others.empty else _html(others),
        verdict=read_json(folder / "verification.json"),
        sections=[
            (section, list(_pictures(section, place))) for section in (CLASS_SECTIONS if tells_classes else SECTIONS)
        ],
        made_by=provenance(),
    )
    print(f"report: {write_atomic(folder / 'evaluation.html', html)}")
    return folder / "evaluation.html"


def published(data: str, network: str) -> pd.DataFrame:
    """What others have published for a data set, as fractions; the rows of the same network first."""
    rows = pd.read_csv(PUBLISHED, keep_default_na=False)
    rows = rows[rows["data"] == data].drop(columns="data")
    return rows.sort_values("network", key=lambda names: names != network, kind="stable")


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
            uri = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
            yield name, uri, _html(pd.read_csv(table).head(TABLE_ROWS)) if table.exists() else None


def _html(table: pd.DataFrame) -> str:
    return table.to_html(border=0, na_rep="–", float_format="{:.3f}".format, index=False, justify="left")


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: evaluation</title>
<style>
:root { color-scheme: light dark; --line: #8884; --faint: #767676; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
nav a { margin-right: 1rem; } p { max-width: 46rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left; font-weight: normal; }
thead th { font-weight: 600; }
.scroll { overflow-x: auto; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); font-size: .85rem; }
img { display: block; max-width: 100%; height: auto; margin: .2rem 0; border: 1px solid var(--line); }
details { margin: .3rem 0 1rem; } summary { cursor: pointer; color: var(--faint); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); color: var(--faint); font-size: .85rem; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p>{% for key, value in facts.items() %}{{ key }}: {{ value }}{{ " · " if not loop.last }}{% endfor %}</p>
<nav>{% for section, _ in sections %}<a href="#s{{ loop.index }}">{{ section.title }}</a> {% endfor %}</nav>
<h2>Results on the test split</h2>
<p>With 95 % intervals over the test identities or images. Rows after <code>checkpoint+</code> are the same network
under another protocol; they stand beside the plain row and never replace it.</p>
<div class="scroll">{{ results | safe }}</div>
{% if published %}
<details open>
<summary>Published for these test images</summary>
<div class="scroll">{{ published | safe }}</div>
</details>
{% endif %}
{% if verdict %}
<p>Two images are of one person if their {{ verdict.distance }} distance is at most
<b>{{ "%.4g" | format(verdict.threshold) }}</b> (95 % interval {{ "%.4g" | format(verdict.threshold_low) }} to
{{ "%.4g" | format(verdict.threshold_high) }}), calibrated on the {{ verdict.calibrated_on }} identities for a false
positive rate of {{ "%g" | format(verdict.wanted_fpr) }}. On the test pairs it accepts
{{ "%.1f" | format(100 * verdict.test_tpr) }} % of the same and {{ "%.2g" | format(100 * verdict.test_fpr) }} % of the
different people.</p>
{% endif %}
{% for section, pictures in sections %}
{% if pictures %}
<h2 id="s{{ loop.index }}">{{ section.title }}</h2>
<p>{{ section.text }}</p>
{% for name, uri, table in pictures %}
<figure>{% if pictures | length > 1 %}<figcaption>{{ name }}</figcaption>{% endif %}
<img src="{{ uri }}" alt="{{ section.title }}: {{ name }}"></figure>
{% if table %}
<details><summary>{{ name }} as a table</summary><div class="scroll">{{ table | safe }}</div></details>
{% endif %}
{% endfor %}
{% endif %}
{% endfor %}
<footer>Made by reidlab {{ made_by.versions.reidlab }}, commit {{ made_by.git_commit or "unknown" }},
{{ made_by.time }}.</footer>
</body>
</html>
"""
