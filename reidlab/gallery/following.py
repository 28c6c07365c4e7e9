"""Sequences of video followed: their boxes embedded, joined to tracks, and compared with the truth by scene."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from reidlab.console import log
from reidlab.data import mot
from reidlab.data.mot import BOX, corners, in_view
from reidlab.errors import InputError
from reidlab.gallery.association import Associator, Rules
from reidlab.metrics.tracks import TrackCounts, count_tracks, without_distractors
from reidlab.progress import bar

Crops = Callable[[np.ndarray, np.ndarray], np.ndarray]  # a frame and corners (N, 4) to embeddings, as `Model.crops`


class Follows(Protocol):
    """A function that embeds the boxes of a frame, as `reidlab.load` returns it."""

    def crops(self, frame: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4), each left, top, right, bottom -> (N, D) float32."""


class Shot(NamedTuple):
    """A sequence, with the embeddings of its boxes (N, D) and of those of its truth (T, D)."""

    sequence: mot.Sequence
    boxes: np.ndarray
    truth: np.ndarray


def embed_boxes(sequence: mot.Sequence, crops: Crops) -> Shot:
    """Embed all boxes of a sequence, frame by frame.

    Boxes that lie outside of their frame are left out, with a note; those of the truth stay, with visibility 0.
    """
    tables = (sequence.boxes, sequence.truth)
    rows = [table.groupby("frame").indices for table in tables]
    found: list[dict[int, np.ndarray]] = [{}, {}]
    seen = [np.zeros(len(table), bool) for table in tables]
    with bar(total=len(rows[0]), desc=sequence.name, unit="frame") as done:
        for number, image in sequence.frames():
            for table, here, of, visible in zip(tables, rows, found, seen, strict=True):
                if number in here:
                    boxes = table[BOX].to_numpy(float)[here[number]]
                    of[number], visible[here[number]] = crops(image, corners(boxes, image)), in_view(boxes, image)
            done.update(int(number in rows[0]))
    for here, of in zip(rows, found, strict=True):
        if absent := sorted({*here} - {*of}):
            raise InputError(f"{sequence.source}: no frame {absent[0]:.0f}, which has boxes")
    embeddings, of_truth = (np.concatenate([of[n] for n in sorted(of)]) if of else np.zeros((0, 1)) for of in found)
    kept, visible = seen
    if not kept.all():
        log.info(f"{sequence.name}: {(~kept).sum()} boxes lie outside of their frames and are left out")
    boxes = sequence.boxes[kept].reset_index(drop=True)
    truth = sequence.truth.assign(visibility=sequence.truth["visibility"].where(visible, 0.0))
    return Shot(dataclasses.replace(sequence, boxes=boxes, truth=truth), embeddings[kept], of_truth)


def follow_video(folder: str | Path, model: Follows, rules: Rules | None = None) -> dict[str, pd.DataFrame]:
    """The tracks of the sequences in a folder, with appearance, as of `follow`.

    Args:
        folder: one sequence in MOTChallenge's layout, or several: `img1/` or a video, and `det/det.txt` or `gt/gt.txt`.
        model: of `reidlab.load`.
        rules: when boxes are joined.
    """
    shots = [embed_boxes(sequence, model.crops) for sequence in mot.read_sequences(Path(folder))]
    return follow(shots, rules or Rules(), appearance=True)


def scenes(shots: Sequence[Shot]) -> Iterator[list[Shot]]:
    """The sequences that share their identities, wherever they stand."""
    found: dict[str, list[Shot]] = {}
    for shot in shots:
        found.setdefault(shot.sequence.scene, []).append(shot)
    yield from found.values()


def follow(shots: Sequence[Shot], rules: Rules, appearance: bool) -> dict[str, pd.DataFrame]:
    """The tracks of each sequence, by its name: columns frame, `BOX`, confidence and pid.

    The cameras of a scene are followed one after the other, each from its first frame with boxes, whatever its number
    is, and whom one saw is remembered at the next.

    Args:
        shots: the sequences.
        rules: when boxes are joined.
        appearance: whether embeddings count, or motion alone.
    """
    return {
        shot.sequence.name: table
        for scene in scenes(shots)
        for shot, table in zip(scene, _followed(scene, rules, appearance), strict=True)
    }


def _followed(scene: Sequence[Shot], rules: Rules, appearance: bool) -> list[pd.DataFrame]:
    associator, tracks, last = Associator(rules), [], 0
    for shot in scene:
        boxes = shot.sequence.boxes
        before = last + 1 - boxes["frame"].min()
        places, confidences = boxes[BOX].to_numpy(float), boxes["confidence"].to_numpy(float)
        if appearance and len(boxes) and confidences.max() < rules.min_confidence:
            log.warning(
                f"{shot.sequence.name}: no box is followed, since their confidences go from {confidences.min():g} to "
                f"{confidences.max():g}, and a track begins at track.min_confidence={rules.min_confidence:g}"
            )
        given = np.zeros(len(boxes), int)
        for number, rows in boxes.groupby("frame").indices.items():
            last = int(before + number)
            looks = shot.boxes[rows] if appearance else None
            given[rows] = associator.step(last, places[rows], confidences[rows], looks)
        tracks.append(boxes[["frame", *BOX, "confidence"]].assign(pid=given)[given > 0])
        last += rules.max_gap + 1  # the next camera expects nobody at the places of this one
    return [
        table.assign(pid=[associator.identity_of(track) for track in table["pid"].tolist()]).reset_index(drop=True)
        for table in tracks
    ]


def count_scenes(groups: Iterable[Sequence[Shot]], tracks: Mapping[str, pd.DataFrame]) -> list[TrackCounts]:
    """The counts of each group of sequences, one after the other, against the truth; boxes on distractors don't count.

    Args:
        groups: `scenes`, of whose identities each has one name in all cameras; or sequences by themselves.
        tracks: of each sequence, by its name.
    """
    counts = []
    for scene in groups:
        pairs = [(shot.sequence.truth, _judged(shot.sequence, tracks[shot.sequence.name])) for shot in scene]
        apart = 1 + max(int(table["frame"].max()) for pair in pairs for table in pair if len(table))
        truth, found = (
            pd.concat([table.assign(frame=table["frame"] + n * apart) for n, table in enumerate(side)])
            for side in zip(*pairs, strict=True)
        )
        counts.append(count_tracks(truth, found))
    return counts


def _judged(sequence: mot.Sequence, found: pd.DataFrame) -> pd.DataFrame:
    if sequence.ignored.empty:
        return found
    return without_distractors(found, pd.concat([sequence.truth.assign(distractor=False), sequence.ignored]))
