"""The card of a run, held against the files that it links to: every figure stands in one of them."""

import csv
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from omegaconf import OmegaConf
from PIL import Image

import reidlab
from reidlab import card, cli
from reidlab.card import closing, network, published, results, use
from reidlab.card.parts import Table
from reidlab.card.render import md_code, text
from reidlab.config import CLONE, compose, compose_for, training_differences
from reidlab.deploy.c_export import export_c
from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.run import File, Row, Run, provenance
from reidlab.stages import export, report

PLAIN = r"(?<![\w.+-])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.+]\w|\w)"
NUMBER = re.compile(r"(?<![\w.+-])-?\d{1,3}(?:,\d{3})+(?![,.]?\d)|" + PLAIN)
FACTORS = (1, 1e3, 1e6, 1e9, 1024)  # of the units that a card writes
HOSTILE = "R&D [x](y) 'a' `b` #1 {{ 7 }} $z$"


class Page(HTMLParser):
    """Blocks of a page, (texts, links), where a block ends with its line "from ..."; and what else tests ask for."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.sources, self.texts, self.commands, self.blocks = [], [], [], [], [], []
        self.words, self.inside, self.naming = "", [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.sources += [attrs[name] for name in ("src",) if name in attrs]
        if tag == "a":
            self.links.append(unquote(attrs["href"]))
            if self.naming:
                self.blocks[-1][1].append(unquote(attrs["href"]))
        if tag not in ("img", "meta", "link", "br"):
            self.inside.append(tag)
        if tag in ("table", "ul") or (tag == "p" and "ul" not in self.inside[:-1]):
            self.texts = []
        if tag in ("td", "th", "p", "li", "code"):
            self.words = ""

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        if "style" in self.inside:
            return
        if data.strip() == "from" and self.inside[-1] in ("p", "sub"):
            self.blocks.append((self.kept, []))
            self.naming = True
        self.words += data

    def handle_endtag(self, tag):
        if tag == "code":
            self.commands.append(self.words)
        if tag in ("td", "li", "p") and not self.naming:
            self.texts.append(" ".join(self.words.split()))
        if tag == "p":
            self.naming = False
        if tag in ("table", "ul", "p"):
            self.kept = self.texts
        self.inside.pop()


def rendered(markdown):
    """Markdown without its front matter, as an independent renderer shows it."""
    body = markdown.split("---\n", 2)[2]
    return Page(MarkdownIt("commonmark").enable("table").render(body))


def stands_in(cell, files):
    """Whether a text, or each number in it, is in one of the files, in the card's units and digits."""
    if any(cell in content for content in files):
        return True
    known = [float(number) for content in files for number in re.findall(PLAIN, content)]
    for found in NUMBER.findall(cell):
        shown = found.replace(",", "")
        digits = len(shown.partition(".")[2]) if "e" not in shown else 12
        if not any(
            abs(number / factor - float(shown)) <= 0.5001 * 10**-digits for number in known for factor in FACTORS
        ):
            return False
    return True


def check_figures(page, folder):
    assert len(page.blocks) > 8
    for texts, links in page.blocks:
        assert links
        files = [(folder / link).read_text(errors="replace") for link in links]
        files = [re.sub(r'"', "", content) for content in files]
        for cell in texts:
            assert stands_in(cell, files), (cell, links)


REID = {
    "checkpoint": {"mAP": 0.71234, "rank-1": 0.83751, "rank-5": 0.98, "num_query": 160, "num_gallery": 880},
    "checkpoint+flip": {"mAP": 0.72, "rank-1": 0.84, "rank-5": 0.981, "num_query": 160, "num_gallery": 880},
    "onnx": {"mAP": 0.71231, "rank-1": 0.8375, "num_query": 160.0, "num_gallery": 880.0, "drop": 0.003,
             "size_kib": 849.17, "ms_1_thread": 1.881, "ms_2_threads": 2.52},
    "tflite int8": {"mAP": 0.69461, "rank-1": 0.8125, "num_query": 160.0, "num_gallery": 880.0, "drop": 1.773,
                    "size_kib": 414.29, "ms_1_thread": 3.007, "ms_2_threads": 2.35},
    "emulated m7": {"bit_exact_images": 24, "instructions": 49_497_754, "flash_bytes": 270_304, "ram_bytes": 44_032,
                    "stack_bytes": 928, "estimated_ms_216_mhz": 181.4, "estimated_ms_216_mhz_low": 151.2,
                    "estimated_ms_216_mhz_high": 217.9, "estimated_ms_400_mhz": 97.64,
                    "estimated_ms_400_mhz_low": 81.36, "estimated_ms_400_mhz_high": 117.3},
}  # fmt: skip
VERDICT = {
    "distance": "cosine", "threshold": 0.103567, "threshold_low": 0.0905, "threshold_high": 0.17929,
    "calibrated_on": "validation", "wanted_fpr": 0.001, "test_tpr": 0.07417, "test_fpr": 0.000189,
}  # fmt: skip
ESTIMATES = pd.DataFrame(
    {
        "board": ["STM32H747I-DISCO", "STM32F769I-DISCO"],
        "by": ["estimate, STEdgeAI Core 3.0.0", "estimate, STM32Cube.AI 7.3.0"],
        "ram_kib": [331.9, np.nan],
        "flash_kib": [247.28, np.nan],
        "latency_ms": [132.81, 341.71],
        "interval_ms": ["106.7 to 165.3", None],
        "fits": [True, None],
        "note": [None, "all: no published network has ADD, MUL"],
    }
)
TRAINED = {"finished": True, "epochs": 16, "best_val_mAP": 0.8618, "num_identities": 88, "data_hash": "26c4e504"}


def composed(root, name, *overrides):
    """A run that has its config."""
    run = Run.compose([f"run.root={root}", f"run.name={name}", *overrides])
    run.keep_config()
    return run


def checkpoint(run, seed):
    """Weights in the place of the run's best checkpoint."""
    (run / File.BEST).parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": run.untrained_network().state_dict() | {"seed": torch.tensor(seed)}}, run / File.BEST)


def record_all(run):
    """A run of which everything is recorded, by hand but for its export."""
    made_from = {"checkpoint": run.checkpoint}
    write_json(run / File.TRAINING, TRAINED | made_from | provenance())
    run.record(REID, {"distance": "cosine"}, run.checkpoint)
    write_json(run / File.VERIFICATION, VERDICT | made_from)
    for row in ("checkpoint", "checkpoint+flip"):
        write_json(run / File.EVALUATE / row / "intervals.json", {"mAP": [0.66, 0.77], "rank-1": [0.76, 0.89]})
    export.run(run)
    table = pd.DataFrame.from_dict({row: REID[row] for row in ("checkpoint", "onnx", "tflite int8")}, orient="index")
    run.write(File.PARITY, table.assign(method="equalized", **made_from).rename_axis("stage").to_csv())
    write_json(run / File.QUANTIZE_MADE_BY, provenance())
    write_json(run / File.FIRMWARE, {"emulated m7": REID["emulated m7"]} | made_from)
    rows = pd.DataFrame({"rule": ["all"], "peak_bytes": [44_032], "lower_bound_bytes": [40_976], "macs": [21_677_696]})
    run.write(File.C_MEMORY, rows.to_csv(index=False))
    lifetimes = pd.DataFrame({"label": ["a"], "first": [0], "last": [1], "offset": [0], "bytes": [44_032]})
    run.write(File.C_LIFETIMES, lifetimes.to_csv(index=False))
    defines = {"EMBEDDING_SIZE": 512, "WEIGHT_BYTES": 236_100, "TABLE_BYTES": 5_000}
    run.write(File.C_HEADER, "\n".join(f"#define REID_{name} {value}   /* bytes */" for name, value in defines.items()))
    run.write(File.C_SOURCE, "int model;")
    run.write(File.ESTIMATES, ESTIMATES.to_csv(index=False))
    run.write(f"{File.DEPLOY}/{run.name}_edge_linux.zip", b"")
    summary = "split,identities,images,cameras,distractors\ntrain,88,2112,4,0\ngallery,40,880,4,80\n"
    run.write(File.DATA_SUMMARY, summary)
    run.write(File.DATA_FINDINGS, "level,kind,where,message\nwarning,duplicate,a.jpg,same as b.jpg\n")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    run = composed(
        tmp_path_factory.mktemp("runs"), "full", "experiment=demo", "data=deepsportradar", "data.size=[64,32]"
    )
    record_all(run)
    return run.folder, card.write_card(run).read_text(), (run / File.CARD_MARKDOWN).read_text()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    names = ["daisy", "<b>rose</b>|", "tulip"]
    overrides = ["data=flowers", "model=fdmobilenet_x0_25", "data.size=[128,128]"]
    run = composed(tmp_path_factory.mktemp("runs"), "petals", *overrides)
    trained = {"finished": True, "epochs": 3, "best_val_top-1": 0.91, "classes": names}
    write_json(run / File.TRAINING, trained | provenance())
    figures = {"top-1": 0.8765, "top-5": 0.99, "num_images": 375}
    rows = {"checkpoint": figures, "tflite int8": figures | {"top-1": 0.8721, "drop": 0.44, "size_kib": 139.0}}
    write_json(run / File.METRICS, rows)
    return run.folder, card.write_card(run).read_text(), (run / File.CARD_MARKDOWN).read_text()


@pytest.mark.parametrize("run", ["full", "classifier"])
def test_every_figure_is_in_a_file_that_stands_beside_it(run, request):
    folder, html, markdown = request.getfixturevalue(run)
    for page in (Page(html), rendered(markdown)):
        check_figures(page, folder)
        links = [link for link in page.links if not link.startswith("#")]
        assert len(links) > 20 and [link for link in links if not (folder / link).is_file()] == []


def test_the_page_and_the_markdown_say_the_same(full):
    _, html, markdown = full
    page, twin = Page(html), rendered(markdown)
    assert page.blocks == twin.blocks
    assert page.commands and set(page.commands) == set(twin.commands)


def test_the_page_needs_no_other_file_and_has_no_script(full):
    page = Page(full[1])
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert "prefers-color-scheme: dark" in full[1] and not re.search(r"@import|url\(", full[1].partition("</style>")[0])


def cells(page, title):
    """The rows of the table whose first cell of a row is the title."""
    return next(texts for texts, _ in page.blocks if title in texts)


@pytest.mark.parametrize(("runtimes", "count"), [("litert", 0), ("litert,openvino", 1)])
def test_a_runtime_that_nobody_asked_for_is_not_missed(runtimes, count, tmp_path):
    run = Run.compose(["experiment=smoke", f"run.root={tmp_path}", f"quantize.runtimes=[{runtimes}]"])
    assert sum(row[0] == "int8 ONNX, OpenVINO" for row in results.parity(run).parts[0].rows) == count


def test_parity_has_a_row_for_each_form_and_says_what_is_not_measured(full):
    page = Page(full[1])
    found = cells(page, "checkpoint")
    parity = cells(page, "TFLite")
    assert found[1] == "0.712 [0.660, 0.770]"
    places = [parity.index(form) for form in ("checkpoint", "ONNX", "int8 ONNX, ONNX Runtime", "TFLite", "int8 TFLite")]
    assert places == sorted(places)
    onnx_row = parity[parity.index("ONNX") :][:10]
    assert onnx_row == ["ONNX", "0.712", "0.838", "–", "0.00", "160 + 880", "849.2", "1.88", "2.52", "–"]
    tflite = parity[parity.index("TFLite") :][:10]
    assert tflite == ["TFLite", *["–"] * 4, "not measured", *["–"] * 4]
    c_row = parity[parity.index("C, emulated Cortex-M7: 24 of 24 embeddings bit-equal") :][:10]
    assert c_row[1:] == ["–", "–", "–", "–", "24", "264.0", "–", "–", "49.5"]
    assert "reidlab quantize run.name=full" in page.commands


def test_commands_of_stages_are_listed_as_they_were_given(tmp_path):
    run = Run.compose(["experiment=smoke", f"run.root={tmp_path}", "run.name=flipped"])
    run.keep_config()
    run.record({Row.TFLITE_INT8: {"mAP": 0.4}})
    assert "evaluate" not in str(closing.again(run))
    run.record({Row.CHECKPOINT: {"mAP": 0.5}})
    run.write(File.COMMANDS, '{"evaluate": ["evaluate.flip=true"], "report": []}')
    table = next(part for part in closing.again(run).parts if isinstance(part, Table))
    evaluated, reported = ("reidlab evaluate evaluate.flip=true run.name=flipped", "reidlab report run.name=flipped")
    assert [cell.text for row in table.rows for cell in row] == [evaluated, reported]


def test_published_figures_stand_apart_from_ours(full):
    html = full[1]
    groups = re.findall(r'<th colspan="\d+" class="group (\w+)">', html)
    assert ">measured, KiB, 64x32</th>" in html
    assert {"published", "estimated", "measured"} <= set(groups)
    assert groups.index("published") < groups.index("estimated") < groups.index("measured")
    boards = cells(Page(html), "STM32F769I-DISCO")
    h747 = boards[boards.index("STM32H747I-DISCO") :][:9]
    assert h747[1:6] == ["Cortex-M7, 400 MHz", "DeepSportradar", "256x128x3", "495.13", "STEdgeAI Core 3.0.0"]
    assert h747[6:] == ["132.8", "106.7 to 165.3", "–"]
    c_at = boards.index("C, emulated Cortex-M7, 400 MHz")
    assert boards[c_at + 5 : c_at + 9] == ["–", "97.6", "81.4 to 117.3", "–"]


def test_front_matter_is_what_hubs_read(full, classifier):
    front = yaml.safe_load(full[2].split("---\n")[1])
    assert {"license", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"} == set(front)
    assert front["license"] == "apache-2.0" and front["pipeline_tag"] == "image-feature-extraction"
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"] == {"type": "deepsportradar", "name": "deepsportradar", "split": "test"}
    found = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert found == {
        "mAP": 0.7123, "rank-1": 0.8375, "rank-5": 0.98, "mAP, int8 .tflite": 0.6946, "rank-1, int8 .tflite": 0.8125,
    }  # fmt: skip
    classes = yaml.safe_load(classifier[2].split("---\n")[1])
    assert classes["pipeline_tag"] == "image-classification" and classes["license"] == "unknown"
    assert classes["metrics"] == ["accuracy"]  # of five classes, all are among the first five


def test_names_are_text_and_not_markup(tmp_path):
    cfg = compose([f"run.root={tmp_path}", "data.size=[64,32]", "logger=none"])
    OmegaConf.update(cfg, "run.name", HOSTILE)
    cfg.model.name, cfg.data.about.source = "<script>alert(1)</script>|x", "a | b\n# c"
    run = Run.of(cfg)
    run.keep_config()
    run.record({"checkpoint": REID["checkpoint"], "x](y) <i>.onnx": REID["onnx"]})
    html = Page(card.write_card(run).read_text())
    markdown = (run / File.CARD_MARKDOWN).read_text()
    twin = rendered(markdown)
    assert yaml.safe_load(markdown.split("---\n")[1])["model-index"][0]["name"] == HOSTILE
    for page in (html, twin):
        assert not {"script", "i", "em"} & set(page.tags)
        assert any("<script>alert(1)</script>|x" in cell for texts, _ in page.blocks for cell in texts)
        assert any("x](y) <i>.onnx" in texts for texts, _ in page.blocks)
    assert html.blocks == twin.blocks
    assert shlex.join(["reidlab", "export", f"run.name={HOSTILE}"]) in set(html.commands) & set(twin.commands)


@pytest.mark.parametrize("words", ["a|b", "`lonely", "<b>*_x_*", "[a](b)", "1 < 2 & 3", "~~x~~ $y$ {z}"])
def test_words_survive_markdown(words):
    html = MarkdownIt("commonmark").enable("table").render(f"| x |\n|---|\n| {text(words)} |\n")
    assert Page(html).texts == [words]


@pytest.mark.parametrize("command", ["a b", "a `b`", "`", "a | b"])
def test_commands_survive_markdown(command):
    html = MarkdownIt("commonmark").enable("table").render(f"| x |\n|---|\n| {md_code(command)} |\n")
    assert Page(html).commands == [command]


def test_a_run_that_has_only_begun_says_what_to_run(tmp_path):
    run = Run.compose(["experiment=demo", f"run.root={tmp_path}", "run.name=new", "data.root=/home/me/people"])
    with pytest.raises(InputError, match=r"new: not evaluated; run `reidlab evaluate run\.name=new` first"):
        report.run(run)
    run.keep_config()
    assert report.run(run) is run and not run.has(File.EVALUATION_PAGE)
    html = (run / File.CARD).read_text()
    page = Page(html)
    commands = [words for words in page.commands if words.startswith("reidlab ") and "run.name" in words]
    assert {command.split()[1] for command in commands} == {
        "data", "train", "evaluate", "export", "quantize", "deploy", "report",
    }  # fmt: skip
    for command in commands:
        words = command.split()[1:]
        compose(cli.build_parser().parse_args(words).overrides)
    assert "/home/me" not in html
    assert page.tags.count("b") == 5 and html.count("not measured</span>") == 4


def test_what_is_said_of_the_data_is_no_training_setting(tmp_path):
    cfg = compose(["data=market1501", f"run.root={tmp_path}", "run.name=old"])
    old = OmegaConf.create(OmegaConf.to_container(cfg))
    del old.data["about"], old["card"]
    assert training_differences(old, cfg) == [] == training_differences(cfg, old)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text(OmegaConf.to_yaml(old))
    later = compose_for([f"run.root={tmp_path}", "run.name=old", "data.about.license=CC0-1.0"])
    assert later.data.about.license == "CC0-1.0" and later.data.about.source and later.card.pipeline_tag


def rows_of(run):
    """The lines of two columns in a card, by their first."""
    card.write_card(run)
    lines = [line.split(" | ") for line in (run / File.CARD_MARKDOWN).read_text().splitlines()]
    return {line[0].removeprefix("| "): line[1].removesuffix(" |") for line in lines if len(line) == 2}


def test_who_chooses_the_epoch_is_counted_and_not_the_fraction_asked_for(tmp_path):
    """Of 40 identities a tenth is too few, and ten were set aside."""
    run = composed(tmp_path, "few", "data=market1501", "data.val_fraction=0.1")
    assert rows_of(run)["set aside for validation"] == "0.1 of the training people, or 10 where that is more"
    header = "split,identities,images,cameras,distractors\n"
    run.write(File.DATA_SUMMARY, header + "train,30,314,6,0\nval_query,10,28,6,0\nval_gallery,9,75,6,0\n")
    assert rows_of(run)["set aside for validation"] == "10 people, beside 30 to learn from"
    run.write(File.DATA_SUMMARY, header + "train,9,27,6,0\n")
    assert rows_of(run)["set aside for validation"] == "nobody"


@pytest.mark.parametrize(("given", "said", "unsaid"), [("60", "time", "epochs"), ("null", "epochs", "time")])
def test_what_ended_the_training_is_said(given, said, unsaid, tmp_path):
    run = composed(tmp_path, "timed", "experiment=people_in_an_hour", f"trainer.max_time={given}")
    write_json(run / File.TRAINING, TRAINED)
    found = {name.split()[0]: value for name, value in rows_of(run).items() if name.startswith(("time (", "epochs at"))}
    assert found == {said: "60"} and unsaid not in found


def test_published_rows_are_of_the_same_network_and_the_newest_tool():
    rows = published.stm32("fdmobilenet_x0_25", "flowers", (128, 128))
    assert set(rows["dataset"]) == {"tf_flowers"} and set(rows["resolution"]) == {"128x128x3"}
    assert rows["board"].is_unique and rows.set_index("board").loc["STM32H747I-DISCO", "tool"].endswith("3.0.0")
    assert published.stm32("resnet50", "flowers", (128, 128)).empty
    other_size = published.stm32("osnet_x1_0", "market1501", (128, 64))
    assert set(other_size["resolution"]) == {"256x128x3"} and (other_size["alpha"] == "1.00").all()
    assert len(published.nvidia("reidentificationnet")) == 9 and published.nvidia("osnet_x0_25").empty
    with published.STM32.open() as file:
        known = {row["inference_ms"] for row in csv.DictReader(file)}
    assert {f"{value:g}" for value in rows["inference_ms"]} <= {f"{float(value):g}" for value in known if value}


OLD_FIGURES = {  # of the card's sections and tops, as they are written
    "0.712", "0.838", "0.980", "0.720", "0.840", "0.695", "0.812", "1.77", "849.2", "414.3", "414 KiB", "1.88", "3.01",
    "49.5", "264.0", "43.0", "43 KiB", "264 KiB", "0.1036", "0.074", "0.862", "equalized", "331.9", "132.8",
}  # fmt: skip


def shown(run):
    """The text of a run's card, as a page and as Markdown."""
    html = re.sub(r"<style>.*</style>|<[^>]*>", " ", card.write_card(run).read_text(), flags=re.DOTALL)
    return html + (run / File.CARD_MARKDOWN).read_text()


def test_figures_of_other_test_images_are_no_part_of_the_main_ones(tmp_path):
    """After another evaluation of the checkpoint those of its int8 file are of the former test split."""
    run = composed(tmp_path, "moved", "experiment=demo", "data.size=[64,32]")
    checkpoint(run, 1)
    run.record({"tflite int8": REID["tflite int8"]}, {"test": "former"}, run.checkpoint)
    run.record({"checkpoint": REID["checkpoint"]}, {"test": "new"}, run.checkpoint)
    names = [metric["name"] for metric in closing.front_matter(run)["model-index"][0]["results"][0]["metrics"]]
    assert "mAP" in names and not [name for name in names if "int8" in name]
    assert {figure.label: figure.value for figure in closing.figures(run)}["mAP in int8"] is None
    assert "The figures of the checkpoint are of" in str(closing.limits(run))


def test_an_int8_file_of_an_earlier_method_is_told_apart(tmp_path):
    run = composed(tmp_path, "twice", "experiment=demo", "data.size=[64,32]", "data.name=mine")
    record_all(run)
    for file in (File.ONNX_INT8, File.TFLITE_INT8):
        run.write(file, (run / File.ONNX).read_bytes())
    write_json(run / File.QUANTIZE_MADE_BY, provenance() | {"files": [File.ONNX_INT8, File.TFLITE_INT8]})
    assert "equalized" in (text := network._method(run, run.table_of(File.PARITY))) and "earlier" not in text
    write_json(run / File.QUANTIZE_MADE_BY, provenance() | {"files": [File.ONNX_INT8]})
    assert network._method(run, run.table_of(File.PARITY)) == "equalized; the .tflite by an earlier quantize"


def test_nothing_of_another_checkpoint_is_shown(tmp_path):
    run = composed(tmp_path, "replaced", "experiment=demo", "data.size=[64,32]", "data.name=mine")
    checkpoint(run, 1)
    record_all(run)
    estimates = ESTIMATES.assign(checkpoint=run.checkpoint)
    run.write(File.ESTIMATES, estimates.to_csv(index=False))
    run.record({Row.UNTRAINED: {"mAP": 0.0625, "num_query": 160, "num_gallery": 880}})
    before = shown(run)
    assert {figure for figure in OLD_FIGURES if figure in before} == OLD_FIGURES
    assert "another checkpoint" not in before and "export/model.onnx" in before and "arena.svg" in before

    checkpoint(run, 2)
    after = shown(run)
    assert "0.062" in after and not [figure for figure in OLD_FIGURES if re.search(rf"\b{figure}\b", after)]
    assert "arena.svg" not in after
    front = yaml.safe_load((run / File.CARD_MARKDOWN).read_text().split("---\n")[1])
    assert front["model-index"][0]["results"] == [] and not {"int8", "onnx"} & set(front["tags"])
    lines = re.findall(
        r"> Made by another checkpoint or file, not shown: (.*?)\. `(.*)`", (run / File.CARD_MARKDOWN).read_text()
    )
    assert {command: set(names.replace("\\", "").split(", ")) for names, command in lines} == {
        "reidlab evaluate run.name=replaced": {"row checkpoint", "row checkpoint+flip", "verification.json"},
        "reidlab quantize run.name=replaced": {"row onnx", "row tflite int8", "quantize/parity.csv"},
        "reidlab deploy deploy=c run.name=replaced": {
            "row emulated m7", "deploy/c/firmware.json", "deploy/c/src/reid.h"},
        "reidlab deploy deploy=stm32 run.name=replaced": {"deploy/stm32/estimates.csv"},
        run.command_from_config("train run.overwrite=true"): {"train.json"},
        "reidlab export run.name=replaced": {"export/model.onnx"},
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["vehicle", "animal", "player", "person", "null"])
def test_the_words_follow_what_the_data_shows(kind, tmp_path):
    run = composed(tmp_path, "kind", "data=csv", f"data.about.kind={kind}", "data.size=[64,32]", "logger=none")
    run.record({Row.CHECKPOINT: REID["checkpoint"]})
    write_json(run / File.VERIFICATION, VERDICT)
    write_json(run / File.TRAINING, TRAINED | provenance())
    words = card.write_card(run).read_text().partition("</style>")[2]
    one, several = {"null": ("identity", "identities"), "person": ("person", "people")}.get(kind, (kind, f"{kind}s"))
    assert f"Two crops show the same {one} if" in words and f"over the test {several}." in words
    assert f"images per {one} in a batch" in words and f"of the training {several}" in words
    others = {"person", "vehicle", "animal", "player"} - {kind}
    assert not [other for other in others if re.search(rf"same {other}|test {other}|{other} in a batch", words)]


def test_the_c_has_no_accuracy_whatever_its_row_holds(tmp_path):
    """Rows of earlier releases have an mAP over a few images; later ones may lack any key."""
    run = composed(tmp_path, "c", "data=csv", "data.size=[64,32]", "logger=none")
    old = {"mAP": 0.9375, "rank-1": 1.0, "num_query": 4, "num_gallery": 20, "bit_exact_images": 24}
    run.record({"emulated m7": old, "emulated m4": {"instructions": 2e6}})
    page = Page(card.write_card(run).read_text())
    parity = cells(page, "C, emulated Cortex-M7: 24 of 24 embeddings bit-equal")
    m7, m4 = (next(n for n, cell in enumerate(parity) if cell.startswith(f"C, emulated Cortex-M{k}")) for k in (7, 4))
    assert parity[m7 + 1 : m7 + 5] == ["–"] * 4 and parity[m4 + 1 : m4 + 5] == ["–"] * 4
    assert parity[m7 + 5 : m7 + 9] == ["4 + 20", "–", "–", "–"] and parity[m4 + 5 : m4 + 9] == ["–", "–", "–", "2.0"]


def test_deploy_targets_are_those_of_the_folder(full):
    commands = [words for words in Page(full[1]).commands if words.startswith("reidlab deploy") and "=full" in words]
    made = [command for command in commands if "nvidia" not in command]
    assert {re.search(r"deploy=(\w+)", command)[1] for command in made} == {"c", "edge_linux", "stm32"}


def test_networks_without_blocks_have_a_card(tmp_path):
    run = composed(tmp_path, "plain", "model=color_histogram")
    assert "ColorHistogram" in card.write_card(run).read_text()
    assert not (run / "card" / "network.svg").exists()


def test_the_c_of_another_prefix_has_its_names(full, tmp_path):
    shutil.copytree(full[0], tmp_path / "gate")
    run = Run(tmp_path / "gate")
    header = run / File.C_HEADER
    header.with_name("gate.h").write_text(header.read_text().replace("REID", "GATE"))
    (run / File.C_SOURCE).rename(header.with_name("gate_model.c"))
    header.unlink()
    card.write_card(run)
    (code,) = (part.text for part in use.use(run).parts[1:] if part.language == "c")
    assert "reid" not in code.lower() and '#include "gate.h"' in code and "gate_run(image, embeddings);" in code
    assert code == re.search(r"```c\n(.*?)```", (run / File.CARD_MARKDOWN).read_text(), re.DOTALL)[1]
    assert "deploy/c/src/gate.h" in run.table_of(network.FILES)["file"].tolist()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc: apt-get install gcc")
@pytest.mark.parametrize("data", ["folders", "flowers"])
@pytest.mark.parametrize(("arena", "prefix"), [("static", "reid"), ("caller", "reid"), ("caller", "gate")])
def test_the_lines_of_c_compile_as_they_stand(arena, prefix, data, tmp_path):
    run = composed(tmp_path, "c", f"data={data}", "data.size=[32,32]", "model=fdmobilenet_x0_25")
    file = CLONE / "data" / "models" / "flowers_fdmobilenet_x0_25_128" / File.TFLITE_INT8
    export_c(file, run / File.DEPLOY_C, arena=arena, prefix=prefix, classes="abcde" if run.is_classifier else ())
    (code,) = (part.text for part in use.use(run).parts if getattr(part, "language", "") == "c")
    include, _, lines = code.partition("\n")
    (tmp_path / "main.c").write_text(f"{include}\nint main(void) {{\n{lines}\nreturn 0;\n}}\n")
    flags = ["-std=c99", "-Werror=implicit-function-declaration", "-I", run / File.DEPLOY_C / "src"]
    built = [
        "gcc",
        *flags,
        tmp_path / "main.c",
        *(run / File.DEPLOY_C / "src").glob("*.c"),
        "-lm",
        "-o",
        tmp_path / "m",
    ]
    done = subprocess.run(built, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "32 x 32" not in code  # of the settings: the network's images are of 128 x 128


def test_the_lines_of_code_give_what_the_files_do(full, tmp_path, monkeypatch):
    """Each Python snippet is executed beside its card: of a classifier, of embeddings, of all files."""
    image = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 80, 3), np.uint8)).save(image)
    kept = [CLONE / "data" / "models" / name for name in ("flowers_fdmobilenet_x0_25_128", "demo_osnet_x0_25")]
    titles = []
    for folder in (*kept, full[0]):
        monkeypatch.chdir(folder)
        for part in use.use(Run(folder)).parts[1:]:
            titles.append(part.title)
            if part.language == "c":
                assert part.text.startswith('#include "reid.h"\n')
                continue
            names: dict = {}
            exec(re.sub(r'"[ab].jpg"', repr(str(image)), part.text), names)
            own = next(names[key] for key in ("scores", "embeddings") if key in names)
            file = re.search(r'"((?:checkpoints|export)/[^"]+)"', part.text)[1]
            tolerance = (
                0.02 if "int8" in file else 1e-4
            )  # LiteRT's fast kernels round otherwise than its reference ones
            wanted = reidlab.load(folder / file)(image)[0]
            np.testing.assert_allclose(own[0], wanted, atol=tolerance, err_msg=part.title)
    assert {"Python", "LiteRT", "ONNX Runtime", "C"} == {*titles}


def test_the_test_split_is_named_by_its_digest_and_sizes(tmp_path):
    run = composed(tmp_path, "split", "data=csv", "data.size=[64,32]", "logger=none")
    run.record({Row.CHECKPOINT: REID["checkpoint"]}, {"test": "ab12" * 16})
    for shown in (card.write_card(run).read_text(), (run / File.CARD_MARKDOWN).read_text()):
        assert "ab12" * 16 in shown and "160 queries, 880 gallery images" in shown
        assert "privacy.share_images=true" in shown  # where sample images would be
