"""One protocol for every form of a network: what conversion and quantisation cost, in figures that matter."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from reidlab.classification import Classification
from reidlab.data import ClassDataModule, ReidDataModule
from reidlab.embedding import Embeddings
from reidlab.errors import InputError
from reidlab.export.runtime import Embedder
from reidlab.progress import bar
from reidlab.retrieval import TEST, Retrieval


@dataclass(frozen=True)
class Score:
    """How a network for retrieval is judged; `main` is the figure that quantisation must not spoil."""

    distance: str
    exclude_same_camera: bool
    wanted_fpr: float = 1e-3
    main: str = "mAP"

    def summary(self, embeddings: Embeddings, splits: tuple[str, str] = TEST) -> dict[str, float]:
        """The figures of the ranking."""
        return self._retrieval(embeddings, splits).ranking.summary()

    def main_figure(self, embeddings: Embeddings, splits: tuple[str, str] = TEST) -> float:
        """The main figure alone."""
        return self.summary(embeddings, splits)[self.main]

    def __call__(self, embeddings: Embeddings, reference: Embeddings) -> dict[str, float]:
        """All figures of a form's test embeddings, and how close they are to those of the checkpoint.

        - `cosine`: mean over all images
        - `centred`: the same after each side's gallery mean is subtracted, which shows what plain cosine hides
        - `threshold`: the distance that lets `wanted_fpr` of different people pass for the same
        - `fpr_of_threshold`: how many pass by the checkpoint's threshold
        """
        found = self._retrieval(embeddings, TEST)
        same = torch.nn.functional.cosine_similarity(embeddings.features, reference.features)
        centred = torch.nn.functional.cosine_similarity(_centred(embeddings), _centred(reference))
        closeness = {"cosine": float(same.mean()), "centred": float(centred.mean())}
        own, set_before = (
            r.verify(self.wanted_fpr, resamples=0, seed=0) for r in (found, self._retrieval(reference, TEST))
        )
        passing = own.fpr[own.thresholds.searchsorted(set_before.threshold, side="right") - 1]
        return {
            **found.ranking.summary(),
            **closeness,
            "threshold": own.threshold,
            "fpr_of_threshold": float(passing),
        }

    def _retrieval(self, embeddings: Embeddings, splits: tuple[str, str]) -> Retrieval:
        return Retrieval.of(embeddings, splits, self.distance, self.exclude_same_camera)


@dataclass(frozen=True)
class ClassScore:
    """How a network that tells classes is judged, in the same words."""

    datamodule: ClassDataModule
    main: str = "top-1"

    def summary(self, confidences: Embeddings) -> dict[str, float]:
        """The figures of the class scores."""
        return Classification.of(confidences, self.datamodule).scores.summary()

    def main_figure(self, confidences: Embeddings, splits: tuple[str, ...] = ()) -> float:
        """The accuracy, whatever the splits."""
        return self.summary(confidences)[self.main]

    def __call__(self, confidences: Embeddings, reference: Embeddings) -> dict[str, float]:
        """All figures of a form's test confidences, and the share of images with the checkpoint's class."""
        found, before = (Classification.of(c, self.datamodule).scores for c in (confidences, reference))
        same = (found.predicted == before.predicted).double().mean()
        return {**found.summary(), "agreement": float(same)}


def score_of(cfg, datamodule: ReidDataModule) -> Score | ClassScore:
    """How the networks of a run are judged."""
    if isinstance(datamodule, ClassDataModule):
        return ClassScore(datamodule)
    return Score(cfg.evaluate.distance, cfg.evaluate.exclude_same_camera, cfg.evaluate.wanted_fpr)


def embed_file(embedder: Embedder, datamodule: ReidDataModule, table: pd.DataFrame, label: str) -> Embeddings:
    """Features of every image of a table by an exported file."""
    if not all(n in (own, -1) for n, own in zip(embedder.size, datamodule.size, strict=True)):
        raise InputError(
            f"{embedder.file}: takes images of {embedder.size}, data.size is {tuple(datamodule.size)}; "
            f"set data.size=[{embedder.size[0]},{embedder.size[1]}]"
        )
    batches = bar(datamodule.loader(table), desc=f"embed {label}", unit="batch")
    blocks = [embedder(batch["image"].permute(0, 2, 3, 1).numpy()) for batch in batches]
    return Embeddings(torch.from_numpy(np.concatenate(blocks)), table)


def _centred(embeddings: Embeddings) -> Tensor:
    return embeddings.features - embeddings.split("gallery").features.mean(0)
