"""ResNet against torchvision's published sizes and costs, its names, and the forms that checkpoints of it have."""

import pytest
import torch

from reidlab import models
from reidlab.errors import InputError
from reidlab.models import complexity, load_weights
from reidlab.models.resnet import IBN

# Parameters with 1000 classes and billions of multiply-accumulates at 224x224, from torchvision's documentation.
TORCHVISION = {
    "resnet18": (11_689_512, 1.81),
    "resnet34": (21_797_672, 3.66),
    "resnet50": (25_557_032, 4.09),
    "resnet101": (44_549_160, 7.80),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_macs_are_the_published_ones(name):
    network = getattr(models, name)(feat_dim=None, num_classes=1000, last_stride=2)
    parameters, billions = TORCHVISION[name]
    assert sum(p.numel() for p in network.parameters()) == parameters
    cost = complexity(network, (224, 224))
    assert (cost.macs + network.classifier.weight.numel()) / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_names_are_those_of_torchvision(name):
    basic = name == "resnet18"
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", *(f"bn1.{n}" for n in norms)}
    for layer, depth in enumerate((2, 2, 2, 2) if basic else (3, 4, 6, 3), start=1):
        for block in range(depth):
            prefix = f"layer{layer}.{block}"
            for i in range(1, 3 if basic else 4):
                expected |= {f"{prefix}.conv{i}.weight", *(f"{prefix}.bn{i}.{n}" for n in norms)}
            if block == 0 and not (basic and layer == 1):
                expected |= {f"{prefix}.downsample.0.weight", *(f"{prefix}.downsample.1.{n}" for n in norms)}
    assert set(getattr(models, name)(feat_dim=None).state_dict()) == expected


@pytest.mark.parametrize(("last_stride", "size"), [(1, (8, 4)), (2, (4, 2))])
def test_last_stride_sets_the_size_of_the_maps(last_stride, size):
    maps = models.resnet18(last_stride=last_stride).featuremaps(torch.randn(1, 3, 128, 64))
    assert maps.shape == (1, 512, *size)


def test_ibn_normalizes_half_by_image_and_half_by_batch():
    maps = torch.randn(4, 6, 5, 3) * 3 + 2
    output = IBN(6)(maps)
    first, second = output[:, :3], output[:, 3:]
    torch.testing.assert_close(first.mean((2, 3)), torch.zeros(4, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(first.var((2, 3), unbiased=False), torch.ones(4, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(second.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert second.mean((2, 3)).abs().max() > 0.1


def test_ibn_a_is_in_the_first_norm_of_the_first_three_layers():
    network = models.resnet50_ibn_a(feat_dim=None)
    where = [name for name, module in network.named_modules() if isinstance(module, IBN)]
    assert where == [f"layer{layer}.{block}.bn1" for layer, depth in ((1, 3), (2, 4), (3, 6)) for block in range(depth)]
    assert network.state_dict()["layer1.0.bn1.IN.weight"].shape == (32,)
    assert network.state_dict()["layer1.0.bn1.BN.weight"].shape == (32,)


@pytest.mark.parametrize("stem_relu", [True, False])
def test_stem_relu_is_a_switch(stem_relu):
    network = models.resnet18(stem_relu=stem_relu)
    seen = []
    network.maxpool.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].min().item()))
    network(torch.randn(2, 3, 64, 32))
    assert (seen[0] >= 0) == stem_relu


@pytest.mark.parametrize("name", ["resnet18_ibn_a", "resnet50"])
def test_every_parameter_learns(name):
    network = getattr(models, name)(feat_dim=64, projection="linear", neck="bnneck", pooling="gem", num_classes=5)
    output = network(torch.randn(4, 3, 64, 32))
    (output.logits.square().sum() + output.embedding.square().sum()).backward()
    still = [key for key, p in network.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
    assert not still


def test_imagenet_weights_load_and_the_report_names_the_open_head(tmp_path):
    source = models.resnet18(feat_dim=None, num_classes=1000)
    state = {name.replace("classifier.", "fc."): tensor for name, tensor in source.state_dict().items()}
    torch.save(state, tmp_path / "resnet18.pth")
    network = models.resnet18(feat_dim=64, num_classes=10)
    report = load_weights(network, tmp_path / "resnet18.pth")
    assert not report.complete
    assert set(report.left_out) == {"fc.weight", "fc.bias"}
    assert all(name.startswith(("fc.", "classifier.")) for name in report.missing)
    assert torch.equal(network.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


def test_tao_checkpoint_loads_whole_and_its_1x1_convolution_becomes_the_projection(tmp_path):
    head = {"feat_dim": 32, "projection": "linear", "neck": "bnneck", "num_classes": 7}
    source = models.resnet18(**head)
    tao = {}
    for name, tensor in source.state_dict().items():
        prefix = "" if name.startswith(("bottleneck.", "classifier.")) else "base."
        tensor = tensor[:, :, None, None] if name == "fc.0.weight" else tensor
        tao[f"model.{prefix}{name.replace('fc.0.', 'feature.')}"] = tensor
    assert tao["model.base.feature.weight"].shape == (32, 512, 1, 1)
    torch.save({"state_dict": tao, "epoch": 119, "pytorch-lightning_version": "2.1.4"}, tmp_path / "reid.pth")
    network = models.resnet18(**head)
    report = load_weights(network, tmp_path / "reid.pth")
    assert report.complete
    assert not report.left_out
    assert not report.missing
    assert torch.equal(network.fc[0].weight, source.fc[0].weight)


def test_projecting_the_pooled_feature_equals_pooling_the_projected_maps():
    network = models.resnet18(feat_dim=32, projection="linear").eval()
    images = torch.randn(2, 3, 64, 32)
    maps = torch.nn.functional.conv2d(network.featuremaps(images), network.fc[0].weight[:, :, None, None])
    torch.testing.assert_close(network(images).embedding, maps.mean((2, 3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("resnet34", "resnet18"), ("resnet18", "resnet34"), ("resnet18_ibn_a", "resnet18")]
)
def test_another_depth_is_refused_by_its_name(theirs, ours, tmp_path):
    torch.save(getattr(models, theirs)().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=rf"doesn't fit this network at layer\d.*it looks like {theirs}$"):
        load_weights(getattr(models, ours)(), tmp_path / "weights.pth")
