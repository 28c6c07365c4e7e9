"""What a published folder must be, and the way to a hub, played by a client of the same interface."""

import sys
from types import SimpleNamespace

import pytest

from reidlab.errors import InputError
from reidlab.export import hub


@pytest.mark.parametrize(
    ("place", "name"),
    [("hf:me/demo", "me/demo"), ("hf:a.b-c/d_e.f", "a.b-c/d_e.f"), ("folder/hf:me", None), ("runs/demo", None)],
)
def test_places_at_the_hub(place, name):
    assert hub.hub_name(place) == name


@pytest.mark.parametrize("place", ["hf:", "hf:demo", "hf:a/b/c", "hf:me/d mo", "hf:../x/y", "hf:me/dé"])
def test_what_names_no_repository_is_refused(place):
    with pytest.raises(InputError, match="write hf:USER/NAME"):
        hub.hub_name(place)


def test_without_its_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'reidlab\[hub\]'"):
        hub.download("me/demo")


def test_what_the_hub_refuses_is_one_line(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("401 Client Error:\nRepository Not Found")

    client = SimpleNamespace(HfApi=lambda: SimpleNamespace(create_repo=refuse), snapshot_download=refuse)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    with pytest.raises(
        InputError, match=r"hf:me/demo: not uploaded .401 Client Error: Repository Not Found.; `hf auth"
    ):
        hub.upload(tmp_path, "me/demo", public=False)
    with pytest.raises(InputError, match="hf:me/demo: not downloaded"):
        hub.download("me/demo")
