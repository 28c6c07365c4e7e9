import math
import random

import definition
import pytest
import torch

from reidlab.metrics import single_shot
from reidlab.metrics.shots import _one_each


def people(seed=0):
    draw = torch.Generator().manual_seed(seed)
    center = torch.randn(9, 4, generator=draw)
    query_pids, gallery_pids = torch.randint(1, 9, (20,), generator=draw), torch.randint(-1, 9, (60,), generator=draw)
    query, gallery = (
        center[pids.clamp_min(0)] + 1.5 * torch.randn(len(pids), 4, generator=draw)
        for pids in (query_pids, gallery_pids)
    )
    cameras = (torch.randint(1, 3, (len(pids),), generator=draw) for pids in (query_pids, gallery_pids))
    return query, gallery, query_pids, gallery_pids, *cameras


def by_definition(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids, repeats):
    """CMC by drawing one image per identity with Python's own random numbers."""
    chance, first = random.Random(0), []
    gallery_ids = list(zip(gallery_pids.tolist(), gallery_camids.tolist(), strict=True))
    for vector, q in zip(query.tolist(), zip(query_pids.tolist(), query_camids.tolist(), strict=True), strict=True):
        distances = [definition.distance(vector, g, "euclidean") for g in gallery.tolist()]
        kept = [i for i, g in enumerate(gallery_ids) if definition.compared(q, g)]
        if not any(definition.matching(q, gallery_ids[i]) for i in kept):
            continue
        images = {}
        for i in kept:
            images.setdefault(gallery_ids[i][0] or ("distractor", i), []).append(i)
        for _ in range(repeats):
            shots = sorted((chance.choice(of_one) for of_one in images.values()), key=distances.__getitem__)
            first.append(next(n for n, i in enumerate(shots, 1) if definition.matching(q, gallery_ids[i])))
    return {k: sum(n <= k for n in first) / len(first) for k in (1, 5, 10, 20)}


def test_agrees_with_a_loop_that_draws():
    world = people()
    result, oracle = single_shot(*world, repeats=2000), by_definition(*world, repeats=2000)
    for k, share in oracle.items():
        assert result[f"rank-{k}"] == pytest.approx(share, abs=0.015)


def test_depends_on_the_seed_and_not_on_the_blocks(monkeypatch):
    world = people()
    result = single_shot(*world, repeats=20, seed=4)
    monkeypatch.setattr("reidlab.metrics.shots.CHUNK", 60 * 3)
    assert single_shot(*world, repeats=20, seed=4) == result
    assert single_shot(*world, repeats=20, seed=5) != result


def test_draws_one_image_of_each_and_all_distractors():
    pids = torch.tensor([3, 0, 3, -1, 7, 0, 3, 7])
    drawn = [_one_each(pids, torch.Generator().manual_seed(seed)) for seed in range(200)]
    assert all(sorted(pids[shot].tolist()) == [0, 0, 3, 7] for shot in drawn)
    assert {int(i) for shot in drawn for i in shot} == {0, 1, 2, 4, 5, 6, 7}


def test_one_image_per_identity_is_the_plain_ranking():
    gallery, pids = torch.tensor([[1.0], [2.0], [3.0]]), [1, 2, 3]
    result = single_shot(torch.tensor([[2.2], [1.4]]), gallery, [3, 1], pids, repeats=5)
    assert (result["rank-1"], result["rank-5"], result["rank-1 std"]) == (0.5, 1.0, 0.0)
    assert (result["num_query"], result["num_gallery"]) == (2, 3)


def test_ties_count_against_the_model_and_no_match_is_nan():
    assert single_shot(torch.ones(1, 2), torch.ones(6, 2), [1], [1, 2, 3, 4, 5, 6], repeats=3)["rank-5"] == 0
    assert math.isnan(single_shot(torch.ones(1, 2), torch.ones(1, 2), [1], [2], repeats=2)["rank-1"])
