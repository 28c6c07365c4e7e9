"""Batches of P identities with K images each, for losses on pairs and triplets."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch.distributed
from torch.utils.data import Sampler

from reidlab.errors import InputError


def distributed_process() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside of distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class IdentityBatchSampler(Sampler[list[int]]):
    """Yields lists of positions in `pids`: batch_size / num_instances identities, each num_instances times.

    An epoch is a pass over the images: an identity has one turn for every num_instances of its images (at least one),
    identities take their first turn before any takes its second, and a turn shows images not shown before. Fewer images
    than num_instances are repeated to fill the turn; so are those of others where a few identities have most of the
    images, which can't have a place in each step twice. The order follows from (seed, epoch) alone; in distributed
    training all processes compute the same steps and each takes its own identities of every step, so that an identity
    is in one process's batch only and all have equally many batches.

    Hermans et al., "In Defense of the Triplet Loss", arXiv 1703.07737, section 2.

    Args:
        pids: of the images.
        batch_size: of each process.
        num_instances: images of an identity in a batch.
        seed: of the order.
        process: rank and number of processes; None asks torch.distributed.
        camids: of the images; with them an identity's images come from one camera after the other, so that a turn shows
            as many cameras as it can.
        class_balanced: give all identities equally many turns; those with few images show them again.
    """

    def __init__(
        self,
        pids: Sequence[int],
        batch_size: int,
        num_instances: int,
        seed: int = 0,
        process: tuple[int, int] | None = None,
        camids: Sequence[int] | None = None,
        class_balanced: bool = False,
    ) -> None:
        if num_instances < 1 or batch_size % num_instances:
            raise InputError(
                f"data.batch_size={batch_size} isn't a multiple of data.num_instances={num_instances}: change one"
            )
        self.pids = np.asarray(pids)
        self.identities = batch_size // num_instances
        self.num_instances = num_instances
        self.seed, self.epoch = seed, 0
        self.process = process
        _, self._labels, self._counts = np.unique(self.pids, return_inverse=True, return_counts=True)
        self._turns = np.maximum(self._counts // num_instances, 1)
        if class_balanced:
            self._turns = np.full_like(self._turns, round(self._turns.mean()))
        self.camids = None if camids is None else np.asarray(camids)

    @property
    def sampler(self) -> "IdentityBatchSampler":
        """Itself: Lightning calls `set_epoch` on a batch sampler's `sampler`, not on the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """The most steps in which no identity needs two places of one step; the same in every epoch."""
        places = self._places()
        steps = self._turns.sum() // places
        while (usable := np.minimum(self._turns, steps).sum()) < steps * places:
            steps = usable // places
        return int(steps)

    def __iter__(self) -> Iterator[list[int]]:
        rank, _ = self.process or distributed_process()
        places = self._places()
        rng = np.random.default_rng([self.seed, self.epoch])
        shuffled = self._shuffle(rng)
        starts = np.cumsum(self._counts) - self._counts
        taken = np.zeros_like(self._turns)
        for _ in range(len(self)):
            last_resort = np.where(taken < self._turns, 0, len(self.pids))
            step = np.argpartition(taken + last_resort + rng.random(len(taken)), places - 1)[:places]
            mine = rng.permutation(step)[rank * self.identities : (rank + 1) * self.identities, None]  # (P, 1)
            turn = taken[mine] * self.num_instances + np.arange(self.num_instances)  # (P, K)
            yield shuffled[starts[mine] + turn % self._counts[mine]].ravel().tolist()
            taken[step] += 1

    def _shuffle(self, rng: np.random.Generator) -> np.ndarray:
        """Positions in random order, grouped by identity; with camids, the first of each camera, then the second."""
        random = rng.random(len(self.pids))
        if self.camids is None:
            return np.lexsort((random, self._labels))
        by_camera = np.lexsort((random, self.camids, self._labels))
        keys = np.stack([self._labels, self.camids])[:, by_camera]
        first = np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(0)]  # of its identity and camera
        here = np.arange(len(random))
        turn = np.empty_like(here)
        turn[by_camera] = here - np.maximum.accumulate(np.where(first, here, 0))
        return np.lexsort((random, turn, self._labels))

    def _places(self) -> int:
        """Identities that a step takes over all processes."""
        _, processes = self.process or distributed_process()
        places = self.identities * processes
        if places > len(self._counts):
            raise InputError(
                f"a step needs {places} identities (data.batch_size / data.num_instances x {processes} process(es)) but"
                f" there are {len(self._counts)} to train on: lower data.batch_size or raise data.num_instances"
            )
        return places
