"""Identities over time: boxes of successive frames joined to tracks by motion and appearance, again after a gap.

A small associator, enough to show what a network is worth in video: a Kalman filter says where a track may be (as in
SORT, arXiv 1602.00763), the cosine distance of embeddings who it is (DeepSORT, arXiv 1703.07402, with a running mean
as in arXiv 2202.13514), and a track that begins may turn out to be one that was lost, by appearance alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.optimize import linear_sum_assignment

from reidlab.metrics.tracks import overlaps

GATE = 9.4877  # 95 % of a chi-squared distribution with 4 degrees of freedom
IMPOSSIBLE = 1e6
POSITION_NOISE, VELOCITY_NOISE = 1 / 20, 1 / 80  # standard deviations a frame, of a box's height (arXiv 1703.07402)


@dataclass(frozen=True)
class Rules:
    """When boxes are joined.

    The standard values were chosen on filmed people (`reidlab.data.synthetic.walk`, seed 1) by the kept demo network.

    Args:
        max_distance: cosine distance up to which a box may continue a track that was seen lately.
        reentry_distance: the same between a new track and a lost one; None: lost tracks aren't found again.
        min_overlap: of a box with the place where a track is expected, where appearance doesn't decide.
        appearance: weight of the cosine distance against 1 - overlap, from 0 to 1.
        max_gap: frames after which a track that isn't seen is lost.
        memory: frames after which a lost track is forgotten.
        min_confidence: of a detection that begins a track.
        momentum: share of the old embedding in a track's running mean.
        trial: embeddings of a new track from which, and up to which, it is compared with lost ones: the first ones,
            at the edge of the picture, say little.
    """

    max_distance: float = 0.5
    reentry_distance: float | None = 0.3
    min_overlap: float = 0.3
    appearance: float = 0.6
    max_gap: int = 10
    memory: int = 1000
    min_confidence: float = 0.3
    momentum: float = 0.9
    trial: tuple[int, int] = (8, 25)


@dataclass
class Track:
    """A person while in view: the expected box, and the mean direction of `looks` embeddings."""

    number: int
    motion: "Motion"
    first_seen: int
    last_seen: int
    embedding: np.ndarray | None = None
    looks: int = 0


class Motion:
    """A Kalman filter of a box with constant velocity: middle, aspect ratio and height, and their changes a frame."""

    def __init__(self, box: np.ndarray):
        measured = _measured(box)
        self.mean = np.concatenate([measured, np.zeros(4)])
        height = measured[3]
        spread = [2 * POSITION_NOISE * height] * 2 + [1e-2, 2 * POSITION_NOISE * height]
        speed = [10 * VELOCITY_NOISE * height] * 2 + [1e-5, 10 * VELOCITY_NOISE * height]
        self.covariance = np.diag(np.square(spread + speed))

    def predict(self) -> None:
        """Go on by one frame."""
        step = np.eye(8)
        step[:4, 4:] = np.eye(4)
        height = self.mean[3]
        noise = [POSITION_NOISE * height] * 2 + [1e-2, POSITION_NOISE * height]
        noise += [VELOCITY_NOISE * height] * 2 + [1e-5, VELOCITY_NOISE * height]
        self.mean = step @ self.mean
        self.covariance = step @ self.covariance @ step.T + np.diag(np.square(noise))

    def update(self, box: np.ndarray) -> None:
        """Take in the box that was found."""
        projected = self._innovation()
        gain = np.linalg.solve(projected, self.covariance[:4]).T
        self.mean = self.mean + gain @ (_measured(box) - self.mean[:4])
        self.covariance = self.covariance - gain @ projected @ gain.T

    def distances(self, boxes: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances (N,) of boxes to where this one is expected."""
        off = np.stack([_measured(box) for box in boxes]) - self.mean[:4]
        return np.einsum("ni,ni->n", off, np.linalg.solve(self._innovation(), off.T).T)

    @property
    def box(self) -> np.ndarray:
        """Left, top, width and height that are expected."""
        x, y, aspect, height = self.mean[:4]
        return np.array([x - aspect * height / 2, y - height / 2, max(aspect * height, 1), max(height, 1)])

    def _innovation(self) -> np.ndarray:
        height = self.mean[3]
        noise = [POSITION_NOISE * height] * 2 + [1e-1, POSITION_NOISE * height]
        return self.covariance[:4, :4] + np.diag(np.square(noise))


class Associator:
    """Gives the boxes of one frame after the other their tracks, and tracks their identities.

    A track that is found to be one that was lost has another identity from then on, for its earlier boxes, too: see
    `identity_of`.

    >>> associator = Associator()
    >>> associator.step(1, np.array([[10.0, 10, 20, 40]]), np.ones(1))
    [1]
    >>> associator.step(2, np.array([[12.0, 10, 20, 40]]), np.ones(1))
    [1]

    Args:
        rules: when boxes are joined.
    """

    def __init__(self, rules: Rules | None = None):
        self.rules = rules or Rules()
        self.tracks: list[Track] = []
        self._begun = 0
        self._frame: int | None = None
        self._identities: dict[int, int] = {}

    def identity_of(self, track: int) -> int:
        """The identity of a track: the number of the first track that it is known to go on from."""
        return self._identities.get(track, track)

    def step(
        self, frame: int, boxes: np.ndarray, confidences: np.ndarray, embeddings: np.ndarray | None = None
    ) -> list[int]:
        """The tracks, numbers from 1, of the boxes of a frame; 0 for one that is too unsure to begin a track.

        Args:
            frame: its number, above those before.
            boxes: (N, 4) left, top, width, height in pixels.
            confidences: (N,) of the detector.
            embeddings: (N, D); without them, motion alone decides.
        """
        passed = 1 if self._frame is None else frame - self._frame
        for _ in range(min(passed, self.rules.max_gap + 1)):  # after which no track is expected anywhere
            for track in self.tracks:
                if frame - track.last_seen <= self.rules.max_gap:
                    track.motion.predict()
        self._frame = frame
        self.tracks = [track for track in self.tracks if frame - track.last_seen <= self.rules.memory]
        looks = None if embeddings is None else _directions(embeddings)
        given: dict[int, Track] = {}
        recent = [track for track in self.tracks if frame - track.last_seen <= self.rules.max_gap]
        self._join(recent, boxes, given, self._costs(recent, boxes, looks))
        self._join(recent, boxes, given, self._overlap_costs(recent, boxes, looks, frame))
        for number in range(len(boxes)):
            if number not in given and confidences[number] >= self.rules.min_confidence:
                self._begun += 1
                given[number] = Track(self._begun, Motion(boxes[number]), frame, frame)
                self.tracks.append(given[number])
        crowded = (overlaps(boxes, boxes) - np.eye(len(boxes))).max(1, initial=0) > 0.3
        for number, track in given.items():
            self._see(track, frame, boxes[number], None if looks is None else looks[number], bool(crowded[number]))
        self._recognize(frame)
        return [given[number].number if number in given else 0 for number in range(len(boxes))]

    def _costs(self, tracks: Sequence[Track], boxes: np.ndarray, looks: np.ndarray | None) -> np.ndarray:
        """(T, N): appearance and place together; impossible beyond the gate of either."""
        if not tracks or not len(boxes) or looks is None:
            return np.full((len(tracks), len(boxes)), IMPOSSIBLE)
        away = 1 - overlaps(np.stack([track.motion.box for track in tracks]), boxes)
        distances = _cosine(tracks, looks)
        reachable = np.stack([track.motion.distances(boxes) for track in tracks]) <= GATE
        weight = self.rules.appearance
        return np.where(
            reachable & (distances <= self.rules.max_distance), weight * distances + (1 - weight) * away, IMPOSSIBLE
        )

    def _overlap_costs(
        self, tracks: Sequence[Track], boxes: np.ndarray, looks: np.ndarray | None, frame: int
    ) -> np.ndarray:
        """(T, N): place alone; with appearance, for tracks of the frame before that don't look like another."""
        if not tracks or not len(boxes):
            return np.full((len(tracks), len(boxes)), IMPOSSIBLE)
        away = 1 - overlaps(np.stack([track.motion.box for track in tracks]), boxes)
        allowed = away <= 1 - self.rules.min_overlap
        if looks is not None:
            allowed &= np.array([[track.last_seen == frame - 1] for track in tracks])
            allowed &= _cosine(tracks, looks) <= 2 * self.rules.max_distance
        return np.where(allowed, away, IMPOSSIBLE)

    def _recognize(self, frame: int) -> None:
        """Give tracks that have just begun the identities of lost ones that they look like, at the least cost."""
        if self.rules.reentry_distance is None:
            return
        first, last = self.rules.trial
        seen = [track for track in self.tracks if track.last_seen == frame and first <= track.looks <= last]
        new = [track for track in seen if track.number not in self._identities]
        lost = [track for track in self.tracks if track.last_seen < frame and track.embedding is not None]
        if not new or not lost:
            return
        distances = _cosine(lost, np.stack([cast(np.ndarray, track.embedding) for track in new]))
        before = np.array([[old.last_seen < track.first_seen for track in new] for old in lost])
        costs = np.where(before & (distances <= self.rules.reentry_distance), distances, IMPOSSIBLE)
        for row, column in zip(*linear_sum_assignment(costs), strict=True):
            if costs[row, column] < IMPOSSIBLE:
                old, track = lost[row], new[column]
                self._identities[track.number] = self.identity_of(old.number)
                self.tracks.remove(old)

    @staticmethod
    def _join(tracks: Sequence[Track], boxes: np.ndarray, given: dict[int, Track], costs: np.ndarray) -> None:
        """Give boxes that have no track yet those of the tracks that have no box yet, at the least cost."""
        taken = {id(track) for track in given.values()}
        rows = [row for row, track in enumerate(tracks) if id(track) not in taken]
        columns = [column for column in range(len(boxes)) if column not in given]
        left = costs[np.ix_(rows, columns)]
        for row, column in zip(*linear_sum_assignment(left), strict=True):
            if left[row, column] < IMPOSSIBLE:
                given[columns[column]] = tracks[rows[row]]

    def _see(self, track: Track, frame: int, box: np.ndarray, look: np.ndarray | None, crowded: bool) -> None:
        if frame - track.last_seen > self.rules.max_gap:
            track.motion = Motion(box)
        elif frame != track.last_seen:
            track.motion.update(box)
        track.last_seen = frame
        if look is not None and (track.embedding is None or not crowded):  # another's body would be taken in
            kept = self.rules.momentum if track.embedding is not None else 0.0
            mixed = look if track.embedding is None else kept * track.embedding + (1 - kept) * look
            track.looks += 1
            track.embedding = mixed / max(float(np.linalg.norm(mixed)), 1e-12)


def _measured(box: np.ndarray) -> np.ndarray:
    left, top, width, height = box
    return np.array([left + width / 2, top + height / 2, width / height, height])


def _directions(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def _cosine(tracks: Sequence[Track], looks: np.ndarray) -> np.ndarray:
    """(T, N) cosine distances; a track without an embedding is as near as can be."""
    if not tracks:
        return np.zeros((0, len(looks)))
    known = np.stack([np.zeros(looks.shape[1]) if t.embedding is None else t.embedding for t in tracks])
    distances = 1 - known @ looks.T
    distances[[t.embedding is None for t in tracks]] = 0
    return distances
