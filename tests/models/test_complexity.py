"""Parameters and multiply-accumulates against published figures and a count by hand."""

import pytest
import torch

from reidlab import models
from reidlab.models import complexity


def test_count_by_hand():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1, groups=1), torch.nn.AdaptiveAvgPool2d(1))
    cost = complexity(network, (5, 6))
    assert cost.parameters == 4 * 3 * 9 + 4
    assert cost.macs == 5 * 6 * 4 * 3 * 9


def test_shared_module_costs_twice_and_is_stored_once():
    layer = torch.nn.Conv2d(3, 3, 1, bias=False)
    cost = complexity(torch.nn.Sequential(layer, layer), (2, 2))
    assert (cost.parameters, cost.parameters_per_use, cost.macs) == (9, 18, 2 * 4 * 9)


@pytest.mark.parametrize(
    ("name", "unique", "per_use"),
    [("osnet_x0_25", 201_864, 203_568), ("osnet_x1_0", 2_169_508, 2_193_616), ("osnet_ain_x1_0", 2_169_508, 2_193_616)],
)
def test_parameters_of_the_paper_with_its_512_d_layer(name, unique, per_use):
    cost = complexity(getattr(models, name)(num_classes=751), (64, 32))
    assert (cost.parameters, cost.parameters_per_use) == (unique, per_use)


@pytest.mark.parametrize(
    ("name", "macs"), [("osnet_x1_0", 978.6), ("osnet_x0_75", 571.6), ("osnet_x0_5", 272.8), ("osnet_x0_25", 82.2)]
)
def test_macs_of_the_trunk_at_256x128_in_millions(name, macs):
    cost = complexity(getattr(models, name)(feat_dim=None))
    assert round(cost.macs / 1e6, 1) == macs


@pytest.mark.parametrize(("name", "millions"), [("osnet_x0_75", 1.3), ("osnet_x0_5", 0.6)])
def test_parameters_as_the_model_zoo_rounds_them(name, millions):
    assert round(complexity(getattr(models, name)(), (64, 32)).parameters_per_use / 1e6, 1) == millions


def test_deployed_network_with_its_norm_statistics_and_a_436_class_head():
    def values(network):
        return sum(t.numel() for name, t in network.state_dict().items() if "num_batches" not in name)

    assert values(models.osnet_x0_25(feat_dim=None)) == 140_296
    assert values(models.osnet_x0_25(feat_dim=None, num_classes=436)) == 196_540


def test_measuring_leaves_the_network_as_it_was():
    network = models.osnet_x0_25().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    complexity(network, (64, 32))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
