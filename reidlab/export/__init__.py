"""Stage `export`: the trained network in the formats that others run."""

from pathlib import Path


def run(cfg) -> Path:
    """See `reidlab.export.onnx.run`; imported when called, since running an exported file needs no training code."""
    from reidlab.export import onnx

    return onnx.run(cfg)


__all__ = ["run"]
