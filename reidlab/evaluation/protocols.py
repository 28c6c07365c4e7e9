"""Evaluation protocols: what two figures must share before they are compared."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from reidlab.console import log
from reidlab.data import ClassDataModule, ImageDataModule, ReidDataModule
from reidlab.data.samples import sides, with_match
from reidlab.data.validate import unmatched
from reidlab.errors import InputError
from reidlab.evaluation.classification import Classification
from reidlab.evaluation.outputs import Outputs
from reidlab.evaluation.retrieval import TEST, Retrieval
from reidlab.metrics import mean_interval
from reidlab.metrics.closeness import Distance
from reidlab.run import Run


@dataclass(frozen=True)
class RetrievalProtocol:
    """Retrieval of queries in their gallery.

    Args:
        distance: euclidean or cosine.
        exclude_same_camera: whether matches of a query's own camera are left out.
        wanted_fpr: the false positive rate that a threshold of verification is calibrated to.
    """

    distance: Distance = "euclidean"
    exclude_same_camera: bool = True
    wanted_fpr: float = 1e-3
    main: ClassVar[str] = "mAP"

    def evaluate(self, embeddings: Outputs, splits: tuple[str, str] = TEST) -> Retrieval:
        """Retrieval of the queries of the first split in the gallery of the second."""
        return Retrieval.of(embeddings, splits, self.distance, self.exclude_same_camera)

    def require_test(self, datamodule: ImageDataModule) -> None:
        """Raise InputError, before anything is embedded, where no query of the test split has a match."""
        test = datamodule.test
        if not with_match(*sides(test), self.exclude_same_camera).any():
            reason = unmatched(test, self.exclude_same_camera)
            raise InputError(f"{datamodule.samples.root}: the test split can't be ranked: {reason}")

    def elsewhere(self, home: ReidDataModule, other: ReidDataModule) -> "RetrievalProtocol":
        """The protocol on another data set, by that set's own same-camera rule, unless the run turned its own off."""
        turned_off = home.exclude_same_camera and not self.exclude_same_camera
        return replace(self, exclude_same_camera=other.exclude_same_camera and not turned_off)

    def record(self, datamodule: ImageDataModule) -> dict:
        """The protocol as a row of `metrics.json` keeps it: distance, same-camera rule, hash of the images, size."""
        rules = {"distance": self.distance, "exclude_same_camera": self.exclude_same_camera}
        return rules | _images(datamodule)

    def compare(self, embeddings: Outputs, reference: Outputs, splits: tuple[str, str] = TEST) -> dict[str, float]:
        """All figures of an exported form's embeddings, and their agreement with those of the checkpoint.

        - `drop`: of mAP against the checkpoint, in points (of 100), from `drop_low` to `drop_high`: the paired 95 %
          interval over identities, NaN of one
        - `cosine`: mean cosine similarity of the two embeddings of an image
        - `centered`: the same after each side's gallery mean is subtracted: of embeddings that have a large common part
          the plain one is always near 1
        - `threshold`: calibrated to `wanted_fpr`
        - `fpr_of_threshold`: the false positive rate at the checkpoint's threshold

        Both are NaN where all pairs are of one identity, or none are.
        """
        found, before = self.evaluate(embeddings, splits), self.evaluate(reference, splits)
        cosine = torch.nn.functional.cosine_similarity
        same = cosine(embeddings.values, reference.values)
        centered = cosine(_centered(embeddings, splits), _centered(reference, splits))
        counted = before.ranking.valid
        losses = (before.ranking.average_precision - found.ranking.average_precision)[counted]
        try:
            own, earlier = (side.verify(self.wanted_fpr, resamples=0, seed=0) for side in (found, before))
            threshold, passing = own.threshold, own.rates_at(earlier.threshold)[1]
        except InputError as error:
            log.info(f"no threshold is compared: {error}")
            threshold = passing = math.nan
        return {
            **found.summary(),
            **_drop(losses, before.query.column("pid")[counted]),
            "cosine": float(same.mean()),
            "centered": float(centered.mean()),
            "threshold": threshold,
            "fpr_of_threshold": passing,
        }


@dataclass(frozen=True)
class ClassificationProtocol:
    """Classification: the most confident class is compared with the true one."""

    datamodule: ClassDataModule
    main: ClassVar[str] = "top-1"

    def evaluate(self, confidences: Outputs, splits: tuple[str, ...] = ()) -> Classification:
        """Classification of all images, whatever the splits."""
        return Classification.of(confidences, self.datamodule)

    def require_test(self, datamodule: ImageDataModule) -> None:
        """Raise InputError, before anything is classified, where there is no test image."""
        if datamodule.test.empty:
            raise InputError(f"{datamodule.samples.root}: no images in the test split; see what `reidlab data` finds")

    def record(self, datamodule: ImageDataModule) -> dict:
        """The protocol as a row of `metrics.json` keeps it: the hash of the test images, and their size."""
        return _images(datamodule)

    def compare(self, confidences: Outputs, reference: Outputs, splits: tuple[str, ...] = ()) -> dict[str, float]:
        """All figures of an exported form's confidences, and the share of images with the checkpoint's class.

        `drop` is that of top-1 against the checkpoint, in points (of 100), from `drop_low` to `drop_high`: the paired
        95 % interval over images.
        """
        found, before = (self.evaluate(side).scores for side in (confidences, reference))
        losses = (before.ranks <= 1).double() - (found.ranks <= 1).double()
        same = (found.predicted == before.predicted).double().mean()
        return {**found.summary(), **_drop(losses), "agreement": float(same)}


Protocol = RetrievalProtocol | ClassificationProtocol


def protocol_of(run: Run, datamodule: ImageDataModule) -> Protocol:
    """The protocol of a run on its own data."""
    if run.is_classifier:
        return ClassificationProtocol(cast(ClassDataModule, datamodule))
    same_camera = run["evaluate.exclude_same_camera"] and cast(ReidDataModule, datamodule).exclude_same_camera
    return RetrievalProtocol(run["evaluate.distance"], same_camera, run["evaluate.wanted_fpr"])


def _images(datamodule: ImageDataModule) -> dict:
    """The hash of the test images, and the height and width that the network saw them in."""
    return {"test": datamodule.samples.content_hash(*datamodule.test_splits), "size": list(datamodule.size)}


def _drop(losses: Tensor, groups: Tensor | None = None) -> dict[str, float]:
    """The mean of losses (N,) from 0 to 1, in points, with its interval."""
    low, high = mean_interval(losses, groups)
    return {"drop": 100 * float(losses.mean()), "drop_low": 100 * low, "drop_high": 100 * high}


def _centered(embeddings: Outputs, splits: tuple[str, str]) -> Tensor:
    return embeddings.values - embeddings.split(splits[1], "val").values.mean(0)
