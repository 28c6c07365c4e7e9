import math

import pytest
import torch

from reidlab.metrics import expand_queries, flip_averaged, rank


def test_flip_average_sees_an_image_and_its_mirror_alike():
    weights = torch.randn(3 * 4 * 6, 5, generator=torch.Generator().manual_seed(0))
    embed = flip_averaged(lambda images: images.flatten(1) @ weights)
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(embed(images), embed(images.flip(3)))
    by_hand = (images.flatten(1) @ weights + images.flip(3).flatten(1) @ weights) / 2
    torch.testing.assert_close(embed(images), by_hand)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_expansion_equals_a_loop(alpha):
    draw = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(7, 4, generator=draw), torch.randn(30, 4, generator=draw)
    for vector, measured in zip(query.tolist(), expand_queries(query, gallery, 6, alpha).tolist(), strict=True):
        unit = [[x / math.hypot(*v) for x in v] for v in (vector, *gallery.tolist())]
        similarity = [sum(a * b for a, b in zip(unit[0], v, strict=True)) for v in unit[1:]]
        nearest = sorted(range(30), key=lambda i, s=similarity: -s[i])[:6]
        total = list(unit[0])
        for i in nearest:
            weight = max(similarity[i], 0) ** alpha if alpha else 1
            total = [t + weight * x for t, x in zip(total, unit[1 + i], strict=True)]
        assert measured == pytest.approx([t / math.hypot(*total) for t in total], abs=1e-5)


def test_expansion_helps_where_identities_are_clusters():
    draw = torch.Generator().manual_seed(0)
    center = torch.randn(10, 16, generator=draw)
    query_pids, gallery_pids = torch.arange(10), torch.arange(10).repeat(30)
    query = center + 1.5 * torch.randn(10, 16, generator=draw)
    gallery = center[gallery_pids] + 0.7 * torch.randn(300, 16, generator=draw)
    ids = query_pids + 1, gallery_pids + 1
    plain = rank(query, gallery, *ids, distance="cosine").mean_average_precision
    assert rank(expand_queries(query, gallery), gallery, *ids, distance="cosine").mean_average_precision > plain


def test_a_small_gallery_is_taken_whole():
    expanded = expand_queries(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), k=10)
    assert expanded.tolist() == [pytest.approx([0.5**0.5, 0.5**0.5])]
