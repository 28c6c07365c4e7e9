"""Counts of what was tried on the suite's faults, and how it ended; `make faults` writes them into the docs."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest
from pipeline import Pipeline, commands

ENDS = ("right", "one line")
BETWEEN = re.compile(r"(?<=<!-- counts -->\n).*(?=<!-- end of counts -->)", re.DOTALL)
counts: dict[str, Counter] = {}


@pytest.fixture(scope="module")
def pipeline(small, tmp_path_factory):
    """The stages of a small run, which can be made to fail."""
    return Pipeline(tmp_path_factory.mktemp("pipeline"), commands(small))


@pytest.fixture
def tally():
    """Count a fault of a kind by how it ended: `right`, with the right result, or in `one line`."""

    def count(kind: str, end: str) -> None:
        assert end in ENDS
        counts.setdefault(kind, Counter())[end] += 1

    return count


def table(before: str = "") -> str:
    """The counts of this session, and those of another one's table for what was not tried in this one."""
    rows = dict(re.findall(r"^\| (.*?) (\| \d.*)$", before, re.MULTILINE))
    rows |= {kind: f"| {ends.total()} | {ends['right']} | {ends['one line']} |" for kind, ends in counts.items()}
    listed = [f"| {kind} {row}" for kind, row in sorted(rows.items())]
    return "\n".join(["| fault | tried | right | one line |", "|---|---:|---:|---:|", *listed, ""])


def pytest_terminal_summary(terminalreporter):
    if counts:
        terminalreporter.section("faults")
        terminalreporter.write(table())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over what a worker of pytest-xdist counted."""
    for kind, ends in getattr(node, "workeroutput", {}).get("counts", {}).items():
        counts.setdefault(kind, Counter()).update(ends)


def pytest_sessionfinish(session, exitstatus):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["counts"] = {kind: dict(ends) for kind, ends in counts.items()}
    elif (page := os.environ.get("FAULTS_TABLE")) and counts and exitstatus == 0:
        text = Path(page).read_text()
        assert BETWEEN.search(text)
        Path(page).write_text(BETWEEN.sub(lambda found: table(found[0]), text))
