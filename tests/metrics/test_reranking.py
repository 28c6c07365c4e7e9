import numpy as np
import pytest
import torch

from reidlab.metrics import rank, rank_reranked, rerank
from reidlab.metrics.pairing import Pairing
from reidlab.metrics.ranking import rank_blocks


def by_definition(query, gallery, k1=20, k2=6, weight=0.3):
    """The paper with dense matrices and sets, in float64."""
    x = np.concatenate([query, gallery]).astype(np.float64)
    squared = ((x[:, None] - x[None]) ** 2).sum(2)
    squared /= squared.max(1, keepdims=True)
    order = np.argsort(squared, axis=1, kind="stable")
    count = len(x)

    def reciprocal(p, k):
        return {q for q in order[p, : k + 1] if p in order[q, : k + 1]}

    encoding = np.zeros((count, count))
    for p in range(count):
        members = reciprocal(p, k1)
        expanded = set(members)
        for q in members:
            candidate = reciprocal(q, round(k1 / 2))
            if 3 * len(members & candidate) > 2 * len(candidate):
                expanded |= candidate
        expanded = sorted(expanded)
        encoding[p, expanded] = np.exp(-squared[p, expanded])
        encoding[p] /= encoding[p].sum()
    encoding = np.stack([encoding[order[p, :k2]].mean(0) for p in range(count)])
    jaccard = np.empty((len(query), len(gallery)))
    for p in range(len(query)):
        for g in range(len(gallery)):
            a, b = encoding[p], encoding[len(query) + g]
            jaccard[p, g] = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
    return (1 - weight) * jaccard + weight * squared[: len(query), len(query) :]


def embeddings(kind, num_query=30, num_gallery=120, dim=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    center = torch.randn(14, dim, generator=draw) * (2.0 if kind == "clustered" else 0.0)

    def images(count):
        pids = torch.randint(1, 14, (count,), generator=draw)
        return center[pids] + torch.randn(count, dim, generator=draw), pids

    return images(num_query), images(num_gallery)


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize(
    "options", [{}, {"k1": 7, "k2": 3, "weight": 0.1}, {"k1": 5, "k2": 1, "weight": 0.0}, {"k1": 3, "k2": 9}]
)
def test_equals_the_dense_definition(kind, options):
    (query, _), (gallery, _) = embeddings(kind)
    measured = torch.cat([block.clone() for block in rerank(query, gallery, **options)])
    np.testing.assert_allclose(measured, by_definition(query.numpy(), gallery.numpy(), **options), atol=1e-5)


def test_many_images_are_searched_by_groups_with_the_same_result():
    (query, _), (gallery, _) = embeddings("clustered", 10, 600, dim=4)
    options = {"k1": 8, "k2": 3}
    measured = torch.cat([block.clone() for block in rerank(query, gallery, **options)])
    np.testing.assert_allclose(measured, by_definition(query.numpy(), gallery.numpy(), **options), atol=1e-5)


def test_cosine_is_the_definition_on_normalized_embeddings():
    (query, _), (gallery, _) = embeddings("clustered")
    lengths = torch.linspace(0.5, 20, len(gallery))[:, None]
    measured = torch.cat([block.clone() for block in rerank(query, gallery * lengths, "cosine")])
    a, b = (torch.nn.functional.normalize(x).numpy() for x in (query, gallery))
    np.testing.assert_allclose(measured, by_definition(a, b), atol=1e-5)


def test_its_ranking_is_that_of_its_distances_and_helps_clusters():
    (query, query_pids), (gallery, gallery_pids) = embeddings("clustered", 30, 200, dim=8)
    ids = query_pids, gallery_pids
    reranked = rank_reranked(query, gallery, *ids).summary()
    dense = torch.from_numpy(-by_definition(query.numpy(), gallery.numpy())).float()
    assert reranked["mAP"] == pytest.approx(rank_blocks([dense], Pairing.of(*ids)).summary()["mAP"], abs=1e-6)
    assert reranked["mAP"] > rank(query, gallery, *ids).summary()["mAP"]


def test_junk_takes_no_part():
    (query, query_pids), (gallery, gallery_pids) = embeddings("clustered")
    junk = query.repeat(3, 1)
    with_junk = rank_reranked(
        query, torch.cat([gallery, junk]), query_pids, [*gallery_pids.tolist(), *[-1] * len(junk)]
    )
    assert with_junk.summary() == rank_reranked(query, gallery, query_pids, gallery_pids).summary()


@pytest.mark.parametrize("num_gallery", [1, 2, 5])
def test_fewer_images_than_neighbors(num_gallery):
    (query, _), (gallery, _) = embeddings("random", 2, num_gallery)
    measured = torch.cat([block.clone() for block in rerank(query, gallery)])
    np.testing.assert_allclose(measured, by_definition(query.numpy(), gallery.numpy()), atol=1e-5)


def test_identical_images_give_finite_distances():
    assert torch.cat(list(rerank(torch.ones(3, 4), torch.ones(50, 4)))).isfinite().all()
