"""How networks are judged: what two figures must share before they are compared."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reidlab.data import ClassDataModule, ImageDataModule
from reidlab.evaluation.classification import Classification
from reidlab.evaluation.embeddings import Embeddings
from reidlab.evaluation.retrieval import TEST, Retrieval
from reidlab.metrics.closeness import Distance
from reidlab.run import Run


@dataclass(frozen=True)
class RetrievalProtocol:
    """Queries are ranked in their gallery by a distance; matches of the query's own camera count or are left out.

    `wanted_fpr` is the share of different identities that a threshold lets pass.
    """

    distance: Distance = "euclidean"
    exclude_same_camera: bool = True
    wanted_fpr: float = 1e-3
    main: ClassVar[str] = "mAP"

    def evaluate(self, embeddings: Embeddings, splits: tuple[str, str] = TEST) -> Retrieval:
        """The queries of two splits searched in their gallery."""
        return Retrieval.of(embeddings, splits, self.distance, self.exclude_same_camera)

    def record(self, datamodule: ImageDataModule) -> dict:
        """What a figure's row says of how it was measured: distance, same-camera rule, hash of query and gallery."""
        rules = {"distance": self.distance, "exclude_same_camera": self.exclude_same_camera}
        return rules | {"test": datamodule.samples.content_hash(*datamodule.test_splits)}

    def compare(self, embeddings: Embeddings, reference: Embeddings) -> dict[str, float]:
        """All figures of a form's test embeddings, and how close they are to those of the checkpoint.

        - `cosine`: mean over all images
        - `centred`: the same after each side's gallery mean is subtracted, which shows what plain cosine hides
        - `threshold`: the distance that lets `wanted_fpr` of different identities pass for the same
        - `fpr_of_threshold`: how many pass by the checkpoint's threshold
        """
        found, before = self.evaluate(embeddings), self.evaluate(reference)
        same = torch.nn.functional.cosine_similarity(embeddings.features, reference.features)
        centred = torch.nn.functional.cosine_similarity(_centred(embeddings), _centred(reference))
        own, earlier = (side.verify(self.wanted_fpr, resamples=0, seed=0) for side in (found, before))
        passing = own.fpr[own.thresholds.searchsorted(earlier.threshold, side="right") - 1]
        return {
            **found.summary(),
            "cosine": float(same.mean()),
            "centred": float(centred.mean()),
            "threshold": own.threshold,
            "fpr_of_threshold": float(passing),
        }


@dataclass(frozen=True)
class ClassificationProtocol:
    """The most confident class is compared with the true one."""

    datamodule: ClassDataModule
    main: ClassVar[str] = "top-1"

    def evaluate(self, confidences: Embeddings, splits: tuple[str, ...] = ()) -> Classification:
        """All images and their classes, whatever the splits."""
        return Classification.of(confidences, self.datamodule)

    def record(self, datamodule: ImageDataModule) -> dict:
        """What a figure's row says of how it was measured: the hash of the test images."""
        return {"test": datamodule.samples.content_hash(*datamodule.test_splits)}

    def compare(self, confidences: Embeddings, reference: Embeddings) -> dict[str, float]:
        """All figures of a form's test confidences, and the share of images with the checkpoint's class."""
        found, before = self.evaluate(confidences), self.evaluate(reference)
        same = (found.scores.predicted == before.scores.predicted).double().mean()
        return {**found.summary(), "agreement": float(same)}


Protocol = RetrievalProtocol | ClassificationProtocol


def protocol_of(run: Run, datamodule: ImageDataModule) -> Protocol:
    """How a run's network is judged on its own data."""
    if run.is_classifier:
        return ClassificationProtocol(datamodule)
    same_camera = run["evaluate.exclude_same_camera"] and datamodule.exclude_same_camera
    return RetrievalProtocol(run["evaluate.distance"], same_camera, run["evaluate.wanted_fpr"])


def _centred(embeddings: Embeddings) -> Tensor:
    return embeddings.features - embeddings.split("gallery").features.mean(0)
