"""Stage `export`: the trained network in the formats that others run."""

from reidlab.export.onnx import run

__all__ = ["run"]
