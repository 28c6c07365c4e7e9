"""Command `identify`: which enrolled identity do images show, or nobody that is known?"""

from datetime import datetime
from pathlib import Path

import pandas as pd

from reidlab.console import log, print_table, significant
from reidlab.errors import InputError
from reidlab.gallery import Identification, Where
from reidlab.run import Run
from reidlab.stages.enroll import open_gallery
from reidlab.stages.predict import images_of


def run(run: Run, images: Path) -> dict[str, Identification]:
    """Identify a file or all images below a folder, by their paths below it; by the options of `conf/gallery`.

    Raises InputError where there is no image, no gallery, no threshold, or another checkpoint enrolled the gallery.
    """
    gallery, samples = open_gallery(run), images_of(images)
    if not gallery.about:
        raise InputError(f"{gallery.place}: no gallery; `reidlab enroll DIR` begins one")
    known = {key: _seconds(f"gallery.{key}", run[f"gallery.{key}"]) for key in ("since", "until")}
    where = Where(run["gallery.cameras"], **{key: time for key, time in known.items() if time is not None})
    answers = gallery.identify(samples.files(), run["gallery.k"], where, run["gallery.threshold"])
    if not any(answer.candidates for answer in answers):
        asked = [f"gallery.{key}={run[f'gallery.{key}']}" for key in ("cameras", "since", "until")]
        fitting = ", ".join(each for each in asked if not each.endswith("=None"))
        log.info(f"{gallery.place}: no enrolled image {f'fits {fitting}' if fitting else 'to compare with'}")
    found = dict(zip(samples.table["path"], answers, strict=True))
    rows = {
        path: {
            "shows": answer.pid or "nobody",
            "distance": significant(answer.distance),
            "threshold": significant(answer.threshold),
            "nearest": ", ".join(f"{each.pid} {significant(each.distance)}" for each in answer.candidates),
        }
        for path, answer in found.items()
    }
    print_table(pd.DataFrame.from_dict(rows, orient="index").rename_axis("image"), f"{images} in {gallery.place}")
    return found


def _seconds(key: str, moment: str | None) -> float | None:
    """A date and time of this machine's zone, in seconds since 1970."""
    try:
        return None if moment is None else datetime.fromisoformat(str(moment)).timestamp()
    except ValueError as error:
        raise InputError(f"{key}={moment}: no date; write it as 2026-01-31 or 2026-01-31T08:00") from error
