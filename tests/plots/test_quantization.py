import pandas as pd

from reidlab.plots import activation_ranges, layer_costs


def test_each_range_is_a_step_from_its_low_to_its_high_end():
    ranges = pd.DataFrame({"tensor": ["a", "b"], "low": [-1.0, 0.0], "high": [3.0, 0.5]})
    (axes,) = activation_ranges(ranges).axes
    (steps,) = axes.patches
    high, _, low = steps.get_data()
    assert low.tolist() == [-1, 0] and high.tolist() == [3, 0.5]


def test_layers_stand_in_their_order_and_the_costliest_by_name():
    costs = pd.DataFrame({"relative_error": [n % 7 / 100 for n in range(20)]}, index=[f"layer{n}" for n in range(20)])
    every, worst = layer_costs(costs).axes
    assert [round(bar.get_height(), 3) for bar in every.patches] == costs["relative_error"].round(3).tolist()
    shown = [label.get_text() for label in worst.get_yticklabels()]
    assert len(shown) == 8 and set(shown[-2:]) == {"layer6", "layer13"}


def test_nothing_to_draw_is_said_in_words():
    for draw in (activation_ranges, layer_costs):
        assert draw(pd.DataFrame({"low": [], "high": [], "relative_error": []})).texts
