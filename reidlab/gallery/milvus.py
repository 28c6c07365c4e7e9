"""A gallery's collection in Milvus, on a server or in a file (milvus-lite)."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from reidlab.gallery.server import LONGEST_TEXT, NUMBERS, TEXT, Chosen, Row, asking

AT_ONCE = 1000  # rows of a page
TIMEOUT_S = 30.0
SELDOM = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}  # pinged; or it hangs up
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it also raises, with a traceback


class Milvus:
    """See `Server`.

    Args:
        url: for messages.
        target: a URL, or the path of a file.
        name: of the collection.
        token: of the server, or "".
    """

    def __init__(self, url: str, target: str, name: str, token: str) -> None:
        self.url, self.name = url, name
        self.dim: int | None = None
        with self._asking():
            self.client = MilvusClient(target, token=token, timeout=TIMEOUT_S, grpc_options=SELDOM)

    def refresh(self) -> None:
        """Look up `dim`."""
        with self._asking():
            if not self.client.has_collection(self.name):
                self.dim = None
            elif self.dim is None:
                self.client.load_collection(self.name)
                fields = {each["name"]: each for each in self.client.describe_collection(self.name)["fields"]}
                if missing := {*TEXT, *NUMBERS, "embedding"} - {*fields}:
                    raise ValueError(f"{self.name} is no gallery: it has no {', '.join(sorted(missing))}")
                self.dim = int(fields["embedding"]["params"]["dim"])

    def create(self, dim: int) -> None:
        """Make the collection."""
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        for column in TEXT:
            schema.add_field(column, DataType.VARCHAR, is_primary=column == "id", max_length=LONGEST_TEXT)
        for column in NUMBERS:
            schema.add_field(column, DataType.DOUBLE)
        schema.add_field("embedding", DataType.FLOAT_VECTOR, dim=dim)
        index = self.client.prepare_index_params()
        index.add_index("embedding", index_type="AUTOINDEX", metric_type="L2")
        with self._asking():
            self.client.create_collection(self.name, schema=schema, index_params=index, consistency_level="Strong")

    def put(self, rows: list[Row]) -> None:
        """Add rows; one whose id is there takes its place."""
        with self._asking():
            self.client.upsert(self.name, rows)

    def count(self, chosen: Chosen) -> int:
        """The number of rows."""
        with self._asking():
            return int(self.client.query(self.name, _expression(chosen), ["count(*)"])[0]["count(*)"])

    def first(self) -> Row | None:
        """Any row, without its embedding."""
        with self._asking():
            return next(iter(self.client.query(self.name, output_fields=_columns(False), limit=1)), None)

    def read(self, chosen: Chosen, embeddings: bool) -> Iterator[Row]:
        """All rows."""
        with self._asking():
            pages = self.client.query_iterator(
                self.name, AT_ONCE, filter=_expression(chosen), output_fields=_columns(embeddings)
            )
            while page := pages.next():
                yield from page
            pages.close()

    def search(self, queries: np.ndarray, k: int, chosen: Chosen, embeddings: bool) -> list[list[Row]]:
        """About the k rows nearest to each query (Q, D)."""
        with self._asking():
            found = self.client.search(
                self.name, list(queries), _expression(chosen), k, output_fields=_columns(embeddings)
            )
            return [[hit["entity"] for hit in hits] for hits in found]

    def delete(self, chosen: Chosen) -> None:
        """Delete rows."""
        with self._asking():
            self.client.delete(self.name, filter=_expression(chosen))

    def _asking(self) -> Any:
        return asking(self.url, MilvusException, ValueError)


def _columns(embeddings: bool) -> list[str]:
    return [*TEXT, *NUMBERS, *(["embedding"] if embeddings else [])]


def _expression(chosen: Chosen) -> str:
    """A filter in Milvus's language; it holds keys and numbers alone, see `server._key`."""
    parts = [f"{column} in {json.dumps([*values])}" for column, values in chosen.among.items()]
    parts += [f"{column} not in {json.dumps([*values])}" for column, values in chosen.without.items()]
    parts += [f"{column} >= {float(value)!r}" for column, value in chosen.least.items()]
    parts += [f"{column} < {float(value)!r}" for column, value in chosen.below.items()]
    return " and ".join(parts)
