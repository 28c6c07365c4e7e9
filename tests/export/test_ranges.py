import numpy as np
import pytest

from reidlab.errors import InputError
from reidlab.export.ranges import Range, by_entropy, by_percentile, observe


def same(batch):
    return [("x", batch)]


def test_minmax_is_the_extremes_of_all_batches_in_any_order():
    batches = [np.array([[0.0, 0.1]]), np.array([[-3.0, 2.0]]), np.array([[5.0, 1.0]])]
    assert observe(same, batches, "minmax") == observe(same, batches[::-1], "minmax") == {"x": Range(-3.0, 5.0)}


def test_a_black_first_image_does_not_shrink_the_range():
    values = np.random.default_rng(0).random((50, 10))
    ordinary = observe(same, [values], "minmax")
    assert observe(same, [np.zeros((1, 10)), values], "minmax") == ordinary


def test_a_range_holds_zero():
    assert observe(same, [np.array([[2.0, 3.0]])], "minmax") == {"x": Range(0.0, 3.0)}


def test_an_image_that_goes_far_in_a_tenth_of_the_tensors_is_left_out_of_all_ranges():
    random = np.random.default_rng(0)
    images = random.uniform(0.5, 1, (20, 10, 8)) * random.choice([-1, 1], (20, 10, 8))  # (images, tensors, values)
    images[3, 4] *= 100  # far in one of ten tensors
    images[7, 2, 0] = 3  # less than four times the median image's

    def tensors(batch):
        return [(f"t{number}", batch[:, number]) for number in range(10)]

    ordinary = np.delete(images, 3, 0)
    found, everything = (observe(tensors, np.split(images, 4), name) for name in ("typical", "minmax"))
    for number in range(10):
        expected = ordinary[:, number].min(), ordinary[:, number].max()
        assert found[f"t{number}"] == pytest.approx(expected)
    assert everything["t4"].high > 50 and found["t2"].high == 3


def test_a_gate_that_few_images_open_makes_them_no_unusual_ones():
    opened = np.ones((20, 11, 4))  # (images, tensors, values)
    opened[:, 5] = 0
    opened[2, 5] = 9
    opened[4, 6] = 9  # one of ten tensors that aren't dead in most images
    found = observe(lambda batch: [(str(n), batch[:, n]) for n in range(11)], [opened], "typical")
    assert found["5"] == (0, 9) and found["6"] == (0, 1)


@pytest.mark.parametrize("observer", ["typical", "minmax", "percentile", "entropy"])
def test_a_dead_activation_gets_a_range_that_runtimes_accept(observer):
    assert observe(same, [np.zeros((4, 25))], observer) == {"x": Range(0.0, 1.0)}


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
