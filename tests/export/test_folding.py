import pytest
import torch
from small_net import MEAN, STD, unsettle
from torch import nn

from reidlab.errors import InputError
from reidlab.export.folding import deployable
from reidlab.models import osnet_ain_x0_25, osnet_x0_25
from reidlab.models.heads import Output


def test_a_deployable_network_normalizes_for_itself(graph, images, expected):
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    assert torch.allclose(graph(pixels), torch.from_numpy(expected), atol=1e-5)


def test_no_batch_norm_and_no_classifier_is_left(graph):
    kinds = {type(module) for module in graph.modules()}
    assert not kinds & {nn.BatchNorm2d, nn.BatchNorm1d, nn.Identity, nn.Dropout}
    assert not any(name.startswith("network.classifier") for name, _ in graph.named_modules())


def test_nothing_is_added_where_there_is_nothing_to_normalize(network):
    assert not hasattr(deployable(network, [0, 0, 0], [1, 1, 1]), "normalize")


@pytest.mark.parametrize("factory", [osnet_x0_25, osnet_ain_x0_25])
def test_folding_keeps_what_a_network_computes(factory):
    torch.manual_seed(0)
    network = unsettle(factory())
    images = torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.allclose(deployable(network, [0] * 3, [1] * 3)(images), network(images).embedding, atol=1e-5)


def test_the_network_itself_is_left_as_it_was(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    deployable(network, MEAN, STD)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_batch_norm_that_is_no_convolutions_neighbour_stays():
    class Preactivated(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)

        def forward(self, image):
            return Output(self.conv(self.bn(image)).mean((2, 3)), None)

    network = unsettle(Preactivated())
    images = torch.rand(2, 3, 8, 8)
    graph = deployable(network, [0] * 3, [1] * 3)
    assert torch.allclose(graph(images), network(images).embedding)
    assert any(isinstance(module, nn.BatchNorm2d) for module in graph.modules())


def test_a_network_that_is_no_fixed_sequence_of_layers_is_refused():
    class Undecided(nn.Module):
        def forward(self, image):
            return Output(image.mean((2, 3)) if image.sum() > 0 else image.amax((2, 3)), None)

    with pytest.raises(InputError, match="Undecided: can't be converted"):
        deployable(Undecided(), [0] * 3, [1] * 3)
