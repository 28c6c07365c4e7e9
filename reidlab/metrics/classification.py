"""Accuracy of class scores with its uncertainty, figures of each class, and the calibration of confidences."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy.special import ndtri
from torch import Tensor

from reidlab.console import log
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
        cell = self.labels * self.num_classes + self.predicted
        return torch.bincount(cell, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)

    def accuracy(self, k: int = 1) -> float:
        """The share of images whose class is among the k most confident ones."""
        return float((self.ranks <= k).double().mean())

    def per_class(self) -> dict[str, Tensor]:
        """Recall, precision, F1 and the number of images of each class, (C,); 0 where a quotient isn't defined."""
        right, images, claimed = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        return {
            "recall": right / images.clamp(min=1),
            "precision": right / claimed.clamp(min=1),
            "f1": 2 * right / (images + claimed).clamp(min=1),
            "num_images": images,
        }

    def calibration(self, bins: int = CALIBRATION_BINS) -> tuple[Tensor, Tensor, Tensor]:
        """Images, mean confidence and accuracy in each of `bins` equal intervals of the confidence, (bins,) each."""
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
        count, sure, right = self.calibration()
        return float((count * (sure - right).abs()).sum() / len(self.labels))

    @property
    def log_likelihood(self) -> float:
        """The mean logarithm of the confidence in the true class: steadier on few images than a count of hits."""
        return float(self.confidences.gather(1, self.labels[:, None]).double().clamp(min=1e-12).log().mean())

    def summary(self) -> dict[str, float | int]:
        """top-1, top-5 of more than five classes, mean recall and F1, calibration error, likelihood, number of images.

        The means are over the classes that have images.
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


def as_confidences(values: Tensor) -> Tensor:
    """A network's output (N, C) as distributions over the classes, by softmax where it is none, with a note."""
    if are_confidences(values):
        return values
    log.info("assumed: the network gives logits, since they are no distribution over classes; their softmax is taken")
    return values.softmax(1)


def are_confidences(values: Tensor) -> bool:
    """Whether a network's output (N, C) has a distribution over the classes in each row.

    Distributions of half precision are a little off; those of int8 files, which have 256 values at most, by a half of
    1/256 in each class.
    """
    rounding = 1e-2 + (values.shape[1] / 512 if len(values.unique()) <= 256 else 0)
    return len(values) == 0 or bool(
        values.min() >= -1e-3 and values.max() <= 1.001 and (values.sum(1) - 1).abs().max() <= rounding
    )


def share_interval(hits: int, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share, `hits` of `count` (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    >>> [round(end, 3) for end in share_interval(90, 100)]
    [0.826, 0.945]
    """
    z, share = float(ndtri((1 + level) / 2)), hits / count
    center, half = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + (z / count) ** 2 / 4)
    scale = 1 + z**2 / count
    return Interval(max((center - half) / scale, 0.0), min((center + half) / scale, 1.0))
