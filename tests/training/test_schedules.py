import math

import pytest
import torch

from reidlab.training.schedules import warmup_cosine, warmup_multistep


def rates(schedule, epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, seen = schedule(optimizer), []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_starts_low_peaks_after_warm_up_and_ends_at_the_final_factor():
    seen = rates(lambda o: warmup_cosine(o, epochs=11, warmup_epochs=2, warmup_factor=0.1, final_factor=0.05), 12)
    assert seen[0] == pytest.approx(0.1)
    assert seen[1] == pytest.approx(0.55)
    assert seen[2] == pytest.approx(1.0)
    for epoch in range(2, 12):
        expected = 0.05 + 0.95 * (1 + math.cos(math.pi * (epoch - 2) / 9)) / 2
        assert seen[epoch] == pytest.approx(expected)


def test_the_cosine_begins_after_the_rate_was_held():
    seen = rates(lambda o: warmup_cosine(o, epochs=10, warmup_epochs=2, hold_epochs=3, final_factor=0.0), 11)
    assert seen[2:6] == pytest.approx([1.0] * 4)
    assert seen[6:] == pytest.approx([(1 + math.cos(math.pi * step / 5)) / 2 for step in range(1, 6)])


def test_multistep_drops_at_each_milestone():
    seen = rates(lambda o: warmup_multistep(o, milestones=[6, 4], gamma=0.1, warmup_epochs=2, warmup_factor=0.01), 8)
    assert seen == pytest.approx([0.01, 0.505, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_no_warm_up():
    assert rates(lambda o: warmup_multistep(o, milestones=[1], warmup_epochs=0), 2) == pytest.approx([1, 0.1])
