"""Where time went, by a clock that the test turns."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reidlab.plots import time_spent as picture
from reidlab.stages.profile import time_spent
from reidlab.timing import Parts


@pytest.fixture
def parts():
    now = [0]

    class Turned(Parts):
        def wait(self, seconds):
            now[0] += seconds

    return Turned(lambda: now[0])


def test_the_innermost_part_counts_and_the_rest_is_the_outer_ones(parts):
    parts.wait(100)
    with parts.within("train"):
        parts.wait(1)
        with parts.within("pictures"):
            parts.wait(2)
        parts.wait(4)
    parts.wait(100)
    with parts.within("export"):
        parts.wait(8)
    assert parts.seconds == {("train",): 5, ("train", "pictures"): 2, ("export",): 8}


def test_turns_replace_each_other_and_end_with_what_holds_them(parts):
    with pytest.raises(KeyboardInterrupt), parts.within("train"):
        parts.turn(1, "forward")
        parts.wait(1)
        parts.turn(1, "backward")
        parts.wait(2)
        raise KeyboardInterrupt
    parts.wait(100)
    assert parts.path == [] and parts.seconds == {("train",): 0, ("train", "forward"): 1, ("train", "backward"): 2}


def test_the_table_has_all_seconds_and_their_shares(parts):
    with parts.within("train"):
        parts.wait(1)
        with parts.within("forward"):
            parts.wait(3)
    table = time_spent(parts)
    expected = pd.DataFrame(
        {"part": ["other", "forward"], "seconds": [1, 3], "share": [0.25, 0.75]}, index=["train", "train"]
    )
    pd.testing.assert_frame_equal(table, expected, check_names=False)
    axes = picture(table).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [1, 3]
    assert isinstance(picture(table[:0]), Figure)
