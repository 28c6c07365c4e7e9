"""Command `enroll`: remember identities, so that `identify` finds them in other images."""

import re
import time
from pathlib import Path

from reidlab.config import resolve_path
from reidlab.console import log
from reidlab.data.labels import is_junk, is_known_camera, labels_of
from reidlab.data.sources import compile_pattern, found_in
from reidlab.errors import InputError
from reidlab.export.foreign import model_of
from reidlab.gallery import Gallery
from reidlab.gallery.extraction import MANIFEST, enroll_extracted
from reidlab.gallery.gallery import is_url
from reidlab.places import expanded
from reidlab.run import File, Run
from reidlab.stages.predict import images_of

DAY_S = 86_400


def run(run: Run, images: Path) -> Gallery:
    """Enroll the images below a folder, whose paths name the identities by `gallery.pattern`.

    A folder that `predict.out` made is enrolled without embedding its images again, with the identities that it has.
    Raises InputError where no path fits, an image can't be read, or another checkpoint enrolled the gallery.
    """
    gallery = open_gallery(run)
    days = run["gallery.keep_days"]
    keep_s = float("inf") if days is None else days * DAY_S
    if (images / MANIFEST).is_file():
        count = enroll_extracted(gallery, images, keep_s)
    else:
        count = _enroll(gallery, images, run["gallery.pattern"], keep_s)
    log.info(f"{gallery.place}: {count} images enrolled; {len(gallery)} of {len(gallery.pids)} identities in all")
    return gallery


def _enroll(gallery: Gallery, images: Path, pattern_of: str, keep_s: float) -> int:
    """Embed and enroll the images below a folder whose paths fit the pattern; how many."""
    samples, pattern = images_of(images), compile_pattern(pattern_of, "gallery.pattern", "pid")
    matches = {path: match for path in samples.table["path"] if (match := pattern.match(path))}
    if not matches:
        raise InputError(f"{images}: no path fits gallery.pattern={pattern.pattern}; {found_in(samples.root)}")
    if strays := len(samples.table) - len(matches):
        log.info(f"{images}: {strays} images ignored whose path doesn't fit gallery.pattern")
    if junk := [path for path, match in matches.items() if is_junk(match)]:
        log.info(f"{images}: {len(junk)} images left out whose identity is a negative number, nobody's, e.g. {junk[0]}")
        matches = {path: match for path, match in matches.items() if not is_junk(match)}
    if not matches:
        raise InputError(f"{images}: nobody to enroll; gallery.pattern finds negative numbers alone, as of junk")
    labels = [labels_of(match) for match in matches.values()]
    return gallery.enroll(
        [samples.root / path for path in matches],
        [pid for pid, _ in labels],
        camids=[camid if is_known_camera(camid) else None for _, camid in labels],
        times=[_seconds(*named) for named in matches.items()] if "time" in pattern.groupindex else None,
        keep_s=keep_s,
    )


def _seconds(path: str, match: re.Match[str]) -> float:
    """The time in a path, now where it has none; InputError where it isn't one."""
    if (text := match["time"]) is None:
        return time.time()
    try:
        return float(text)
    except ValueError as error:
        raise InputError(
            f"{path}: its time {text!r} is no number of seconds since 1970; see gallery.pattern"
        ) from error


def open_gallery(run: Run) -> Gallery:
    """The gallery of a run, with the run's network or `gallery.model` to embed images."""
    if run.is_classifier:
        raise InputError(f"{run.folder}: its network classifies images; a gallery needs one that embeds them")
    model = model_of(run, resolve_path(run["gallery.model"]) if run["gallery.model"] else None)
    options = {"precision": run["gallery.precision"], "template": run["gallery.template"]}
    return Gallery.open(gallery_folder(run), model, **options)


def gallery_folder(run: Run) -> str | Path:
    """Where the identities of a run are kept, a folder or a server's URL; those of a released network in `runs/`."""
    if is_url(given := run["gallery.folder"] or ""):
        return given
    if given:
        return expanded(given).absolute()
    return (resolve_path("runs") / run.name if run.is_released else run.folder) / File.GALLERY
