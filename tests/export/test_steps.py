import pytest
import torch
from small_net import MEAN, SIZE, STD, unsettle
from torch import nn

from reidlab import models
from reidlab.errors import InputError
from reidlab.export.folding import deployable
from reidlab.export.steps import as_steps
from reidlab.models.heads import Output


class Net(nn.Module):
    """Any function of the image, with layers if it needs some."""

    def __init__(self, call, **layers):
        super().__init__()
        self.call = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, image):
        return Output(self.call(self, image), None)


def steps_of(network, size=SIZE):
    return as_steps(deployable(network, [0] * 3, [1] * 3), size)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("osnet_x0_25", {"pooling": "gem", "neck": "bnneck", "feat_dim": None}),
        ("osnet_ain_x0_25", {}),
        ("resnet18_ibn_a", {"feat_dim": 16, "projection": "linear", "stem_ceil_mode": True}),
        ("fdmobilenet_x0_25", {}),
    ],
)
def test_steps_compute_what_the_network_computes(name, head):
    torch.manual_seed(0)
    network, images = unsettle(getattr(models, name)(**head)), torch.rand(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.allclose(steps_of(network, (64, 32))(images), network(images).embedding, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        Net(lambda net, x: net.fc(net.conv(x).flatten(1)), conv=nn.Conv2d(3, 4, 3, 2), fc=nn.Linear(4 * 15 * 7, 5)),
        Net(lambda net, x: net.bn(x).clamp(0, 6).mean((2, 3)), bn=nn.BatchNorm2d(3)),
        Net(lambda net, x: torch.cat((x[:, :1], x[:, 1:] * x[:, 1:]), 1).relu().mean((2, 3))),
        Net(lambda net, x: net.fc(net.pool(x).flatten(1)).softmax(1), pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(3, 5)),
        Net(lambda net, x: net.norm(x).mean((2, 3)).sigmoid(), norm=nn.InstanceNorm2d(3)),
    ],
    ids=["linear on maps", "lone batch norm", "slices", "softmax", "plain instance norm"],
)
def test_other_peoples_layers_too(network):
    torch.manual_seed(0)
    unsettle(network)
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        assert torch.allclose(steps_of(network)(images), network(images).embedding, atol=1e-5)


def test_activations_follow_in_their_step_and_layers_give_the_names(steps):
    names = [step.name for step in steps.steps]
    assert names[:2] == ["normalize", "network.conv1.conv"] and len(set(names)) == len(names)
    assert {"network.conv2.gate.fc1", "network.conv2.gate.fc1_4", "mean_4", "mul_4", "add_4"} <= {*names}
    assert not [step for step in steps.steps if step.kind == "activation"]
    assert next(step for step in steps.steps if step.name == "network.conv1.conv").activation == "relu"


def test_steps_of_one_layer_share_its_weights(steps):
    gates = [step for step in steps.steps if step.layer == "network.conv2.gate.fc1"]
    assert len(gates) == 4 and len({id(step.weight) for step in gates}) == 1


def test_shapes_are_those_of_the_values(steps):
    found = {name: value.shape for name, value in steps.tensors(torch.zeros(2, 3, *SIZE))}
    assert found == {name: (2, *shape) for name, shape in steps.shapes.items()}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda net, x: torch.linalg.svdvals(x.flatten(2)).flatten(1), "svd"),
        (lambda net, x: (x + 1).mean((2, 3)), "add of a constant"),
        (lambda net, x: x.mean(1), "a mean other than over the map"),
        (lambda net, x: nn.functional.gelu(x).mean((2, 3)), "gelu"),
        (lambda net, x: x, "an embedding that is a map"),
    ],
)
def test_an_operation_without_counterpart_is_named(call, named):
    with pytest.raises(InputError, match=named):
        steps_of(Net(call))


def test_images_too_small_for_the_network_are_an_input_error(network):
    with pytest.raises(InputError, match=r"can't be run on images of \(1, 1\)"):
        as_steps(deployable(Net(lambda net, x: net.pool(x), pool=nn.MaxPool2d(7)), MEAN, STD), (1, 1))
