"""The gallery in integers: against cosine distances in float64, and the C against the Python, bit for bit."""

import subprocess
from importlib.resources import files
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from host import SANITIZERS, compile_sources, needs_gcc
from test_emulator import needs_tools

from reidlab.deploy.device_gallery import FARTHEST, UNITS, DeviceGallery, DeviceRules, Match, code_distance
from reidlab.deploy.emulator import GalleryOp, GalleryShape, gallery_answers, gallery_commands, run_gallery
from reidlab.errors import InputError

C = Path(str(files("reidlab.deploy") / "c"))
FIRMWARE = Path(str(files("reidlab.deploy") / "firmware"))
STDIO = Path(__file__).with_name("host_stdio.c")
ENROLL, LEARN, FORGET, IDENTIFY, FOLLOW, DISTANCE = GalleryOp
RULES = DeviceRules(same=UNITS // 2, again=UNITS // 3, gap=3, memory=40, share=UNITS // 10)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    place = tmp_path_factory.mktemp("gallery") / "host"
    sources = [C / "reid_distance.c", C / "reid_gallery.c", FIRMWARE / "gallery.c", STDIO]
    compile_sources("-O2", *SANITIZERS, f"-I{C}", f"-I{FIRMWARE}", *sources, "-lm", "-o", place)
    return place


def session(seed: int, size: int = 24, capacity: int = 6, crops: int = 4) -> tuple[GalleryShape, list[tuple]]:
    """A gallery's shape, and random operations on it: (operation, crops (N, size), identity or frame)."""
    random = np.random.default_rng(seed)
    zero = int(random.choice([-128, -3, 0, 41, 127]))
    people = random.normal(0, 50, (9, size))

    def look(n: int) -> np.ndarray:
        values = people[random.integers(0, len(people), n)] + random.normal(0, 12, (n, size))
        return np.clip(np.rint(values) + zero, -128, 127).astype(np.int8)

    blank, frames = np.full((1, size), zero, np.int8), count(1)
    operations = [(ENROLL, look(1), 0), (LEARN, look(1), 1), (IDENTIFY, blank, 0), (ENROLL, blank, 0)]
    for _ in range(150):
        kind = random.choice([FOLLOW] * 6 + [IDENTIFY, IDENTIFY, DISTANCE, LEARN, FORGET, ENROLL])
        if kind == FOLLOW:
            seen = look(int(random.integers(0, crops + 1)))
            seen = np.concatenate([seen[: crops - 1], blank]) if random.random() < 0.1 else seen
            operations.append((FOLLOW, seen, next(frames) + 5 * int(random.random() < 0.05)))
        else:
            operations.append((kind, look(1 + (kind == DISTANCE)), int(random.integers(0, 12))))
        if kind == FOLLOW and random.random() < 0.03:
            frames = count(operations[-1][2] + RULES.memory)
    frame = 0
    for i, (kind, codes, number) in enumerate(operations):  # frames only go forward
        if kind == FOLLOW:
            frame = max(frame, number)
            operations[i] = (kind, codes, frame)
    return GalleryShape(capacity, size, crops, zero), operations


def by_python(shape: GalleryShape, operations: list[tuple]) -> list[Match]:
    gallery = DeviceGallery(shape.capacity, shape.zero)
    found = []
    for kind, codes, number in operations:
        if kind == ENROLL:
            found.append(Match(gallery.enroll(codes[0]), 0))
        elif kind == LEARN:
            found.append(Match(0, gallery.learn(number, codes[0], RULES.share) - 1))
        elif kind == FORGET:
            found.append(Match(0, gallery.forget(number) - 1))
        elif kind == IDENTIFY:
            found.append(gallery.identify(codes[0]))
        elif kind == DISTANCE:
            found.append(Match(0, code_distance(*codes, shape.zero)))
        else:
            found += gallery.follow(codes, number, RULES)
    return found


def by_c(host: Path, shape: GalleryShape, operations: list[tuple], folder: Path) -> list[Match]:
    (folder / "commands.bin").write_bytes(gallery_commands(shape, operations, RULES))
    done = subprocess.run([host], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return gallery_answers((folder / "answers.bin").read_bytes())


@needs_gcc
@pytest.mark.parametrize("seed", range(12))
def test_c_and_python_give_the_same_answers(host, seed, tmp_path):
    shape, operations = session(seed, size=[24, 1, 128, 513][seed % 4])
    expected = by_python(shape, operations)
    assert by_c(host, shape, operations, tmp_path) == expected
    assert len({match.identity for match in expected}) > 3


@needs_tools
@pytest.mark.parametrize("core", ["m7", "m55"])
def test_an_emulated_core_gives_the_same_answers(core):
    shape, operations = session(3, size=128, capacity=10)
    answers, instructions = run_gallery(shape, operations, RULES, core=core)
    assert answers == by_python(shape, operations)
    assert 2 * 128 * 10 < max(instructions) < 20_000  # a full gallery


@needs_tools
def test_too_large_a_gallery_is_refused_on_the_core():
    shape = GalleryShape(capacity=2000, size=512, crops=1, zero=0)
    with pytest.raises(InputError, match="core=m7: the firmware stopped because of too large a gallery"):
        run_gallery(shape, [], RULES)
    with pytest.raises(InputError, match="core=m3: choose one of"):
        run_gallery(shape, [], RULES, core="m3")


@needs_gcc
def test_extreme_codes_don_t_overflow(host, tmp_path):
    low, high = np.full((1, 2048), -128, np.int8), np.full((1, 2048), 127, np.int8)
    mixed = np.where(np.arange(2048) % 2, low, high).astype(np.int8)
    for zero in (-128, 0, 127):
        operations = [(ENROLL, low, 0), (ENROLL, high, 0), (IDENTIFY, mixed, 0)]
        operations += [(LEARN, mixed, 1), (IDENTIFY, low, 0), (DISTANCE, np.concatenate([low, high]), 0)]
        operations += [(FOLLOW, np.concatenate([low, mixed]), 1)]
        shape = GalleryShape(4, 2048, 2, zero)
        assert by_c(host, shape, operations, tmp_path) == by_python(shape, operations)


def cosine(a, b):
    return 1 - a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("zero", [-128, -7, 0, 127])
def test_distances_are_those_of_float64(zero):
    random = np.random.default_rng(0)
    for size in (1, 2, 32, 512):
        codes = random.integers(-128, 128, (40, size)).astype(np.int8)
        gallery = DeviceGallery(1, zero)
        gallery.enroll(codes[0])
        values = codes.astype(float) - zero
        for other, value in zip(codes[1:], values[1:], strict=True):
            if values[0].any() and value.any():
                assert code_distance(codes[0], other, zero) / UNITS == pytest.approx(cosine(values[0], value), abs=1e-4)
                found = gallery.identify(other).distance / UNITS
                assert found == pytest.approx(cosine(values[0], value), abs=5e-4)


def test_a_mean_is_that_of_the_directions():
    random = np.random.default_rng(1)
    codes = np.clip(random.normal(20, 40, (7, 64)), -128, 127).astype(np.int8)
    gallery = DeviceGallery(1, -5)
    number = gallery.enroll(codes[0])
    for other in codes[1:]:
        assert gallery.learn(number, other)
    units = (codes + 5.0) / np.linalg.norm(codes + 5.0, axis=1, keepdims=True)
    assert gallery.places[0].direction / 16384 == pytest.approx(units.mean(0), abs=1e-3)
    assert not gallery.learn(9, codes[0])


def unit_codes(*angles):
    """Embeddings (N, 2) at angles in degrees, zero point 0."""
    radians = np.deg2rad(angles)
    return np.rint(np.stack([np.cos(radians), np.sin(radians)], 1) * 120).astype(np.int8)


def identities(gallery, frame, *angles):
    return [match.identity for match in gallery.follow(unit_codes(*angles).reshape(-1, 2), frame, RULES)]


def test_people_are_followed_leave_and_return():
    gallery = DeviceGallery(4, 0)
    assert identities(gallery, 1, 0, 90) == [1, 2]
    assert identities(gallery, 2, 85, 10) == [2, 1]  # the order of the crops is another one
    assert identities(gallery, 3, 95) == [2]
    assert identities(gallery, 20, 5) == [1]  # back after 18 frames, near enough for that
    assert identities(gallery, 21, 90 + 70) == [3]  # too far from anyone
    assert identities(gallery, 22) == []
    assert identities(gallery, 20 + RULES.memory + 1, 5) == [4]  # forgotten


def test_one_who_returns_must_be_nearer_than_one_in_view():
    between = np.rad2deg(np.arccos(1 - (RULES.same + RULES.again) / 2 / UNITS))
    soon, late = DeviceGallery(4, 0), DeviceGallery(4, 0)
    assert identities(soon, 1, 0) == identities(late, 1, 0) == [1]
    assert identities(soon, 1 + RULES.gap, between) == [1]
    assert identities(late, 2 + RULES.gap, between) == [2]


def test_an_enrolled_identity_stays_and_the_longest_unseen_makes_room():
    gallery = DeviceGallery(3, 0)
    assert gallery.enroll(unit_codes(0)[0]) == 1
    assert identities(gallery, 1, 5, 180) == [1, 2]
    assert gallery.places[0].direction.tolist() == [16384, 0]  # as enrolled
    assert identities(gallery, 2, 270) == [3]
    assert identities(gallery, 10, 90) == [4]  # in the place of 2
    assert identities(gallery, 11, 180, 270, 45 + 90) == [0, 3, 4]  # no place is left
    assert gallery.enroll(unit_codes(90)[0]) == 0
    assert gallery.forget(4) and not gallery.forget(4) and not gallery.forget(0)
    assert gallery.enroll(unit_codes(90)[0]) == 5


def test_nobody_and_nothing():
    gallery = DeviceGallery(2, 3)
    blank = np.full(2, 3, np.int8)
    assert gallery.identify(unit_codes(0)[0]) == Match(0, FARTHEST)
    assert gallery.enroll(blank) == 0 and gallery.follow(blank[None], 1, RULES) == [Match(0, FARTHEST)]
    gallery.enroll(unit_codes(0)[0])
    assert gallery.identify(blank) == Match(1, UNITS)
    assert code_distance(blank, blank, 3) == UNITS
