"""Enrolled identities: who is it, or is it nobody that is known?"""

import math
import time
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from reidlab.console import log, significant
from reidlab.errors import InputError, one_line
from reidlab.files import one_spelling
from reidlab.gallery.index import Kind
from reidlab.gallery.search import Nearest
from reidlab.gallery.store import PRECISIONS
from reidlab.gallery.templates import Template
from reidlab.metrics.closeness import Distance, norms_of
from reidlab.metrics.pairing import spans
from reidlab.untrusted import UNPRINTABLE

AT_A_TIME = 512  # images that are embedded


class Embeds(Protocol):
    """A callable from images to embeddings, as `reidlab.load` returns it."""

    name: str
    checkpoint: Any  # the hash of its weights
    size: tuple[int, int]
    distance: Any  # that its embeddings are compared by
    verdict: dict[str, Any]  # `threshold` on that distance, where one was calibrated

    def __call__(self, images: Iterable) -> np.ndarray:
        """Images -> (N, D) float32."""


class Candidate(NamedTuple):
    """An enrolled identity with its distance to an image, and the image of it that is compared; none for a mean."""

    pid: str
    distance: float
    path: str | None = None
    camid: str | None = None
    time: float | None = None


@dataclass(frozen=True)
class Identification:
    """Who an image shows: the enrolled identities nearest to it, and the distance up to which one is accepted."""

    candidates: tuple[Candidate, ...]
    threshold: float

    @property
    def pid(self) -> str | None:
        """The nearest identity within the threshold; None for nobody."""
        return next((found.pid for found in self.candidates if found.distance <= self.threshold), None)

    @property
    def distance(self) -> float:
        """Of the nearest identity; inf where there is none."""
        return self.candidates[0].distance if self.candidates else math.inf

    def __str__(self) -> str:
        nearest = f"; nearest is {self.candidates[0].pid}" if self.candidates and self.pid is None else ""
        distance, threshold = map(significant, (self.distance, self.threshold))
        return f"{self.pid or 'nobody'} (distance {distance}, threshold {threshold}{nearest})"


@dataclass(frozen=True)
class Where:
    """Which images are compared: of some cameras, taken from `since` to before `until`, in seconds since 1970.

    Cameras are named as in `enroll_embeddings`.
    """

    cameras: Sequence[str] | None = None
    since: float = -math.inf
    until: float = math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.since) or math.isnan(self.until):
            raise InputError(f"since {self.since}, until {self.until}: give seconds since 1970")
        if self.cameras is not None:
            object.__setattr__(self, "cameras", tuple(name for name in map(label_of, self.cameras) if name is not None))


EVERYWHERE = Where()
LATEST_S = 1e11  # after the year 5000; milliseconds since 1970 are more


class Gallery(ABC):
    """Enrolled images of identities; see `open` for how it is used.

    Attributes:
        model: embeds images; None for a gallery that is only looked at, or forgotten from.
        template: what an image is compared with, see `open`.
        precision: of the embeddings of a new gallery.
    """

    def __init__(self, model: Embeds | None, template: Template, precision: str) -> None:
        self.model, self.template, self.precision = model, template, precision

    @staticmethod
    def open(
        folder: str | Path,
        model: Embeds | None = None,
        *,
        precision: str | None = None,
        template: Template = "mean",
    ) -> "Gallery":
        """Open a gallery, or begin one. InputError where it was enrolled by another checkpoint.

        >>> gallery = Gallery.open("people", reidlab.load("runs/demo"))  # doctest: +SKIP
        >>> gallery.enroll(["a1.jpg", "a2.jpg", "b1.jpg"], pids=["a", "a", "b"])  # doctest: +SKIP
        >>> print(gallery.identify(["new.jpg"])[0])  # doctest: +SKIP

        Args:
            folder: of the gallery; it is made at the first enrollment. Or a server's URL, see `reidlab.gallery.server`.
            model: of `reidlab.load`. Without one, identities can be listed and forgotten, and embeddings identified.
            precision: of stored embeddings, float16 (a new gallery's default) or int8.
            template: compare with the mean of an identity's embeddings, with its nearest image (best, which alone uses
                an index), or with its medoid, the image nearest to its others.
        """
        if template not in ("best", "mean", "medoid"):
            raise InputError(f"template={template!r}: choose best, mean or medoid")
        if precision not in (None, *PRECISIONS):
            raise InputError(f"precision={precision!r}: choose {' or '.join(PRECISIONS)}")
        if is_url(folder):
            from reidlab.gallery.server import ServerGallery

            if precision is not None:
                raise InputError(f"precision={precision}: a server keeps float32 numbers; leave it out")
            return ServerGallery(str(folder), model, template)
        from reidlab.gallery.folder import FolderGallery

        return FolderGallery(folder, model, template, precision)

    @abstractmethod
    def is_usable(self) -> bool:
        """Whether it is there, if it ever was, and can be read."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    def __repr__(self) -> str:
        return f"Gallery({self.place!r}, {len(self)} images)"

    @property
    @abstractmethod
    def place(self) -> str:
        """The folder, or the server's URL."""

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Properties of all its embeddings: checkpoint, distance, dim and more; empty before the first enrollment."""

    @property
    def distance(self) -> Distance:
        """Name of the distance between embeddings."""
        return (about_model(self.model) | self.about).get("distance", "cosine")

    @property
    def threshold(self) -> float:
        """Distance up to which an image shows an identity, as the model's run calibrated it; InputError without."""
        known = self.model.verdict.get("threshold") if self.model else None
        if known is None:
            raise InputError(
                f"{self.place}: no calibrated threshold on the {self.distance} distance; run `reidlab evaluate` "
                "on the run first, or give a threshold (gallery.threshold=0.2)"
            )
        return known

    @property
    @abstractmethod
    def pids(self) -> list[str]:
        """The enrolled identities."""

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """A row an image: path, pid, camid, time, expires, checkpoint."""

    @abstractmethod
    def embeddings(self) -> np.ndarray:
        """All embeddings as they are compared, (N, D) float32."""

    # -- changes

    def enroll(self, images: Sequence, pids: Sequence, **about: Any) -> int:
        """Enroll images, files or arrays (H, W, 3), with their identities; options as of `enroll_embeddings`."""
        if isinstance(images, str | Path) or isinstance(pids, str) or len(images) != len(pids):
            raise InputError("enroll: give a list of images and a list of as many pids")
        paths = ["" if isinstance(image, np.ndarray) else one_spelling(Path(image)).as_posix() for image in images]
        return self.enroll_embeddings(self._embed(images), pids, paths=paths, **about)

    def enroll_embeddings(
        self,
        embeddings: np.ndarray,
        pids: Sequence,
        *,
        paths: Sequence[str] | None = None,
        camids: Sequence | None = None,
        times: Sequence[float] | None = None,
        keep_s: float = math.inf,
    ) -> int:
        """Enroll embeddings (N, D) of the gallery's checkpoint; how many.

        An image whose path is enrolled takes the place of the earlier one, with a warning where that was another's.

        Args:
            embeddings: (N, D).
            pids: (N,), any names; they become text, 7.0 as 7.
            paths: (N,) of the images; "" for one that has none.
            camids: (N,), None where unknown.
            times: (N,) when the images were taken, in seconds since 1970; now, if left out.
            keep_s: seconds after that time at which the images expire.
        """
        values = np.asarray(embeddings, np.float32)
        count = len(values)
        if values.ndim != 2:
            raise InputError(f"embeddings {values.shape}: expected (N, D)")
        try:
            when = np.full(count, time.time()) if times is None else np.asarray(times, float)
        except (TypeError, ValueError) as error:
            raise InputError(f"enroll: times: {one_line(error)}; give seconds since 1970") from error
        columns: dict[str, Any] = {
            "path": [""] * count if paths is None else [str(path) for path in paths],
            "pid": [label_of(pid) for pid in pids],
            "camid": [label_of(camid) for camid in ([None] * count if camids is None else camids)],
            "time": when,
            "expires": when + keep_s,
        }
        for name, column in columns.items():
            if len(column) != count:
                raise InputError(f"enroll: {len(column)} {name}s for {count} images; give one each")
        if not np.isfinite(when).all() or not all(columns["pid"]):
            raise InputError("enroll: a pid is missing or a time isn't a number; give one each")
        for name in (*columns["pid"], *filter(None, columns["camid"])):
            if UNPRINTABLE.search(name) or "\n" in name:
                raise InputError(f"enroll: pid or camid {name!r} holds a character that isn't printable")
        if (np.abs(when) > LATEST_S).any():
            raise InputError(
                f"enroll: time {when[np.abs(when) > LATEST_S][0]:.0f}: give seconds since 1970, no milliseconds"
            )
        if not keep_s > 0:
            raise InputError(f"enroll: kept for {keep_s} s: give more than none")
        if over := int((columns["expires"] <= time.time()).sum()):
            log.warning(f"enroll: {over} of {count} images are over already, as keep_s counts from their times")
        norms_of(torch.from_numpy(values), "gallery", paths)
        pids = columns["pid"]
        last = {path: row for row, path in enumerate(columns["path"]) if path}
        if twice := sum(pids[row] != pids[last[path]] for row, path in enumerate(columns["path"]) if path):
            log.warning(f"enroll: {twice} images are given under two identities; the last one counts")
        kept = [row for row, path in enumerate(columns["path"]) if last.get(path, row) == row]
        self._add(values[kept], {name: _taken(column, kept) for name, column in columns.items()})
        return len(kept)

    @abstractmethod
    def forget(self, pid: str) -> int:
        """Delete all images of an identity; how many. InputError where nobody has that name."""

    @abstractmethod
    def expire(self) -> int:
        """Delete the images whose time is over, which no answer counts any more; how many. Every change does, too."""

    @abstractmethod
    def build_index(self, kind: Kind = "ivfpq", effort: int | None = None) -> dict[str, float]:
        """Index the images of a large gallery; its `recall` for some of them. InputError on a server."""

    @abstractmethod
    def recall(self, embeddings: np.ndarray, ks: Sequence[int] = (1, 10)) -> dict[str, float]:
        """The share of the k nearest images that an index finds, `recall@k`, for queries (Q, D)."""

    # -- questions

    def identify(self, images: Sequence, k: int = 5, where: Where = EVERYWHERE, threshold: float | None = None
                 ) -> list[Identification]:  # fmt: skip
        """Who each image shows; arguments as of `identify_embeddings`."""
        return self.identify_embeddings(self._embed(images), k, where, threshold)

    def identify_embeddings(
        self, embeddings: np.ndarray, k: int = 5, where: Where = EVERYWHERE, threshold: float | None = None
    ) -> list[Identification]:
        """Who each embedding (N, D) belongs to: the k nearest identities, accepted within the threshold.

        Args:
            embeddings: of the gallery's checkpoint.
            k: identities to list for each.
            where: the images that are compared.
            threshold: on the gallery's distance; that of the model's run if left out. InputError without either.
        """
        if k < 1 or k != int(k):
            raise InputError(f"k={k}: ask for one or more")
        threshold = self.threshold if threshold is None else threshold
        if not threshold >= 0:
            raise InputError(f"threshold={threshold}: a distance is 0 or more")
        return [Identification(tuple(found), threshold) for found in self._candidates(embeddings, int(k), where)]

    @abstractmethod
    def nearest(self, embeddings: np.ndarray, k: int = 10, where: Where = EVERYWHERE) -> Nearest:
        """The k nearest images of each embedding (Q, D); positions are rows of `table()`."""

    # -- within

    @abstractmethod
    def _add(self, values: np.ndarray, columns: dict[str, Any]) -> None:
        """Enroll rows that were checked; what is expired leaves."""

    @abstractmethod
    def _candidates(self, embeddings: np.ndarray, k: int, where: Where) -> list[list[Candidate]]:
        """The k identities nearest to each embedding."""

    def _embed(self, images: Sequence) -> np.ndarray:
        if self.model is None:
            raise InputError(f"{self.place}: opened without a model; use Gallery.open(folder, reidlab.load(RUN))")
        if isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        if not len(images):
            raise InputError("no images: give files, or arrays (H, W, 3) of uint8 RGB")
        return np.concatenate([self.model(images[start:stop]) for start, stop in spans(len(images), AT_A_TIME)])

    def _queries(self, embeddings: np.ndarray) -> np.ndarray:
        queries = np.ascontiguousarray(embeddings, np.float32)
        dim = self.about.get("dim")
        if queries.ndim != 2 or (dim and queries.shape[1] != dim):
            raise InputError(f"embeddings {queries.shape}: expected (Q, {dim or 'D'})")
        return queries

    def _about_new(self, dim: int) -> dict[str, Any]:
        """The manifest's entries that a first enrollment decides."""
        about = {"precision": self.precision} | about_model(self.model) | self.about
        if "checkpoint" not in about:
            raise InputError(f"{self.place}: opened without a model; use Gallery.open(folder, reidlab.load(RUN))")
        if about.setdefault("dim", dim) != dim:
            raise InputError(f"embeddings of {dim} numbers: the gallery holds those of {about['dim']}")
        return about

    def _note_replaced(self, count: int) -> None:
        """Warn of images that took the places of another identity's."""
        if count:
            log.warning(
                f"{self.place}: {count} images of other identities were replaced, since an image is known by its path; "
                "were they those of other people, enroll them again from a path of their own"
            )

    def _require_own_checkpoint(self) -> None:
        """InputError where the gallery was enrolled by another model."""
        wrong = [f"{key} {self.about[key]}, not {own}" for key, own in about_model(self.model).items()
                 if self.about.get(key, own) != own]  # fmt: skip
        if wrong:
            raise InputError(
                f"{self.place}: enrolled with {'; '.join(wrong)}; enroll again into another folder, or open it "
                "with the model that it was made by"
            )


def is_url(place: str | Path) -> bool:
    """Whether a gallery is on a server."""
    return "://" in str(place)


def about_model(model: Embeds | None) -> dict[str, Any]:
    """Properties that embeddings must share to be compared."""
    if model is None:
        return {}
    return {"checkpoint": model.checkpoint, "distance": model.distance or "cosine", "size": [*model.size]}


def label_of(name: Any) -> str | None:
    """An identity's or camera's name as text, in one Unicode form and without blanks around; None for a missing one."""
    if isinstance(name, str):
        return unicodedata.normalize("NFC", name).strip()
    if name is None or pd.isna(name):
        return None
    whole = isinstance(name, float | np.floating) and np.isfinite(name) and name == int(name)
    return str(int(name) if whole else name)


def _taken(column: Sequence | np.ndarray, rows: list[int]) -> Sequence | np.ndarray:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
