"""Identities that are remembered: enroll, identify, forget."""

from reidlab.gallery.gallery import EVERYWHERE, Candidate, Gallery, Identification, Where
from reidlab.gallery.index import Index
from reidlab.gallery.store import Store

__all__ = ["EVERYWHERE", "Candidate", "Gallery", "Identification", "Index", "Store", "Where"]
