"""Re-entry: is a person who was out of sight recognized among all who were there?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reidlab.metrics.uncertainty import mean_interval

FIGURES = ("rank-1", "MRR", "missed", "mistaken")


def reentry(
    frames: np.ndarray, pids: np.ndarray, embeddings: np.ndarray, gaps: Sequence[int], threshold: float
) -> pd.DataFrame:
    """Identify everybody in a frame among those who were in an earlier frame, for each length of the gap in between.

    The people of frame t - N are remembered by that frame's embeddings; each person of frame t is asked for. Distances
    are cosine ones, a person who ties with another counts as ranked behind.

    Args:
        frames: (B,) the frame of each box.
        pids: (B,) its true identity.
        embeddings: (B, D).
        gaps: lengths N in frames.
        threshold: distance up to which somebody is taken for a person who is remembered.

    Returns:
        A row for each gap, indexed by it: `known` and `unknown` people asked for, mean number of people `remembered`;
        `rank-1` and `MRR` of the known; `missed`, the share of the known whose own embedding isn't the nearest within
        the threshold; `mistaken`, the share of the unknown who are taken for somebody. NaN where there is nobody. Each
        figure has a 95 % interval, `_low` and `_high`, that draws people with all their boxes; NaN for fewer than two.
    """
    directions = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    boxes = {int(frame): np.flatnonzero(frames == frame) for frame in np.unique(frames)}
    rows = {}
    for gap in gaps:
        known: list[int] = []
        ranks: list[int] = []
        missed: list[bool] = []
        unknown: list[int] = []
        mistaken: list[bool] = []
        remembered: list[int] = []
        for frame in [frame for frame in boxes if frame - gap in boxes]:
            now, then = boxes[frame], boxes[frame - gap]
            distances = 1 - directions[now] @ directions[then].T
            for pid, row in zip(pids[now], distances, strict=True):
                remembered.append(len(then))
                own = pids[then] == pid
                if own.any():
                    known.append(pid)
                    ranks.append(1 + int((row[~own] <= row[own].min()).sum()))
                    missed.append(ranks[-1] > 1 or bool(row[own].min() > threshold))
                else:
                    unknown.append(pid)
                    mistaken.append(bool(row.min() <= threshold))
        first, inverse = [rank == 1 for rank in ranks], [1 / rank for rank in ranks]
        values: tuple[Sequence[float], ...] = first, inverse, missed, mistaken
        figures = dict(zip(FIGURES, zip(values, (known, known, known, unknown), strict=True), strict=True))
        rows[gap] = {
            "known": len(known),
            "unknown": len(unknown),
            "remembered": _mean(remembered),
            **{name: _mean(of) for name, (of, _) in figures.items()},
            **{f"{name}_{end}": value for name, column in figures.items() for end, value in _ends(*column).items()},
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gap")


def _ends(values: Sequence[float], people: Sequence[int]) -> dict[str, float]:
    enough = len({*people}) > 1
    return mean_interval(values, people)._asdict() if enough else dict.fromkeys(("low", "high"), float("nan"))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
