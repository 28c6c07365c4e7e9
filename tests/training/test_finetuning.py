"""From scratch, transfer and fine-tuning: which weights move, when, and how fast."""

import pytest
import torch

from reidlab.errors import InputError
from reidlab.models import osnet_x0_25, read_weights
from reidlab.run import File, Run
from reidlab.stages import train
from reidlab.training.finetuning import Regime


@pytest.fixture(scope="module")
def network():
    return osnet_x0_25(num_classes=3, neck="bnneck")


@pytest.fixture
def pretrained(tmp_path):
    torch.manual_seed(7)
    torch.save(osnet_x0_25().state_dict(), tmp_path / "pretrained.pth")
    return tmp_path / "pretrained.pth"


def trains(small, root, name, *more):
    return train.run(Run.compose([*small, f"run.root={root}", f"run.name={name}", "trainer.max_epochs=2", *more]))


def moved(before, after, in_backbone):
    """Names of the backbone's or the head's tensors that differ between two checkpoints."""
    one, two = read_weights(before), read_weights(after)
    names = [n for n in one.keys() & two.keys() if n.startswith(("conv", "maxpool")) == in_backbone]
    return [n for n in names if one[n].shape != two[n].shape or not torch.equal(one[n], two[n])]


def test_groups_cover_what_learns_once_and_have_their_rates(network):
    groups = Regime(backbone_lr_scale=0.1).parameter_groups(network, lr=2.0)
    assert [group["lr"] for group in groups] == pytest.approx([2.0, 0.2])
    named = {id(p): name for name, p in network.named_parameters()}
    head, slow = ([named[id(p)] for p in group["params"]] for group in groups)
    assert all(name.startswith(("fc", "bottleneck", "classifier")) for name in head)
    assert all(name.startswith("conv") for name in slow)
    assert {*head, *slow} == set(named.values()) - {"bottleneck.bias"}  # the neck has no shift to learn
    assert len(Regime(backbone_lr_scale=0).parameter_groups(network, lr=2.0)) == 1


def test_the_backbone_learns_when_the_heads_epochs_are_over(network):
    regime = Regime(head_epochs=2)
    for epoch, learns in enumerate([False, False, True]):
        network.train()
        regime.begin_epoch(network, epoch)
        assert network.conv3.training == learns and network.fc.training
        assert all(p.requires_grad == learns for p in network.conv3.parameters())


def test_transfer_moves_the_head_alone_and_fine_tuning_goes_on_from_it(small, tmp_path, pretrained):
    first = trains(small, tmp_path, "tl", "regime=tl", f"model.weights={pretrained}") / File.BEST
    assert not moved(pretrained, first, in_backbone=True) and moved(pretrained, first, in_backbone=False)
    fine_tuned = trains(small, tmp_path, "fft", "regime=fft", "regime.head_epochs=1", f"model.weights={first}")
    last = fine_tuned / File.LAST
    assert any("running_mean" in name for name in moved(first, last, in_backbone=True))
    assert any("conv1.weight" in name for name in moved(first, last, in_backbone=True))


def test_a_frozen_backbone_wants_weights(small, tmp_path):
    with pytest.raises(InputError, match=r"give model\.weights=FILE"):
        trains(small, tmp_path, "random", "regime=tl")


@pytest.mark.parametrize("length", ["trainer.max_epochs=1", "trainer.max_time=0.001"])
def test_a_training_that_ends_before_the_backbone_learns_says_so(length, small, tmp_path, pretrained, capsys):
    trains(small, tmp_path, "short", f"model.weights={pretrained}", "regime=fft", "regime.head_epochs=1", length)
    assert "regime.head_epochs=1: the backbone learns in none of 1 epochs" in capsys.readouterr().out
