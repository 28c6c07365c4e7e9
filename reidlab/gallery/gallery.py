"""Enrolled identities: who is it, or is it nobody that is known?"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reidlab.console import log
from reidlab.errors import InputError, one_line
from reidlab.files import one_spelling
from reidlab.gallery.index import Index, Kind, sample_size
from reidlab.gallery.search import Block, Nearest, merge, nearest, rescore
from reidlab.gallery.store import PRECISIONS, Store
from reidlab.gallery.templates import Template, means, medoids
from reidlab.metrics.closeness import Distance, norms_of
from reidlab.metrics.pairing import spans
from reidlab.untrusted import UNPRINTABLE

AT_A_TIME = 512  # images that are embedded
FOUND_AT_ONCE = 1 << 22  # pairs of a query and an image found for it
WORTH_AN_INDEX = 10_000  # rows
TESTED = 200  # rows that an index is tested with
EFFORTS = {"ivfpq": 64, "hnsw": 256}


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
        return f"{self.pid or 'nobody'} (distance {self.distance:.3f}, threshold {self.threshold:.3f}{nearest})"


@dataclass(frozen=True)
class Where:
    """Which images are compared: of some cameras, taken from `since` to before `until`, in seconds since 1970."""

    cameras: Sequence[str] | None = None
    since: float = -math.inf
    until: float = math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.since) or math.isnan(self.until):
            raise InputError(f"since {self.since}, until {self.until}: give seconds since 1970")


EVERYWHERE = Where()
LATEST_S = 1e11  # after the year 5000; milliseconds since 1970 are more


class Gallery:
    """Enrolled images of identities in a folder; see `Store` for what it holds, `open` for how it is used.

    One on a server is a `ServerGallery`, which is used in the same way.

    Args:
        store: the folder.
        model: embeds images; None for one that is only looked at, or forgotten from.
        template: what an image is compared with, see `open`.
        precision: of the embeddings of a new gallery.
    """

    def __init__(self, store: Store, model: Embeds | None, template: Template, precision: str) -> None:
        self.store, self.model, self.template, self.precision = store, model, template, precision
        self._cache: dict[Any, Any] = {}
        self._cached_for: Any = None

    @classmethod
    def open(
        cls,
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
        store = Store(folder)
        known = store.about.get("precision", precision)
        if precision not in (None, known):
            raise InputError(f"{folder}: stores {known}, not {precision}; begin another gallery")
        gallery = cls(store, model, template, known or "float16")
        gallery._require_own_checkpoint()
        return gallery

    def is_usable(self) -> bool:
        """Whether the folder is there, if it ever was, and can be read."""
        return self.store.is_usable()

    def __len__(self) -> int:
        self.store.refresh()
        return len(self.store)

    def __repr__(self) -> str:
        return f"Gallery({self.place!r}, {len(self)} images)"

    @property
    def place(self) -> str:
        """The folder, or the server's URL."""
        return str(self.store.folder)

    @property
    def about(self) -> dict[str, Any]:
        """Properties of all its embeddings: checkpoint, distance, dim and more; empty before the first enrollment."""
        return self.store.about

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
    def pids(self) -> list[str]:
        """The enrolled identities."""
        self.store.refresh()
        return self._identities()[1]

    def table(self) -> pd.DataFrame:
        """A row an image: path, pid, camid, time, expires, checkpoint."""
        self.store.refresh()
        columns = ("path", "pid", "camid", "checkpoint")
        text = {name: self.store.text(name).to_pylist() for name in columns[:3]}
        numbers = {name: self.store.numbers(name) for name in ("time", "expires")}
        return pd.DataFrame(text | numbers).assign(checkpoint=self.store.about.get("checkpoint"))

    def embeddings(self) -> np.ndarray:
        """All embeddings as they are compared, (N, D) float32."""
        self.store.refresh()
        return self.store.rows(np.arange(len(self.store))).embedding

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

        An image whose path is enrolled takes the place of the earlier one.

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
            "pid": [_label(pid) for pid in pids],
            "camid": [_label(camid) for camid in ([None] * count if camids is None else camids)],
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
        last = {path: row for row, path in enumerate(columns["path"]) if path}
        kept = [row for row, path in enumerate(columns["path"]) if last.get(path, row) == row]
        self._add(values[kept], {name: _taken(column, kept) for name, column in columns.items()})
        return len(kept)

    def forget(self, pid: str) -> int:
        """Delete all images of an identity from the folder, its index and all caches; how many.

        The files that held them are written anew without them and deleted. InputError where nobody has that name.
        """
        if str(pid) not in self.pids:
            raise InputError(f"{pid}: nobody of that name is enrolled in {self.store.folder}")
        with self.store.writing():
            gone = _isin(self.store.text("pid"), [str(pid)])
            self._change(np.union1d(gone, self._expired()))
        return len(gone)

    def expire(self) -> int:
        """Delete the images whose time is over, which no answer counts any more; how many. Every change does, too."""
        self.store.refresh()
        if not len(self._expired()):
            return 0
        with self.store.writing():
            gone = self._expired()
            self._change(gone)
        return len(gone)

    def build_index(self, kind: Kind = "ivfpq", effort: int | None = None) -> dict[str, float]:
        """Index the images of a large gallery by FAISS; its `recall` for some of them.

        Nobody can enroll or forget meanwhile. Images that are enrolled later are searched exactly, beside the index. An
        `ivfpq` forgets with the gallery; an `hnsw` can't, so that it is dropped, and search is exact until it is built
        again.

        Args:
            kind: ivfpq or hnsw, see `Index`.
            effort: cells searched, or the length of the candidate list: more is slower and finds more.
        """
        if kind not in EFFORTS:
            raise InputError(f"index={kind!r}: choose {' or '.join(EFFORTS)}")
        with self.store.writing():
            total = len(self.store)
            if total < WORTH_AN_INDEX:
                raise InputError(f"{self.store.folder}: {total:,} images; an index needs {WORTH_AN_INDEX:,}")
            chosen = np.sort(np.random.default_rng(0).choice(total, sample_size(total), replace=False))
            sample, ids = self.store.rows(chosen).embedding, self.store.numbers("id")
            index = Index.build(self.store.blocks(), sample, total, ids, kind, self.distance)
            file = self.store.new_file("index").with_suffix(".faiss")
            index.write(file)
            about = {"file": file.name, "kind": kind, "effort": effort or EFFORTS[kind], "next_id": int(ids[-1]) + 1}
            self.store.commit([part.name for part in self.store.parts], {"index": about})
        return self.recall(sample[np.random.default_rng(1).choice(len(sample), TESTED, replace=False)])

    def recall(self, embeddings: np.ndarray, ks: Sequence[int] = (1, 10)) -> dict[str, float]:
        """The share of the k nearest images that the index finds, `recall@k`, for queries (Q, D)."""
        most = max(ks)
        found, exact = (self._nearest(embeddings, most, EVERYWHERE, exact) for exact in (False, True))
        hits = found.position[:, :, None] == exact.position[:, None]  # (Q, found, exact)
        return {f"recall@{k}": float(hits[:, :k, :k].any(1).mean()) for k in ks}

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

    def nearest(self, embeddings: np.ndarray, k: int = 10, where: Where = EVERYWHERE) -> Nearest:
        """The k nearest images of each embedding (Q, D); positions are rows of `table()`."""
        self._refresh()
        return self._nearest(self._queries(embeddings), k, where)

    # -- within

    def _add(self, values: np.ndarray, columns: dict[str, Any]) -> None:
        """Enroll rows that were checked; what is expired leaves."""
        with self.store.writing():
            self._require_own_checkpoint()
            about = self._about_new(values.shape[1])
            replaced = _isin(self.store.text("path"), [path for path in columns["path"] if path])
            self._change(np.union1d(replaced, self._expired()), values, columns, about)

    def _candidates(self, embeddings: np.ndarray, k: int, where: Where) -> list[list[Candidate]]:
        """The k identities nearest to each embedding."""
        self._refresh(indexed=self.template == "best")
        queries = self._queries(embeddings)
        if not len(self.store):
            return [[] for _ in queries]
        identity, names = self._identities()
        if self.template == "best":
            found = self._nearest_identities(queries, k, where, identity)
        else:
            found = self._nearest_templates(queries, k, where)
        return [[self._candidate(names, *pair) for pair in pairs] for pairs in found]

    def _refresh(self, indexed: bool = True) -> None:
        """Take up what other processes changed, and their index where it is asked."""
        self.store.refresh()
        self._require_own_checkpoint()
        try:
            if indexed:
                self._index()
        except InputError:
            if self.store.is_current():
                raise
            self._refresh()

    def _nearest(self, queries: np.ndarray, k: int, where: Where, exact: bool = False) -> Nearest:
        rows, query = self._allowed(where), torch.from_numpy(queries)
        index = None if exact or rows is not None else self._index()
        if index is None:
            return nearest(query, self.store.blocks(rows), k, self.distance)
        about, ids = self.store.about["index"], self._numbers("id")
        candidates = index.search(queries, k, about["effort"])
        positions = np.searchsorted(ids, candidates)  # of ids that are all there: what is forgotten left the index
        positions[candidates < 0] = -1
        known = rescore(query, self.store.rows(np.unique(positions[positions >= 0])), positions, k, self.distance)
        since = int(np.searchsorted(ids, about["next_id"]))
        return merge(known, nearest(query, self.store.blocks(since=since), k, self.distance))

    def _nearest_identities(
        self, queries: np.ndarray, k: int, where: Where, identity: np.ndarray
    ) -> list[list[tuple[int, float, int]]]:
        """For each query its k nearest identities by their nearest image: identity, distance, position."""
        rows = self._allowed(where)
        most = len(identity) if rows is None else len(rows)
        k = min(k, len(np.unique(identity if rows is None else identity[rows])))
        answers: list[list[tuple[int, float, int]]] = [[] for _ in queries]
        open_, wanted = np.arange(len(queries)), min(4 * k, most)
        while len(open_) and k:
            short = []
            for start, stop in spans(len(open_), max(1, FOUND_AT_ONCE // wanted)):
                found = self._nearest(queries[open_[start:stop]], wanted, where)
                for query, distances, positions in zip(open_[start:stop].tolist(), *found, strict=True):
                    there = positions >= 0
                    who, first = np.unique(identity[positions[there]], return_index=True)
                    order = np.sort(first)[:k]
                    answers[query] = [
                        (int(identity[positions[i]]), float(distances[i]), int(positions[i])) for i in order
                    ]
                    if len(who) < k:
                        short.append(query)
            open_, wanted = np.array(short if wanted < most else [], int), min(4 * wanted, most)
        return answers

    def _nearest_templates(self, queries: np.ndarray, k: int, where: Where) -> list[list[tuple[int, float, int]]]:
        """For each query the k identities with the nearest template: identity, distance, position or -1."""
        who, positions, block = self._templates(where)
        if not len(who):
            return [[] for _ in queries]
        found = nearest(torch.from_numpy(queries), [block], min(k, len(who)), self.distance)
        return [
            [(int(who[i]), float(d), int(positions[i])) for i, d in zip(row, distances, strict=True) if i >= 0]
            for distances, row in zip(*found, strict=True)
        ]

    def _templates(self, where: Where) -> tuple[np.ndarray, np.ndarray, Block]:
        """Identities (I,), positions of their medoids or -1 (I,), and their embeddings."""
        rows = self._allowed(where)
        key = "templates", self.template
        if rows is None and key in self._cached():
            return self._cached()[key]
        identity = self._identities()[0]
        who, own = np.unique(identity if rows is None else identity[rows], return_inverse=True)
        numbers = np.full(len(identity), -1)
        numbers[slice(None) if rows is None else rows] = own
        given = (lambda: self.store.blocks(rows)), numbers, len(who), self.distance
        if self.template == "medoid":
            order = np.argsort(positions := medoids(*given))
            who, positions = who[order], positions[order]
            made = who, positions, self.store.rows(positions)._replace(position=np.arange(len(who)))
        else:
            made = who, np.full(len(who), -1), means(*given)
        if rows is None:
            self._cached()[key] = made
        return made

    def _candidate(self, names: list[str], identity: int, distance: float, position: int) -> Candidate:
        if position < 0:
            return Candidate(names[identity], distance)
        part, offset = next((p, o) for p, o in self.store.placed() if position < o + len(p))
        row = part.table.slice(position - offset, 1).select(["path", "camid", "time"]).to_pylist()[0]
        return Candidate(names[identity], distance, **row)

    def _allowed(self, where: Where) -> np.ndarray | None:
        """Ascending positions of the images that may be compared; None for all."""
        expires = self._numbers("expires")
        now, times = time.time(), self._numbers("time")
        if where == EVERYWHERE and (not len(expires) or self._earliest() > now):
            return None
        keep = (expires > now) & (times >= where.since) & (times < where.until)
        if where.cameras is not None:
            seen = np.zeros(len(keep), bool)
            seen[_isin(self.store.text("camid"), [str(camera) for camera in where.cameras])] = True
            keep &= seen
        return np.flatnonzero(keep)

    def _earliest(self) -> float:
        cache = self._cached()
        if "earliest" not in cache:
            cache["earliest"] = self._numbers("expires").min(initial=math.inf)
        return cache["earliest"]

    def _expired(self) -> np.ndarray:
        return np.flatnonzero(self.store.numbers("expires") <= time.time())

    def _change(self, gone: np.ndarray, *added: Any) -> None:
        """Delete rows by position and add others, see `Store.change`; nothing that was computed is kept."""
        values, columns, about = added or (None, None, {})
        self.store.change(gone, values, columns, about | self._index_without(gone))
        self._cache.clear()

    def _index_without(self, gone: np.ndarray) -> dict[str, Any]:
        """The manifest's entry of an index that holds none of these rows."""
        about = self.store.about.get("index")
        ids = self.store.numbers("id")[gone]
        if about is None or not (ids < about["next_id"]).any():
            return {"index": about}
        index = Index.read(self.store.folder / about["file"], about["kind"], self.distance)
        if index.remove(ids):
            file = self.store.new_file("index").with_suffix(".faiss")
            index.write(file)
            return {"index": about | {"file": file.name}}
        log.info(f"{self.store.folder}: its index is dropped, since it can't forget; build it again")
        return {"index": None}

    def _index(self) -> Index | None:
        about = self.store.about.get("index")
        if about is None:
            return None
        cache = self._cached()
        if "index" not in cache:
            cache["index"] = Index.read(self.store.folder / about["file"], about["kind"], self.distance)
        return cache["index"]

    def _identities(self) -> tuple[np.ndarray, list[str]]:
        """The number of each image's identity (N,), and the identities' names."""
        cache = self._cached()
        if "identities" not in cache:
            coded = self.store.text("pid").combine_chunks().dictionary_encode()
            cache["identities"] = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        return cache["identities"]

    def _numbers(self, column: str) -> np.ndarray:
        cache = self._cached()
        if column not in cache:
            cache[column] = self.store.numbers(column)
        return cache[column]

    def _cached(self) -> dict[Any, Any]:
        """Values computed from the present rows."""
        if self._cached_for != self.store.state:
            self._cache, self._cached_for = {}, self.store.state
        return self._cache

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


def _label(name: Any) -> str | None:
    """An identity's or camera's name as text; None for one that is missing."""
    if name is None or (not isinstance(name, str) and pd.isna(name)):
        return None
    whole = isinstance(name, float | np.floating) and np.isfinite(name) and name == int(name)
    return str(int(name) if whole else name)


def about_model(model: Embeds | None) -> dict[str, Any]:
    """Properties that embeddings must share to be compared."""
    if model is None:
        return {}
    return {"checkpoint": model.checkpoint, "distance": model.distance or "cosine", "size": [*model.size]}


def _isin(column: pa.ChunkedArray, values: list[str]) -> np.ndarray:
    """Positions of a text column whose value is one of these."""
    return np.flatnonzero(pc.is_in(column, value_set=pa.array(values, pa.string())).to_numpy())


def _taken(column: Sequence | np.ndarray, rows: list[int]) -> Sequence | np.ndarray:
    return column[rows] if isinstance(column, np.ndarray) else [column[row] for row in rows]
