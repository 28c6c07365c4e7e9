import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from reidlab.errors import InputError
from reidlab.metrics import verification as module
from reidlab.metrics import verify


def people(num_query=60, num_gallery=300, num_ids=15, noise=0.8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    center = torch.randn(num_ids + 1, 16, generator=draw)

    def images(count, lowest):
        pids = torch.randint(lowest, num_ids + 1, (count,), generator=draw)
        camids = torch.randint(1, 4, (count,), generator=draw)
        return center[pids.clamp_min(0)] + noise * torch.randn(count, 16, generator=draw), pids, camids

    (query, *query_ids), (gallery, *gallery_ids) = images(num_query, 1), images(num_gallery, -1)
    return query, gallery, query_ids[0], gallery_ids[0], query_ids[1], gallery_ids[1]


def all_pairs(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids, distance):
    """Distances and labels of every pair that the protocol allows, in float64."""
    if distance == "cosine":
        a, b = (torch.nn.functional.normalize(x.double()) for x in (query, gallery))
        distances = 1 - a @ b.T
    else:
        distances = torch.cdist(query.double(), gallery.double())
    same = query_pids[:, None] == gallery_pids
    allowed = (gallery_pids >= 0) & ~(same & (query_camids[:, None] == gallery_camids))
    return distances[allowed].numpy(), same[allowed].numpy()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_agrees_with_scikit_learn_s_roc(distance):
    world = people()
    result = verify(*world, distance=distance, wanted_fpr=0.01, resamples=10)
    distances, same = all_pairs(*world, distance)
    assert result.positives[-1] == same.sum()
    assert result.negatives[-1] == (~same).sum()
    fpr, tpr, thresholds = roc_curve(same, -distances, drop_intermediate=False)
    width = result.thresholds[1]
    for rate in module.FPRS:
        at = np.flatnonzero(fpr <= rate)[-1]
        assert result.figures[f"TPR@FPR={rate:g}"] == pytest.approx(tpr[at], abs=2 / same.sum())
    at = np.flatnonzero(fpr <= 0.01)[-1]
    assert -thresholds[at] - width <= result.threshold <= -thresholds[at + 1] + width
    assert result.figures["EER"] == pytest.approx(fpr[np.argmin(np.abs(fpr - 1 + tpr))], abs=2e-3)
    assert result.figures["AUC"] == pytest.approx(roc_auc_score(same, -distances), abs=result.auc_error + 1e-6)
    assert result.auc_error < 1e-3


def test_rates_are_counts_at_the_thresholds():
    world = people()
    result = verify(*world, resamples=0)
    distances, same = all_pairs(*world, "euclidean")
    for at in range(0, module.BINS, 1001):
        limit = result.thresholds[at]
        for counted, chosen in ((result.positives, distances[same]), (result.negatives, distances[~same])):
            assert (chosen < limit - 1e-5).sum() <= counted[at] <= (chosen < limit + 1e-5).sum()
    assert result.fpr[np.searchsorted(result.thresholds, result.threshold)] <= result.wanted_fpr


def test_blocks_and_groups_add_up(monkeypatch):
    world = people()
    whole = verify(*world, resamples=0)
    monkeypatch.setattr("reidlab.metrics.closeness.MAX_BLOCK_ROWS", 7)
    monkeypatch.setattr(module, "GROUPS", 4)
    parts = verify(*world, resamples=0, seed=3)
    assert np.abs(parts.negatives - whole.negatives).max() <= 1  # a pair on a bin's edge may fall to either side
    assert parts.positives[-1] == whole.positives[-1]


def test_a_perfect_and_a_useless_network():
    pids = torch.arange(1, 9)
    perfect = verify(torch.eye(8), torch.eye(8), pids, pids, resamples=10)
    assert perfect.figures["AUC"] == pytest.approx(1)
    assert perfect.figures["EER"] == pytest.approx(0)
    assert 0 < perfect.threshold < 2**0.5
    useless = verify(torch.ones(8, 3), torch.ones(8, 3), pids, pids, resamples=10)
    assert useless.figures["AUC"] == pytest.approx(0.5)
    assert useless.figures["EER"] == pytest.approx(0.5)
    assert useless.figures["tpr"] == 0


def test_intervals_hold_the_figures_and_depend_on_the_seed_alone():
    world = people(num_query=200)
    result = verify(*world, wanted_fpr=0.01, resamples=200, seed=1)
    for name, (low, high) in result.intervals.items():
        assert low <= result.figures[name] <= high, name
    assert result.intervals["threshold"][0] < result.intervals["threshold"][1]
    assert verify(*world, wanted_fpr=0.01, resamples=200, seed=1).intervals == result.intervals
    summary = result.summary()
    assert summary["threshold low"] == result.intervals["threshold"][0]
    assert all(type(value) is float for value in summary.values())


def test_intervals_cover_new_samples_of_people():
    """The 95 % interval from one set of queries should hold the threshold of most other sets."""
    gallery = people(num_query=1, num_gallery=600, num_ids=60)
    low, high = verify(*_queries_for(gallery, 0), wanted_fpr=0.01, resamples=200).intervals["threshold"]
    others = [verify(*_queries_for(gallery, seed), wanted_fpr=0.01, resamples=0).threshold for seed in range(1, 11)]
    assert sum(low - (high - low) / 2 <= other <= high + (high - low) / 2 for other in others) >= 8


def _queries_for(world, seed):
    query, _, query_pids, _, query_camids, _ = people(num_query=240, num_gallery=1, num_ids=60, seed=0)
    chosen = torch.randint(0, 240, (240,), generator=torch.Generator().manual_seed(seed))
    return query[chosen], world[1], query_pids[chosen], world[3], query_camids[chosen], world[5]


def test_without_pairs_of_either_kind_it_says_so():
    with pytest.raises(InputError, match="of the same identity"):
        verify(torch.eye(2), torch.eye(2), [1, 2], [3, 4])
    with pytest.raises(InputError, match="of two identities"):
        verify(torch.eye(2), torch.eye(2), [1, 1], [1, 1])
