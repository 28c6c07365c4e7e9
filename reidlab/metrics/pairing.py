"""Pairs that a protocol compares: matches, junk, distractors and the same camera, independent of any distance."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from reidlab.errors import InputError

UNKNOWN_CAMERA = 0
DISTRACTOR = 0


class Pairs(NamedTuple):
    """Pairs of a block of queries with gallery items: `row` counts from the block's first query."""

    row: Tensor  # (M,), ascending
    col: Tensor  # (M,)


@dataclass(frozen=True)
class Pairing:
    """The evaluation protocol of Market-1501, which the field shares.

    A gallery item with a negative pid is junk: no query is compared with it. One with pid 0 is a distractor: it is
    ranked and never matches. With `exclude_same_camera` a query isn't compared with its own identity in its own camera;
    camera 0 (or no camids at all) means unknown, and an unknown camera is no query's own.
    Shapes: query (Q,), gallery (G,), all int64 on one device.
    """

    query_pids: Tensor
    gallery_pids: Tensor
    query_camids: Tensor
    gallery_camids: Tensor
    exclude_same_camera: bool = True

    @classmethod
    def of(cls, query_pids, gallery_pids, query_camids=None, gallery_camids=None, *, exclude_same_camera: bool = True):
        """Build from anything that holds integers: lists, arrays, tensors.

        Args:
            query_pids: (Q,).
            gallery_pids: (G,).
            query_camids: (Q,), or None for unknown cameras.
            gallery_camids: (G,), or None.
            exclude_same_camera: see above.
        """
        query, gallery = (torch.as_tensor(pids, dtype=torch.int64) for pids in (query_pids, gallery_pids))
        query_cameras, gallery_cameras = (
            torch.full_like(pids, UNKNOWN_CAMERA) if ids is None else torch.as_tensor(ids, dtype=torch.int64)
            for ids, pids in ((query_camids, query), (gallery_camids, gallery))
        )
        return cls(query, gallery, query_cameras, gallery_cameras, exclude_same_camera)

    def fitting(self, query: Tensor, gallery: Tensor) -> "Pairing":
        """Check that there are images, and one pid and camid per embedding (Q, D) and (G, D); move to their device."""
        ids = {"query_pids": query, "gallery_pids": gallery, "query_camids": query, "gallery_camids": gallery}
        for side, embeddings in (("query", query), ("gallery", gallery)):
            if not len(embeddings):
                raise InputError(f"the {side} side has no images: give both queries and a gallery to rank")
        for name, embeddings in ids.items():
            if getattr(self, name).shape != embeddings.shape[:1]:
                raise InputError(
                    f"{name}: {tuple(getattr(self, name).shape)} for {len(embeddings)} images: give one each"
                )
        return replace(self, **{name: getattr(self, name).to(query.device) for name in ids})

    @property
    def num_gallery(self) -> int:
        """Gallery items that are ranked: all but junk."""
        return len(self.gallery_pids) - len(self.junk)

    @cached_property
    def junk(self) -> Tensor:
        """Gallery positions that no query is compared with. (J,)"""
        return (self.gallery_pids < 0).nonzero().squeeze(1)

    @cached_property
    def _by_pid(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gallery positions grouped by pid (G,), and where each query's pid begins in them (Q,) and how often (Q,)."""
        pids, order = self.gallery_pids.sort(stable=True)
        first = torch.searchsorted(pids, self.query_pids)
        size = torch.searchsorted(pids, self.query_pids, right=True) - first
        return order, first, size.where(self.query_pids > DISTRACTOR, 0)

    def same_identity(self, start: int, stop: int) -> tuple[Pairs, Pairs]:
        """Queries start..stop paired with their identity's gallery items: the matches, and those left out."""
        order, first, size = (self._by_pid[0], *(part[start:stop] for part in self._by_pid[1:]))
        row = torch.repeat_interleave(size)  # (M,)
        within = torch.arange(len(row), device=row.device) - (size.cumsum(0) - size)[row]
        col = order[first[row] + within]
        camera = self.query_camids[start:stop][row]
        left_out = (camera == self.gallery_camids[col]) & (camera != UNKNOWN_CAMERA) & self.exclude_same_camera
        return Pairs(row[~left_out], col[~left_out]), Pairs(row[left_out], col[left_out])

    def mask(self, scores: Tensor, start: int, value: float = -torch.inf) -> Pairs:
        """Overwrite what queries start.. aren't compared with in their (n, G) scores; return their matches."""
        matches, left_out = self.same_identity(start, start + len(scores))
        scores[:, self.junk] = value
        scores[left_out] = value
        return matches


def leave_one_out(camids: Tensor, index: Tensor, exclude_same_camera: bool) -> Tensor:
    """Cameras by which `exclude_same_camera=True` leaves out each image itself where all are ranked among all. (N,)

    An image has a camera of its own, but where its own camera is left out as a whole.

    Args:
        camids: (N,).
        index: (N,), which image it is.
        exclude_same_camera: whether matches of a query's own camera are left out, too.
    """
    return torch.where((camids != UNKNOWN_CAMERA) & exclude_same_camera, camids, -1 - index)


def spans(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, stop) that cover `total` items, `size` at a time."""
    for start in range(0, total, size):
        yield start, min(start + size, total)
