"""Are two images of the same person? The run's network and its calibrated threshold answer."""

from pathlib import Path
from typing import NamedTuple

import torch

from reidlab.config import instantiate, run_folder
from reidlab.data import read_image
from reidlab.errors import InputError
from reidlab.runs import read_json
from reidlab.tasks import trained_network


class Verdict(NamedTuple):
    """How far two images are apart, the threshold [and its 95 % interval] that decides, and the decision."""

    distance: float
    similarity: float  # cosine
    threshold: float
    interval: tuple[float, float]
    same: bool

    def __str__(self) -> str:
        low, high = self.interval
        sure = "" if not low <= self.distance <= high else ", but within the threshold's interval"
        return (
            f"distance {self.distance:.3f} (cosine similarity {self.similarity:.3f}), "
            f"threshold {self.threshold:.3f} [{low:.3f}, {high:.3f}]: "
            f"{'the same person' if self.same else 'different people'}{sure}"
        )


def run(cfg, first: Path, second: Path) -> Verdict:
    """Compare two image files with the run's network; InputError where the run has no calibrated threshold."""
    folder = run_folder(cfg)
    calibration = read_json(folder / "verification.json")
    if not calibration:
        raise InputError(f"{folder}: no calibrated threshold; run `reidlab evaluate` on it first")
    network, _ = trained_network(cfg)
    datamodule = instantiate(cfg.data)
    images = [torch.from_numpy(read_image(Path(file), datamodule.size)).permute(2, 0, 1) for file in (first, second)]
    with torch.inference_mode():
        a, b = network(datamodule.preprocess({"image": torch.stack(images)})["image"]).embedding.double()  # (D,) each
    similarity = torch.nn.functional.cosine_similarity(a, b, dim=0).item()
    distance = 1 - similarity if calibration["distance"] == "cosine" else (a - b).norm().item()
    threshold = calibration["threshold"]
    interval = (calibration["threshold_low"], calibration["threshold_high"])
    return Verdict(distance, similarity, threshold, interval, distance <= threshold)
