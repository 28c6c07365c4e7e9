"""Counts of what was tried on the suite's faults, and how it ended; `make faults` writes them into the docs."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pipeline import Pipeline, commands

from reidlab import config

ENDS = ("right", "one line")
BETWEEN = re.compile(r"(?<=<!-- counts -->\n).*(?=<!-- end of counts -->)", re.DOTALL)
counts: dict[str, Counter] = {}


@pytest.fixture(scope="module")
def pipeline(small, tmp_path_factory):
    """The stages of a small run, which can be made to fail."""
    return Pipeline(tmp_path_factory.mktemp("pipeline"), commands(small))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Runs a command as a child of a process that has loaded everything, in a workspace; its status and output."""
    script = Path(__file__).with_name("commands.py")
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    workspace = tmp_path_factory.mktemp("workspace")
    (workspace / "conf" / "experiment").mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(config.CLONE), "REIDLAB_ROOT": str(workspace)}
    with subprocess.Popen([sys.executable, script], **streams, env=environment) as parent:

        def run(*words):
            parent.stdin.write(json.dumps([str(word) for word in words]) + "\n")
            parent.stdin.flush()
            return json.loads(parent.stdout.readline())

        yield run
        parent.stdin.close()
    assert not [*workspace.rglob("*.yaml")]  # which an import that should be refused would have written


@pytest.fixture
def check(command):
    """Runs a command, which must end with a result or with one line; returns its status."""

    def run(*words, refused=None):
        status, output = command(*words)
        lines = [line for line in output.splitlines() if line.startswith("reidlab: ")]
        assert status in (0, 2), output[-2000:]
        assert "Traceback" not in output and "\x1b[2J" not in output
        assert len(lines) == (status == 2) and (not lines or output.rstrip().endswith(lines[0])), output[-2000:]
        assert refused is None or (status == 2) is refused, output[-2000:]
        return status

    return run


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
