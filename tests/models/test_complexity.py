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


NETWORKS = ["osnet_x0_25", "osnet_ain_x0_25", "fdmobilenet_x0_25", "st_fdmobilenet_v1", "resnet18", "resnet50_ibn_a"]


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_add_up_to_the_whole(name):
    network = getattr(models, name)(num_classes=7, neck="bnneck", pooling="gem")
    found, whole = models.blocks(network, (64, 32)), complexity(network, (64, 32))
    assert sum(block.parameters for block in found) == whole.parameters
    assert sum(block.macs for block in found) == whole.macs
    with_classifier = models.blocks(network, (64, 32), classifier=True)
    assert with_classifier[:-1] == found and with_classifier[-1].macs == 7 * network.feat_dim


def test_blocks_are_named_by_place_and_kind():
    found = {block.name: block for block in models.blocks(models.osnet_x0_25(), (256, 128))}
    assert list(found) == [
        "conv1", "maxpool", "conv2.0", "conv2.1", "conv2.2", "conv3.0", "conv3.1", "conv3.2", "conv4.0", "conv4.1",
        "conv5", "global_pool", "fc",
    ]  # fmt: skip
    assert found["conv1"].kind == "conv 7 x 7 / 2" and found["conv1"].shape == (16, 128, 64)
    assert found["conv2.0"].kind == "OmniScaleBlock" and found["conv2.2"].kind == "conv 1 x 1 + average pool / 2"
    assert found["conv1"].macs == 128 * 64 * 16 * 3 * 49 and found["fc"].shape == (512,)
    separable = models.blocks(models.fdmobilenet_x0_25(), (64, 64))[1]
    assert separable.kind == "depthwise 3 x 3 / 2 + conv 1 x 1"


def test_resnet_layers_come_apart_and_norms_join_what_they_follow():
    found = models.blocks(models.resnet18(), (64, 32))
    assert [block.name for block in found[:4]] == ["conv1", "maxpool", "layer1.0", "layer1.1"]
    assert found[0].parameters == 64 * 3 * 49 + 2 * 64
