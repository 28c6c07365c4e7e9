"""Approximate search of large galleries by FAISS; what it finds is ordered by exact distances."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reidlab.errors import InputError
from reidlab.gallery.search import Block
from reidlab.metrics.closeness import Distance

Kind = Literal["ivfpq", "hnsw"]
CANDIDATES = 20  # looked up for each one that is wanted, at least LEAST, and ordered by exact distances
LEAST = 200
TRAINED_ON = 40  # embeddings for each cell
LONGEST_CODE = 128  # sub-codes of 4 bits, each of two numbers or more


class Index:
    """A FAISS index over the ids of rows.

    `ivfpq` (Jegou et al. 2011, TPAMI) keeps product codes of 4 bits for every two numbers (Andre et al. 2017, ICMR), up
    to 64 bytes a row, in cells of which `effort` are searched; `hnsw` (Malkov & Yashunin 2018, TPAMI) keeps a graph
    over 8-bit embeddings whose candidate list has the length `effort`.

    Args:
        index: of FAISS, with ids.
        kind: ivfpq or hnsw.
        distance: that embeddings are compared by.
    """

    def __init__(self, index: Any, kind: Kind, distance: Distance) -> None:
        self.index, self.kind, self.distance = index, kind, distance

    @classmethod
    def build(cls, blocks: Iterable[Block], sample: np.ndarray, total: int, ids: np.ndarray, kind: Kind,
              distance: Distance) -> "Index":  # fmt: skip
        """Index a gallery.

        Args:
            blocks: of the gallery.
            sample: embeddings to learn the cells and codes from (S, D); see `sample_size`.
            total: number of rows.
            ids: of each position.
            kind: ivfpq or hnsw.
            distance: that embeddings are compared by.
        """
        faiss = _faiss()
        dim = sample.shape[1]
        name = f"IVF{cells(total)},PQ{_codes(dim)}x4fs" if kind == "ivfpq" else "HNSW32,SQ8"
        index = faiss.index_factory(dim, name if kind == "ivfpq" else f"IDMap,{name}")
        index.train(_unit(sample, distance))
        for block in blocks:
            index.add_with_ids(_unit(block.embedding, distance), ids[block.position])
        return cls(index, kind, distance)

    @classmethod
    def read(cls, file: Path, kind: Kind, distance: Distance) -> "Index":
        """Open a file that `write` made."""
        try:
            return cls(_faiss().read_index(str(file)), kind, distance)
        except RuntimeError as error:
            raise InputError(f"{file}: damaged ({str(error).splitlines()[0]}); build the index again") from error

    def write(self, file: Path) -> None:
        """Write to a new file."""
        try:
            _faiss().write_index(self.index, str(file))
        except RuntimeError as error:
            raise InputError(f"{file}: can't be written ({str(error).splitlines()[0]}); free space") from error

    def search(self, query: np.ndarray, k: int, effort: int) -> np.ndarray:
        """Ids of rows among which the k nearest of each query (Q, D) are likely to be, -1 for none. (Q, m) int64"""
        faiss = _faiss()
        wanted = min(max(CANDIDATES * k, LEAST), self.index.ntotal)
        effort = max(effort, 1 if self.kind == "ivfpq" else wanted)
        options = (
            faiss.SearchParametersIVF(nprobe=effort)
            if self.kind == "ivfpq"
            else faiss.SearchParametersHNSW(efSearch=effort)
        )
        return self.index.search(_unit(query, self.distance), wanted, params=options)[1]

    def remove(self, ids: np.ndarray) -> bool:
        """Forget rows; False where this kind of index can't, or is then empty."""
        if self.kind == "ivfpq":
            self.index.remove_ids(ids)
            self._clear_tails()
        return self.kind == "ivfpq" and self.index.ntotal > 0

    def _clear_tails(self) -> None:
        """Overwrite the codes behind the end of each cell, where FAISS leaves those of removed rows."""
        faiss = _faiss()
        lists = faiss.downcast_InvertedLists(self.index.invlists)
        nothing, each = np.zeros(lists.packer.code_size, np.uint8), lists.n_per_block
        for cell in range(lists.nlist):
            size = lists.list_size(cell)
            if size % each:
                blocks = faiss.rev_swig_ptr(lists.get_codes(cell), -(-size // each) * lists.block_size)
                last = blocks[-lists.block_size :][None]
                for slot in range(size % each, each):
                    lists.packer.pack_1(nothing, slot, last)


def cells(total: int) -> int:
    """The number of an IVF's cells: about 4 sqrt(N), a power of two."""
    return 1 << max(0, min(16, round(np.log2(max(total, 1)) / 2 + 1), int(np.log2(max(total / 40, 1)))))


def sample_size(total: int) -> int:
    """How many embeddings to learn from."""
    return min(total, max(TRAINED_ON * cells(total), 16_384))


def _codes(dim: int) -> int:
    """The length of a product code: the largest divisor of the dimension that is allowed."""
    return max(size for size in range(1, min(LONGEST_CODE, max(dim // 2, 1)) + 1) if dim % size == 0)


def _unit(embeddings: np.ndarray, distance: Distance) -> np.ndarray:
    """Embeddings whose Euclidean distances order as the wanted ones; FAISS wants them contiguous."""
    values = np.ascontiguousarray(embeddings, np.float32)
    if distance == "euclidean":
        return values
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InputError("an index needs FAISS: pip install 'reidlab[index]'; search is exact without") from error
    return faiss
