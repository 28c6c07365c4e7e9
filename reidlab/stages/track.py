"""Command `track`: follow identities through video, and say what the network is worth there."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab.card.reentry import page
from reidlab.config import resolve_path
from reidlab.console import log, print_table
from reidlab.data import blur_head
from reidlab.data.mot import BOX, RATE, corners, read_sequences, write_boxes
from reidlab.data.mot import Sequence as Frames
from reidlab.data.synthetic.walk import film_people
from reidlab.errors import InputError
from reidlab.evaluation.reentry import reentry
from reidlab.export.model import Model
from reidlab.files import storage_errors, write_atomic, write_json
from reidlab.gallery.association import Rules
from reidlab.gallery.following import Shot, count_scenes, embed_boxes, follow, scenes
from reidlab.metrics.tracks import TrackCounts, total, track_intervals
from reidlab.plots.saving import save_figure
from reidlab.plots.tracks import frame_with_boxes, recognition, save_animation, small
from reidlab.run import File, Run

BY_MOTION, WITH_APPEARANCE, DIFFERENCE = "motion alone", "with appearance", "difference"
ALONE = ", each camera by itself"  # of figures that don't ask whether an identity keeps its name at the next camera
NAMED = 6  # sequences, on the page
WRITTEN = ("*.txt", "*.webp", "*.png")  # tracks and pictures
VISIBLE = 0.5  # people of whom less is visible aren't asked for, nor remembered


@storage_errors()
def run(run: Run, folder: Path | None = None) -> pd.DataFrame:
    """Follow the boxes of sequences, by motion alone and with the network, by the options of `conf/track`.

    Writes tracks as MOTChallenge's tools read them, figures against the truth and a moving picture into `track/` of the
    run folder, a released network's into `runs/`; those of an earlier call are deleted. Returns the table of figures,
    empty where no truth is known. Raises InputError where there is no sequence, and for a network that classifies.

    Args:
        run: whose network is used.
        folder: a sequence in MOTChallenge's layout, or a folder of them; those of one scene by several cameras are
            called NAME-c1, NAME-c2 and share their identities. None: filmed people.
    """
    if run.is_classifier:
        raise InputError(f"{run.folder}: its network classifies images; tracks need one that embeds them")
    filmed = sequences(run, folder)
    model = Model.of(run)
    rules = Rules(**{field.name: run[f"track.{field.name}"] for field in fields(Rules)})
    shots = [embed_boxes(sequence, model.crops) for sequence in filmed]
    tracks = {name: follow(shots, rules, name == WITH_APPEARANCE) for name in (BY_MOTION, WITH_APPEARANCE)}
    home = resolve_path("runs") / run.name if run.is_released else run.folder
    if not run.is_released:
        run.keep_config()
    earlier = [home / file for file in (File.TRACK_FIGURES, File.REENTRY, File.REENTRY_ABOUT, File.REENTRY_PAGE)]
    for file in (*earlier, *(found for end in WRITTEN for found in (home / File.TRACK).glob(end))):
        file.unlink(missing_ok=True)
    for name, table in tracks[WITH_APPEARANCE].items():
        write_boxes(home / File.TRACK / f"{name}.txt", table)
    _save_moving_picture(shots[0], tracks[WITH_APPEARANCE], home / File.TRACK, run)
    known = [shot for shot in shots if len(shot.truth)]
    if not known:
        log.info(f"{home / File.TRACK}: tracks of {len(shots)} sequences; no truth to compare them with")
        return pd.DataFrame()
    groups = {"": [*scenes(known)]}
    if len(groups[""]) < len(known):
        groups[ALONE] = [[shot] for shot in known]
    figures = pd.concat(
        _figures({name: _counts(of, found) for name, found in tracks.items()}, run["track.resamples"]).rename(
            index=lambda name, end=end: name + end
        )
        for end, of in groups.items()
    )
    write_atomic(home / File.TRACK_FIGURES, figures.to_csv())
    print_table(figures, f"{len(known)} sequences, {sum(len(shot.truth) for shot in known):,} boxes of people")
    threshold = run.threshold("cosine") or rules.reentry_distance or rules.max_distance
    videos = [*{_truth_of([shot]): shot for shot in known}.values()]
    again = _reentry(videos, run["track.gaps"], threshold)
    write_atomic(home / File.REENTRY, again.to_csv())
    picture = save_figure(recognition(again), home / File.TRACK / "reentry.png")
    names, boxes = [shot.sequence.name for shot in videos], sum(len(shot.truth) for shot in videos)
    about = {"checkpoint": run.checkpoint, "threshold": threshold, "sequences": names, "boxes": boxes}
    write_json(home / File.REENTRY_ABOUT, about)
    calibrated = "calibrated by evaluate" if run.threshold("cosine") else "of conf/track, not calibrated"
    facts = {
        "model": run["model.name"],
        "sequences": ", ".join(names) if len(names) <= NAMED else f"{len(names)}, {names[0]} to {names[-1]}",
        "boxes of people": f"{boxes:,}",
        "threshold": f"{threshold:.3g} on the cosine distance ({calibrated})",
    }
    rates = {shot.sequence.rate for shot in known}
    rate = rates.pop() if len(rates) == 1 else None
    write_atomic(home / File.REENTRY_PAGE, page(run.name, facts, again, figures, picture, rate))
    shown = again[[name for name in again if not name.endswith(("_low", "_high"))]]
    print_table(shown.round(3), "asked for again, among all who were there so many frames before")
    log.info(f"track: {home / File.REENTRY_PAGE}")
    return figures


def sequences(run: Run, folder: Path | None = None) -> list[Frames]:
    """The sequences in a folder; without one, those of filmed people, by `track.film`."""
    given = run["track.film"]
    home = Path(run["track.root"]) / "-".join(str(value) for value in given.values())
    return read_sequences(folder or film_people(home, **given))


def _counts(groups: Sequence[Sequence[Shot]], tracks: Mapping[str, pd.DataFrame]) -> list[TrackCounts]:
    """`count_scenes` by video: one that is there with the boxes of several detectors, as in MOT17, is one of them."""
    videos: dict[tuple[bytes, ...], list[TrackCounts]] = {}
    for group, counts in zip(groups, count_scenes(groups, tracks), strict=True):
        videos.setdefault(_truth_of(group), []).append(counts)
    return [total(of) for of in videos.values()]


def _truth_of(shots: Sequence[Shot]) -> tuple[bytes, ...]:
    return tuple(shot.sequence.truth.to_numpy(float).tobytes() for shot in shots)


def _figures(counts: Mapping[str, list[TrackCounts]], resamples: int) -> pd.DataFrame:
    """A row for each way to follow, and their difference, with 95 % intervals over what was counted."""
    before, after = counts[BY_MOTION], counts[WITH_APPEARANCE]
    rows = {name: total(of).figures() for name, of in counts.items()}
    rows[DIFFERENCE] = {key: value - rows[BY_MOTION][key] for key, value in rows[WITH_APPEARANCE].items()}
    pairs: dict[str, tuple[Sequence[TrackCounts], Sequence[TrackCounts]]] = {
        **{name: (of, ()) for name, of in counts.items()},
        DIFFERENCE: (after, before),
    }
    several = len(before) > 1
    ends = {name: track_intervals(of, against, resamples) for name, (of, against) in pairs.items() if several}
    return pd.DataFrame.from_dict(
        {
            name: {key: _with_interval(value, ends.get(name, {}).get(key), key) for key, value in figures.items()}
            for name, figures in rows.items()
        },
        orient="index",
    ).rename_axis("tracks")


def _with_interval(value: float, ends: tuple[float, float] | None, figure: str) -> str:
    digits = 0 if figure == "switches" else 3
    interval = f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else ""
    return f"{value:.{digits}f}{interval}"


def _reentry(shots: Sequence[Shot], gaps: Sequence[int], threshold: float) -> pd.DataFrame:
    """Re-entry in all sequences together; nobody is asked for in another sequence."""
    apart = 1 + max(gaps) + max(int(shot.sequence.truth["frame"].max()) for shot in shots)
    tables = [
        shot.sequence.truth.assign(frame=shot.sequence.truth["frame"] + number * apart)
        for number, shot in enumerate(shots)
    ]
    table, embeddings = pd.concat(tables), np.concatenate([shot.truth for shot in shots])
    scene = np.repeat([shot.sequence.scene for shot in shots], [len(shot.truth) for shot in shots])
    people = table.assign(scene=scene).groupby(["scene", "pid"]).ngroup()  # in another scene a number is another's
    seen = (table["visibility"] >= VISIBLE).to_numpy()
    frames, pids = table["frame"].to_numpy()[seen], people.to_numpy()[seen]
    return reentry(frames, pids, embeddings[seen], gaps, threshold)


def _save_moving_picture(shot: Shot, tracks: Mapping[str, pd.DataFrame], place: Path, run: Run) -> None:
    table, every = tracks[shot.sequence.name], run["track.picture_every"]
    rows, sequence = table.groupby("frame").indices, shot.sequence
    people = pd.concat([sequence.boxes, sequence.truth, sequence.ignored])[["frame", *BOX]].astype(float)
    heads = people.groupby("frame").indices
    drawn: list[np.ndarray] = []
    for number, image in islice(shot.sequence.frames(), 0, None, every):
        if len(drawn) == run["track.picture_frames"]:
            break
        here = table.iloc[rows.get(number, [])]
        boxes = here[BOX].to_numpy(float)
        if run["privacy.blur"]:
            for left, top, right, bottom in corners(people[BOX].to_numpy()[heads.get(number, [])], image):
                image[top:bottom, left:right] = blur_head(image[top:bottom, left:right])
        drawn.append(small(frame_with_boxes(image, boxes, here["pid"].tolist())))
    if drawn:
        save_animation(drawn, place / f"{shot.sequence.name}.webp", (shot.sequence.rate or RATE) / every)
