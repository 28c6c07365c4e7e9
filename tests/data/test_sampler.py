from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from reidlab.data.sampler import IdentityBatchSampler
from reidlab.errors import InputError


def pids_with(counts, seed=0):
    """Shuffled pids, pid 10 * i having counts[i] images."""
    return np.random.default_rng(seed).permutation(np.repeat(10 * np.arange(len(counts)), counts))


MARKET_LIKE = np.random.default_rng(1).integers(2, 40, 100)


@pytest.mark.parametrize("counts", [[8] * 20, MARKET_LIKE, [1] * 30, [3, 300] + [5] * 20])
@pytest.mark.parametrize(("batch_size", "num_instances"), [(16, 4), (16, 1), (60, 6)])
def test_batches_hold_p_different_identities_k_times(counts, batch_size, num_instances):
    pids = pids_with(counts)
    sampler = IdentityBatchSampler(pids, batch_size, num_instances)
    batches = list(sampler)
    assert len(batches) == len(sampler) > 0
    for batch in batches:
        groups = pids[batch].reshape(-1, num_instances)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == len(groups) == batch_size // num_instances


def test_an_epoch_shows_each_image_about_once():
    pids = pids_with([8] * 20)
    seen = Counter(position for batch in IdentityBatchSampler(pids, 16, 4) for position in batch)
    assert seen == Counter(range(160))


def test_images_of_unequal_identities_are_shown_at_most_once():
    pids = pids_with(MARKET_LIKE)
    counts = Counter(pids)
    seen = Counter(position for batch in IdentityBatchSampler(pids, 32, 4) for position in batch)
    plenty = [position for position in range(len(pids)) if counts[pids[position]] >= 4]
    assert np.mean([seen[position] > 0 for position in plenty]) > 0.85
    assert np.mean([seen[position] > 1 for position in plenty]) < 0.05


def test_every_identity_has_a_turn_before_any_has_two():
    pids = pids_with([12] * 25 + [40] * 5)
    turns = [pid for batch in IdentityBatchSampler(pids, 12, 4) for pid in pids[batch][::4]]
    assert len(set(turns[:30])) == 30
    assert set(Counter(turns).keys()) == set(pids)


def test_few_images_are_all_shown_and_repeated_evenly():
    pids = pids_with([3] * 8)
    for batch in IdentityBatchSampler(pids, 32, 4):
        for group in np.reshape(batch, (-1, 4)):
            assert sorted(Counter(group.tolist()).values()) == [1, 1, 2]


def test_order_follows_from_seed_and_epoch_alone():
    pids = pids_with(MARKET_LIKE)
    one, other = IdentityBatchSampler(pids, 32, 4, seed=3), IdentityBatchSampler(pids, 32, 4, seed=3)
    epochs = []
    for epoch in range(3):
        one.set_epoch(epoch)
        epochs.append(list(one))
    other.set_epoch(2)
    np.random.seed(7)  # noqa: NPY002
    assert list(other) == epochs[2]
    assert all(a != b for a, b in pairwise(epochs))
    assert len({len(epoch) for epoch in epochs}) == 1
    assert list(IdentityBatchSampler(pids, 32, 4, seed=4)) != epochs[0]


def test_processes_share_each_step():
    pids = pids_with(MARKET_LIKE)
    ranks = [list(IdentityBatchSampler(pids, 16, 4, seed=5, process=(rank, 3))) for rank in range(3)]
    assert len({len(batches) for batches in ranks}) == 1
    for step in zip(*ranks, strict=True):
        identities = [set(pids[batch]) for batch in step]
        assert len(set.union(*identities)) == sum(map(len, identities)) == 12


def slow_number_of_steps(turns, places):
    """Most steps in which each identity has at most its turns, and at most one place a step."""
    steps = 0
    while sum(min(turn, steps + 1) for turn in turns) >= (steps + 1) * places:
        steps += 1
    return steps


@pytest.mark.parametrize("seed", range(5))
def test_length_is_the_most_that_distinct_identities_allow(seed):
    counts = np.random.default_rng(seed).integers(1, 60, 20) ** 2 // 40 + 1
    sampler = IdentityBatchSampler(pids_with(counts), 28, 4)
    assert len(sampler) == slow_number_of_steps(np.maximum(counts // 4, 1), 7)


def test_too_few_identities_are_an_input_error():
    with pytest.raises(InputError, match=r"needs 8 identities.*there are 7"):
        len(IdentityBatchSampler(pids_with([4] * 7), 32, 4))
    with pytest.raises(InputError, match="needs 16 identities"):
        list(IdentityBatchSampler(pids_with([4] * 10), 32, 4, process=(0, 2)))


def test_a_batch_size_that_num_instances_does_not_divide_is_an_input_error():
    with pytest.raises(InputError, match=r"batch_size=30.*num_instances=4"):
        IdentityBatchSampler(pids_with([4] * 40), 30, 4)


def test_camera_balance_shows_as_many_cameras_a_turn_as_there_are():
    rng = np.random.default_rng(0)
    pids = pids_with([24] * 10)
    camids = np.where(rng.random(len(pids)) < 0.7, 1, rng.integers(2, 5, len(pids)))  # one camera saw most
    sampler = IdentityBatchSampler(pids, 40, 4, camids=camids)
    batches = list(sampler)
    for turn in np.reshape(batches[0], (-1, 4)):
        assert len(set(camids[turn])) == len(set(camids[pids == pids[turn[0]]]))
    assert Counter(np.ravel(batches).tolist()) == Counter(range(240))
    sampler.set_epoch(1)
    assert list(sampler) != batches


def test_class_balance_gives_every_identity_as_many_turns():
    pids = pids_with([4] * 10 + [40] * 2)
    plain, balanced = (
        Counter(pid for batch in IdentityBatchSampler(pids, 8, 4, class_balanced=flag) for pid in pids[batch][::4])
        for flag in (False, True)
    )
    assert len(set(balanced.values())) == 1 and len(balanced) == 12
    assert len(set(plain.values())) > 1
