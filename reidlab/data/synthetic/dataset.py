"""Write the pictures of all people as a data set in the layout of Market-1501."""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from reidlab.data.synthetic.camera import Camera
from reidlab.data.synthetic.people import Person, draw_people
from reidlab.errors import InputError
from reidlab.files import made_once, read_json
from reidlab.progress import bar

VERSION = 2
MANIFEST = "synthetic.json"
BATCH = 30  # shots that a thread takes at a time
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
JUNK, DISTRACTOR = -1, 0
PARAMETERS = ("num_identities", "train_identities", "num_cameras", "images_per_camera", "size", "seed")
RANGES = {
    "num_identities": (4, 9999),
    "train_identities": (2, 9997),
    "num_cameras": (2, 9),
    "images_per_camera": (2, 50),
    "height": (32, 512),
    "width": (16, 512),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class Shot:
    """One picture to be taken; `number` distinguishes the pictures of one `pid` by one camera."""

    folder: str
    pid: int
    person: Person
    camera: int
    number: int
    missed: float = 0.0


def folder_of_people(root: Path | str, parameters: Mapping[str, Any]) -> Path:
    """The folder below `root` for people of these parameters, or `root` itself where it holds the same ones.

    InputError where `root` holds anything but synthetic people.

    Args:
        root: of the folders.
        parameters: those of `generate_people`.
    """
    root, manifest = Path(root), _manifest(parameters)
    if _read_manifest(root) == manifest:
        return root
    if root.is_dir() and not (root / MANIFEST).is_file():
        shown = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
        if not all((entry / MANIFEST).is_file() for entry in shown):
            raise InputError(
                f"{root}: holds files that aren't synthetic people; set data.root to a new or empty folder"
            )
    sides, seed = "x".join(map(str, manifest["size"])), manifest["seed"]
    people = f"{manifest['num_identities']}-{manifest['train_identities']}"
    shots = f"{manifest['num_cameras']}x{manifest['images_per_camera']}"
    return root / f"{people}-{shots}-{sides}-{seed}"


def generate_people(
    root: Path | str,
    num_identities: int = 100,
    train_identities: int = 60,
    num_cameras: int = 4,
    images_per_camera: int = 6,
    size: tuple[int, int] = (128, 64),
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Make a re-identification data set of drawn people under `root`, once, and return `root`.

    The identities 1..`train_identities` are for training, the others for testing: one query per camera, the rest
    gallery, along with distractors (pid 0) and junk (pid -1). The same parameters give the same bytes. A root that
    already holds them is left as it is; one that holds anything else raises InputError, as do parameters out of range
    and a folder that can't be written.

    Args:
        root: the folder of the data set.
        num_identities: in all.
        train_identities: of these.
        num_cameras: each sees all identities.
        images_per_camera: of each identity.
        size: height and width of the crops in pixels, within a tenth.
        seed: of people, cameras and pictures.
        progress: show a bar.
    """
    root = Path(root)
    parameters: dict[str, Any] = {
        "num_identities": num_identities,
        "train_identities": train_identities,
        "num_cameras": num_cameras,
        "images_per_camera": images_per_camera,
        "size": list(size),
        "seed": seed,
    }
    _check(parameters)
    manifest = _manifest(parameters)

    def draw(folder: Path) -> None:
        _write(folder, parameters, progress)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    return made_once(root, lambda: _is_there(root, manifest), draw)


def _manifest(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The record written beside the people that these parameters draw."""
    named = {name: parameters[name] for name in PARAMETERS} | {"size": list(parameters["size"])}
    return {"generator": "reidlab synthetic people", "version": VERSION, **named}


def _read_manifest(root: Path) -> Any:
    """The content of a folder's manifest; None where it has none or can't be read."""
    try:
        return read_json(root / MANIFEST)
    except InputError:
        return None


def _check(parameters: dict) -> None:
    size = parameters["size"]
    if len(size) != 2:
        raise InputError(f"size={size}: give two numbers, height and width in pixels")
    values = {**parameters, "height": size[0], "width": size[1]}
    for name, (low, high) in RANGES.items():
        value = values[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            culprit = f"size={tuple(size)}: its {name}" if name in ("height", "width") else f"{name}={value}: it"
            raise InputError(f"{culprit} must be a whole number from {low} to {high}")
    if parameters["train_identities"] > parameters["num_identities"] - 2:
        raise InputError(
            f"train_identities={parameters['train_identities']}: leave at least two of the "
            f"num_identities={parameters['num_identities']} for testing"
        )


def _is_there(root: Path, manifest: dict) -> bool:
    """Whether `root` holds what `manifest` describes: False if absent or empty, InputError if it holds other things."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise InputError(f"{root}: is a file; set data.root to a folder for the synthetic people")
    path = root / MANIFEST
    is_filled = any(root.iterdir())  # looked at first: another process may fill it meanwhile
    if not path.is_file():
        if is_filled:
            raise InputError(
                f"{root}: holds files that aren't synthetic people; set data.root to a new or empty folder"
            )
        return False
    found = _read_manifest(root)
    if not isinstance(found, dict):
        raise InputError(f"{path}: can't be read; delete {root} to make the data set again")
    other = [
        f"{name}={found.get(name)} (asked for {value})" for name, value in manifest.items() if found.get(name) != value
    ]
    if other:
        raise InputError(f"{root}: holds synthetic people with {', '.join(other)}; delete it or set another data.root")
    return True


def _write(root: Path, parameters: dict, progress: bool) -> None:
    count, train = parameters["num_identities"], parameters["train_identities"]
    for folder in (TRAIN, QUERY, GALLERY):
        (root / folder).mkdir()
    passers_by = max(4, count // 5)
    people = draw_people(count + passers_by, parameters["seed"])
    _write_attributes(root / "people.csv", people[:count], train)
    shots = sorted(_plan(people, parameters), key=lambda shot: shot.camera)
    draw = partial(_take_all, root, people, parameters)
    batches = [shots[start : start + BATCH] for start in range(0, len(shots), BATCH)]
    with (
        bar(shown=progress, total=len(shots), desc="drawing synthetic people", unit="image") as drawing,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        for drawn in pool.map(draw, batches):
            drawing.update(drawn)


def _plan(people: list[Person], parameters: dict) -> Iterator[Shot]:
    count, train = parameters["num_identities"], parameters["train_identities"]
    cameras, images = parameters["num_cameras"], parameters["images_per_camera"]
    for pid in range(1, count + 1):
        for camera in range(1, cameras + 1):
            for number in range(images):
                folder = TRAIN if pid <= train else QUERY if number == 0 else GALLERY
                yield Shot(folder, pid, people[pid - 1], camera, number)
    gallery = (count - train) * cameras * (images - 1)
    passers_by = people[count:]
    for number in range(max(4, gallery // 10)):
        missed = 0.7 if number % 4 == 0 else 0.0
        yield Shot(GALLERY, DISTRACTOR, passers_by[number % len(passers_by)], number % cameras + 1, number, missed)
    for number in range(max(4, gallery // 20)):
        yield Shot(GALLERY, JUNK, people[train + number % (count - train)], number % cameras + 1, number, 0.35)


def _take_all(root: Path, people: list[Person], parameters: dict, shots: list[Shot]) -> int:
    """Take some shots, each of which depends on nothing but itself."""
    for shot in shots:
        _take(root, shot, _camera(shot.camera, parameters["seed"]), people, parameters)
    return len(shots)


@lru_cache(maxsize=16)
def _camera(number: int, seed: int) -> Camera:
    return Camera(number, seed)


def _take(root: Path, shot: Shot, camera: Camera, people: list[Person], parameters: dict) -> None:
    rng = np.random.default_rng([parameters["seed"], 3, shot.pid - JUNK, shot.camera, shot.number])
    zoom = rng.uniform(0.9, 1.1)
    height, width = (round(side * zoom) for side in parameters["size"])
    image, hour = camera.photograph(shot.person, people, (height, width), rng, shot.missed)
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, camera.sensor.quality])[1]
    frame = 25 * (max(shot.pid, 0) * parameters["images_per_camera"] + shot.number) + 1
    name = f"{shot.pid:0{4 if shot.pid >= 0 else 2}d}_c{shot.camera}s{hour + 1}_{frame:06d}_01.jpg"
    (root / shot.folder / name).write_bytes(encoded.tobytes())


def _write_attributes(path: Path, people: list[Person], train: int) -> None:
    rows = [
        {"pid": pid, "split": "train" if pid <= train else "test", **person.attributes()}
        for pid, person in enumerate(people, start=1)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
