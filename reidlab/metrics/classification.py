"""How good class scores are: accuracy with its uncertainty, class by class, and whether confidences can be believed."""

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import torch
from torch import Tensor
from torchmetrics import Metric

from reidlab.errors import InputError
from reidlab.metrics.uncertainty import Interval

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassScores:
    """Class confidences (N, C) of images, each row a distribution, and the images' classes (N,) of 0..C-1.

    Of classes with equal confidence the first ranks first, as argmax on a device has it.

    >>> scores = ClassScores(torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]]), torch.tensor([0, 0]))
    >>> scores.ranks.tolist(), scores.confusion.tolist()
    ([1, 2], [[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    """

    confidences: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.confidences.ndim != 2 or len(self.confidences) != len(self.labels):
            raise InputError(f"confidences {tuple(self.confidences.shape)} and {len(self.labels)} labels don't match")
        if len(self.labels) == 0:
            raise InputError("no images to score; see what `reidlab data` finds")

    @cached_property
    def predicted(self) -> Tensor:
        """The class of the highest confidence, (N,)."""
        return self.confidences.argsort(dim=1, descending=True, stable=True)[:, 0]

    @cached_property
    def ranks(self) -> Tensor:
        """The place of the true class among all, 1 being the first, (N,)."""
        order = self.confidences.argsort(dim=1, descending=True, stable=True)
        return (order == self.labels[:, None]).int().argmax(1) + 1

    @cached_property
    def confusion(self) -> Tensor:
        """Images of true class i that were taken for class j, (C, C)."""
        count = self.confidences.shape[1]
        return torch.bincount(self.labels * count + self.predicted, minlength=count**2).view(count, count)

    def accuracy(self, k: int = 1) -> float:
        """The share of images whose class is among the k most confident ones."""
        return float((self.ranks <= k).double().mean())

    def per_class(self) -> dict[str, Tensor]:
        """Recall, precision, F1 and the number of images of each class, (C,); 0 where a quotient isn't defined."""
        hits = self.confusion.diagonal().double()
        images, claimed = self.confusion.sum(1), self.confusion.sum(0)
        recall, precision = (hits / total.clamp(min=1) for total in (images, claimed))
        f1 = 2 * recall * precision / (recall + precision).clamp(min=1e-12)
        return {"recall": recall, "precision": precision, "f1": f1, "num_images": images}

    def calibration(self, bins: int = CALIBRATION_BINS) -> tuple[Tensor, Tensor, Tensor]:
        """Images, mean confidence and accuracy of each of `bins` equal intervals of the confidence, (bins,) each."""
        confidence = self.confidences.gather(1, self.predicted[:, None]).squeeze(1).double()
        place = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
        count, sure, right = (
            torch.zeros(bins, dtype=torch.double).index_add_(0, place.cpu(), values.cpu())
            for values in (torch.ones_like(confidence), confidence, (self.predicted == self.labels).double())
        )
        return count, sure / count.clamp(min=1), right / count.clamp(min=1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean gap of confidence and accuracy (Guo et al., arXiv 1706.04599, eq. 3)."""
        count, sure, right = self.calibration()
        return float((count * (sure - right).abs()).sum() / count.sum())

    @property
    def log_likelihood(self) -> float:
        """The mean logarithm of the confidence in the true class: steadier on few images than a count of hits."""
        return float(self.confidences.gather(1, self.labels[:, None]).double().clamp(min=1e-12).log().mean())

    def summary(self) -> dict[str, float | int]:
        """top-1, top-5, means over the classes of recall and F1, calibration error, likelihood, number of images."""
        each = self.per_class()
        shown = each["num_images"] > 0
        return {
            "top-1": self.accuracy(),
            "top-5": self.accuracy(5),
            "class_recall": float(each["recall"][shown].mean()),
            "macro_f1": float(each["f1"][shown].mean()),
            "calibration_error": self.calibration_error,
            "log_likelihood": self.log_likelihood,
            "num_images": len(self.labels),
        }


class ClassMetric(Metric):
    """The summary of `ClassScores` over all batches of an epoch and all processes.

    `update` takes logits (B, C), labels (B,) and index (B,), the sample's place in its table: what a distributed
    sampler repeats to fill its last batch counts once.
    """

    full_state_update = False
    higher_is_better = True

    logits: list[Tensor]
    labels: list[Tensor]
    index: list[Tensor]

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for name in ("logits", "labels", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, index: Tensor) -> None:
        """Collect one batch."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels)
        self.index.append(index)

    def compute(self) -> dict[str, float | int]:
        """The summary of all that was collected."""
        logits, labels, index = map(self._all, ("logits", "labels", "index"))
        order = index.argsort(stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = index[order][1:] != index[order][:-1]
        kept = order[first]
        return ClassScores(logits[kept].softmax(1), labels[kept]).summary()

    def _all(self, name: str) -> Tensor:
        state = getattr(self, name)  # a list here, already one tensor after a distributed sync
        return torch.cat(state) if isinstance(state, list) else state


def share_interval(share: float, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share of `count` images (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    >>> [round(end, 3) for end in share_interval(0.9, 100)]
    [0.826, 0.945]
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count**2)) ** 0.5
    return Interval(middle - half, middle + half)
