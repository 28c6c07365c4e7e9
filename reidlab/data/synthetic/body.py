"""A walking body in three dimensions: joints from a pose, then the tapered parts that hang clothes on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from reidlab.data.synthetic.people import CLOTH, HAIR, SKIN, Garment, Person

Array = np.ndarray
SLACK = {"hoodie": 0.018, "jacket": 0.02, "coat": 0.02, "shirt": 0.008, "wide": 0.03, "trousers": 0.012, "shorts": 0.02}
"""How far garments stand off the body, in meters."""
Paint = Callable[[Array, Array, Array], Array]
"""(lateral, front, t), each (N,): where on a part's surface, to sRGB albedo (N, 3) or (3,), both in [0, 1].

`lateral` runs from -1 (the person's right) to 1, `front` from -1 (back) to 1, `t` from 0 (start of the part) to 1.
"""


@dataclass(frozen=True)
class Pose:
    """One moment of a walk: `phase` in radians, `stride` 0 (standing) to 1, arm angles in radians (raise, bend)."""

    heading: float
    phase: float
    stride: float
    lean: float
    left_arm: tuple[float, float]
    right_arm: tuple[float, float]
    head_turn: float


@dataclass(frozen=True)
class Part:
    """An elliptic tube from `start` to `end` (body frame: left, up, front; meters).

    `knots` are (t, half-width across, half-width front to back); `round_ends` closes it with caps; `folds` is how
    strongly cloth wrinkles its shading; `turn` rotates its own front against the body's.
    """

    start: Array
    end: Array
    knots: tuple[tuple[float, float, float], ...]
    paint: Paint
    round_ends: bool = True
    folds: float = 0.0
    turn: float = 0.0


def draw_pose(rng: Generator, heading: float, bag: str, bag_on_left: bool) -> Pose:
    """A random moment of a person who walks or stands.

    Args:
        rng: random numbers.
        heading: of the walk, in radians.
        bag: one that is carried straightens its arm.
        bag_on_left: its side.
    """
    phase = rng.uniform(0, 2 * np.pi)
    stride = 0.12 if rng.random() < 0.15 else rng.uniform(0.6, 1.05)
    arms = []
    for is_left in (True, False):
        swing = 0.5 * stride * np.sin(phase + (np.pi if is_left else 0)) + rng.normal(0, 0.05)
        bend = rng.uniform(0.15, 0.5)
        habit = rng.random()
        if bag in ("tote", "handbag") and is_left == bag_on_left:
            swing, bend = 0.25 * swing, 0.08
        elif habit < 0.1:
            swing, bend = 0.45, 1.8
        elif habit < 0.2:
            swing, bend = -0.3, 0.75
        arms.append((swing, bend))
    return Pose(heading, phase, stride, 0.03 + 0.05 * stride, arms[0], arms[1], rng.normal(0, 0.35))


def xyz(left: float, up: float, front: float) -> Array:
    """A vector of the body frame in meters."""
    return np.array([left, up, front], dtype=float)


def _rgb(color: tuple[int, int, int]) -> Array:
    return np.asarray(color, np.float32) / 255


def _solid(color: tuple[int, int, int]) -> Paint:
    value = _rgb(color)
    return lambda lateral, front, t: value


def cloth(garment: Garment, length: float = 0.6, lining: tuple[int, int, int] | None = None) -> Paint:
    """The paint of a garment over a part `length` meters long; a `lining` shows through an open front."""
    base, accent = _rgb(CLOTH[garment.color]), _rgb(CLOTH[garment.accent])

    def paint(lateral: Array, front: Array, t: Array) -> Array:
        color = np.broadcast_to(base, (*t.shape, 3)).copy()
        down = t * length
        angle = np.arctan2(lateral, np.abs(front))
        if garment.pattern == "hoops":
            color[(down % 0.115) < 0.05] = accent
        elif garment.pattern == "stripes":
            color[(angle % 0.42) < 0.15] = accent
        elif garment.pattern == "check":
            crossing = ((down % 0.12) < 0.045).astype(np.float32) + ((angle % 0.55) < 0.2)
            color += 0.5 * crossing[:, None] * (accent - base)
        elif garment.pattern == "block":
            color[down > 0.56 * 0.6] = accent
        if garment.logo != "none":
            across, below = lateral * 0.17, down - 0.24
            if garment.logo == "disc":
                inside = across**2 + below**2 < 0.075**2
            elif garment.logo == "bar":
                inside = (np.abs(below) < 0.03) & (np.abs(across) < 0.12)
            else:
                inside = np.maximum(np.abs(across), np.abs(below)) < 0.065
            color[inside & (front > 0)] = accent
        if garment.kind in ("shirt", "coat"):
            color[(np.abs(lateral) < 0.05) & (front > 0)] *= 0.6
        if lining is not None:
            opening = (np.abs(lateral) < 0.2 + 0.2 * (1 - t)) & (front > 0)
            color[opening] = _rgb(lining)
        return color

    return paint


def _head(person: Person) -> Paint:
    skin, hair = _rgb(SKIN[person.skin]), _rgb(HAIR[person.hair_color])
    wear = _rgb(CLOTH[person.headwear])

    def paint(lateral: Array, front: Array, t: Array) -> Array:
        color = np.broadcast_to(skin, (*t.shape, 3)).copy()
        facing = front > 0.2
        for brow, half in ((0.58, 0.035), (0.64, 0.02)):
            color[facing & (np.abs(t - brow) < half) & (np.abs(np.abs(lateral) - 0.42) < 0.2)] *= 0.42
        color[facing & (np.abs(t - 0.27) < 0.03) & (np.abs(lateral) < 0.3)] *= 0.62
        color[facing & (np.abs(t - 0.43) < 0.04) & (np.abs(lateral) < 0.12)] *= 0.84
        if person.beard:
            color[(front > -0.1) & (t < 0.34) & ~((np.abs(t - 0.27) < 0.03) & (np.abs(lateral) < 0.25))] = hair
        if person.hair != "bald":
            color[t > 0.76 - 0.5 * (front < 0.12) - 0.12 * (np.abs(lateral) > 0.75)] = hair
        if person.hair == "cap":
            color[(t > 0.68) | ((t > 0.62) & (front > 0.3))] = wear
        elif person.hair == "hat":
            color[t > 0.64] = wear
            color[(t > 0.64) & (t < 0.72)] *= 0.75
        return color

    return paint


def _rotate(length: float, angle: float) -> Array:
    """A limb hanging down, swung forward by `angle`."""
    return length * xyz(0.0, -np.cos(angle), np.sin(angle))


def _leg(person: Person, hip: Array, angle: float, bend: float, scale: float) -> tuple[list[Part], float]:
    """The parts of one leg, and the height of its ankle."""
    garment, girth = person.bottom, person.girth
    if person.top.kind == "dress":
        garment = replace(garment, kind="skirt")
    knee = hip + _rotate(0.43 * scale, angle)
    ankle = knee + _rotate(0.42 * scale, angle - bend)
    skin, shoe = _solid(SKIN[person.skin]), _solid(CLOTH[person.shoes])
    fabric = cloth(garment, 0.43)
    slack = SLACK.get(garment.kind, 0.0)
    thigh = (
        (0.0, 0.08 * girth + 0.4 * slack, 0.084 * girth + 0.4 * slack),
        (1.0, 0.06 * girth + slack, 0.062 * girth + slack),
    )
    calf = ((0.0, 0.056 * girth, 0.058 * girth), (0.3, 0.058 * girth, 0.062 * girth), (1.0, 0.036, 0.04))
    trouser = ((0.0, 0.058 * girth + slack, 0.06 * girth + slack), (1.0, 0.044 + 1.3 * slack, 0.046 + 1.3 * slack))
    parts = []
    if garment.kind in ("trousers", "wide", "leggings"):
        folds = 0.06 if garment.kind == "leggings" else 0.16
        shape = calf if garment.kind == "leggings" else trouser
        parts += [Part(hip, knee, thigh, fabric, folds=folds), Part(knee, ankle, shape, fabric, folds=folds)]
    else:
        parts.append(Part(hip, knee, ((0.0, 0.08 * girth, 0.084 * girth), (1.0, 0.056, 0.058)), skin))
        parts.append(Part(knee, ankle, calf, skin))
        if garment.kind == "shorts":
            parts.append(Part(hip, hip + 0.8 * (knee - hip), thigh, fabric, round_ends=False, folds=0.14))
    if person.boots:
        shaft = ((0.0, 0.058, 0.062), (1.0, 0.048, 0.052))
        parts.append(Part(knee + 0.5 * (ankle - knee), ankle, shaft, shoe, round_ends=False))
    tilt = angle - bend
    toe = xyz(0.0, np.sin(tilt), np.cos(tilt))
    heel = ankle + xyz(0.0, -0.035, -0.03)
    sole = ((0.0, 0.042, 0.042), (0.7, 0.046, 0.042), (1.0, 0.036, 0.03))
    parts.append(Part(heel, heel + 0.19 * toe + xyz(0.0, -0.012, 0.0), sole, shoe))
    return parts, float(ankle[1])


def _arm(person: Person, shoulder: Array, angles: tuple[float, float], side: float) -> tuple[list[Part], Array]:
    """The parts of one arm, and where its hand is."""
    raise_, bend = angles
    girth = 0.5 + 0.5 * person.girth
    outward = xyz(0.045 * side, 0.0, 0.0)
    elbow = shoulder + _rotate(0.29, raise_) + outward
    wrist = elbow + _rotate(0.25, raise_ + bend) - (0.6 if bend > 0.6 else -0.2) * outward
    hand = wrist + 0.08 * (wrist - elbow) / 0.25
    kind = person.top.kind
    slack = SLACK.get(kind, 0.0)
    skin, sleeve = _solid(SKIN[person.skin]), cloth(Garment(*_sleeve(person.top)), 0.29)
    upper = (
        (0.0, (0.046 + 0.6 * slack) * girth, (0.052 + 0.6 * slack) * girth),
        (1.0, (0.04 + slack) * girth, (0.042 + slack) * girth),
    )
    lower = ((0.0, (0.04 + slack) * girth, (0.042 + slack) * girth), (1.0, 0.028 + slack, 0.03 + slack))
    parts = [Part(wrist, hand, ((0.0, 0.028, 0.034), (1.0, 0.03, 0.04)), skin)]
    if kind in ("shirt", "hoodie", "jacket", "coat"):
        parts += [Part(shoulder, elbow, upper, sleeve, folds=0.16), Part(elbow, wrist, lower, sleeve, folds=0.16)]
    else:
        bare = ((0.0, 0.044 * girth, 0.048 * girth), (1.0, 0.036 * girth, 0.038 * girth))
        parts += [Part(shoulder, elbow, bare, skin), Part(elbow, wrist, lower, skin)]
        if kind in ("tshirt", "dress"):
            loose = tuple((t, 1.18 * a, 1.18 * b) for t, a, b in upper)
            parts.append(
                Part(shoulder, shoulder + 0.6 * (elbow - shoulder), loose, sleeve, round_ends=False, folds=0.1)
            )
            parts.append(Part(shoulder, shoulder + 0.1 * (elbow - shoulder), loose, sleeve))
    return parts, hand


def _sleeve(top: Garment) -> tuple[str, str, str, str, str]:
    pattern = top.pattern if top.pattern in ("hoops", "check") else "plain"
    return "sleeve", top.color, pattern, top.accent, "none"


def _torso(person: Person, hip: Array, neck: Array) -> list[Part]:
    girth, broad = person.girth, person.shoulders
    top = person.top
    loose = SLACK.get(top.kind, 0.0)
    lining = CLOTH[top.accent] if top.kind == "jacket" else None
    shape = (
        (0.0, 0.176 * girth + loose, 0.124 * girth + loose),
        (0.22, 0.15 * girth + loose, 0.112 * girth + loose),
        (0.55, 0.168 * girth + loose, 0.122 * girth + loose),
        (0.82, 0.188 * broad + loose, 0.112 * girth + loose),
        (0.93, 0.15 * broad + loose, 0.088 + loose),
        (1.0, 0.062, 0.058),
    )
    flipped = tuple((1 - t, a, b) for t, a, b in reversed(shape))
    base = hip + xyz(0.0, -0.07, 0.0)
    parts = [Part(neck, base, flipped, cloth(top, 0.6, lining), round_ends=False, folds=0.12)]
    if top.kind == "hoodie":
        hood = ((0.0, 0.1, 0.075), (1.0, 0.12, 0.06))
        back = neck + xyz(0.0, 0.02, -0.055)
        parts.append(Part(back, back + xyz(0.0, -0.1, -0.03), hood, cloth(top, 0.1), folds=0.1))
    return parts


def _skirts(person: Person, hip: Array, spread: float) -> list[Part]:
    """The parts below the waist: the hem of the top, and the skirt or the seat of the bottom.

    `spread` is the angle between the legs, in radians.
    """
    girth, top, bottom = person.girth, person.top, person.bottom
    waist = hip + xyz(0.0, 0.08, 0.0)

    def hanging(length: float, slack: float, flare: float, paint: Paint) -> Part:
        deep = 0.122 * girth + slack + 0.5 * flare + (0.5 * length * spread if length > 0.3 else 0)
        knots = (
            (0.0, 0.15 * girth + slack, 0.112 * girth + slack),
            (0.15 / length, 0.178 * girth + slack, 0.128 * girth + slack),
            (1.0, 0.176 * girth + slack + flare, deep),
        )
        return Part(waist, waist - xyz(0, length, 0), knots, paint, round_ends=False, folds=0.16)

    parts = []
    length = {"coat": 0.62, "dress": 0.58, "jacket": 0.24, "shirt": 0.2}.get(top.kind)
    if length:
        low = replace(top, color=top.accent, pattern="plain") if top.pattern == "block" else top
        flare = 0.05 if top.kind in ("coat", "dress") else 0.0
        parts.append(hanging(length, 0.012 + SLACK.get(top.kind, 0.0), flare, cloth(replace(low, logo="none"), length)))
    if top.kind != "dress":
        length, flare = (0.5, 0.03) if bottom.kind == "skirt" else (0.17, 0.0)
        parts.append(hanging(length, 0.0, flare, cloth(bottom, length)))
    return parts


def _hair_and_hat(person: Person, head: Array) -> list[Part]:
    hair, wear = _solid(HAIR[person.hair_color]), _solid(CLOTH[person.headwear])
    if person.hair == "long":
        fall = ((0.0, 0.082, 0.06), (0.5, 0.1, 0.058), (1.0, 0.085, 0.035))
        return [Part(head + xyz(0, 0.06, -0.035), head + xyz(0, -0.26, -0.075), fall, hair, folds=0.2)]
    if person.hair == "ponytail":
        tail = ((0.0, 0.022, 0.022), (0.4, 0.036, 0.036), (1.0, 0.016, 0.016))
        return [Part(head + xyz(0, 0.05, -0.1), head + xyz(0, -0.2, -0.16), tail, hair, folds=0.2)]
    if person.hair == "cap":
        peak = ((0.0, 0.07, 0.012), (1.0, 0.055, 0.012))
        return [Part(head + xyz(0, 0.045, 0.06), head + xyz(0, 0.03, 0.16), peak, wear)]
    if person.hair == "hat":
        brim = ((0.0, 0.155, 0.155), (1.0, 0.155, 0.155))
        return [Part(head + xyz(0, 0.052, 0), head + xyz(0, 0.038, 0), brim, wear, round_ends=False)]
    return []


def _bag(person: Person, neck: Array, hip: Array, hand: Array) -> list[Part]:
    paint = _solid(CLOTH[person.bag_color])
    red, green, blue = (int(0.7 * c) for c in CLOTH[person.bag_color])
    dark = _solid((red, green, blue))
    side = 1.0 if person.bag_on_left else -1.0
    if person.bag == "backpack":
        pack = ((0.0, 0.11, 0.06), (0.2, 0.145, 0.085), (1.0, 0.15, 0.1))
        high = neck + xyz(0.0, -0.1, -0.17 * person.girth)
        parts = [Part(high, high + xyz(0, -0.38, -0.02), pack, paint, folds=0.08)]
        pocket = ((0.0, 0.1, 0.05), (1.0, 0.11, 0.05))
        parts.append(Part(high + xyz(0, -0.22, -0.07), high + xyz(0, -0.35, -0.08), pocket, dark))
        for shoulder in (-1, 1):
            top = neck + xyz(0.115 * shoulder, -0.035, 0.06)
            parts.append(
                Part(top, top + xyz(0.015 * shoulder, -0.36, 0.075), ((0.0, 0.024, 0.02), (1.0, 0.022, 0.02)), paint)
            )
        return parts
    if person.bag == "messenger":
        side_hip = hip + xyz(0.215 * side * person.girth, -0.02, -0.02)
        strap = ((0.0, 0.018, 0.018), (1.0, 0.018, 0.018))
        parts = [Part(side_hip, side_hip + xyz(0, -0.2, 0), ((0.0, 0.05, 0.15), (1.0, 0.06, 0.16)), paint, folds=0.06)]
        for depth in (0.14, -0.14):
            middle = hip + xyz(0.0, 0.3, depth * person.girth)
            parts.append(Part(neck + xyz(-0.11 * side, -0.04, 0.4 * depth), middle, strap, paint))
            parts.append(Part(middle, side_hip + xyz(0, 0, 0.6 * depth), strap, paint))
        return parts
    if person.bag in ("tote", "handbag"):
        tall, wide = (0.34, 0.16) if person.bag == "tote" else (0.2, 0.13)
        top = hand + xyz(0.03 * side, -0.12, 0.0)
        sack = ((0.0, 0.045, wide), (1.0, 0.06, 1.05 * wide))
        handle = ((0.0, 0.012, 0.012), (1.0, 0.012, 0.012))
        parts = [Part(top, top + xyz(0, -tall, 0), sack, paint, round_ends=False, folds=0.06)]
        parts += [Part(hand, top + xyz(0, 0, end * wide), handle, dark) for end in (-0.6, 0.6)]
        return parts
    return []


def assemble(person: Person, pose: Pose) -> list[Part]:
    """All parts of a clothed person who stands on the ground at the origin of the body frame."""
    scale = person.height / 1.75
    hip = xyz(0.0, 0.9 * scale, 0.0)
    neck = hip + xyz(0.0, 0.56 * scale * np.cos(pose.lean), 0.56 * scale * np.sin(pose.lean))
    parts, ankles, hands = [], [], {}
    for side, offset, arm in ((1.0, 0.0, pose.left_arm), (-1.0, np.pi, pose.right_arm)):
        swing, knee = np.sin(pose.phase + offset), max(0.0, float(np.cos(pose.phase + offset)))
        joint = hip + xyz(0.082 * side * person.girth, -0.03, 0.0)
        leg, ankle = _leg(person, joint, 0.5 * pose.stride * swing, pose.stride * (0.12 + 0.8 * knee**2), scale)
        shoulder = neck + xyz(0.174 * side * person.shoulders, -0.075, 0.0)
        limb, hands[side] = _arm(person, shoulder, arm, side)
        parts += leg + limb
        ankles.append(ankle)
    head = neck + xyz(0.0, 0.155, 0.025)
    skull = tuple(
        (t, 0.078 * w, 0.098 * w)
        for t, w in ((0, 0.3), (0.1, 0.6), (0.3, 0.86), (0.55, 1), (0.8, 0.9), (0.94, 0.56), (1, 0.2))
    )
    parts += _torso(person, hip, neck) + _skirts(person, hip, pose.stride * abs(float(np.sin(pose.phase))))
    parts.append(
        Part(neck + xyz(0, -0.05, 0), head, ((0.0, 0.056, 0.058), (1.0, 0.05, 0.052)), _solid(SKIN[person.skin]))
    )
    parts.append(
        Part(head + xyz(0, -0.115, 0.012), head + xyz(0, 0.125, 0), skull, _head(person), False, turn=pose.head_turn)
    )
    parts += _hair_and_hat(person, head)
    parts += _bag(person, neck, hip, hands[1.0 if person.bag_on_left else -1.0])
    drop = xyz(0.0, min(ankles) - 0.075, 0.0)
    return [Part(p.start - drop, p.end - drop, p.knots, p.paint, p.round_ends, p.folds, p.turn) for p in parts]
