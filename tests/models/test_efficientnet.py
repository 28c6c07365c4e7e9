"""EfficientNet-Lite against published sizes and against the network computed by other people's code."""

import pytest
import torch
import torch.nn.functional as F

from reidlab import models
from reidlab.models import complexity, load_weights
from reidlab.models.efficientnet import SameConv2d


@pytest.mark.parametrize(
    ("name", "parameters", "side", "macs"),
    [
        ("efficientnet_lite0", 4_652_008, 224, 0.385),
        ("efficientnet_lite1", 5_416_680, 240, 0.600),
        ("efficientnet_lite2", 6_092_072, 260, 0.860),
    ],
)
def test_size_with_the_classes_of_imagenet(name, parameters, side, macs):
    network = getattr(models, name)(num_classes=1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert complexity(network, (side, side)).macs / 1e9 == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (9, 5, 2), (8, 5, 2), (6, 5, 1), (5, 1, 1)]
)
def test_same_padding_is_tensorflows(side, kernel, stride):
    """Output ceil(side / stride); of an odd number of zeros, the last is at the end."""
    torch.manual_seed(0)
    conv, image = SameConv2d(1, 1, kernel, stride), torch.rand(1, 1, side, side)
    outputs = -(-side // stride)
    total = max((outputs - 1) * stride + kernel - side, 0)
    before = total // 2
    wide = torch.zeros(1, 1, side + total, side + total)
    wide[:, :, before : before + side, before : before + side] = image
    expected = F.conv2d(wide, conv.weight, stride=stride)
    assert expected.shape[2] == outputs
    torch.testing.assert_close(conv(image), expected)


@pytest.mark.parametrize(("name", "side"), [("efficientnet-lite0", 224), ("efficientnet-lite2", 260)])
def test_equal_to_the_package_of_pypi(name, side, tmp_path):
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install efficientnet_lite_pytorch")
    torch.manual_seed(0)
    theirs = package.EfficientNet.from_name(name).eval()
    for tensor in theirs.buffers():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = getattr(models, name.replace("-", "_"))(num_classes=1000).eval()
    report = load_weights(ours, tmp_path / "w.pth")
    assert report.complete
    image = torch.rand(2, 3, side, side)
    with torch.no_grad():
        expected = theirs.extract_features(image)
        torch.testing.assert_close(
            ours.featuremaps(image), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )
