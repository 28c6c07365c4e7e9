"""The report of a small run: complete, self-contained, and safe against what names may contain."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from reidlab.card import published
from reidlab.config import compose
from reidlab.errors import InputError
from reidlab.stages import evaluate, report

ADDRESSES = {"src", "href", "action", "data", "srcset", "poster"}


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ADDRESSES]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def cfg(small, tmp_path_factory):
    """A run that is evaluated with its initial weights."""
    root = tmp_path_factory.mktemp("runs")
    own = [f"run.root={root}", "run.name=drawn", "model=osnet_x0_25", "model.name='R&D <b>'", "evaluate.resamples=20"]
    return compose([*small, *own])


@pytest.fixture(scope="module")
def page(cfg):
    evaluate.run(cfg)
    return Page(report.run(cfg).read_text())


def test_it_asks_no_other_file_or_host_for_anything(page):
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import", page.text)


def test_every_section_has_its_pictures(page):
    for section in report.SECTIONS:
        assert section.title in page.text
    assert page.tags.count("img") == sum(len(section.pictures) for section in report.SECTIONS)
    targets = {a for a in page.addresses if a.startswith("#")}
    assert len(targets) == len(report.SECTIONS)


def test_it_says_the_figures_the_threshold_and_what_made_it(page, cfg):
    table = evaluate.results_table(report.run_folder(cfg))
    assert table.loc["checkpoint", "mAP"] in page.text
    assert "Two images are of one person if their euclidean distance is at most" in page.text
    assert re.search(r"Made by reidlab \d", page.text)


def test_published_figures_stand_beside(page):
    assert "Published for this data set" in page.text and "0.826" in page.text and "DeepSport" not in page.text
    table = published.accuracy("market1501", "osnet_x0_25")
    assert table["network"].iloc[0] == "osnet_x0_25" and len(table) > 5
    assert published.accuracy("synthetic", "osnet_x0_25").empty
    assert pd.read_csv(published.ACCURACY)[["mAP", "rank-1", "top-1"]].stack().dropna().between(0, 1).all()


def test_names_are_text_and_not_markup(page):
    assert "model: R&D <b>" in page.text


def test_pictures_and_their_tables_stay_in_the_run_folder(page, cfg):
    place = report.run_folder(cfg) / "evaluate" / "checkpoint"
    for name in ("confusions", "cameras", "plane", "attention"):
        assert (place / f"{name}.png").stat().st_size > 1000 and (place / f"{name}.csv").exists()


def test_a_run_without_an_evaluation_is_told_to_evaluate(cfg):
    other = compose(["experiment=smoke", f"run.root={cfg.run.root}", "run.name=new"])
    with pytest.raises(InputError, match=r"new: not evaluated; run `reidlab evaluate run\.name=new` first"):
        report.run(other)
