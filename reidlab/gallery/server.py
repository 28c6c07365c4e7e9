"""Galleries on a vector database, Milvus or Qdrant, for those who outgrow one machine.

    qdrant://HOST:6333/NAME     milvus://HOST:19530/NAME     over TLS: qdrant+https://, milvus+https://
    qdrant+file://FOLDER/NAME   milvus+file://FILE.db/NAME   in files, for trials; of one process at a time

A token is taken from the environment variable `REIDLAB_GALLERY_TOKEN`, never from the URL, which stands in messages.
"""

import json
import math
import os
import re
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import torch

from reidlab.errors import InputError, one_line
from reidlab.gallery.gallery import EVERYWHERE, Candidate, Embeds, Gallery, Where, label_of
from reidlab.gallery.search import Block, Nearest, nearest, rescore
from reidlab.gallery.templates import Template, means, medoids
from reidlab.metrics.closeness import norms_of
from reidlab.metrics.pairing import spans
from reidlab.places import expanded

TOKEN = "REIDLAB_GALLERY_TOKEN"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
TEXT = (
    "id",
    "path",
    "pid",
    "camid",
    "who",
    "seen",
    "about",
)  # columns of a row; who and seen are keys of pid and camid
NUMBERS = ("time", "expires")
LONGEST_TEXT = 65_535  # bytes
FOREVER = 1e18  # an `expires` that never comes: JSON has no infinity
PUT_AT_ONCE, ASKED_AT_ONCE = 500, 64
MOST = 16_384  # rows of one search, by Milvus
PATIENCE = 50  # tenths of a second
RIVALS = 20  # identities, those of the nearest images, whose means or medoids are compared


@dataclass(frozen=True)
class Chosen:
    """Rows whose columns have one of the given values, none of others, and numbers from, and below, the given ones."""

    among: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    below: Mapping[str, float] = field(default_factory=dict)


Row = dict[str, Any]  # `TEXT`, `NUMBERS`, and `embedding` where it was asked for


class Server(Protocol):
    """A collection of a vector database, whose Euclidean distances order the rows."""

    dim: int | None  # of its embeddings; None where there is no collection

    def refresh(self) -> None:
        """Look up `dim`."""

    def create(self, dim: int) -> None:
        """Make the collection."""

    def put(self, rows: list[Row]) -> None:
        """Add rows; one whose id is there takes its place."""

    def count(self, chosen: Chosen) -> int:
        """The number of rows."""

    def first(self) -> Row | None:
        """Any row, without its embedding."""

    def read(self, chosen: Chosen, embeddings: bool) -> Iterator[Row]:
        """All rows."""

    def search(self, queries: np.ndarray, k: int, chosen: Chosen, embeddings: bool) -> list[list[Row]]:
        """About the k rows nearest to each query (Q, D)."""

    def delete(self, chosen: Chosen) -> None:
        """Delete rows."""


def connect(url: str) -> Server:
    """The collection that a URL names; InputError where it can't be reached."""
    parts = urlsplit(url)
    kind, _, way = parts.scheme.partition("+")
    place, _, name = (parts.netloc + parts.path).rpartition("/")
    if kind not in ("milvus", "qdrant") or way not in ("", "https", "file") or not place:
        raise InputError(f"{url}: a gallery on a server is qdrant://HOST:6333/NAME or milvus://HOST:19530/NAME")
    if "@" in place or parts.query:
        raise InputError(f"{place.rpartition('@')[2]}: leave user and token out of the URL, and set {TOKEN}")
    if not NAME.fullmatch(name):
        raise InputError(f"{url}: {name!r} is no name of a collection; use letters, digits and _")
    if way == "file":
        place = str(expanded(place))
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    target = place if way == "file" else f"{way or 'http'}://{place}"
    try:
        if kind == "milvus":
            from reidlab.gallery.milvus import Milvus

            return Milvus(url, target, name, os.environ.get(TOKEN, ""))
        from reidlab.gallery.qdrant import Qdrant

        return Qdrant(url, target, name, os.environ.get(TOKEN))
    except ImportError as error:
        raise InputError(f"{url}: needs its client ({error}): pip install 'reidlab[{kind}]'") from error


@contextmanager
def asking(url: str, *failures: type[Exception]) -> Iterator[None]:
    """Turn what a client raises into one line."""
    try:
        yield
    except failures as error:
        raise InputError(
            f"{url}: the server refuses or doesn't answer ({one_line(error)}); look at the address, the server, and "
            f"the token in {TOKEN}"
        ) from error


class ServerGallery(Gallery):
    """A gallery on a server, which searches; what it finds is ordered by exact distances.

    Cosine distances are those of embeddings stored at unit length. An identity's mean or medoid is computed of its
    images when it is asked for, of the `RIVALS` identities nearest by one image. Several processes may change it at
    once; an image has its path's id, so that enrolled again it takes its earlier place in one step.

    Args:
        url: see this module.
        model: as of `Gallery`.
        template: as of `Gallery`.
    """

    def __init__(self, url: str, model: Embeds | None, template: Template) -> None:
        super().__init__(model, template, "float32")
        self.server, self._url, self._about = connect(url), url, dict[str, Any]()
        self._refresh()

    def is_usable(self) -> bool:
        """Questions find out."""
        return True

    def __len__(self) -> int:
        self._refresh()
        return self.server.count(Chosen()) if self.server.dim else 0

    @property
    def place(self) -> str:
        """The server's URL."""
        return self._url

    @property
    def about(self) -> dict[str, Any]:
        """Properties of all its embeddings: checkpoint, distance, size, dim; empty before the first enrollment."""
        return self._about

    @property
    def pids(self) -> list[str]:
        """The enrolled identities."""
        return sorted({label_of(row["pid"]) or "" for row in self._rows()})

    def table(self) -> pd.DataFrame:
        """A row an image: path, pid, camid, time, expires, checkpoint."""
        rows = self._rows()
        columns = {name: [row[name] for row in rows] for name in ("path", "pid", "time")}
        camids = [row["camid"] if row["seen"] else None for row in rows]
        expires = [row["expires"] if row["expires"] < FOREVER else math.inf for row in rows]
        return pd.DataFrame(
            {**columns, "camid": camids, "expires": expires, "checkpoint": self.about.get("checkpoint")}
        )

    def embeddings(self) -> np.ndarray:
        """All embeddings as they are compared, (N, D) float32."""
        return self._block(self._rows(embeddings=True)).embedding

    # -- changes

    def forget(self, pid: str) -> int:
        """Delete all images of an identity; how many. InputError where nobody has that name, or where it isn't gone.

        No answer of the server names it from then on. What its disk holds until it next compacts its files, its log
        and its backups are the server's.
        """
        self._refresh()
        own = Chosen(among={"who": _keys([str(pid), label_of(pid) or ""])})
        count = self.server.count(own) if self.server.dim else 0
        if not count:
            raise InputError(f"{pid}: nobody of that name is enrolled in {self.place}")
        self.server.delete(own)
        if left := self.server.count(own):
            raise InputError(f"{self.place}: {left} images of {pid} are still there; forget it again")
        self.expire()
        return count

    def expire(self) -> int:
        """Delete the images whose time is over, which no answer counts any more; how many. Every change does, too."""
        self._refresh()
        over = Chosen(below={"expires": math.nextafter(time.time(), math.inf)})
        count = self.server.count(over) if self.server.dim else 0
        if count:
            self.server.delete(over)
        return count

    def build_index(self, *_: Any, **__: Any) -> dict[str, float]:
        """Not here: the server indexes by its own settings."""
        raise InputError(f"{self.place}: a server indexes by its own settings")

    def recall(self, embeddings: np.ndarray, ks: Sequence[int] = (1, 10)) -> dict[str, float]:
        """The share of the k nearest images that the server finds, `recall@k`, for queries (Q, D); reads all rows."""
        found, queries = self.nearest(embeddings, max(ks)).position, self._queries(embeddings)
        exact = nearest(torch.from_numpy(queries), [self._block(self._rows(True))], max(ks), self.distance).position
        return {f"recall@{k}": float((found[:, None, :k] == exact[:, :k, None]).any(2).mean()) for k in ks}

    # -- questions

    def nearest(self, embeddings: np.ndarray, k: int = 10, where: Where = EVERYWHERE) -> Nearest:
        """The k nearest images of each embedding (Q, D); positions are rows of `table()`, which is read."""
        found, rows = self._found(embeddings, k, where)
        place = {row["id"]: number for number, row in enumerate(self._rows())}
        known = np.array([place.get(row["id"], -1) for row in rows] + [-1])
        return Nearest(found.distance, known[found.position])

    # -- within

    def _refresh(self) -> None:
        self.server.refresh()
        row = self.server.first() if self.server.dim else None
        try:
            self._about = {"dim": self.server.dim, **json.loads(row["about"])} if row else {}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{self.place}: not a gallery of reidlab; give another name") from error
        self._require_own_checkpoint()

    def _add(self, values: np.ndarray, columns: dict[str, Any]) -> None:
        self._refresh()
        about = self._about_new(values.shape[1])
        if not self.server.dim:
            self._create(values.shape[1])
            self._refresh()
        if self.server.dim != values.shape[1]:
            raise InputError(f"{self.place}: holds embeddings of {self.server.dim} numbers, not {values.shape[1]}")
        shared = json.dumps({key: about[key] for key in ("checkpoint", "distance", "size") if key in about})
        for name in ("path", "pid", "camid"):
            if long := next((text for text in columns[name] if text and len(text.encode()) > LONGEST_TEXT), None):
                raise InputError(f"{name} {long[:40]}...: longer than {LONGEST_TEXT:,} bytes; use a shorter one")
        stored, others = self._comparable(values), 0
        for start, stop in spans(len(values), PUT_AT_ONCE):
            rows = [
                {
                    "id": str(uuid.uuid5(uuid.NAMESPACE_URL, path) if path else uuid.uuid4()),
                    **{"path": path, "pid": pid, "camid": camid or "", "time": when},
                    **{"who": _key(pid), "seen": "" if camid is None else _key(camid)},
                    **{"about": shared, "expires": min(expires, FOREVER), "embedding": embedding},
                }
                for path, pid, camid, when, expires, embedding in zip(
                    *(columns[name][start:stop] for name in ("path", "pid", "camid")),
                    *(columns[name][start:stop].tolist() for name in NUMBERS),
                    stored[start:stop],
                    strict=True,
                )
            ]
            now = {row["id"]: row["pid"] for row in rows if row["path"]}
            before = self.server.read(Chosen(among={"id": [*now]}), embeddings=False) if now and self.about else ()
            others += sum(label_of(row["pid"]) != now[row["id"]] for row in before)
            self.server.put(rows)
        self.expire()
        self._note_replaced(others)

    def _create(self, dim: int) -> None:
        """Make the collection, or wait for another process that does."""
        try:
            self.server.create(dim)
        except InputError:
            for _ in range(PATIENCE):
                time.sleep(0.1)
                with suppress(InputError):  # half made
                    self.server.refresh()
                if self.server.dim:
                    return
            raise

    def _candidates(self, embeddings: np.ndarray, k: int, where: Where) -> list[list[Candidate]]:
        self._refresh()
        queries = self._queries(embeddings)
        chosen = self._chosen(where)
        if not len(queries) or not self.about or chosen is None:
            return [[] for _ in queries]
        ask = self._by_images if self.template == "best" else self._by_templates
        return [
            each for start, stop in spans(len(queries), ASKED_AT_ONCE) for each in ask(queries[start:stop], k, chosen)
        ]

    def _by_images(self, queries: np.ndarray, k: int, chosen: Chosen) -> list[list[Candidate]]:
        """For each query its k nearest identities by their nearest image."""
        answers: list[list[Candidate]] = []
        for query, rows in zip(queries, self._images_of(queries, k, chosen, embeddings=True), strict=True):
            if not rows:
                answers.append([])
                continue
            found = nearest(torch.from_numpy(query[None]), [self._block(rows)], len(rows), self.distance)
            best: dict[str, Candidate] = {}
            for distance, position in zip(found.distance[0].tolist(), found.position[0].tolist(), strict=True):
                best.setdefault(rows[position]["who"], _candidate(rows[position], distance))
            answers.append([*best.values()][:k])
        return answers

    def _by_templates(self, queries: np.ndarray, k: int, chosen: Chosen) -> list[list[Candidate]]:
        """For each query the k identities with the nearest template, among those with the nearest images."""
        nearby = self._images_of(queries, max(k, RIVALS), chosen, embeddings=False)
        who = sorted({row["who"] for rows in nearby for row in rows})
        if not who:
            return [[] for _ in queries]
        wanted = replace(chosen, among={**chosen.among, "who": who})
        rows = sorted(self.server.read(wanted, embeddings=True), key=lambda row: row["id"])
        block = self._block(rows)
        names, identity = np.unique([row["who"] for row in rows], return_inverse=True)
        given = (lambda: [block]), identity, len(names), self.distance
        positions = np.full(len(names), -1)
        if self.template == "medoid":
            positions = medoids(*given)
            compared = Block(np.arange(len(names)), *(column[positions] for column in block[1:]))
        else:
            compared = means(*given)
        pids = {row["who"]: row["pid"] for row in rows}
        found = nearest(torch.from_numpy(queries), [compared], min(k, len(names)), self.distance)
        return [
            [
                _candidate(rows[at], distance) if (at := positions[i]) >= 0 else Candidate(pids[names[i]], distance)
                for distance, i in zip(distances.tolist(), line.tolist(), strict=True)
                if i >= 0
            ]
            for distances, line in zip(*found, strict=True)
        ]

    def _images_of(self, queries: np.ndarray, k: int, chosen: Chosen, embeddings: bool) -> list[list[Row]]:
        """For each query images nearest to it, of k identities or all; identities with many images hide nobody."""
        wanted = min(max(4 * k, RIVALS), MOST)
        answers = self.server.search(self._comparable(queries), wanted, chosen, embeddings)
        for query, rows in zip(queries, answers, strict=True):
            more = rows if len(rows) == wanted else []
            while more and len(who := sorted({row["who"] for row in rows})) < k:
                others = replace(chosen, without={"who": who})
                (more,) = self.server.search(self._comparable(query[None]), wanted, others, embeddings)
                rows += more
        return answers

    def _found(self, embeddings: np.ndarray, k: int, where: Where) -> tuple[Nearest, list[Row]]:
        """The k nearest images of each query; positions are of the rows beside it."""
        self._refresh()
        queries = self._queries(embeddings)
        chosen = self._chosen(where)
        wanted = min(2 * k + 10, MOST)  # float32 may order near ties otherwise
        answers: list[list[Row]] = [[] for _ in queries]
        if self.about and chosen is not None:
            answers = [
                found
                for start, stop in spans(len(queries), ASKED_AT_ONCE)
                for found in self.server.search(self._comparable(queries[start:stop]), wanted, chosen, True)
            ]
        if not any(answers):
            return Nearest(np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)), []
        rows = sorted({row["id"]: row for found in answers for row in found}.values(), key=lambda row: row["id"])
        place = {row["id"]: number for number, row in enumerate(rows)}
        candidates = np.full((len(queries), wanted), -1)
        for line, found in zip(candidates, answers, strict=True):
            line[: len(found)] = [place[row["id"]] for row in found]
        query = torch.from_numpy(queries)
        return rescore(query, self._block(rows), candidates, k, self.distance), rows

    def _chosen(self, where: Where) -> Chosen | None:
        """The rows that may be compared; None where no camera is named."""
        if where.cameras is not None and not len(where.cameras):
            return None
        cameras = {} if where.cameras is None else {"seen": _keys(where.cameras)}
        since = {"time": where.since} if where.since > -math.inf else {}
        until = {"time": where.until} if where.until < math.inf else {}
        return Chosen(cameras, {}, {**since, "expires": math.nextafter(time.time(), math.inf)}, until)

    def _rows(self, embeddings: bool = False) -> list[Row]:
        """All rows, by their ids."""
        self._refresh()
        if not self.about:
            return []
        return sorted(self.server.read(Chosen(), embeddings), key=lambda row: row["id"])

    def _block(self, rows: Sequence[Row]) -> Block:
        values = np.array([row["embedding"] for row in rows], np.float32).reshape(len(rows), self.server.dim or 0)
        return Block(np.arange(len(rows)), values, norms_of(torch.from_numpy(values), "gallery").numpy())

    def _comparable(self, values: np.ndarray) -> np.ndarray:
        """Embeddings whose Euclidean distances order as the gallery's."""
        if self.distance == "euclidean":
            return values
        length = norms_of(torch.from_numpy(values), "gallery").numpy()[:, None]
        return (values / np.where(length > 0, length, 1)).astype(np.float32)


def _candidate(row: Row, distance: float) -> Candidate:
    return Candidate(row["pid"], distance, row["path"], row["camid"] if row["seen"] else None, row["time"])


def _keys(names: Iterable[str]) -> list[str]:
    """The keys of names, also of the form that `label_of` left to names before."""
    return [_key(unicodedata.normalize(form, name)) for name in names for form in ("NFC", "NFD")]


def _key(name: str) -> str:
    """The key that stands for a name in filters, so that no name is part of an expression that a server parses."""
    return uuid.uuid5(uuid.NAMESPACE_OID, name).hex
