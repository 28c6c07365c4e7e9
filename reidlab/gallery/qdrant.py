"""A gallery's collection in Qdrant, on a server or in a folder."""

import atexit
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from reidlab.gallery.server import NUMBERS, TEXT, Chosen, Row, asking

AT_ONCE = 1000  # rows of a page
TIMEOUT_S = 30


class Qdrant:
    """See `Server`.

    Args:
        url: for messages.
        target: a URL, or the path of a folder.
        name: of the collection.
        token: of the server, or None.
    """

    def __init__(self, url: str, target: str, name: str, token: str | None) -> None:
        self.url, self.name = url, name
        self.dim: int | None = None
        self.is_remote = "://" in target
        with self._asking():
            if self.is_remote:
                self.client = QdrantClient(url=target, api_key=token, timeout=TIMEOUT_S, check_compatibility=False)
            else:
                self.client = _local(target)

    def refresh(self) -> None:
        """Look up `dim`."""
        with self._asking():
            if not self.client.collection_exists(self.name):
                self.dim = None
            elif self.dim is None:
                vectors = self.client.get_collection(self.name).config.params.vectors
                if not isinstance(vectors, models.VectorParams) or vectors.distance != models.Distance.EUCLID:
                    raise ValueError(f"{self.name} is no gallery: it isn't searched by Euclidean distances")
                self.dim = vectors.size

    def create(self, dim: int) -> None:
        """Make the collection."""
        with self._asking():
            self.client.create_collection(
                self.name, vectors_config=models.VectorParams(size=dim, distance=models.Distance.EUCLID)
            )
            for column in ("who", "seen", *NUMBERS) if self.is_remote else ():
                kind = models.PayloadSchemaType.FLOAT if column in NUMBERS else models.PayloadSchemaType.KEYWORD
                self.client.create_payload_index(self.name, column, kind)

    def put(self, rows: list[Row]) -> None:
        """Add rows; one whose id is there takes its place."""
        ids, vectors = [row["id"] for row in rows], [row["embedding"].tolist() for row in rows]
        payloads = [{column: row[column] for column in (*TEXT[1:], *NUMBERS)} for row in rows]
        with self._asking():
            self.client.upsert(self.name, models.Batch(ids=ids, vectors=vectors, payloads=payloads), wait=True)

    def count(self, chosen: Chosen) -> int:
        """The number of rows."""
        with self._asking():
            return self.client.count(self.name, count_filter=_filter(chosen), exact=True).count

    def first(self) -> Row | None:
        """Any row, without its embedding."""
        with self._asking():
            return next(map(_row, self.client.scroll(self.name, limit=1)[0]), None)

    def read(self, chosen: Chosen, embeddings: bool) -> Iterator[Row]:
        """All rows."""
        start: Any = None
        with self._asking():
            while True:
                page, start = self.client.scroll(
                    self.name, _filter(chosen), limit=AT_ONCE, offset=start, with_vectors=embeddings
                )
                yield from map(_row, page)
                if start is None:
                    return

    def search(self, queries: np.ndarray, k: int, chosen: Chosen, embeddings: bool) -> list[list[Row]]:
        """About the k rows nearest to each query (Q, D)."""
        asked: dict[str, Any] = {"filter": _filter(chosen), "limit": k, "with_payload": True, "with_vector": embeddings}
        with self._asking():
            requests = [models.QueryRequest(query=query.tolist(), **asked) for query in queries]
            return [[*map(_row, found.points)] for found in self.client.query_batch_points(self.name, requests)]

    def delete(self, chosen: Chosen) -> None:
        """Delete rows."""
        with self._asking():
            self.client.delete(self.name, models.FilterSelector(filter=_filter(chosen)), wait=True)

    def _asking(self) -> Any:
        return asking(self.url, ApiException, ValueError, RuntimeError, OSError)


@cache
def _local(path: str) -> QdrantClient:
    """The one client that a folder may have."""
    client = QdrantClient(path=path)
    atexit.register(client.close)
    return client


def _row(point: Any) -> Row:
    return {**(point.payload or {}), "id": str(point.id), "embedding": point.vector}


def _filter(chosen: Chosen) -> models.Filter:
    must: list[Any] = [
        models.HasIdCondition(has_id=[*values])
        if column == "id"
        else models.FieldCondition(key=column, match=models.MatchAny(any=[*values]))
        for column, values in chosen.among.items()
    ]
    must += [models.FieldCondition(key=key, range=models.Range(gte=low)) for key, low in chosen.least.items()]
    must += [models.FieldCondition(key=key, range=models.Range(lt=high)) for key, high in chosen.below.items()]
    without: list[Any] = [
        models.FieldCondition(key=column, match=models.MatchAny(any=[*values]))
        for column, values in chosen.without.items()
    ]
    return models.Filter(must=must, must_not=without)
