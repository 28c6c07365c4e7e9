"""From image crops to a verified re-identification model on an edge device."""

__version__ = "0.1.0"
