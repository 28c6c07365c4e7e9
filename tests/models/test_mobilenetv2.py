"""MobileNetV2 against published sizes and costs, and against the network computed straight from its tensors."""

import pytest
import torch
import torch.nn.functional as F

from reidlab import models
from reidlab.models import complexity, load_weights, recognize
from reidlab.models.mobilenetv2 import MobileNetV2


def test_size_and_cost_are_the_papers_and_torchvisions():
    network = models.mobilenetv2_x1_0(num_classes=1000)
    assert sum(p.numel() for p in network.parameters()) == 3_504_872  # torchvision's table of weights
    assert round((complexity(network, (224, 224)).macs + 1280 * 1000) / 1e6) == 301  # 300 M in the paper


@pytest.mark.parametrize(
    ("width", "params", "macs"), [(0.35, 1.66, 59), (0.5, 1.95, 97), (0.75, 2.61, 209), (1.4, 6.06, 582)]
)
def test_other_widths_are_those_of_the_published_table(width, params, macs):
    """github.com/tensorflow/models, mobilenet/README: parameters and MACs in millions, batch norms folded."""
    network = MobileNetV2(width, num_classes=1000)
    norms = sum(module.num_features for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    folded = sum(p.numel() for p in network.parameters()) - norms
    assert folded / 1e6 == pytest.approx(params, rel=0.01)
    assert (complexity(network, (224, 224)).macs + network.feat_dim * 1000) / 1e6 == pytest.approx(macs, rel=0.01)


def test_the_published_flash_of_st():
    """400.59 KiB: int8 weights and int32 biases of the network without a classifier, and a little more."""
    network = models.mobilenetv2_x0_35()
    weights = sum(p.numel() for name, p in network.named_parameters() if p.ndim == 4)
    biases = sum(module.num_features for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert (weights + 4 * biases) / 1024 == pytest.approx(400.59, rel=0.01)


@pytest.mark.parametrize("padding", ["symmetric", "tensorflow"])
def test_forward_computed_from_the_tensors_alone(padding):
    torch.manual_seed(0)
    network = models.mobilenetv2_x0_35(padding=padding, num_classes=3).eval()
    state = network.state_dict()
    for name, tensor in state.items():
        if tensor.ndim == 1 and tensor.is_floating_point() and "features" in name:
            tensor.uniform_(0.5, 1.5)

    def conv_norm(x, conv, bn, stride=1, relu=True):
        weight = state[f"{conv}.weight"]
        if weight.shape[-1] > 1:
            before = 0 if padding == "tensorflow" and stride == 2 else 1
            x = F.pad(x, (before, 1, before, 1))
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 and len(weight) > 3 else 1)
        x = F.batch_norm(x, *(state[f"{bn}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))
        return x.clamp(0, 6) if relu else x

    image = torch.rand(2, 3, 64, 96)
    x = conv_norm(image, "features.0.0", "features.0.1", 2)
    strides = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
    for number, stride in enumerate(strides, 1):
        place, inner = f"features.{number}.conv", x
        first = 0 if number == 1 else 1
        if first:
            inner = conv_norm(inner, f"{place}.0.0", f"{place}.0.1")
        inner = conv_norm(inner, f"{place}.{first}.0", f"{place}.{first}.1", stride)
        inner = conv_norm(inner, f"{place}.{first + 1}", f"{place}.{first + 2}", relu=False)
        x = x + inner if x.shape == inner.shape else inner
    pooled = conv_norm(x, "features.18.0", "features.18.1").mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(network(image).embedding, pooled)


def test_torchvisions_names_load_and_are_recognized(tmp_path):
    source, network = models.mobilenetv2_x0_35(num_classes=10), models.mobilenetv2_x0_35(num_classes=10)
    theirs = {name.replace("classifier.", "classifier.1."): tensor for name, tensor in source.state_dict().items()}
    torch.save(theirs, tmp_path / "mobilenet_v2.pth")
    report = load_weights(network, tmp_path / "mobilenet_v2.pth")
    assert report.complete and not report.missing and not report.left_out
    assert recognize(source.state_dict()) == "mobilenetv2_x0_35"
