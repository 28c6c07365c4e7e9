"""README and docs: links lead somewhere, commands are understood, keys exist."""

import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from reidlab import cli
from reidlab.card import published
from reidlab.config import CLONE, CONF, choices, compose, groups, instantiate
from reidlab.deploy.boards import BOARDS

sys.path += [str(CLONE / "benchmarks"), str(CLONE / "docs")]
import choosing
import pages

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
    made = {path for of in pages.made_pages().values() for path, _ in of}
    local = [link for link in links if not link.startswith("http") and link not in made]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(("command", "page"), commands())
def test_commands_are_understood(command, page):
    """The command line parses, and the config composes with its overrides."""
    words = [word for word in shlex.split(command, comments=True)[1:] if word != "..."]
    if words[0] not in cli.COMMANDS:
        pytest.fail(f"there is no command {words[0]}")
    if words[-1] == "--help":
        return
    args = cli.build_parser().parse_args(words)
    if args.command in COMPOSED:
        overrides = cli._with_file(args.overrides)
        shown = re.findall(r"`conf/(\w+)/(\w+)\.yaml`", page.read_text())  # a file that the reader is to write
        own = {f"{group}={choice}" for group, choice in shown if choice not in choices(group)}
        compose(o for o in overrides if o not in own)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_told_of_in_a_page_and_has_one_of_its_own(command):
    told = [page for page in PAGES[2:] if re.search(rf"reidlab {command}(?![\w-])", page.read_text())]
    assert told, f"no page of docs/ has `reidlab {command}`"
    made = dict(pages.made_pages()["Commands"])[f"commands/{command}.md"]
    assert cli.COMMANDS[command].example in made and all(f"../{page.name}" in made for page in told)


def test_the_key_reference_has_every_key_of_every_yaml():
    for group in groups():
        for choice in choices(group):
            file = CONF / group / f"{choice}.yaml"
            prefix = "" if "@package _global_" in file.read_text() else group
            found = {key: value for key, value, _ in pages.comments(file, prefix) if value}
            stored = yaml.safe_load(file.read_text()) or {}
            stored.pop("defaults", None)
            expected = dict(_scalars(stored, prefix))
            assert {key for key in found if not isinstance(yaml.safe_load(found[key]), dict)} <= {*expected}
            for key, value in expected.items():
                holder = next(part for part in _parents(key) if part in found)
                assert holder != key or yaml.safe_load(found[key]) == value, (file, key)


def _scalars(node, key):
    if not isinstance(node, dict):
        yield key, node
        return
    for name, child in node.items():
        yield from _scalars(child, f"{key}.{name}" if key else name)


def _parents(key):
    """A key, then what it is in: a mapping on one line stands for all that it holds."""
    parts = key.split(".")
    return (".".join(parts[:count]) for count in range(len(parts), 0, -1))


def test_comments_of_the_key_reference_are_those_above_and_beside(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "# what the file is\ndefaults: [_self_]\na: 1  # beside\n# above\n# in two lines\nb:\n  c: [1,\n    2]\n"
    )
    assert pages.comments(file, "g") == [
        ("g.a", "1", "beside"),
        ("g.b", "", "above in two lines"),
        ("g.b.c", "[1, 2]", ""),
    ]


def test_every_module_that_refuses_input_is_in_the_list_of_messages():
    ((_, text),) = pages.made_pages()["Messages of wrong input"]
    assert "…: no such key…" in text and len(re.findall(r"^- `", text, re.MULTILINE)) > 300
    for file in (CLONE / "reidlab").rglob("*.py"):
        if re.search(r"raise InputError\(f?\"\w", file.read_text()):
            assert f"`{file.relative_to(CLONE)}`" in text


@pytest.mark.slow
def test_the_site_is_built_offline_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the docs extra")
    pytest.importorskip("mkdocstrings", reason="needs the docs extra")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(build, cwd=CLONE, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stderr + done.stdout == "", done.stderr
    for page in ("commands/train", "keys/trainer", "messages", "api/reidlab", "first_hour"):
        assert (tmp_path / "site" / page / "index.html").is_file()
    sources = [file.read_text() for file in (tmp_path / "site").rglob("*.html")]
    assert not [text for text in sources if re.search(r"<(script|img|link rel=.stylesheet.)[^>]*https?://", text)]


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
