"""The report of a small run: complete, self-contained, and safe against what names may contain."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.card import published
from reidlab.errors import InputError
from reidlab.export.onnx import export
from reidlab.files import read_json, write_json
from reidlab.models import Confidences
from reidlab.run import File, Run
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
def run(small, tmp_path_factory):
    """A run that is evaluated with its initial weights."""
    root = tmp_path_factory.mktemp("runs")
    own = [f"run.root={root}", "run.name=drawn", "model=osnet_x0_25", "model.name='R&D <b>'", "evaluate.resamples=20"]
    return report.run(evaluate.run(Run.compose([*small, *own])))


@pytest.fixture(scope="module")
def page(run):
    return Page((run / File.EVALUATION_PAGE).read_text())


def test_it_asks_no_other_file_or_host_for_anything(page):
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert not re.search(r"url\(|@import", page.text)


def test_every_section_has_its_pictures(page):
    for section in report.SECTIONS:
        assert section.title.format(one="person") in page.text
    assert "{" not in page.text.partition("Results on the test split")[2]
    assert page.tags.count("img") == sum(len(section.pictures) for section in report.SECTIONS)
    targets = {a for a in page.addresses if a.startswith("#")}
    assert len(targets) == len(report.SECTIONS)


def test_it_says_the_figures_the_threshold_and_what_made_it(page, run):
    assert run.table().loc["checkpoint", "mAP"] in page.text
    assert "Two images show the same person if their euclidean distance is at most" in page.text.replace("\n", " ")
    assert re.search(r"Made by reidlab \d", page.text)


def test_the_page_is_of_the_rules_that_its_figures_were_measured_by(small, tmp_path):
    """They were given to `evaluate` alone, and the settings have others; distances against numpy's."""
    given = [*small, f"run.root={tmp_path}", "run.name=ruled", "model=osnet_x0_25", "evaluate.resamples=20"]
    other = ["evaluate.distance=cosine", "evaluate.exclude_same_camera=false"]
    evaluate.run(Run.compose([*given, "evaluate.flip=true"]))
    evaluate.run(Run.compose([*given, *other]))
    run = report.run(Run.compose(given))
    text = " ".join(Page((run / File.EVALUATION_PAGE).read_text()).text.split())
    assert "distance: cosine · same-camera matches: counted" in text
    assert "several distances, which don't compare: checkpoint cosine, checkpoint+flip euclidean" in text
    assert "both same-camera rules" in (run / File.CARD_MARKDOWN).read_text()
    drawn = pd.read_csv(run / File.EVALUATE / "checkpoint" / "confusions.csv").iloc[0]
    datamodule = run.datamodule()
    table = datamodule.test.reset_index(drop=True)
    values = evaluate.embed(run.network, datamodule, table, "cpu", "").values.double().numpy()
    query, found = (values[table.index[table["path"] == drawn[side]][0]] for side in ("query", "found"))
    cosine = query @ found / np.linalg.norm(query) / np.linalg.norm(found)
    assert drawn["distance"] == pytest.approx(1 - cosine, abs=1e-6)


def test_a_page_of_other_test_images_is_refused(small, tmp_path):
    given = [*small, f"run.root={tmp_path}", "run.name=moved", "model=osnet_x0_25", "evaluate.resamples=20"]
    run = evaluate.run(Run.compose(given))
    rows = read_json(run / File.METRICS)
    rows["checkpoint"]["made_by"]["protocol"]["test"] = "another digest"
    write_json(run / File.METRICS, rows)
    with pytest.raises(InputError, match=r"figures of other test images.*reidlab evaluate"):
        report.run(run)


def test_published_figures_stand_beside(page):
    assert "Published for this data set" in page.text and "0.826" in page.text and "DeepSport" not in page.text
    table = published.accuracy("market1501", "osnet_x0_25")
    assert table["network"].iloc[0] == "osnet_x0_25" and len(table) > 5
    assert published.accuracy("synthetic", "osnet_x0_25").empty
    assert pd.read_csv(published.ACCURACY)[["mAP", "rank-1", "top-1"]].stack().dropna().between(0, 1).all()


def test_names_are_text_and_not_markup(page):
    assert "model: R&D <b>" in page.text


def test_pictures_and_their_tables_stay_in_the_run_folder(page, run):
    place = run / "evaluate" / "checkpoint"
    for name in ("confusions", "cameras", "embedding_map", "attention"):
        assert (place / f"{name}.png").stat().st_size > 1000 and (place / f"{name}.csv").exists()


def test_a_run_without_an_evaluation_is_told_to_evaluate(run):
    other = Run.compose(["experiment=smoke", f"run.root={run.folder.parent}", "run.name=new"])
    with pytest.raises(InputError, match=r"new: not evaluated; run `reidlab evaluate run\.name=new` first"):
        report.run(other)


def test_words_follow_what_the_data_shows(small, tmp_path):
    own = [f"run.root={tmp_path}", "run.name=cars", "data.about.kind=vehicle", "evaluate.resamples=20"]
    run = report.run(evaluate.run(Run.compose([*small, *own, "model=osnet_x0_25"])))
    text = " ".join(Page((run / File.EVALUATION_PAGE).read_text()).text.split())
    assert "show the same vehicle if" in text and "Same vehicle, or not?" in text and "over the test vehicles" in text
    assert not re.search(r"same person|people|identit", text)


def test_the_page_of_another_checkpoints_evaluation_is_removed(small, tmp_path):
    run = Run.compose([*small, f"run.root={tmp_path}", "run.name=replaced", "model=osnet_x0_25"])
    run.keep_config()
    run.record({"checkpoint": {"mAP": 0.5}}, {}, "0123456789abcdef")
    run.write(File.EVALUATION_PAGE, "mAP 0.5")
    run.write("evaluate/checkpoint/intervals.json", "{}")
    report.run(run)
    card = (run / File.CARD).read_text()
    assert not run.has(File.EVALUATION_PAGE) and "row checkpoint" in card and "0.500" not in card


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Settings of a classification data set, and a classifier from elsewhere as weights and as ONNX."""
    root = tmp_path_factory.mktemp("foreign")
    overrides = [
        "data=shapes", f"data.root={root}/shapes", "data.source.images_per_class=8", "data.source.size=[32,32]",
        "data.size=[32,32]", "data.num_workers=0", "model=fdmobilenet_x0_25", "trainer.accelerator=cpu", "logger=none",
        f"run.root={root}/runs",
    ]  # fmt: skip
    network = Run.compose(overrides).untrained_network(5)
    torch.save({"state_dict": network.state_dict()}, root / "theirs.pth")
    (root / "theirs.onnx").write_bytes(export(Confidences(network).eval(), (32, 32), {})[0])
    return overrides, root


@pytest.mark.parametrize(
    ("key", "file", "row"),
    [
        ("model.weights", "theirs.pth", "checkpoint"),
        ("evaluate.file", "theirs.pth", "theirs.pth"),
        ("evaluate.file", "theirs.onnx", "theirs.onnx"),
    ],
)
def test_an_evaluated_classifier_from_elsewhere_has_its_report(key, file, row, foreign):
    overrides, root = foreign
    name = f"run.name={key}-{file}"
    evaluate.run(Run.compose([*overrides, name, f"{key}={root / file}"]))
    run = report.run(Run.resume([f"run.root={root}/runs", name]))
    assert run.is_classifier and not run.has(File.TRAINING) and list(run.results) == [row]
    page, card = Page((run / File.EVALUATION_PAGE).read_text()), Page((run / File.CARD).read_text()).text
    assert run.table().loc[row, "top-1"] in page.text and run.table().loc[row, "top-1"] in card
    assert "Confusion and calibration" in page.text and "over the test images" in page.text
    assert page.tags.count("img") >= 2 and not re.search(r"person|identit|Rankings", page.text)
    assert "5 class confidences" in card
    assert not re.search(r"person|test identities|(?<!-> )embedding", card)  # the output's name in the file
