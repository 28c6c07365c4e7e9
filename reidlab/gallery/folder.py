"""A gallery in a folder of this machine."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch

from reidlab.console import log
from reidlab.errors import InputError
from reidlab.gallery.gallery import EVERYWHERE, Candidate, Embeds, Gallery, Where, label_of
from reidlab.gallery.index import Index, Kind, sample_size
from reidlab.gallery.search import Block, Nearest, merge, nearest, rescore
from reidlab.gallery.store import Store
from reidlab.gallery.templates import Template, means, medoids
from reidlab.metrics.pairing import spans

FOUND_AT_ONCE = 1 << 22  # pairs of a query and an image found for it
WORTH_AN_INDEX = 10_000  # rows
TESTED = 200  # rows that an index is tested with
EFFORTS = {"ivfpq": 64, "hnsw": 256}


class FolderGallery(Gallery):
    """A gallery in a folder, see `Store` for what it holds.

    Args:
        folder: of the gallery; it is made at the first enrollment.
        model: as of `Gallery`.
        template: as of `Gallery`.
        precision: of stored embeddings; None for what it has, float16 for a new one. InputError for another one.
    """

    def __init__(self, folder: str | Path, model: Embeds | None, template: Template, precision: str | None) -> None:
        self.store = Store(folder)
        known = self.store.about.get("precision", precision)
        if precision not in (None, known):
            raise InputError(f"{folder}: stores {known}, not {precision}; begin another gallery")
        super().__init__(model, template, known or "float16")
        self._cache: dict[Any, Any] = {}
        self._cached_for: Any = None
        self._require_own_checkpoint()

    def is_usable(self) -> bool:
        """Whether the folder is there, if it ever was, and can be read."""
        return self.store.is_usable()

    def __len__(self) -> int:
        self.store.refresh()
        return len(self.store)

    @property
    def place(self) -> str:
        """The folder, or the server's URL."""
        return str(self.store.folder)

    @property
    def about(self) -> dict[str, Any]:
        """Properties of all its embeddings: checkpoint, distance, dim and more; empty before the first enrollment."""
        return self.store.about

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

    def forget(self, pid: str) -> int:
        """Delete all images of an identity from the folder, its index and all caches; how many.

        The files that held them are written anew without them and deleted. InputError where nobody has that name.
        """
        if (name := label_of(pid)) not in self.pids:
            raise InputError(f"{pid}: nobody of that name is enrolled in {self.store.folder}")
        with self.store.writing():
            gone = _named(self.store.text("pid"), [name])
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
            paths, pids = (self.store.text(name).take(pa.array(replaced)).to_pylist() for name in ("path", "pid"))
            now = dict(zip(columns["path"], columns["pid"], strict=True))
            others = sum(now[path] != label_of(pid) for path, pid in zip(paths, pids, strict=True))
            self._change(np.union1d(replaced, self._expired()), values, columns, about)
        self._note_replaced(others)

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
            seen[_named(self.store.text("camid"), where.cameras)] = True
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
            labels = [label_of(name) for name in coded.dictionary.to_pylist()]
            number = {label: place for place, label in enumerate(dict.fromkeys(labels))}
            merged = np.array([number[label] for label in labels], np.int32)
            cache["identities"] = merged[coded.indices.to_numpy()], [*number]
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


def _named(column: pa.ChunkedArray, names: Sequence[str]) -> np.ndarray:
    """Positions of a column of names where one of these is, however an older gallery spells it."""
    return _isin(column, [name for name in column.unique().to_pylist() if label_of(name) in names])


def _isin(column: pa.ChunkedArray, values: list[str]) -> np.ndarray:
    """Positions of a text column whose value is one of these."""
    return np.flatnonzero(pc.is_in(column, value_set=pa.array(values, pa.string())).to_numpy())
