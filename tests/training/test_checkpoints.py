"""Checkpoints: whole or not there, and which of them a training goes on from."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from reidlab.errors import StorageError
from reidlab.training.callbacks import BestEpoch
from reidlab.training.checkpoints import WholeCheckpoints, forget_predecessors, is_whole, previous, resume_point


@pytest.fixture
def places(tmp_path):
    return tmp_path / "checkpoints" / "best.ckpt", tmp_path / "checkpoints" / "last.ckpt"


def save(place, epoch):
    WholeCheckpoints().save_checkpoint({"epoch": epoch, "weights": torch.full((100,), float(epoch))}, place)


def epoch(place):
    return torch.load(place, weights_only=True)["epoch"]


def tear(place):
    content = place.read_bytes()
    place.unlink()  # its predecessor may be the same file
    place.write_bytes(content[: len(content) // 2])


def test_a_checkpoint_replaces_its_predecessor_which_stays_beside_it(places):
    _, last = places
    for number in range(3):
        save(last, number)
    assert epoch(last) == 2 and epoch(previous(last)) == 1
    assert {file.name for file in last.parent.iterdir()} == {"last.ckpt", "previous-last.ckpt"}
    forget_predecessors(last)
    assert list(last.parent.iterdir()) == [last]


def test_without_hard_links_the_predecessor_is_a_copy(places, monkeypatch):
    def none(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    save(places[1], 0)
    save(places[1], 1)
    assert epoch(places[1]) == 1 and epoch(previous(places[1])) == 0

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match=r"previous-last\.ckpt: can't be written \(No space left on device\)"):
        save(places[1], 2)
    assert epoch(places[1]) == 1


def test_what_cannot_be_read_back_takes_no_place(places, monkeypatch):
    save(places[1], 0)
    monkeypatch.setattr(Path, "read_bytes", lambda file: file.open("rb").read()[:-1])
    with pytest.raises(StorageError, match=r"last\.ckpt: can't be read back after writing"):
        save(places[1], 1)
    assert epoch(places[1]) == 0 and list(places[1].parent.iterdir()) == [places[1]]


@pytest.mark.parametrize("cut", [0, 1, 10, 500])
def test_a_cut_or_changed_file_is_not_whole(cut, places):
    save(places[1], 0)
    assert is_whole(places[1]) and not is_whole(places[0])
    content = places[1].read_bytes()
    places[1].write_bytes(content[:cut])
    assert not is_whole(places[1])
    changed = bytearray(content)
    changed[content.index(torch.zeros(100).numpy().tobytes()) + cut % 400] ^= 1  # in the weights
    places[1].write_bytes(changed)
    assert not is_whole(places[1])


@pytest.mark.parametrize(("torn", "found"), [
    ([], 2), (["last"], 1), (["last", "previous-last"], None), (["best"], 0), (["best", "last"], 0),
    (["best", "previous-best"], None),
])  # fmt: skip
def test_training_goes_on_from_the_last_whole_one(torn, found, places, capsys):
    """Epochs 0 and 2 were the best of 0, 1 and 2."""
    best, last = places
    for number in range(3):
        if number != 1:
            save(best, number)
        save(last, number)
    for name in torn:
        tear(best.with_name(f"{name}.ckpt"))
    begun = resume_point(best, last)
    assert begun is found is None or epoch(begun) == found
    assert ("can't be read; training goes back" in capsys.readouterr().out) == bool(torn)
    assert not best.exists() or is_whole(best)


def test_a_new_training_has_nothing_to_go_on_from(places):
    assert resume_point(*places) is None


def test_paths_are_those_of_the_folder_that_a_checkpoint_lies_in(places, tmp_path):
    best, _ = places
    state = {"dirpath": str(best.parent), "best_k_models": {str(best): 0.5}, "other": "/elsewhere/x", "empty": ""}
    WholeCheckpoints().save_checkpoint({"epoch": 0, "callbacks": {"Best": state}}, best)
    assert state["dirpath"] == str(best.parent) and str(tmp_path).encode() not in best.read_bytes()
    moved = shutil.copytree(best.parent, tmp_path / "moved") / best.name
    found = WholeCheckpoints().load_checkpoint(moved, weights_only=True)["callbacks"]["Best"]
    assert found == {
        "dirpath": str(moved.parent), "best_k_models": {str(moved): 0.5}, "other": "/elsewhere/x", "empty": "",
    }  # fmt: skip


def test_the_best_epoch_is_still_known_below_a_link(places, tmp_path):
    """Lightning resolves the links of a folder to keep checkpoints in; the path to go on from may have some."""
    best, _ = places
    best.parent.mkdir()
    link = tmp_path / "link"
    link.symlink_to(best.parent, target_is_directory=True)
    keeper, again = (BestEpoch(link, "best", monitor="val/mAP", mode="max") for _ in range(2))
    keeper.best_k_models, keeper.best_model_path = {str(best): torch.tensor(0.5)}, str(best)
    WholeCheckpoints().save_checkpoint({"callbacks": {"Best": keeper.state_dict()}}, best)
    found = WholeCheckpoints().load_checkpoint(link / best.name, weights_only=True)["callbacks"]["Best"]
    again.load_state_dict(found)
    assert again.best_k_models == keeper.best_k_models and again.best_model_path == str(best)
