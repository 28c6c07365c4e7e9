"""Classification of a split's images: figures, tables and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from reidlab import plots
from reidlab.data import ClassDataModule
from reidlab.errors import InputError
from reidlab.evaluation.outputs import Outputs
from reidlab.metrics import ClassScores, Interval, share_interval
from reidlab.metrics.classification import as_confidences

SHARES = {"top-1": 1, "top-5": 5}  # accuracies with an interval: name -> k


@dataclass(frozen=True)
class Classification:
    """Class confidences (N, C) of images; the C columns are the classes whose pids and names are given."""

    confidences: Outputs
    classes: Sequence[int]
    names: Sequence[str]

    @classmethod
    def of(cls, confidences: Outputs, datamodule: ClassDataModule) -> "Classification":
        """Confidences in the classes of a data set; InputError where the network has another number of classes."""
        known = confidences.values.shape[1]
        if known != datamodule.num_classes:
            raise InputError(
                f"the network has {known} classes, data '{datamodule.name}' has {datamodule.num_classes}; "
                "give the data that it was trained on"
            )
        confidences = replace(confidences, values=as_confidences(confidences.values))
        return cls(confidences, datamodule.classes, datamodule.class_names)

    @cached_property
    def scores(self) -> ClassScores:
        """All figures."""
        number = {pid: column for column, pid in enumerate(self.classes)}
        labels = [number[pid] for pid in self.confidences.table["pid"]]
        return ClassScores(self.confidences.values, torch.tensor(labels, dtype=torch.int64))

    def summary(self) -> dict[str, float]:
        """All figures."""
        return self.scores.summary()

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the accuracies."""
        ranks = self.scores.ranks
        shares = {name: k for name, k in SHARES.items() if k < self.scores.num_classes}
        return {name: share_interval(int((ranks <= k).sum()), len(ranks)) for name, k in shares.items()}

    def per_image(self) -> pd.DataFrame:
        """Path, true and predicted class, confidence in both, and the rank of the true one; a row an image."""
        scores, names = self.scores, np.array(self.names)
        rows = torch.arange(len(scores.labels))
        return pd.DataFrame(
            {
                "path": self.confidences.table["path"].to_numpy(),
                "class": names[scores.labels],
                "predicted": names[scores.predicted],
                "confidence": scores.confidences[rows, scores.predicted],
                "confidence_in_class": scores.confidences[rows, scores.labels],
                "rank": scores.ranks,
            }
        )

    def per_class(self) -> pd.DataFrame:
        """Recall, precision, F1 and number of images of each class; a class without images has no recall and no F1."""
        table = pd.DataFrame(self.scores.per_class(), index=pd.Index(self.names, name="class"))
        table.loc[table["num_images"] == 0, ["recall", "f1"]] = np.nan
        return table

    def confusion(self) -> pd.DataFrame:
        """Number of images by their class (rows) and predicted class (columns)."""
        return pd.DataFrame(self.scores.confusion, index=pd.Index(self.names, name="class"), columns=self.names)

    def mistakes(self) -> pd.DataFrame:
        """Misclassified images, the most confident first."""
        found = self.per_image()
        return found[found["class"] != found["predicted"]].sort_values("confidence", ascending=False, kind="stable")

    def pictures(self, read: Callable[[str], np.ndarray], mistakes: int) -> dict[str, Figure]:
        """Draw the confusion matrix, the calibration, and the first `mistakes`; `read` gives the image of a path."""
        worst = self.mistakes().head(mistakes)
        captions = worst["predicted"] + worst["confidence"].map(" {:.0%},\nnot ".format) + worst["class"]
        tiles = [
            plots.Tile(read(path), text, plots.MISMATCH) for path, text in zip(worst["path"], captions, strict=True)
        ]
        return {
            "confusion": plots.confusion_matrix(self.confusion()),
            "calibration": plots.calibration(*(part.numpy() for part in self.scores.calibration())),
            "mistakes": plots.tile_grid(tiles),
        }
