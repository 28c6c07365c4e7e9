"""A plugin of pytest that lists the files of tests by processor seconds, ended child processes included.

    PYTHONPATH=benchmarks .venv/bin/pytest -p processor_seconds tests

In one process, without `-n`. A fixture's seconds are of the test that made it.
"""

import os
from collections import Counter
from collections.abc import Iterator

import pytest

seconds: Counter[str] = Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = sum(os.times()[:4])
    result = yield
    seconds[item.location[0]] += sum(os.times()[:4]) - before
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section(f"{seconds.total():.1f} processor seconds")
    for file, spent in seconds.most_common(40):
        terminalreporter.write_line(f"{spent:7.1f} {file}")
