"""README and docs: links lead somewhere, commands are understood, keys exist."""

import re
import shlex
import sys

import pandas as pd
import pytest
import yaml

from reidlab import cli
from reidlab.card import published
from reidlab.config import CLONE, choices, compose, instantiate
from reidlab.deploy.boards import BOARDS

sys.path.append(str(CLONE / "benchmarks"))
import choosing

PAGES = [CLONE / "README.md", CLONE / "CHANGELOG.md", *sorted((CLONE / "docs").glob("*.md"))]
COMMAND = re.compile(r"reidlab [a-z-]+(?![\w|/])[^`\n]*")
COMPOSED = {name for name, command in cli.COMMANDS.items() if command.overrides == "*"}


def commands():
    for page in PAGES:
        joined = page.read_text().replace("\\\n", " ")
        for number, line in enumerate(joined.splitlines(), start=1):
            for found in COMMAND.findall(line) if "`" in line or line.startswith("reidlab ") else ():
                yield pytest.param(found, page, id=f"{page.name}:{number}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("command", "page"), commands())
def test_commands_are_understood(command, page):
    """The command line parses, and the config composes with its overrides."""
    words = [word for word in shlex.split(command, comments=True)[1:] if word != "..."]
    if words[0] not in cli.COMMANDS:
        pytest.fail(f"there is no command {words[0]}")
    args = cli.build_parser().parse_args(words)
    if args.command in COMPOSED:
        overrides = cli._with_file(args.overrides)
        shown = re.findall(r"`conf/(\w+)/(\w+)\.yaml`", page.read_text())  # a file that the reader is to write
        own = {f"{group}={choice}" for group, choice in shown if choice not in choices(group)}
        compose(o for o in overrides if o not in own)


def test_every_key_of_the_protocols_page_exists():
    text = (CLONE / "docs" / "protocols.md").read_text()
    named = set(re.findall(r"`((?:data|evaluate|model|loss|schedule)\.[\w.]+)", text))
    cfg = compose(["model=resnet50"])
    assert len(named) > 10
    for key in named:
        node = cfg
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_the_tables_of_the_choosing_page_are_those_of_its_figures():
    table, text = pd.read_csv(choosing.TABLE), choosing.PAGE.read_text()
    assert choosing.with_tables(text, table) == text
    theirs = pd.read_csv(published.STM32)
    for column, known in (("published_latency_ms", "inference_ms"), ("published_weights_kib", "weights_flash_kib")):
        assert table[column].notna().sum() >= 8 and table[column].dropna().isin(theirs[known]).all()
    scores = pd.read_csv(published.ACCURACY)
    assert table["published_accuracy"].dropna().isin(scores[["mAP", "top-1"]].stack()).all()
    measured = table[table["target"] == choosing.CORE].set_index(["network", "input"])["measured_ram_kib"]
    assert measured.notna().all() and measured["osnet_x0_25", "256x128"] < 331.45
    board = BOARDS["STM32H747I-DISCO"]
    assert f"{board.ram_kib:,} of RAM and\n{board.flash_kib:,} of flash" in text


def test_the_layout_shown_reads_its_files(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", (CLONE / "docs" / "own_data.md").read_text(), re.DOTALL)[1]
    for name in ("train/1_c1.jpg", "query/2_c1.jpg", "gallery/2_c2.jpg", "distractors/0_c2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = yaml.safe_load(block)["source"] | {"root": str(tmp_path)}
    assert sorted(instantiate(source)().table["pid"]) == [0, 1, 2, 2]
