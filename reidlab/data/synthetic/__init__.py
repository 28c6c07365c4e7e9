"""Synthetic people: drawn walkers seen by several cameras, a data set that needs no download."""

from reidlab.data.synthetic.dataset import generate_people
from reidlab.data.synthetic.people import Person, draw_people

__all__ = ["Person", "draw_people", "generate_people"]
