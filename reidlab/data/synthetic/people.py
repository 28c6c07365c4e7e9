"""Identities dressed from one small wardrobe, so that no single garment identifies anybody."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.random import Generator

Color = tuple[int, int, int]

CLOTH: dict[str, Color] = {
    "black": (28, 28, 32),
    "white": (226, 224, 218),
    "gray": (126, 128, 132),
    "navy": (36, 44, 84),
    "blue": (52, 96, 168),
    "red": (168, 36, 40),
    "green": (48, 104, 62),
    "beige": (186, 162, 122),
    "brown": (96, 66, 44),
    "yellow": (214, 172, 48),
    "pink": (206, 124, 142),
    "purple": (96, 56, 120),
}
SKIN: tuple[Color, ...] = ((236, 196, 172), (216, 168, 136), (176, 124, 92), (128, 86, 60), (84, 56, 42))
HAIR: dict[str, Color] = {
    "black": (22, 18, 18),
    "brown": (72, 46, 30),
    "blond": (186, 148, 88),
    "gray": (150, 148, 146),
    "red": (132, 58, 30),
}

TOP_KINDS = ("tshirt", "shirt", "hoodie", "jacket", "coat", "tank", "dress")
BOTTOM_KINDS = ("trousers", "wide", "leggings", "shorts", "skirt")
PATTERNS = ("plain", "hoops", "stripes", "check", "block")
LOGOS = ("none", "none", "disc", "bar", "square")
HAIR_STYLES = ("short", "short", "long", "ponytail", "bald", "cap", "hat")
BAGS = ("none", "none", "backpack", "messenger", "tote", "handbag")
NUM_TOPS, NUM_BOTTOMS = 22, 12
MIN_DIFFERENCES = 4


@dataclass(frozen=True)
class Garment:
    """One piece of the wardrobe; colors are names in `CLOTH`, and `accent` colors the pattern, lining or logo."""

    kind: str
    color: str
    pattern: str
    accent: str
    logo: str


@dataclass(frozen=True)
class Person:
    """The traits of an identity, equal in all pictures; `height` in meters, `girth` and `shoulders` as factors."""

    height: float
    girth: float
    shoulders: float
    skin: int
    hair: str
    hair_color: str
    beard: bool
    headwear: str
    top: Garment
    bottom: Garment
    shoes: str
    boots: bool
    bag: str
    bag_color: str
    bag_on_left: bool

    def attributes(self) -> dict[str, object]:
        """Flat name -> value table row, such as `top_kind` or `bag_color`."""
        row = asdict(self)
        for part in ("top", "bottom"):
            row |= {f"{part}_{name}": value for name, value in row.pop(part).items()}
        return row


def draw_wardrobe(rng: Generator) -> tuple[list[Garment], list[Garment]]:
    """The tops and bottoms that everybody shares: the plain, dark ones are the most common, as in a real street."""
    tops, bottoms = [], []
    for number in range(NUM_TOPS):
        kind = TOP_KINDS[number % len(TOP_KINDS)]
        color, accent = rng.choice(list(CLOTH), 2, replace=False)
        pattern = "plain" if kind == "coat" else rng.choice(PATTERNS, p=(0.44, 0.16, 0.1, 0.14, 0.16))
        logo = rng.choice(LOGOS) if kind in ("tshirt", "hoodie", "tank") and pattern == "plain" else "none"
        tops.append(Garment(kind, str(color), str(pattern), str(accent), str(logo)))
    common = ("black", "navy", "gray", "blue", "beige", "brown", "black", "white", "green", "red")
    for number in range(NUM_BOTTOMS):
        kind = BOTTOM_KINDS[number % len(BOTTOM_KINDS)]
        pattern = "check" if kind == "skirt" and rng.random() < 0.4 else "plain"
        bottoms.append(Garment(kind, common[number % len(common)], pattern, str(rng.choice(list(CLOTH))), "none"))
    return tops, bottoms


def _draw_person(rng: Generator, tops: list[Garment], bottoms: list[Garment]) -> Person:
    hair = str(rng.choice(HAIR_STYLES))
    return Person(
        height=float(rng.uniform(1.55, 1.92)),
        girth=float(rng.choice([0.86, 1.0, 1.18]) * rng.uniform(0.95, 1.05)),
        shoulders=float(rng.uniform(0.9, 1.12)),
        skin=int(rng.integers(len(SKIN))),
        hair=hair,
        hair_color=str(rng.choice(list(HAIR))),
        beard=bool(rng.random() < 0.2 and hair in ("short", "bald", "cap", "hat")),
        headwear=str(rng.choice(list(CLOTH))),
        top=tops[rng.integers(len(tops))],
        bottom=bottoms[rng.integers(len(bottoms))],
        shoes=str(rng.choice(["black", "white", "brown", "red", "gray"])),
        boots=bool(rng.random() < 0.25),
        bag=str(rng.choice(BAGS)),
        bag_color=str(rng.choice(["black", "brown", "red", "blue", "beige", "green"])),
        bag_on_left=bool(rng.random() < 0.5),
    )


def visible_traits(person: Person) -> tuple[object, ...]:
    """The traits that are visible at a distance; parts that can't be seen are blank."""
    headwear = person.headwear if person.hair in ("cap", "hat") else person.hair_color
    bottom = person.top if person.top.kind == "dress" else person.bottom
    bag = (person.bag, person.bag_color) if person.bag != "none" else None
    build = (person.girth > 1.08) - (person.girth < 0.92)
    return person.top, bottom, person.hair, headwear, person.skin // 2, person.shoes, bag, build


def draw_people(count: int, seed: int) -> list[Person]:
    """`count` identities, any two of which differ in `MIN_DIFFERENCES` visible traits (fewer once thousands are drawn).

    A longer list begins with the shorter one of the same seed.
    """
    rng = np.random.default_rng([seed, 1])
    tops, bottoms = draw_wardrobe(rng)
    people: list[Person] = []
    seen: list[tuple] = []
    rejected = 0
    while len(people) < count:
        person = _draw_person(rng, tops, bottoms)
        traits = visible_traits(person)
        required = MIN_DIFFERENCES - rejected // 100
        if all(sum(a != b for a, b in zip(traits, other, strict=True)) >= required for other in seen):
            people.append(person)
            seen.append(traits)
            rejected = 0
        else:
            rejected += 1
    return people
