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


@pytest.mark.parametrize("common", [10, 100])
def test_nearly_parallel_embeddings_are_told_apart_by_their_cosine(common):
    """What all have in common, as in a network that has learned little, leaves cosines of 0.99 or 0.9999 and more."""
    query, gallery, *ids = people()
    world = query + common, gallery + common, *ids
    result = verify(*world, distance="cosine", wanted_fpr=0.01, resamples=0)
    distances, same = all_pairs(*world, "cosine")
    assert len(distances) == result.positives[-1] + result.negatives[-1]
    fpr, tpr, thresholds = roc_curve(same, -distances, drop_intermediate=False)
    at = np.flatnonzero(fpr <= 0.01)[-1]
    assert result.figures["tpr"] == pytest.approx(tpr[at], abs=2 / same.sum())
    assert result.threshold == pytest.approx(-thresholds[at], rel=0.01)
    assert result.figures["AUC"] == pytest.approx(roc_auc_score(same, -distances), abs=1e-3)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(("side", "factor"), [(0, 1e3), (1, 1e3), (1, -1e5), (1, 0.0)])
def test_a_single_odd_embedding_leaves_the_others_as_they_are(side, factor, distance):
    sides, ids = (people()[:2], people()[2:])
    common = 30 if distance == "cosine" else 0  # nearly parallel, but for the odd one
    sides = [embeddings + common for embeddings in sides]
    sides[side][int((ids[side] > 0).nonzero()[0])] *= factor
    result = verify(*sides, *ids, distance=distance, wanted_fpr=0.01, resamples=20)
    distances, same = all_pairs(*sides, *ids, distance)
    assert result.positives[-1] == same.sum() and result.negatives[-1] == (~same).sum()
    assert result.thresholds[-1] >= distances.max()
    fpr, tpr, thresholds = roc_curve(same, -distances, drop_intermediate=False)
    at = np.flatnonzero(fpr <= 0.01)[-1]
    assert result.figures["tpr"] == pytest.approx(tpr[at], abs=2 / same.sum())
    assert result.threshold == pytest.approx(-thresholds[at], rel=0.01)
    assert result.figures["AUC"] == pytest.approx(roc_auc_score(same, -distances), abs=result.auc_error + 1e-5)


def test_no_cosine_distance_is_beyond_its_bound():
    """Opposite, parallel and zero embeddings: every pair is counted."""
    few = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 1e-4], [0.0, 3.0]])
    for query, gallery in ((few, few), (few, 0 * few), (few[:1], few[1:2]), (few[:1], few[:1])):
        pids = torch.arange(len(query)) + 1
        with_others = torch.cat([gallery, gallery]), torch.cat([pids, pids + 99])
        result = verify(query, with_others[0], pids, with_others[1], distance="cosine", resamples=0)
        assert result.positives[-1] + result.negatives[-1] == 2 * len(query) * len(gallery)


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


def test_two_identities_have_no_interval_and_three_have_one_with_a_width():
    """Each draw of two that has pairs of different identities is the two themselves."""
    for num_ids, others, known in ((2, 0, False), (3, 0, True), (2, 2, True)):
        result = verify(*similar_people(num_ids, others), resamples=200)
        assert bool(result.intervals) == known
        assert not known or result.intervals["threshold"][0] < result.intervals["threshold"][1]


def similar_people(num_ids, others=0, seed=0, spread=0.3, images=(2, 4)):
    """Images of identities that differ in how easily they are taken for others: the shorter the center, the more."""
    draw = torch.Generator().manual_seed(seed)
    count = num_ids + others
    center = torch.exp(spread * torch.randn(count, 1, generator=draw)) * torch.randn(count, 16, generator=draw)
    noise = 0.5 * torch.exp(0.3 * torch.randn(count, 1, generator=draw))
    sides = [torch.arange(n).repeat_interleave(k) for n, k in zip((num_ids, count), images, strict=True)]
    pixels = [center[ids] + noise[ids] * torch.randn(len(ids), 16, generator=draw) for ids in sides]
    return *pixels, *(ids + 1 for ids in sides)


def coverage(num_ids, others, wanted_fpr, distance, worlds):
    """The share of worlds whose intervals hold the figures of the population, by figure."""
    large = [similar_people(1200, 1200 * others // num_ids, 10_000 + seed, images=(1, 1)) for seed in range(8)]
    options = {"wanted_fpr": wanted_fpr, "distance": distance}
    truths = [verify(*world, **options, resamples=0).figures for world in large]
    held = {name: [] for name in ("threshold", "tpr", "TPR@FPR=0.1", "EER", "AUC")}
    for seed in range(worlds):
        found = verify(*similar_people(num_ids, others, seed), **options, resamples=500, seed=seed).intervals
        for name, hits in held.items():
            hits.append(found[name][0] <= np.mean([truth[name] for truth in truths]) <= found[name][1])
    return {name: np.mean(hits) for name, hits in held.items()}


def test_intervals_hold_the_populations_figures_as_often_as_they_say():
    """60 worlds of 40 identities: 95 % of 60 have a standard error of 2.8 %."""
    for name, share in coverage(40, 0, 0.01, "euclidean", 60).items():
        assert share >= 0.88, name


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(("num_ids", "others", "rate"), [(40, 0, 0.01), (50, 50, 0.01), (100, 0, 0.001)])
def test_intervals_cover_at_other_sizes(num_ids, others, rate, distance):
    for name, share in coverage(num_ids, others, rate, distance, 150).items():
        assert share >= 0.87, name


def test_resamples_weigh_pairs_by_both_identities(monkeypatch):
    """Each resample against scikit-learn's weighted ROC curve of all pairs; distractors are one identity each."""
    query, gallery, query_pids, gallery_pids = similar_people(6, 5)
    gallery_pids[gallery_pids > 9] = 0  # eight images
    query_pids[query_pids == 4] = 99  # in the gallery as one of those that aren't queried
    drawn = {}
    monkeypatch.setattr(module, "_bca", lambda values, *_: drawn.setdefault(len(drawn), values) is None or (0, 0))
    result = verify(query, gallery, query_pids, gallery_pids, resamples=5, seed=3)
    drawn = dict(zip(result.intervals, drawn.values(), strict=True))
    queried = np.unique(query_pids)
    names = np.where(gallery_pids == 0, -1 - np.arange(len(gallery_pids)), gallery_pids)
    others = np.setdiff1d(names, queried)
    group = module._groups(module.Pairing.of(query_pids, gallery_pids), 3)
    random = np.random.default_rng(3)
    mine = random.multinomial(6, np.full(6, 1 / 6), size=5)
    theirs = random.multinomial(len(others), np.full(len(others), 1 / len(others)), size=5)
    weights = np.concatenate([mine, theirs], 1)
    distances = torch.cdist(query.double(), gallery.double()).flatten()
    same = (query_pids[:, None] == gallery_pids).flatten()
    assert result.num_identity_pairs == 6 * 17 - 5  # nine identities and eight distractors, all but oneself
    for number, weight in enumerate(weights):
        first, second = weight[group[0]][:, None], weight[group[1]]
        pair = np.where(same, (first + 0 * second).flatten(), (first * second).flatten())
        if not pair[same].sum():
            continue
        kept = pair > 0
        auc = roc_auc_score(same[kept], -distances[kept], sample_weight=pair[kept])
        assert drawn["AUC"][number] == pytest.approx(auc, abs=2e-3)
        fpr, tpr, _ = roc_curve(same[kept], -distances[kept], sample_weight=pair[kept], drop_intermediate=False)
        at = np.flatnonzero(fpr <= 0.1)[-1]
        assert drawn["TPR@FPR=0.1"][number] == pytest.approx(tpr[at], abs=1e-5)


def test_many_identities_are_drawn_in_groups_with_intervals_as_wide(monkeypatch):
    world = similar_people(150, 100)
    exact = verify(*world, wanted_fpr=0.01, resamples=300).intervals
    monkeypatch.setattr(module, "GROUPS", 60)
    monkeypatch.setattr(module, "GALLERY_GROUPS", 30)
    monkeypatch.setattr(module, "CELLS", 60 * 90 * 100)
    grouped = verify(*world, wanted_fpr=0.01, resamples=300).intervals
    for name in ("threshold", "tpr", "EER", "AUC"):
        assert np.diff(grouped[name]) == pytest.approx(np.diff(exact[name]), rel=0.4), name


def test_queries_of_one_identity_have_no_intervals():
    query, gallery = torch.randn(3, 4), torch.randn(9, 4)
    found = verify(query, gallery, [1] * 3, [1, 1, 1, 2, 2, 2, 3, 3, 3], resamples=20)
    assert found.intervals == {} and found.num_identity_pairs == 2


def test_rates_at_a_threshold_from_elsewhere():
    found = verify(torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]]), [1], [1, 2, 1, 3], resamples=0)
    assert [found.rates_at(at) for at in (0.5, 1.5, 2.5, 9.0)] == [(0, 0), (0.5, 0), (0.5, 0.5), (1, 1)]


def test_without_pairs_of_either_kind_it_says_so():
    with pytest.raises(InputError, match="of the same identity"):
        verify(torch.eye(2), torch.eye(2), [1, 2], [3, 4])
    with pytest.raises(InputError, match="of two identities"):
        verify(torch.eye(2), torch.eye(2), [1, 1], [1, 1])
