"""Ranking and class scores as torchmetrics' metrics, for validation during training."""

import torch
from torch import Tensor
from torchmetrics import Metric

from reidlab.metrics import ClassScores, rank
from reidlab.metrics.closeness import Distance
from reidlab.metrics.pairing import leave_one_out


class _Collected(Metric):
    """Columns of all batches of an epoch and all processes."""

    full_state_update = False
    higher_is_better = True
    columns: tuple[str, ...]

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name in self.columns:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _all(self, name: str) -> Tensor:
        state = getattr(self, name)  # a list here, already one tensor after a distributed sync
        return torch.cat(state) if isinstance(state, list) else state


class ReidMetric(_Collected):
    """mAP, CMC and mINP over all batches of an epoch and all processes; see `rank`.

    >>> metric = ReidMetric(distance="cosine")
    >>> metric.update(torch.eye(2).repeat(2, 1), [1, 2, 1, 2], [1, 1, 2, 2], [1, 1, 0, 0], [0, 1, 2, 3])
    >>> metric.compute()["mAP"]
    1.0
    """

    columns = ("embeddings", "pids", "camids", "is_query", "index")
    embeddings: list[Tensor]
    pids: list[Tensor]
    camids: list[Tensor]
    is_query: list[Tensor]
    index: list[Tensor]

    def __init__(self, distance: Distance = "euclidean", exclude_same_camera: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.distance, self.exclude_same_camera = distance, exclude_same_camera

    def update(self, embeddings: Tensor, pids, camids, is_query, index) -> None:
        """Collect one batch.

        Args:
            embeddings: (B, D).
            pids: (B,).
            camids: (B,).
            is_query: (B,), whether an image is a query or of the gallery; all where each is ranked among the others.
            index: (B,), the places in the sample table; images that a distributed sampler repeats count once.
        """
        self.embeddings.append(embeddings.detach().float())
        for name, values in (("pids", pids), ("camids", camids), ("is_query", is_query), ("index", index)):
            getattr(self, name).append(torch.as_tensor(values, dtype=torch.int64, device=embeddings.device))

    def compute(self) -> dict[str, float | int]:
        """The summary of the ranking of all that was collected; of queries alone, each among all others."""
        index, is_query, camids = self._all("index"), self._all("is_query") == 1, self._all("camids")
        query, gallery = _once(index, is_query), _once(index, ~is_query)
        exclude = self.exclude_same_camera
        if not len(gallery):
            gallery, camids, exclude = query, leave_one_out(camids, index, exclude), True
        columns = (self._all("embeddings"), self._all("pids"), camids)
        sides = (column[kept] for column in columns for kept in (query, gallery))
        return rank(*sides, distance=self.distance, exclude_same_camera=exclude).summary()


class ClassMetric(_Collected):
    """The summary of `ClassScores` over all batches of an epoch and all processes.

    `update` takes logits (B, C), labels (B,) and index (B,), the places in the sample table; images that a distributed
    sampler repeats count once.
    """

    columns = ("logits", "labels", "index")
    logits: list[Tensor]
    labels: list[Tensor]
    index: list[Tensor]

    def update(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Collect one batch."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels)
        self.index.append(index)

    def compute(self) -> dict[str, float | int]:
        """The summary of all that was collected."""
        logits, labels, index = map(self._all, ("logits", "labels", "index"))
        kept = _once(index, torch.ones_like(index, dtype=torch.bool))
        return ClassScores(logits[kept].softmax(1), labels[kept]).summary()


def _once(index: Tensor, wanted: Tensor) -> Tensor:
    """Positions of the wanted samples, each sample once, in the order of `index`. (N,), (N,) bool -> (M,)"""
    positions = wanted.nonzero().squeeze(1)
    samples, order = index[positions].sort(stable=True)
    first = torch.ones_like(samples, dtype=torch.bool)
    first[1:] = samples[1:] != samples[:-1]
    return positions[order[first]]
