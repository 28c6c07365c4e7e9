"""Accuracy of class scores with its uncertainty, figures of each class, and the calibration of confidences."""

from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.stats import binomtest
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

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

    @property
    def num_classes(self) -> int:
        """C."""
        return self.confidences.shape[1]

    @cached_property
    def predicted(self) -> Tensor:
        """The class of the highest confidence, (N,)."""
        return self.confidences.argmax(1)

    @cached_property
    def ranks(self) -> Tensor:
        """The place of the true class among all, 1 being the first, (N,)."""
        order = self.confidences.argsort(dim=1, descending=True, stable=True)
        return (order == self.labels[:, None]).int().argmax(1) + 1

    @cached_property
    def confusion(self) -> Tensor:
        """Images of true class i that were taken for class j, (C, C)."""
        return multiclass_confusion_matrix(self.confidences, self.labels, self.num_classes)

    def accuracy(self, k: int = 1) -> float:
        """The share of images whose class is among the k most confident ones.

        Not by torchmetrics, whose top-k takes any of several classes with equal confidence: int8 networks give many.
        """
        return float((self.ranks <= k).double().mean())

    def per_class(self) -> dict[str, Tensor]:
        """Recall, precision, F1 and the number of images of each class, (C,); 0 where a quotient isn't defined."""
        figures = {"recall": multiclass_recall, "precision": multiclass_precision, "f1": multiclass_f1_score}
        given = (self.confidences, self.labels, self.num_classes)
        each = {name: figure(*given, average="none") for name, figure in figures.items()}
        return each | {"num_images": self.confusion.sum(1)}

    def calibration(self, bins: int = CALIBRATION_BINS) -> tuple[Tensor, Tensor, Tensor]:
        """Images, mean confidence and accuracy in each of `bins` equal intervals of the confidence, (bins,) each.

        The bins of `calibration_error`, which torchmetrics keeps to itself.
        """
        confidence = self.confidences.amax(1).double().cpu()
        right = (self.predicted == self.labels).double().cpu()
        place = (confidence * bins).long().clamp(0, bins - 1)
        count, sure, hits = (
            torch.bincount(place, values, minlength=bins) for values in (torch.ones_like(right), confidence, right)
        )
        return count, sure / count.clamp(min=1), hits / count.clamp(min=1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: the mean gap of confidence and accuracy (Guo et al., arXiv 1706.04599, eq. 3)."""
        shares = self.confidences.clamp(0, 1)  # torchmetrics takes values outside for logits
        return float(multiclass_calibration_error(shares, self.labels, self.num_classes, n_bins=CALIBRATION_BINS))

    @property
    def log_likelihood(self) -> float:
        """The mean logarithm of the confidence in the true class: steadier on few images than a count of hits."""
        return float(self.confidences.gather(1, self.labels[:, None]).double().clamp(min=1e-12).log().mean())

    def summary(self) -> dict[str, float | int]:
        """top-1, top-5 of more than five classes, mean recall and F1, calibration error, likelihood, number of images.

        The means are over the classes that have images; torchmetrics' count a class without images as 0 where an image
        was taken for it.
        """
        each = self.per_class()
        present = each["num_images"] > 0
        return {
            "top-1": self.accuracy(),
            **({"top-5": self.accuracy(5)} if self.num_classes > 5 else {}),
            "class_recall": float(each["recall"][present].mean()),
            "macro_f1": float(each["f1"][present].mean()),
            "calibration_error": self.calibration_error,
            "log_likelihood": self.log_likelihood,
            "num_images": len(self.labels),
        }


class ClassMetric(Metric):
    """The summary of `ClassScores` over all batches of an epoch and all processes.

    `update` takes logits (B, C), labels (B,) and index (B,), the places in the sample table; images that a distributed
    sampler repeats count once.
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


def share_interval(hits: int, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share, `hits` of `count` (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    >>> [round(end, 3) for end in share_interval(90, 100)]
    [0.826, 0.945]
    """
    return Interval(*map(float, binomtest(hits, count).proportion_ci(level, method="wilson")))
