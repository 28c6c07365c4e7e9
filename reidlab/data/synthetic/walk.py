"""Film people who walk past cameras, hide behind each other, leave and return: sequences with their ground truth."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator

from reidlab.data.mot import write_boxes
from reidlab.data.synthetic.body import Pose, assemble
from reidlab.data.synthetic.camera import HOURS, Camera
from reidlab.data.synthetic.people import Person, draw_people
from reidlab.data.synthetic.render import Array, Placed
from reidlab.errors import InputError
from reidlab.files import made_once, read_json
from reidlab.progress import bar

MANIFEST = "film.json"
RATE = 10  # frames a second
ZOOM = 2 / 3  # pixels of a frame per pixel of a camera's view: frames are 360 x 640
STEPS_A_METER = 1.35
SEEN = 0.3  # a detector finds people of whom this share is visible
OTHERS = 7919  # added to the seed, so that a film shows none of the people that the same seed draws for training


@dataclass(frozen=True)
class Walk:
    """A person's way past a camera, from `start` seconds on: across the view at a depth in meters."""

    person: Person
    pid: int
    start: float
    depth: float
    direction: int
    speed: float
    phase: float

    @property
    def seconds(self) -> float:
        """Until the person has left the view."""
        return 2 * self._edge / self.speed

    @property
    def _edge(self) -> float:
        return 0.62 * self.depth + 0.4

    def at(self, second: float) -> Placed | None:
        """The person at some time; None before and after the walk."""
        walked = (second - self.start) * self.speed
        if not 0 <= walked <= 2 * self._edge:
            return None
        phase = self.phase + 2 * np.pi * STEPS_A_METER / 2 * walked
        swing = 0.45 * np.sin(phase)
        heading = self.direction * np.pi / 2
        pose = Pose(heading, phase, 0.9, 0.07, (-swing, 0.3), (swing, 0.3), 0.0)
        return Placed(assemble(self.person, pose), (self.direction * (walked - self._edge), self.depth), heading)


def film_people(
    root: str | Path, sequences: int = 4, people: int = 8, frames: int = 150, cameras: int = 1, seed: int = 0
) -> Path:
    """Film sequences in MOTChallenge's layout under `root`, once, and return `root`.

    `scene1-c1` is the first scene by the first camera; its people have the same ids by the second. Each person walks
    past several times, and is away for 1 to 5 seconds in between. Detections are the visible people's boxes, jittered;
    some are missed, some are nobody's. The same parameters give the same bytes. A root that holds anything else raises
    InputError.
    """
    root = Path(root)
    parameters = dict(sequences=sequences, people=people, frames=frames, cameras=cameras, seed=seed)
    manifest = {"generator": "reidlab film of people", "version": 1, **parameters}

    def film(folder: Path) -> None:
        _film_all(folder, sequences, people, frames, cameras, seed)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    return made_once(root, lambda: _is_there(root, manifest), film)


def _is_there(root: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a folder holds a film; InputError where it holds anything else."""
    is_filled = root.is_dir() and any(root.iterdir())  # looked at first: another process may fill it meanwhile
    if (root / MANIFEST).is_file() and read_json(root / MANIFEST) == manifest:
        return True
    if is_filled:
        raise InputError(f"{root}: holds something else than this film; choose a new or empty folder")
    return False


def _film_all(root: Path, sequences: int, people: int, frames: int, cameras: int, seed: int) -> None:
    """Write all sequences into a folder."""
    with bar(total=sequences * cameras * frames, desc="filming people", unit="frame") as filmed:
        for scene in range(1, sequences + 1):
            cast = draw_people(people * sequences, seed + OTHERS)[people * (scene - 1) : people * scene]
            for number in range(1, cameras + 1):
                camera = Camera(scene + number - 1, seed)
                rng = np.random.default_rng([seed, 4, scene, number])
                walks = _plan(cast, people * (scene - 1), frames / RATE, rng)
                folder = root / f"scene{scene}-c{number}"
                for _ in _film(folder, camera, walks, frames, rng):
                    filmed.update(1)


def _plan(cast: list[Person], before: int, seconds: float, rng: Generator) -> list[Walk]:
    """Each person's walks past the camera; ids go on from those of earlier scenes."""
    walks = []
    for number, person in enumerate(cast, start=1):
        start = rng.uniform(-4, 3)
        while start < seconds:
            depth, direction = rng.uniform(5.8, 9.5), int(rng.choice([-1, 1]))
            walk = Walk(person, before + number, start, depth, direction, rng.uniform(1.0, 1.6), rng.uniform(0, 6))
            walks.append(walk)
            start += walk.seconds + rng.uniform(1, 5)
    return walks


def _film(folder: Path, camera: Camera, walks: list[Walk], frames: int, rng: Generator) -> Iterator[int]:
    """Write a sequence, and yield each frame's number once it is there."""
    (folder / "img1").mkdir(parents=True)
    hour = int(rng.integers(HOURS))
    truth, detected = [], []
    for frame in range(1, frames + 1):
        present = [(walk.pid, placed) for walk in walks if (placed := walk.at((frame - 1) / RATE))]
        present.sort(key=lambda each: -each[1].foot[1])
        image = camera.film([placed for _, placed in present], hour, ZOOM, rng)
        encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (folder / "img1" / f"{frame:06d}.jpg").write_bytes(encoded.tobytes())
        height, width = image.shape[:2]
        shares = _visible([placed for _, placed in present], camera, height, width)
        for (pid, placed), visible in zip(present, shares, strict=True):
            (left, top), (right, bottom) = (ZOOM * corner for corner in camera.extent(placed))
            box = np.array([max(left, 0), max(top, 0), min(right, width), min(bottom, height)])
            box[2:] -= box[:2]
            if box[2] * box[3] < 0.4 * (right - left) * (bottom - top):
                continue
            known = {"confidence": 1, "class": 1, "visibility": visible}
            truth.append({"frame": frame, "pid": pid, **_named(box), **known})
            if visible >= SEEN and rng.random() < 0.97:
                detected.append({"frame": frame, "pid": -1, **_named(_jittered(box, rng)), "confidence": visible})
        if rng.random() < 0.05:
            box = np.array([rng.uniform(0, width - 40), rng.uniform(0, height - 90), 36, 88])
            detected.append({"frame": frame, "pid": -1, **_named(box), "confidence": 0.4})
        yield frame
    write_boxes(folder / "gt" / "gt.txt", pd.DataFrame(truth))
    write_boxes(folder / "det" / "det.txt", pd.DataFrame(detected))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={folder.name}\nimDir=img1\nframeRate={RATE}\nseqLength={frames}\n"
        f"imWidth={width}\nimHeight={height}\nimExt=.jpg\n"
    )


def _named(box: Array) -> dict[str, float]:
    return dict(zip(("left", "top", "width", "height"), box.round(2).tolist(), strict=True))


def _jittered(box: Array, rng: Generator) -> Array:
    """A box as a detector finds it: shifted and scaled by a few hundredths of its height."""
    noise = rng.normal(0, 0.02, 4) * box[3]
    return np.array([*(box[:2] + noise[:2]), *np.maximum(box[2:] + noise[2:], 4)])


def _visible(figures: list[Placed], camera: Camera, height: int, width: int) -> list[float]:
    """The share of each figure, of those from the farthest to the nearest, that no nearer one hides."""
    shown = np.zeros((height, width), np.int16)
    areas = []
    for number, figure in enumerate(figures, start=1):
        mask = _silhouette(figure, camera, height, width)
        areas.append(int(mask.sum()))
        shown[mask] = number
    counts = np.bincount(shown.ravel(), minlength=len(figures) + 1)[1:]
    return [round(float(count / max(area, 1)), 3) for count, area in zip(counts, areas, strict=True)]


def _silhouette(figure: Placed, camera: Camera, height: int, width: int) -> Array:
    ends, radii = figure.skeleton()
    mask = np.zeros((height, width), np.uint8)
    for (start, end), radius in zip(camera.view.project(ends), radii, strict=True):
        points = (np.array([start[:2], end[:2]]) * ZOOM).round().astype(int)
        thick = max(1, int(2 * camera.view.focal / start[2] * radius * ZOOM))
        cv2.line(mask, tuple(map(int, points[0])), tuple(map(int, points[1])), 1, thick)
    return mask.astype(bool)
