"""Figures of tracks against their ground truth: MOTA and identity switches, IDF1, HOTA.

Bernardin and Stiefelhagen 2008 (CLEAR MOT), arXiv 1609.01775 (IDF1), arXiv 2009.07736 (HOTA); as TrackEval computes
them, which a test compares with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

LEVELS = np.arange(0.05, 0.99, 0.05)  # the overlaps that HOTA is averaged over
MATCH = 0.5  # the overlap of a match, of MOTA and IDF1
EPS = np.finfo(float).eps
BOX = ["left", "top", "width", "height"]


@dataclass(frozen=True)
class TrackCounts:
    """Counts that the figures of some sequences follow from; those of more sequences are their sum.

    Of one overlap: matched boxes (`matched`), boxes of the truth and of the tracks (`true`, `found`), identity
    `switches`, and boxes matched by one fixed pairing of identities (`identified`). Of each of `LEVELS`: `hits` (L,),
    and the sum over them of how well their two tracks agree, `agreement` (L,).
    """

    matched: float
    true: float
    found: float
    switches: float
    identified: float
    hits: np.ndarray
    agreement: np.ndarray

    def __add__(self, other: "TrackCounts") -> "TrackCounts":
        return TrackCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def figures(self) -> dict[str, float]:
        """HOTA, its two factors DetA and AssA, IDF1, MOTA as fractions, and the number of switches."""
        detection = self.hits / np.maximum(1, self.true + self.found - self.hits)
        association = self.agreement / np.maximum(1, self.hits)
        wrong = self.true - self.matched + self.found - self.matched + self.switches
        return {
            "HOTA": float(np.sqrt(detection * association).mean()),
            "DetA": float(detection.mean()),
            "AssA": float(association.mean()),
            "IDF1": float(2 * self.identified / max(1, self.true + self.found)),
            "MOTA": float(1 - wrong / max(1, self.true)),
            "switches": float(self.switches),
        }


def count_tracks(truth: pd.DataFrame, found: pd.DataFrame) -> TrackCounts:
    """Compare the tracks of a sequence with its truth; both have columns frame, pid, left, top, width, height."""
    true_ids, found_ids = truth["pid"].unique(), found["pid"].unique()
    shape = len(true_ids), len(found_ids)
    aligned, close = np.zeros(shape), np.zeros(shape)
    frames = list(_frames(truth, found, true_ids, found_ids))
    for rows, columns, overlap in frames:
        shared = overlap.sum(0, keepdims=True) + overlap.sum(1, keepdims=True) - overlap
        aligned[np.ix_(rows, columns)] += np.divide(overlap, shared, out=np.zeros_like(overlap), where=shared > EPS)
        close[np.ix_(rows, columns)] += overlap >= MATCH - EPS
    sizes = _counts(truth, true_ids)[:, None], _counts(found, found_ids)[None]
    likeness = aligned / np.maximum(sizes[0] + sizes[1] - aligned, EPS)
    hits = np.zeros((len(LEVELS), *shape))
    matched = switches = 0
    last, current = np.full(len(true_ids), -1), np.full(len(true_ids), -1)
    for rows, columns, overlap in frames:
        if not overlap.size:
            continue
        for row, column in _assigned(likeness[np.ix_(rows, columns)] * overlap):
            hits[:, rows[row], columns[column]] += overlap[row, column] >= LEVELS - EPS
        going_on = current[rows][:, None] == columns[None]
        score = np.where(overlap >= MATCH - EPS, 1000.0 * going_on + overlap, 0.0)
        pairs = [(rows[r], columns[c]) for r, c in _assigned(score) if score[r, c] > EPS]
        current[:] = -1
        for person, track in pairs:
            switches += last[person] not in (-1, track)
            last[person] = current[person] = track
        matched += len(pairs)
    agreement = (hits * hits / np.maximum(1, sizes[0] + sizes[1] - hits)).sum((1, 2))
    identified = sum(close[pair] for pair in _assigned(close))
    return TrackCounts(matched, len(truth), len(found), switches, identified, hits.sum((1, 2)), agreement)


def without_distractors(found: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The tracks without their boxes on distractors, which are neither right nor wrong, as on MOTChallenge.

    A box that overlaps with several rows of the truth, whatever they are, belongs to the one that it is assigned to.

    Args:
        found: columns frame, left, top, width, height, and any others.
        rows: all of the truth, whether it counts or not: the same columns, and `distractor`.
    """
    theirs, gone = found.groupby("frame").indices, []
    is_distractor, boxes, places = rows["distractor"].to_numpy(bool), *(t[BOX].to_numpy(float) for t in (rows, found))
    for frame, here in rows.groupby("frame").indices.items():
        there = theirs.get(frame, np.zeros(0, int))
        score = overlaps(boxes[here], places[there])
        score[score < MATCH - EPS] = 0
        gone += [there[c] for r, c in _assigned(score) if score[r, c] > EPS and is_distractor[here[r]]]
    return found.drop(found.index[gone])


def track_intervals(
    counts: Sequence[TrackCounts], against: Sequence[TrackCounts] = (), resamples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the figures of all sequences together, by a bootstrap over sequences.

    Args:
        counts: of each sequence.
        against: of the same sequences by other tracks; the intervals are then of the differences to them.
        resamples: of the bootstrap.
        seed: of its random numbers.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = rng.integers(len(counts), size=len(counts))
        figures = total([counts[i] for i in chosen]).figures()
        others = total([against[i] for i in chosen]).figures() if against else {}
        drawn.append({name: value - others.get(name, 0) for name, value in figures.items()})
    ends = pd.DataFrame(drawn).quantile([0.025, 0.975])
    return {name: (float(ends[name].iloc[0]), float(ends[name].iloc[1])) for name in ends}


def total(counts: Sequence[TrackCounts]) -> TrackCounts:
    """The counts of some sequences together."""
    return reduce(add, counts)


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4): left, top, width, height."""
    a, b = first[:, None], second[None]
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    return shared / np.maximum(a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared, EPS)


def _frames(
    truth: pd.DataFrame, found: pd.DataFrame, true_ids: np.ndarray, found_ids: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions of identities and tracks in each frame that has both, and the overlaps of their boxes."""
    ours, theirs = (dict(list(table.groupby("frame"))) for table in (truth, found))
    places = [{pid: i for i, pid in enumerate(ids)} for ids in (true_ids, found_ids)]
    for frame in sorted(ours.keys() | theirs.keys()):
        sides = [side.get(frame) for side in (ours, theirs)]
        rows, columns = (
            np.array([] if side is None else [place[pid] for pid in side["pid"]], int)
            for side, place in zip(sides, places, strict=True)
        )
        boxes = [np.zeros((0, 4)) if side is None else side[BOX].to_numpy(float) for side in sides]
        yield rows, columns, overlaps(*boxes)


def _counts(table: pd.DataFrame, ids: np.ndarray) -> np.ndarray:
    return table["pid"].value_counts().reindex(ids, fill_value=0).to_numpy(float)


def _assigned(score: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of the assignment with the greatest sum of scores."""
    return list(zip(*linear_sum_assignment(-score), strict=True))
