import pytest

from reidlab.plots import saving


@pytest.fixture
def blank_pictures(monkeypatch):
    """Pictures of a stage are files with nothing drawn in them."""
    monkeypatch.setattr(saving, "png", lambda figure, dpi: b"")
