"""The gallery of the exported C, `reid_gallery.c`, in Python: the same integers, to predict what a device answers."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

UNITS = 1 << 15  # of a distance of 1
FARTHEST = 2 * UNITS
ENROLLED = 0xFFFFFFFF


class Match(NamedTuple):
    """An identity, 0 for nobody, and the cosine distance to it in `UNITS`."""

    identity: int
    distance: int


@dataclass(frozen=True)
class DeviceRules:
    """When crops are joined to identities, see `reid_gallery.h`.

    Args:
        same: distance, in `UNITS`, up to which a crop goes on with an identity seen in the last `gap` frames.
        again: the same for one that was enrolled, or comes back after a longer time.
        gap: frames.
        memory: frames after which an identity that isn't enrolled is forgotten.
        share: of a crop in the mean of its identity, in `UNITS`.
    """

    same: int
    again: int
    gap: int
    memory: int
    share: int


@dataclass
class _Identity:
    number: int
    seen: int
    looks: int
    direction: np.ndarray  # (D,) int64 of length 16384
    length: int  # times 65536


def code_distance(a: np.ndarray, b: np.ndarray, zero: int) -> int:
    """The cosine distance of two embeddings' codes (D,) int8 with one zero point, in `UNITS`."""
    a, b = (codes.astype(np.int64) - zero for codes in (a, b))
    return _units(int(a @ b), _length(a), _length(b))


class DeviceGallery:
    """Identities as running mean directions; every answer equals that of the C bit for bit.

    >>> gallery = DeviceGallery(capacity=2, zero=-128)
    >>> alice = gallery.enroll(np.array([127, -128], np.int8))
    >>> gallery.identify(np.array([127, -128], np.int8))
    Match(identity=1, distance=0)
    >>> gallery.identify(np.array([-128, 127], np.int8))
    Match(identity=1, distance=32768)

    Args:
        capacity: how many identities there is room for.
        zero: the zero point of the codes.
    """

    def __init__(self, capacity: int, zero: int):
        self.zero, self.last = zero, 0
        self.places: list[_Identity | None] = [None] * capacity

    def enroll(self, codes: np.ndarray) -> int:
        """Add an identity that stays until it is forgotten; its number, or 0 without a place or of codes all zero."""
        values = self._centered(codes)
        if None not in self.places or not values.any():
            return 0
        return self._begin(self.places.index(None), values, ENROLLED)

    def learn(self, identity: int, codes: np.ndarray, share: int = 0) -> bool:
        """Take an embedding into a mean, by 1 / looks or, if larger, by `share`; whether there is such an identity."""
        found = next((known for known in self._known() if known.number == identity), None)
        values = self._centered(codes)
        if found is not None and values.any():
            _learn(found, values, share)
        return found is not None

    def forget(self, identity: int) -> bool:
        """Forget an identity; whether there was one."""
        before = self.places
        self.places = [None if known and known.number == identity else known for known in before]
        return self.places != before

    def identify(self, codes: np.ndarray) -> Match:
        """The nearest identity, the one in the first place among equals."""
        values = self._centered(codes)
        matches = [Match(known.number, _distance(known, values)) for known in self._known()]
        return min(matches, key=lambda match: match.distance, default=Match(0, FARTHEST))

    def follow(self, crops: np.ndarray, frame: int, rules: DeviceRules) -> list[Match]:
        """The identities of a frame's crops (N, D) int8, see `reid_follow`."""
        for place, known in enumerate(self.places):
            if known and known.seen != ENROLLED and frame - known.seen > rules.memory:
                self.places[place] = None
        values = [self._centered(codes) for codes in crops]
        found = [Match(0, FARTHEST)] * len(values)
        pairs = []
        for c, crop in enumerate(values):
            for place, known in enumerate(self.places):
                if known is None or not crop.any():
                    continue
                distance = _distance(known, crop)
                found[c] = Match(0, min(distance, found[c].distance))
                lately = known.seen != ENROLLED and frame - known.seen <= rules.gap
                if distance <= (rules.same if lately else rules.again):
                    pairs.append((distance, c, place))
        joined: dict[int, int] = {}  # place of each crop
        for distance, c, place in sorted(pairs):
            known = self.places[place]
            if known is None or distance == FARTHEST or c in joined or place in joined.values():
                continue
            joined[c] = place
            found[c] = Match(known.number, distance)
            if known.seen != ENROLLED:
                known.seen = frame
                _learn(known, values[c], rules.share)
        for c, crop in enumerate(values):
            free = self._make_place(frame)
            if c not in joined and crop.any() and free is not None:
                found[c] = Match(self._begin(free, crop, frame), found[c].distance)
        return found

    def _known(self) -> list[_Identity]:
        return [known for known in self.places if known is not None]

    def _centered(self, codes: np.ndarray) -> np.ndarray:
        return codes.astype(np.int64) - self.zero

    def _begin(self, place: int, values: np.ndarray, seen: int) -> int:
        self.last += 1
        known = self.places[place] = _Identity(self.last, seen, 1, np.zeros_like(values), 0)
        _move(known, values, UNITS)
        return self.last

    def _make_place(self, frame: int) -> int | None:
        """A free place, or that of the identity unseen for longest before this frame."""
        if None in self.places:
            return self.places.index(None)
        passing = [
            (known.seen, place)
            for place, known in enumerate(self.places)
            if known is not None and known.seen not in (ENROLLED, frame)
        ]
        return min(passing)[1] if passing else None


def _length(values: np.ndarray) -> int:
    """65536 times the length of a vector of integers."""
    return math.isqrt(int(values @ values) << 32)


def _units(dot: int, a: int, b: int) -> int:
    if not a * b:
        return UNITS
    quotient = (abs(dot) << 31) // (a * b >> 16)  # toward zero, as C divides
    return UNITS - quotient if dot > 0 else UNITS + quotient


def _distance(known: _Identity, values: np.ndarray) -> int:
    return _units(int(values @ known.direction), _length(values), known.length)


def _move(known: _Identity, values: np.ndarray, share: int) -> None:
    """Move a direction by a share of the way to that of an embedding."""
    unit = np.sign(values) * ((np.abs(values) << 22) // (_length(values) >> 8))
    known.direction = known.direction + (((unit - known.direction) * share + (1 << 14)) >> 15)
    known.length = _length(known.direction)


def _learn(known: _Identity, values: np.ndarray, share: int) -> None:
    known.looks += 1
    _move(known, values, max(share, UNITS // known.looks))
