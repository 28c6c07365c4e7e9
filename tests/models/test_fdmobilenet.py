"""FD-MobileNet against published sizes and costs, and against the network computed straight from its tensors."""

import pytest
import torch
import torch.nn.functional as F

from reidlab import models
from reidlab.errors import InputError
from reidlab.export.folding import deployable
from reidlab.models import complexity
from reidlab.models.fdmobilenet import DEPTHWISE

WIDTHS = {
    "fdmobilenet_x0_25": (8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 256),
    "st_fdmobilenet_v1": (16, 48, 80, 64, 96, 64, 128, 128, 128, 128, 128, 256),
}
STRIDES = (2, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)  # of the blocks
ALL = ["fdmobilenet_x0_25", "fdmobilenet_x0_5", "fdmobilenet_x0_75", "fdmobilenet_x1_0", "st_fdmobilenet_v1"]


def values(tensors):
    return sum(tensor.numel() for name, tensor in tensors if "num_batches" not in name)


def folded(name, depthwise):
    """The weights and the biases of the convolutions that are deployed, the classifier's too."""
    network = getattr(models, name)(num_classes=5, depthwise=depthwise).eval()
    layers = [module for module in deployable(network, (0, 0, 0), (1, 1, 1)).modules() if hasattr(module, "weight")]
    layers.append(network.classifier)
    return sum(layer.weight.numel() for layer in layers), sum(layer.bias.numel() for layer in layers)


@pytest.mark.parametrize(
    ("name", "trainable", "total", "deployed", "kib"),
    [("fdmobilenet_x0_25", 126_589, 128_813, 125_477, 128.32), ("st_fdmobilenet_v1", None, 145_365, 141_573, 144.93)],
)
def test_size_with_five_classes(name, trainable, total, deployed, kib):
    network = getattr(models, name)(num_classes=5)
    assert trainable in (None, values(network.named_parameters()))
    assert values(network.state_dict().items()) == total
    for depthwise in DEPTHWISE:
        weights, biases = folded(name, depthwise)
        assert weights + biases == deployed
        assert round((weights + 4 * biases) / 1024, 2) == kib  # int8 weights, int32 biases


@pytest.mark.parametrize(
    ("name", "at_224", "at_128"), [("fdmobilenet_x0_25", 11.78, 3.85), ("st_fdmobilenet_v1", 24.43, 7.98)]
)
def test_multiply_accumulates_in_millions(name, at_224, at_128):
    network = getattr(models, name)(num_classes=5)
    found = [round((complexity(network, (side, side)).macs + 256 * 5) / 1e6, 2) for side in (224, 128)]
    assert found == [at_224, at_128]


@pytest.mark.parametrize("name", WIDTHS)
def test_channels_of_every_layer(name):
    network = getattr(models, name)()
    assert tuple(getattr(network, stage).bn.num_features for stage in network.stages) == WIDTHS[name]


@pytest.mark.parametrize("depthwise", DEPTHWISE)
def test_forward_computed_from_the_tensors_alone(depthwise):
    torch.manual_seed(0)
    network = models.fdmobilenet_x0_25(depthwise=depthwise, num_classes=5).eval()
    state = network.state_dict()
    for name, tensor in state.items():
        if "bn" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)

    def conv_norm(x, conv, bn, **options):
        x = F.conv2d(x, state[f"{conv}.weight"], state.get(f"{conv}.bias"), **options)
        if f"{bn}.weight" not in state:
            return x
        figures = (state[f"{bn}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *figures)
        return x if depthwise == "linear_bn" and "depthwise" in conv else F.relu(x)

    image = torch.rand(2, 3, 64, 96)
    x = conv_norm(image, "stem.conv", "stem.bn", stride=2, padding=1)
    for number, stride in enumerate(STRIDES, start=1):
        options = {"stride": stride, "padding": 1, "groups": x.shape[1]}
        x = conv_norm(x, f"block{number}.depthwise", f"block{number}.depthwise_bn", **options)
        x = conv_norm(x, f"block{number}.pointwise", f"block{number}.bn")
    pooled = x.mean((2, 3))
    with torch.no_grad():
        output = network(image)
    torch.testing.assert_close(output.embedding, pooled)
    torch.testing.assert_close(output.logits, F.linear(pooled, network.classifier.weight, network.classifier.bias))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_any_multiple_of_32_is_reduced_32_times(name, size):
    network = getattr(models, name)().eval()
    with torch.no_grad():
        maps = network.featuremaps(torch.zeros(1, 3, *size))
    assert maps.shape[2:] == (size[0] // 32, size[1] // 32)
    assert maps.shape[1] == network.feat_dim


def test_the_variants_of_the_depthwise_convolution():
    linear, linear_bn, norm = (models.fdmobilenet_x0_5(depthwise=variant).block1 for variant in DEPTHWISE)
    assert linear.depthwise.bias is not None and not hasattr(linear, "depthwise_bn")
    assert linear_bn.depthwise.bias is None and list(linear_bn._modules)[:3] == [
        "depthwise",
        "depthwise_bn",
        "pointwise",
    ]
    assert norm.depthwise.bias is None and list(norm._modules)[:3] == ["depthwise", "depthwise_bn", "depthwise_relu"]
    with pytest.raises(InputError, match=r"model.network.depthwise is 'relu': use one of linear, linear_bn, norm"):
        models.fdmobilenet_x0_5(depthwise="relu")
