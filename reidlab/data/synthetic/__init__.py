"""Synthetic people: drawn walkers seen by several cameras, a data set that needs no download."""

from reidlab.data.synthetic.dataset import folder_of_people, generate_people
from reidlab.data.synthetic.people import Person, draw_people

__all__ = ["Person", "draw_people", "folder_of_people", "generate_people"]
