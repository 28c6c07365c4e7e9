"""Tables in the terminal, drawings in files."""

import xml.etree.ElementTree as ET

import pandas as pd

from reidlab import plots
from reidlab.show import print_table, save_drawing


def test_brackets_in_a_cell_are_text_not_markup(capsys):
    print_table(pd.DataFrame({"file": ["crops [old]/1.jpg"]}, index=["[bold]"]))
    text = capsys.readouterr().out
    assert "crops [old]/1.jpg" in text and "[bold]" in text


def test_a_drawing_has_the_ink_of_its_readers_theme(tmp_path):
    text = save_drawing(plots.activation_ranges(pd.DataFrame()), tmp_path / "a.svg").read_text()
    assert ET.fromstring(text).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in text and "fill: var(--faint)" in text
    assert text == save_drawing(plots.activation_ranges(pd.DataFrame()), tmp_path / "a.svg").read_text()
