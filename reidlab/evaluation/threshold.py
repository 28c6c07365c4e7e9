"""The threshold of "the same person?": set on identities that nothing was learned from, and its rates on others."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reidlab import plots
from reidlab.console import log, percent, significant
from reidlab.errors import InputError
from reidlab.evaluation.retrieval import Retrieval
from reidlab.metrics import Verification
from reidlab.metrics.closeness import Distance

LOW_TPR = 0.2  # a threshold that accepts fewer pairs of one identity than this is worth a warning


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it does on the test split."""

    distance: Distance
    calibration: Verification  # sets the threshold
    calibrated_on: str
    test: Verification

    @property
    def value(self) -> float:
        """Distance up to which two images show one identity."""
        return self.calibration.threshold

    @property
    def test_rates(self) -> tuple[float, float]:
        """True and false positive rate of the threshold on the test split."""
        return self.test.rates_at(self.value)

    def record(self) -> dict[str, Any]:
        """The entries of `verification.json`."""
        low, high = self.calibration.intervals.get("threshold", (None, None))
        tpr, fpr = self.test_rates
        return {
            "distance": self.distance,
            "threshold": self.value,
            "threshold_low": low,
            "threshold_high": high,
            "calibrated_on": self.calibrated_on,
            "wanted_fpr": self.calibration.wanted_fpr,
            "tpr": self.calibration.figures["tpr"],
            "fpr": self.calibration.figures["fpr"],
            "num_identity_pairs": self.calibration.num_identity_pairs,
            "test_tpr": tpr,
            "test_fpr": fpr,
            "test": self.test.summary(),
        }

    def warnings(self, by_camera: bool, spare: int) -> list[str]:
        """Lines where the threshold rests on too few identities, or rejects most pairs of one identity.

        Args:
            by_camera: whether validation identities are divided into queries and gallery, see `split_validation`.
            spare: how many identities `data.val_identities` can set aside, see `set_aside_validation`.
        """
        lines, (tpr, fpr), wanted = [], self.test_rates, self.calibration.wanted_fpr
        pairs, needed = self.calibration.num_identity_pairs, 1 / wanted
        if pairs < needed:
            ordered = needed if by_camera else 2 * needed  # each identity with all others, on both sides
            identities = math.ceil((1 + math.sqrt(1 + 4 * ordered)) / 2)
            more = f", or set {identities} identities aside (data.val_identities={identities})"
            lines.append(
                f"evaluate.wanted_fpr={wanted:g}: the threshold rests on {pairs:,} pairs of two identities "
                f"({self.calibrated_on}), and this rate takes {needed:,.0f} or more; choose a higher one"
                f"{more if identities <= spare else ''}"
            )
        if tpr < LOW_TPR:
            lines.append(
                f"threshold {significant(self.value)}: accepts {percent(tpr)} of the test pairs of one identity, "
                f"{percent(fpr, 2)} of those of two; a higher evaluate.wanted_fpr accepts more of both"
            )
        return lines

    def pictures(self) -> dict[str, Figure]:
        """The test split's ROC and distances, with the threshold, by their names."""
        curve = plots.Roc(self.test.fpr, self.test.tpr, self.test_rates[::-1])
        positives, negatives = np.diff(self.test.positives), np.diff(self.test.negatives)
        return {
            "roc": plots.roc_curve({"test": curve}),
            "distances": plots.distance_histogram(self.test.thresholds, positives, negatives, self.value),
        }


def calibrate(
    test: Retrieval, unseen: Callable[[], Retrieval] | None, wanted_fpr: float, resamples: int, seed: int
) -> Threshold | None:
    """Set a threshold on validation identities, else on the test split; None, with a warning, where it has none.

    A test split whose pairs are all of one kind has none.

    Args:
        test: the test split's retrieval.
        unseen: that of validation identities which the training left out; None where there are none.
        wanted_fpr: how many pairs of two identities may be accepted.
        resamples: of the intervals.
        seed: of these.
    """
    try:
        verification = test.verify(wanted_fpr, resamples, seed)
    except InputError as error:
        log.warning(f"no threshold is calibrated: {error}")
        return None
    if unseen:
        try:
            return Threshold(test.distance, unseen().verify(wanted_fpr, resamples, seed), "validation", verification)
        except InputError as error:
            log.warning(f"the threshold is calibrated on the test split, validation can't: {error}")
    return Threshold(test.distance, verification, "test", verification)
