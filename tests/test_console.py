"""Tables in the terminal, drawings in files."""

import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pandas as pd
import pytest

from reidlab import plots
from reidlab.console import print_table
from reidlab.plots.saving import save_drawing


def test_brackets_in_a_cell_are_text_not_markup(capsys):
    print_table(pd.DataFrame({"file": ["crops [old]/1.jpg"]}, index=["[bold]"]))
    text = capsys.readouterr().out
    assert "crops [old]/1.jpg" in text and "[bold]" in text


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("shape", [(2, 4), (3, 16), (13, 7)])
def test_a_table_is_no_wider_than_its_terminal_and_breaks_no_word(columns, shape, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    rows, names = range(shape[0]), [f"latency_of_{number}" for number in range(shape[1] - 1)]
    table = pd.DataFrame({name: [-123.456] * len(rows) for name in names} | {"note": "beyond all published ones"})
    print_table(table.set_axis([f"network {row}" for row in rows]), "what each costs")
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns and "…" not in text
    assert text.count("-123.5") == len(rows) * len(names) and text.count("published") == len(rows)


def test_a_notebook_gets_a_table_of_its_own(monkeypatch, capsys):
    displayed = []
    monkeypatch.setattr("rich.console.Console", lambda **_: SimpleNamespace(is_jupyter=True))
    monkeypatch.setattr("IPython.display.display", displayed.append)
    print_table(pd.DataFrame({"mAP": [0.12345, None], "n": [1, 2]}, index=["a", "b"]), "runs/<demo>")
    (page,) = displayed
    assert "runs/&lt;demo&gt;" in page.data
    assert re.findall(r"<td[^>]*nowrap[^>]*>([^<]*)<", page.data) == ["0.123", "1", "–", "2"]
    assert capsys.readouterr().out == ""


def test_a_drawing_has_the_ink_of_its_readers_theme(tmp_path):
    text = save_drawing(plots.activation_ranges(pd.DataFrame()), tmp_path / "a.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text and "fill: var(--faint)" in text
    assert text == save_drawing(plots.activation_ranges(pd.DataFrame()), tmp_path / "a.svg").read_text()
