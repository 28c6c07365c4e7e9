import math

import definition
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.errors import InputError
from reidlab.metrics import rank, rank_blocks, top_k
from reidlab.metrics import ranking as module
from reidlab.metrics.pairing import Pairing


def line(*positions):
    """Embeddings on a line, so that distances can be read off."""
    return torch.tensor([[float(p)] for p in positions])


def expected(query, gallery, query_ids, gallery_ids, distance="euclidean", exclude_same_camera=True):
    distances = [[definition.distance(q, g, distance) for g in gallery.tolist()] for q in query.tolist()]
    return definition.summary(distances, query_ids, gallery_ids, exclude_same_camera)


def measured(query, gallery, query_ids, gallery_ids, **options):
    ids = [list(column) for ids in (query_ids, gallery_ids) for column in (zip(*ids, strict=True) if ids else ([], []))]
    return rank(query, gallery, ids[0], ids[2], ids[1], ids[3], **options)


def assert_same(summary, oracle):
    assert summary.keys() == oracle.keys()
    for name, value in oracle.items():
        assert summary[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


# --- by hand -------------------------------------------------------------------------------------------------------


def test_average_precision_by_hand():
    result = rank(line(0), line(1, 2, 3, 4, 5), [7], [7, 8, 7, 9, 7])
    assert result.average_precision.item() == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert (result.first_rank.item(), result.last_rank.item(), result.num_matches.item()) == (1, 5, 3)
    assert result.inverse_negative_penalty.item() == pytest.approx(3 / 5)


def test_a_tie_counts_against_the_model_wherever_it_stands():
    for gallery_pids in ([1, 2], [2, 1]):
        result = rank(line(0), line(3, 3), [1], gallery_pids)
        assert result.first_rank.item() == 2
        assert result.average_precision.item() == 0.5


def test_matches_that_tie_with_each_other_don_t_harm():
    assert rank(line(0), line(1, 1, 1, 2), [1], [1, 1, 1, 2]).average_precision.item() == pytest.approx(1)


def test_a_collapsed_network_scores_worst():
    result = rank(torch.ones(2, 8), torch.ones(100, 8), [1, 2], [1, 2] * 50)
    assert result.first_rank.tolist() == [51, 51]
    assert result.average_precision[0].item() == pytest.approx(sum(n / (50 + n) for n in range(1, 51)) / 50)


def test_junk_is_nobody_s_neighbor_and_a_distractor_never_a_match():
    assert rank(line(0), line(1, 2), [5], [-1, 5]).first_rank.item() == 1
    assert rank(line(0), line(1, 2), [5], [0, 5]).first_rank.item() == 2
    result = rank(line(0, 0), line(1, 2), [0, -1], [0, -1])
    assert result.queries_without_match == [0, 1]
    assert result.summary()["num_gallery"] == 1


def test_a_query_without_a_match_is_left_out_and_listed():
    result = rank(line(0, 0), line(1, 2), [1, 3], [2, 1])
    assert result.queries_without_match == [1]
    assert result.summary()["num_query"] == 1
    assert result.summary()["mAP"] == 0.5
    assert math.isnan(result.average_precision[1].item())


def test_no_match_at_all_gives_nan_and_no_error():
    summary = rank(line(0), line(1), [1], [2]).summary()
    assert math.isnan(summary["mAP"])
    assert summary["num_query"] == 0


def test_same_camera_exclusion_is_a_switch():
    arguments = line(0), line(1, 2, 3), [1], [1, 2, 1], [4], [4, 4, 5]
    assert rank(*arguments).first_rank.item() == 2  # the other identity from the same camera stays
    assert rank(*arguments, exclude_same_camera=False).first_rank.item() == 1


def test_an_unknown_camera_is_nobody_s_own():
    assert rank(line(0), line(1), [1], [1], [0], [0]).num_matches.item() == 1


def test_cosine_sees_direction_and_euclidean_position():
    query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[9.0, 1.0], [1.0, 0.5]])
    assert rank(query, gallery, [1], [1, 2], distance="cosine").first_rank.item() == 1
    assert rank(query, gallery, [1], [1, 2], distance="euclidean").first_rank.item() == 2


def test_scores_of_any_origin_can_be_ranked():
    scores = torch.tensor([[0.9, 0.5, 0.5], [0.1, 0.2, 0.3]])
    result = rank_blocks(iter([scores[:1].clone(), scores[1:].clone()]), Pairing.of([1, 2], [2, 1, 2]))
    assert result.first_rank.tolist() == [3, 1]


# --- against the definition ----------------------------------------------------------------------------------------


@st.composite
def worlds(draw):
    """Small worlds full of ties: embeddings of a few whole numbers, few identities, junk, distractors, cameras."""
    dim = draw(st.integers(1, 4))
    vectors = st.lists(st.integers(-2, 2), min_size=dim, max_size=dim)
    ids = st.tuples(st.integers(-1, 3), st.integers(0, draw(st.integers(0, 3))))
    people = st.lists(st.tuples(vectors, ids), min_size=1, max_size=12)
    (query, query_ids), (gallery, gallery_ids) = (zip(*draw(people), strict=True) for _ in range(2))
    return torch.tensor(query).float(), torch.tensor(gallery).float(), list(query_ids), list(gallery_ids)


@given(worlds(), st.sampled_from(["euclidean", "cosine"]), st.booleans(), st.integers(1, 13))
@settings(max_examples=150, deadline=None)
def test_equals_the_definition_on_small_worlds(world, distance, exclude, block_rows):
    result = measured(*world, distance=distance, exclude_same_camera=exclude, block_rows=block_rows)
    assert_same(result.summary(), expected(*world, distance, exclude))


@given(worlds(), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_gallery_does_not_matter(world, random):
    query, gallery, query_ids, gallery_ids = world
    order = list(range(len(gallery)))
    random.shuffle(order)
    shuffled = measured(query, gallery[order], query_ids, [gallery_ids[i] for i in order])
    straight = measured(*world)
    assert torch.equal(shuffled.average_precision.nan_to_num(-1), straight.average_precision.nan_to_num(-1))
    assert torch.equal(shuffled.last_rank, straight.last_rank)


def people(num_query, num_gallery, dim, num_ids, noise, seed=0, cameras=3):
    draw = torch.Generator().manual_seed(seed)
    center = torch.randn(num_ids + 1, dim, generator=draw)

    def images(count, lowest):
        pids = torch.randint(lowest, num_ids + 1, (count,), generator=draw)
        camids = torch.randint(1, cameras + 1, (count,), generator=draw)
        embeddings = center[pids.clamp_min(0)] + noise * torch.randn(count, dim, generator=draw)
        return embeddings, list(zip(pids.tolist(), camids.tolist(), strict=True))

    (query, query_ids), (gallery, gallery_ids) = images(num_query, 1), images(num_gallery, -1)
    return query, gallery, query_ids, gallery_ids


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("noise", [0.5, 3.0, 100.0])
def test_equals_the_definition_on_people(distance, noise):
    world = people(15, 400, 8, 12, noise)
    for rows in (None, 4):
        assert_same(measured(*world, distance=distance, block_rows=rows).summary(), expected(*world, distance))


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_twins_tie_in_any_column_of_a_large_product(distance):
    """Copies of one vector may get float32 products that differ in the last bit; they must tie all the same."""
    query, gallery, query_ids, gallery_ids = people(24, 900, 67, 10, noise=2.0)
    twins = torch.cat([gallery, gallery[::3], gallery[::3]])  # (1500, 67): each third is there three times
    twin_ids = gallery_ids + [(1 + i % 10, 3) for i in range(300)] + [(0, 1)] * 300
    straight = measured(query, twins, query_ids, twin_ids, distance=distance)
    for seed in range(3):
        order = torch.randperm(len(twins), generator=torch.Generator().manual_seed(seed)).tolist()
        shuffled = measured(
            query, twins[order], query_ids, [twin_ids[i] for i in order], distance=distance, block_rows=5
        )
        assert torch.equal(shuffled.average_precision, straight.average_precision)
        assert torch.equal(shuffled.first_rank, straight.first_rank)
    assert_same(straight.summary(), expected(query, twins, query_ids, twin_ids, distance))


@pytest.mark.parametrize("crowded", [0.0, 1.0])
def test_single_pairs_and_whole_rows_settle_alike(monkeypatch, crowded):
    """Nearly collapsed embeddings: float32 decides next to nothing, either float64 path must decide it all."""
    query, gallery, query_ids, gallery_ids = people(6, 200, 33, 5, noise=1.0)
    query, gallery = 1 + 1e-4 * query, 1 + 1e-4 * gallery
    monkeypatch.setattr(module, "CROWDED", crowded)
    summary = measured(query, gallery, query_ids, gallery_ids).summary()
    distances = torch.cdist(query.double(), gallery.double(), compute_mode="donot_use_mm_for_euclid_dist").tolist()
    figures = [definition.query_figures(d, q, gallery_ids, tie=0) for d, q in zip(distances, query_ids, strict=True)]
    assert summary["mAP"] == pytest.approx(np.mean([f[0] for f in figures]), abs=1e-12)


def test_counting_by_comparison_equals_counting_by_survivors():
    """The GPU's way of counting, tried on the CPU."""
    draw = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 9, (7, 50), generator=draw).float()
    row = torch.randint(0, 7, (20,), generator=draw).sort().values
    edges = torch.randint(-1, 10, (2, 20), generator=draw).float().sort(0).values
    dense = module._reaching_dense(scores, row, edges)
    assert torch.equal(module._reaching(scores, row, edges), dense)
    assert torch.equal(dense, (scores[row] >= edges[..., None]).sum(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_ranked_as_float32(dtype):
    query, gallery, *ids = people(10, 80, 8, 5, noise=2.0)
    query, gallery = query.to(dtype), gallery.to(dtype)
    assert measured(query, gallery, *ids).summary() == measured(query.float(), gallery.float(), *ids).summary()


def test_training_s_matmul_precision_and_autocast_do_not_reach_the_ranking():
    world = people(20, 300, 64, 10, noise=3.0)
    plain = measured(*world).summary()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert measured(*world).summary() == plain
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_an_unusable_embedding_names_its_image(bad):
    embeddings = torch.ones(3, 4)
    embeddings[2, 1] = bad
    good, ids = torch.ones(3, 4), ([1, 2, 3], [1, 2, 3])
    with pytest.raises(InputError, match="gallery image number 2 "):
        rank(good, embeddings, *ids)
    with pytest.raises(InputError, match=r"query image c\.jpg"):
        rank(embeddings, good, *ids, query_names=["a.jpg", "b.jpg", "c.jpg"])


def test_wrong_shapes_and_distances_are_named():
    with pytest.raises(InputError, match="expected"):
        rank(torch.ones(1, 2), torch.ones(1, 3), [1], [1])
    with pytest.raises(InputError, match="manhattan"):
        rank(torch.ones(1, 2), torch.ones(1, 2), [1], [1], distance="manhattan")
    with pytest.raises(InputError, match="gallery"):
        rank(torch.ones(1, 2), torch.ones(1, 2), [1], [1], [1], [1, 2])
    with pytest.raises(InputError, match="3 images"):
        rank(torch.ones(1, 2), torch.ones(3, 2), [1], [1, 2])


# --- top k ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_top_k_equals_a_sorted_list(distance):
    query, gallery, query_ids, gallery_ids = people(9, 60, 5, 6, noise=1.0)
    ids = [list(column) for both in (query_ids, gallery_ids) for column in zip(*both, strict=True)]
    nearest = top_k(query, gallery, ids[0], ids[2], ids[1], ids[3], k=7, distance=distance)
    for row, (vector, q) in enumerate(zip(query.tolist(), query_ids, strict=True)):
        kept = [i for i, g in enumerate(gallery_ids) if definition.compared(q, g)]
        distances = {i: definition.distance(vector, gallery[i].tolist(), distance) for i in kept}
        order = sorted(kept, key=distances.get)[:7]
        assert nearest.index[row].tolist() == order
        assert nearest.distance[row].tolist() == pytest.approx([distances[i] for i in order], abs=1e-7)
        assert nearest.match[row].tolist() == [definition.matching(q, gallery_ids[i]) for i in order]
    assert not nearest.left_out.any()


def test_top_k_pads_and_can_show_what_is_left_out():
    arguments = line(0), line(1, 2, 3), [1], [-1, 1, 1], [1], [1, 1, 2]
    assert top_k(*arguments, k=3).index.tolist() == [[2, -1, -1]]
    assert top_k(*arguments, k=3).distance.tolist() == [[3.0, math.inf, math.inf]]
    shown = top_k(*arguments, k=3, keep_left_out=True)
    assert shown.index.tolist() == [[0, 1, 2]]
    assert shown.left_out.tolist() == [[True, True, False]]
    assert shown.match.tolist() == [[False, False, True]]


def test_top_k_shows_the_other_identity_first_where_it_ties():
    assert top_k(line(0), line(2, 2), [1], [1, 3], k=2).match.tolist() == [[False, True]]
