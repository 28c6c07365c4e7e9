import numpy as np
import pytest

from reidlab.errors import InputError
from reidlab.export.ranges import Range, by_entropy, by_percentile, observe


def same(batch):
    return [("x", batch)]


def test_minmax_is_the_extremes_of_all_batches_in_any_order():
    batches = [np.array([0.0, 0.1]), np.array([-3.0, 2.0]), np.array([5.0])]
    assert observe(same, batches, "minmax") == observe(same, batches[::-1], "minmax") == {"x": Range(-3.0, 5.0)}


def test_a_black_first_image_does_not_shrink_the_range():
    values = np.random.default_rng(0).random((50, 10))
    ordinary = observe(same, list(values), "minmax")
    assert observe(same, [np.zeros(10), *values], "minmax") == ordinary


def test_a_range_holds_zero():
    assert observe(same, [np.array([2.0, 3.0])], "minmax") == {"x": Range(0.0, 3.0)}


@pytest.mark.parametrize("observer", ["minmax", "percentile", "entropy"])
def test_a_dead_activation_gets_a_range_that_runtimes_accept(observer):
    assert observe(same, [np.zeros(100)], observer) == {"x": Range(0.0, 1.0)}


def test_percentiles_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=200_000)
    found = observe(same, np.split(values, 4), "percentile", percentile=99.0)["x"]
    assert found == pytest.approx(np.percentile(values, [1, 99]), abs=0.01)


def test_a_percentile_of_one_hundred_is_minmax():
    counts = np.histogram(np.linspace(-1, 3, 1000), 100, (-1, 3))[0]
    assert by_percentile(counts, Range(-1, 3), 100) == Range(-1, 3)


def test_entropy_cuts_off_what_is_far_away_and_rare_but_not_an_even_spread():
    generator = np.random.default_rng(0)
    bulk = np.abs(generator.normal(size=500_000))
    outlier = Range(0.0, 40.0)
    cut = by_entropy(np.histogram(np.append(bulk, 40.0), 2048, outlier)[0], outlier)
    assert 3 < cut.high < 12
    even = Range(0.0, 1.0)
    assert by_entropy(np.histogram(generator.random(500_000), 2048, even)[0], even).high > 0.95


def test_no_images_are_an_input_error():
    with pytest.raises(InputError, match="no images"):
        observe(same, [], "minmax")
