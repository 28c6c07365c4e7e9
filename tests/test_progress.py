"""Progress: what a log and a terminal get of a loop, by a clock that the test turns."""

import sys

import pytest

from reidlab import progress


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, in a list; outside of notebooks, wherever the tests run."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    return now


def test_a_log_gets_a_line_now_and_then_with_rate_and_time_left(clock, capsys):
    for _ in progress.bar(range(100), desc="embed", unit="batch"):
        clock[0] += 10
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "embed: 3/100, 0.1 batch/s, 16.2 min left"
    assert len(lines) == 33


def test_a_log_gets_lines_of_a_loop_without_an_end(clock, capsys):
    for _ in progress.bar((number for number in range(4)), desc="search", unit="trial"):
        clock[0] += 20
    assert capsys.readouterr().out.splitlines() == ["search: 2, 0.05 trial/s", "search: 4, 0.05 trial/s"]


def test_a_short_loop_leaves_a_log_alone(clock, capsys):
    assert list(progress.bar(range(5), desc="embed")) == [0, 1, 2, 3, 4]
    with progress.bar(desc="draw", total=4) as drawing:
        drawing.update(4)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [True, False])
def test_a_terminal_gets_a_bar_where_one_is_to_be_shown(shown, clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress.bar(range(3), shown, desc="embed", unit="batch")) == [0, 1, 2]
    told = capsys.readouterr().err
    assert ("embed" in told and "batch/s" in told) if shown else told == ""
