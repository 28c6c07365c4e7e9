"""Re-entry: is a person who was out of sight recognized among all who were there?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd


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
        the threshold; `mistaken`, the share of the unknown who are taken for somebody. NaN where there is nobody.
    """
    directions = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    boxes = {int(frame): np.flatnonzero(frames == frame) for frame in np.unique(frames)}
    rows = {}
    for gap in gaps:
        ranks: list[int] = []
        accepted: list[bool] = []
        mistaken: list[bool] = []
        remembered: list[int] = []
        for frame in [frame for frame in boxes if frame - gap in boxes]:
            now, then = boxes[frame], boxes[frame - gap]
            distances = 1 - directions[now] @ directions[then].T
            for pid, row in zip(pids[now], distances, strict=True):
                remembered.append(len(then))
                own = pids[then] == pid
                if own.any():
                    ranks.append(1 + int((row[~own] <= row[own].min()).sum()))
                    accepted.append(ranks[-1] == 1 and row[own].min() <= threshold)
                else:
                    mistaken.append(bool(row.min() <= threshold))
        rows[gap] = {
            "known": len(ranks),
            "unknown": len(mistaken),
            "remembered": _mean(remembered),
            "rank-1": _mean([rank == 1 for rank in ranks]),
            "MRR": _mean([1 / rank for rank in ranks]),
            "missed": _mean([not each for each in accepted]),
            "mistaken": _mean(mistaken),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gap")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
