import socket

import pytest
import torch

from reidlab.metrics import ClassScores, rank
from reidlab.training.metrics import ClassMetric, ReidMetric


def batches(count=40, dim=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "embeddings": torch.randn(count, dim, generator=draw),
        "pids": torch.randint(0, 6, (count,), generator=draw),
        "camids": torch.randint(1, 3, (count,), generator=draw),
        "is_query": torch.rand(count, generator=draw) < 0.3,
        "index": torch.arange(count),
    }


def feed(metric, samples, size=7):
    for start in range(0, len(samples["pids"]), size):
        metric.update(**{name: values[start : start + size] for name, values in samples.items()})
    return metric.compute()


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_is_the_ranking_of_all_batches(distance):
    samples = batches()
    query, gallery = samples["is_query"], ~samples["is_query"]
    straight = rank(
        *(samples[name][kept] for name in ("embeddings", "pids", "camids") for kept in (query, gallery)),
        distance=distance,
    )
    assert feed(ReidMetric(distance=distance), samples) == straight.summary()


def test_a_sample_that_the_sampler_repeats_counts_once():
    samples = batches()
    repeated = {name: torch.cat([values, values[:9]]) for name, values in samples.items()}
    assert feed(ReidMetric(), repeated) == feed(ReidMetric(), samples)


def test_after_a_reset_nothing_is_left():
    metric = ReidMetric()
    feed(metric, batches(seed=1))
    metric.reset()
    assert feed(metric, batches(seed=2)) == feed(ReidMetric(), batches(seed=2))


def test_the_states_of_two_processes_add_up():
    samples, parts = batches(41), (ReidMetric(), ReidMetric())
    for number, metric in enumerate(parts):
        metric.update(**{name: values[number::2] for name, values in samples.items()})
    parts[0].merge_state(parts[1])
    assert parts[0].compute() == feed(ReidMetric(), samples)


def _process(rank_, world_size, port, results):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank_, world_size=world_size)
    samples = batches(41)
    mine = torch.arange(rank_, 42, world_size) % 41  # the padding that DistributedSampler does
    results[rank_] = feed(ReidMetric(), {name: values[mine] for name, values in samples.items()})
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with torch.multiprocessing.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (2, port, results), nprocs=2)
        assert results[0] == results[1] == feed(ReidMetric(), batches(41))


def test_class_scores_of_images_that_a_distributed_sampler_repeats_count_once():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 6, generator=generator), torch.randint(6, (200,), generator=generator)
    scores, metric = ClassScores(logits.softmax(1), labels), ClassMetric()
    metric.update(logits[:120], scores.labels[:120], torch.arange(120))
    metric.update(logits[80:], scores.labels[80:], torch.arange(80, 200))
    assert metric.compute() == pytest.approx(scores.summary(), abs=1e-6)
