"""Learning-rate schedules with a linear warm-up, counted in epochs."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer,
    *,
    epochs: int,
    warmup_epochs: int = 5,
    warmup_factor: float = 0.01,
    final_factor: float = 0.01,
    hold_epochs: int = 0,
) -> LambdaLR:
    """Linear warm-up, the base rate for a while, then half a cosine (Loshchilov & Hutter 2017, equation 5).

    Args:
        optimizer: whose rate is scheduled.
        epochs: of the training.
        warmup_epochs: of the warm-up.
        warmup_factor: the first epoch's rate, as a share of the base rate.
        final_factor: the last epoch's, likewise.
        hold_epochs: at the base rate.
    """
    start = warmup_epochs + hold_epochs

    def factor(epoch: int) -> float:
        progress = min(max(epoch - start, 0) / max(1, epochs - start), 1.0)
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, _warmed_up(factor, warmup_epochs, warmup_factor))


def warmup_multistep(
    optimizer: Optimizer,
    *,
    milestones: Sequence[int],
    gamma: float = 0.1,
    warmup_epochs: int = 10,
    warmup_factor: float = 0.01,
) -> LambdaLR:
    """Linear warm-up, then a step down at each milestone (Luo et al. 2019, section 3.1).

    Args:
        optimizer: whose rate is scheduled.
        milestones: epochs.
        gamma: factor of the rate at each.
        warmup_epochs: of the warm-up.
        warmup_factor: the first epoch's rate, as a share of the base rate.
    """
    steps = sorted(milestones)
    return LambdaLR(
        optimizer, _warmed_up(lambda epoch: gamma ** bisect_right(steps, epoch), warmup_epochs, warmup_factor)
    )


def _warmed_up(factor: Callable[[int], float], epochs: int, start: float) -> Callable[[int], float]:
    """`factor(epoch)`, times a ramp that rises from `start` to 1 over the first epochs."""
    return lambda epoch: factor(epoch) * (start + (1 - start) * epoch / epochs if epoch < epochs else 1.0)
