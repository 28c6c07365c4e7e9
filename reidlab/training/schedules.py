"""Learning-rate schedules with a linear warm-up, counted in epochs."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Planned(LambdaLR):
    """A schedule over a number of epochs that may change while training, see `TimeBudget`.

    Args:
        optimizer: whose rate is scheduled.
        factor: of the base rate, from an epoch and the number of all epochs.
        epochs: of the training, as far as is known.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[int, float], float], epochs: float):
        self.epochs = epochs
        super().__init__(optimizer, lambda epoch: factor(epoch, self.epochs))

    def plan(self, epochs: float) -> None:
        """Take another number of epochs from now on, for the present epoch too."""
        self.epochs = epochs
        for group, base, factor in zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True):
            group["lr"] = base * factor(self.last_epoch)

    def state_dict(self) -> dict:
        """Without the number of epochs, which is a setting and may be another when training goes on."""
        return {key: value for key, value in super().state_dict().items() if key != "epochs"}


def warmup_cosine(
    optimizer: Optimizer,
    *,
    epochs: int,
    warmup_epochs: int = 5,
    warmup_factor: float = 0.01,
    final_factor: float = 0.01,
    hold_epochs: int = 0,
) -> Planned:
    """Linear warm-up, the base rate for a while, then half a cosine (Loshchilov & Hutter 2017, equation 5).

    Args:
        optimizer: whose rate is scheduled.
        epochs: of the training.
        warmup_epochs: of the warm-up.
        warmup_factor: the first epoch's rate, as a share of the base rate.
        final_factor: that which the epoch after the last would have, likewise.
        hold_epochs: at the base rate.
    """
    start = warmup_epochs + hold_epochs

    def factor(epoch: int, epochs: float) -> float:
        progress = min(max(epoch - start, 0) / max(1, epochs - start), 1.0)
        cosine = final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))
        return cosine * _warm_up(epoch, warmup_epochs, warmup_factor)

    return Planned(optimizer, factor, epochs)


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

    def factor(epoch: int) -> float:
        return gamma ** bisect_right(steps, epoch) * _warm_up(epoch, warmup_epochs, warmup_factor)

    return LambdaLR(optimizer, factor)


def _warm_up(epoch: int, epochs: int, start: float) -> float:
    """A ramp that rises from `start` to 1 over the first epochs."""
    return start + (1 - start) * epoch / epochs if epoch < epochs else 1.0
