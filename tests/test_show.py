"""Tables in the terminal."""

import pandas as pd

from reidlab.show import print_table


def test_brackets_in_a_cell_are_text_not_markup(capsys):
    print_table(pd.DataFrame({"file": ["crops [old]/1.jpg"]}, index=["[bold]"]))
    text = capsys.readouterr().out
    assert "crops [old]/1.jpg" in text and "[bold]" in text
