"""OSNet against published names, sizes and costs, and against the network computed straight from its tensors."""

import hashlib

import pytest
import torch
import torch.nn.functional as F

from reidlab import models
from reidlab.errors import InputError

CHANNELS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
# SHA-256 of the sorted lines "name (shape)" of the authors' networks with 751 identities, run beside ours.
PUBLISHED_STATE = {
    "osnet_x1_0": "22ed5484dd0ab65b",
    "osnet_x0_75": "278b6af4192e660a",
    "osnet_x0_5": "c1b307512389a1d2",
    "osnet_x0_25": "0fc63000f0394549",
    "osnet_ibn_x1_0": "cb14ee63b8b850cd",
    "osnet_ain_x1_0": "0d56c265ebe750bd",
    "osnet_ain_x0_75": "a0d85cef34612475",
    "osnet_ain_x0_5": "886cb0bfe1cb7f3d",
    "osnet_ain_x0_25": "9ff01b5c3c1ad0b0",
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def build(name, **options):
    return getattr(models, name)(**options)


def with_lived_in_norms(network):
    """Norms as after training; at their initial values several mistakes would not show."""
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return network


class ByHand:
    """The evaluation-mode embedding from a state_dict alone, one functional call per layer of the paper's figures."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **options)

    def norm(self, name, x):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if f"{name}.running_mean" not in self.state:
            return F.instance_norm(x, weight=weight, bias=bias)
        return F.batch_norm(x, self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"], weight, bias)

    def conv_norm(self, name, x, **options):
        x = self.conv(f"{name}.conv", x, **options)
        return self.norm(f"{name}.bn", x) if f"{name}.bn.weight" in self.state else x

    def lite(self, name, x):
        x = self.conv(f"{name}.conv1", x)
        x = self.conv(f"{name}.conv2", x, padding=1, groups=x.shape[1])
        return F.relu(self.norm(f"{name}.bn", x))

    def gate(self, name, x):
        averages = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.conv(f"{name}.fc2", F.relu(self.conv(f"{name}.fc1", averages))))

    def block(self, name, x):
        ain = f"{name}.conv2a.conv1.weight" not in self.state
        reduced = F.relu(self.conv_norm(f"{name}.conv1", x))
        total = 0
        for stream in range(4):
            y = reduced
            for depth in range(stream + 1):
                plain = f"{name}.conv2{'abcd'[stream]}" + (f".{depth}" if stream else "")
                y = self.lite(f"{name}.conv2.{stream}.layers.{depth}" if ain else plain, y)
            total = total + self.gate(f"{name}.gate", y)
        residual = self.conv_norm(f"{name}.conv3", total)
        identity = self.conv_norm(f"{name}.downsample", x) if f"{name}.downsample.conv.weight" in self.state else x
        if f"{name}.IN.weight" not in self.state:
            return F.relu(residual + identity)
        if ain:
            return F.relu(self.norm(f"{name}.IN", residual) + identity)
        return F.relu(self.norm(f"{name}.IN", residual + identity))

    def __call__(self, image):
        x = F.relu(self.conv_norm("conv1", image, stride=2, padding=3))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for stage in ("conv2", "conv3", "conv4"):
            x = self.block(f"{stage}.1", self.block(f"{stage}.0", x))
            for halving in (f"{stage}.2.0", f"pool{stage[-1]}.0"):
                if f"{halving}.conv.weight" in self.state:
                    x = F.avg_pool2d(F.relu(self.conv_norm(halving, x)), 2)
        x = F.relu(self.conv_norm("conv5", x)).mean((2, 3))
        return F.relu(self.norm("fc.1", F.linear(x, self.state["fc.0.weight"], self.state["fc.0.bias"])))


@pytest.mark.parametrize("name", PUBLISHED_STATE)
def test_state_is_that_of_the_published_checkpoints(name):
    state = build(name, num_classes=751).state_dict()
    lines = "\n".join(sorted(f"{key} {tuple(value.shape)}" for key, value in state.items()))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == PUBLISHED_STATE[name]


@pytest.mark.parametrize("width", CHANNELS)
def test_channels_follow_the_table_of_the_paper(width):
    state = build(f"osnet_{width}").state_dict()
    found = [state[f"{key}.weight"].shape[0] for key in ("conv1.conv", "conv2.1.conv3.conv", "conv3.1.conv3.conv")]
    assert (*found, state["conv5.conv.weight"].shape[0]) == CHANNELS[width]
    assert state["fc.0.weight"].shape == (512, CHANNELS[width][3])


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x0_25"])
@pytest.mark.parametrize("size", [(128, 64), (160, 80), (131, 67)])
def test_embedding_equals_the_one_computed_by_hand(name, size):
    network = with_lived_in_norms(build(name)).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(
            network(images).embedding, ByHand(network.state_dict())(images), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("size", [(256, 128), (160, 80), (128, 64)])
def test_feature_maps_are_a_sixteenth_of_the_image(size):
    maps = build("osnet_x0_25").featuremaps(torch.randn(2, 3, *size))
    assert maps.shape == (2, 128, size[0] // 16, size[1] // 16)


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ain_x0_25"])
def test_every_parameter_learns(name):
    network = build(name, num_classes=5).train()
    for key, parameter in network.named_parameters():
        if key.endswith("gate.fc1.bias"):
            torch.nn.init.constant_(parameter, 10)  # at this width a gate has one hidden ReLU, which may start dead
    output = network(torch.randn(4, 3, 128, 64))
    assert output.embedding.shape == (4, 512)
    (F.cross_entropy(output.logits, torch.arange(4)) + output.embedding.square().sum()).backward()
    still = [key for key, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not still


def test_initial_weights_have_the_standard_spread():
    network = build("osnet_x1_0", num_classes=751)
    conv = network.conv1.conv.weight
    assert conv.std().item() == pytest.approx((2 / (64 * 7 * 7)) ** 0.5, rel=0.05)
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert network.fc[0].bias.abs().max() == 0
    assert (network.fc[1].weight == 1).all()


def test_other_convolutions_of_the_streams():
    size, mid, uses = (64, 32), (16, 24, 32), 2 * 10
    lite, swapped, full = (build("osnet_x0_25", convolution=kind) for kind in ("lite", "depthwise-first", "full"))
    costs = [models.complexity(network, size) for network in (lite, swapped, full)]
    assert costs[0] == costs[1]
    assert costs[2].parameters - costs[0].parameters == sum(uses * (8 * c * c - 9 * c) for c in mid)
    layer = swapped.conv2[0].conv2a
    layer.bn.eval()
    image = torch.randn(1, 16, 6, 6)
    by_hand = F.conv2d(F.conv2d(image, layer.conv1.weight, padding=1, groups=16), layer.conv2.weight)
    torch.testing.assert_close(layer(image), F.relu(by_hand / (1 + layer.bn.eps) ** 0.5))
    with pytest.raises(InputError, match=r"model\.network\.convolution is 'x': use one of lite, depthwise-first, full"):
        build("osnet_x0_25", convolution="x")


def test_unknown_variant_is_refused():
    with pytest.raises(InputError, match=r"model\.network\.variant is 'ibnb': use one of plain, ibn, ain"):
        build("osnet_x0_25", variant="ibnb")
