import numpy as np
import pytest
import torch
from scipy import stats

from reidlab.errors import InputError
from reidlab.metrics import Ranking, confidence_intervals, mean_interval, paired_test


def ranking(num_query=300, seed=0, better=0.0, without_match=0):
    """Figures of made-up queries: the harder the query, the lower its precision in any run."""
    hardness = np.random.default_rng(0).uniform(size=num_query)
    luck = np.random.default_rng(seed).uniform(size=num_query)
    precision = torch.from_numpy(np.clip(1 - 0.7 * hardness - 0.3 * luck + better, 0.01, 1))
    first = (1 / precision).round().long()
    matches = torch.full((num_query,), 4)
    matches[:without_match] = 0
    precision[:without_match] = torch.nan
    return Ranking(precision, first, first * 5, matches, 1000)


def test_intervals_equal_scipy_s():
    run = ranking()
    intervals = confidence_intervals(run, resamples=20_000)
    for name, values in {
        "mAP": run.average_precision,
        "rank-1": (run.first_rank <= 1).double(),
        "mINP": run.inverse_negative_penalty,
    }.items():
        oracle = stats.bootstrap(
            (values.numpy(),), np.mean, method="percentile", n_resamples=20_000, random_state=1
        ).confidence_interval
        width = oracle.high - oracle.low
        assert intervals[name] == pytest.approx((oracle.low, oracle.high), abs=0.04 * width)


def test_groups_are_drawn_whole():
    run = ranking(200)
    once = confidence_intervals(run)["mAP"]
    thrice = Ranking(*(getattr(run, name).repeat(3) for name in _COLUMNS), run.num_gallery)
    assert confidence_intervals(thrice, torch.arange(200).repeat(3))["mAP"] == pytest.approx(once, abs=1e-12)
    narrow = confidence_intervals(thrice)["mAP"]
    assert narrow.high - narrow.low < 0.7 * (once.high - once.low)


_COLUMNS = ("average_precision", "first_rank", "last_rank", "num_matches")


def test_queries_without_a_match_do_not_count():
    run = ranking(without_match=50)
    rest = Ranking(*(getattr(run, name)[50:] for name in _COLUMNS), run.num_gallery)
    assert confidence_intervals(run) == confidence_intervals(rest)
    assert paired_test(run, ranking(seed=1)) == paired_test(
        rest, Ranking(*(getattr(ranking(seed=1), name)[50:] for name in _COLUMNS), 1000)
    )


@pytest.mark.parametrize("better", [0.0, 0.01, 0.05])
def test_p_values_equal_scipy_s_permutation_test(better):
    first, second = ranking(seed=1), ranking(seed=2, better=better)
    result = paired_test(first, second, resamples=10_000)["mAP"]
    gains = (second.average_precision - first.average_precision).numpy()
    oracle = stats.permutation_test((gains,), np.mean, permutation_type="samples", n_resamples=10_000, rng=1)
    assert result.p_value == pytest.approx(oracle.pvalue, abs=0.02)
    assert result.difference == pytest.approx(gains.mean())
    bootstrap = stats.bootstrap((gains,), np.mean, method="percentile", rng=1).confidence_interval
    assert (result.low, result.high) == pytest.approx(tuple(bootstrap), abs=0.1 * (bootstrap.high - bootstrap.low))


def test_pairing_sees_what_two_intervals_do_not():
    first, second = ranking(seed=1), ranking(seed=1, better=0.005)
    result = paired_test(first, second)["mAP"]
    assert result.p_value < 0.01
    assert result.low > 0
    assert confidence_intervals(first)["mAP"].high > confidence_intervals(second)["mAP"].low


def test_a_run_does_not_differ_from_itself():
    for result in paired_test(ranking(), ranking()).values():
        assert result == (0.0, 0.0, 0.0, 1.0)


def test_the_seed_decides_alone():
    assert confidence_intervals(ranking(), seed=3) == confidence_intervals(ranking(), seed=3)
    assert confidence_intervals(ranking(), seed=3) != confidence_intervals(ranking(), seed=4)


def test_other_queries_are_refused_and_none_give_no_interval():
    with pytest.raises(InputError, match="300 and 200 queries"):
        paired_test(ranking(300), ranking(200))
    assert confidence_intervals(ranking(5, without_match=5)) == {}
    assert np.isnan(paired_test(ranking(5, without_match=5), ranking(5))["mAP"].difference)


def test_one_group_varies_with_nothing_and_has_no_interval():
    assert confidence_intervals(ranking(5), np.zeros(5)) == confidence_intervals(ranking(1)) == {}
    assert np.isnan(mean_interval(np.arange(5), np.zeros(5))).all() and np.isnan(mean_interval([1])).all()


@pytest.mark.parametrize("rank", [1, 100])
def test_a_figure_that_all_identities_share_is_as_uncertain_as_their_number_says(rank):
    """By scipy's exact interval of a proportion: two queries each of three identities, all right or all wrong."""
    six = torch.full((6,), rank)
    run = Ranking(1.0 / six, six, six, torch.ones(6, dtype=torch.long), 1000)
    found = confidence_intervals(run, torch.arange(3).repeat(2))["rank-1"]
    exact = stats.binomtest(3 * (rank == 1), 3).proportion_ci(0.95, method="exact")
    assert found == pytest.approx((exact.low, exact.high))


def test_the_interval_of_a_mean_is_that_of_resampled_groups():
    random = np.random.default_rng(3)
    values, groups = random.normal(size=40) + np.repeat(3 * random.normal(size=8), 5), np.repeat(np.arange(8), 5)
    means = [values[groups == group].mean() for group in range(8)]  # of groups of one size
    drawn = [np.mean(random.choice(means, 8)) for _ in range(20_000)]
    found = mean_interval(values, groups, resamples=20_000)
    assert [*found] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)
    assert found.high - found.low > 1.5 * (mean_interval(values).high - mean_interval(values).low)
    assert mean_interval(np.full(5, 0.25)) == (0.25, 0.25)
