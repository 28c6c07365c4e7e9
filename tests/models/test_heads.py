"""The head: what it returns in training and evaluation, and which tensors it owns."""

import pytest
import torch

from reidlab.errors import InputError
from reidlab.models import GeM, Output, ReIdNetwork


class Tiny(ReIdNetwork):
    """A backbone of one convolution."""

    stages = ("conv", "relu")

    def __init__(self, **head):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2)
        self.relu = torch.nn.ReLU()
        self.add_head(8, **head)


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(4, 3, 16, 8)


def head_tensors(network):
    return {name: tuple(t.shape) for name, t in network.state_dict().items() if not name.startswith("conv.")}


def test_without_projection_the_embedding_is_the_average_of_the_maps(images):
    network = Tiny(feat_dim=None)
    output = network(images)
    assert isinstance(output, Output)
    assert output.logits is None
    assert network.feat_dim == 8
    torch.testing.assert_close(output.embedding, network.conv(images).relu().mean((2, 3)))


def test_projection_is_linear_norm_relu_at_the_top_level():
    tensors = head_tensors(Tiny(feat_dim=5, num_classes=3))
    assert {name: shape for name, shape in tensors.items() if "num_batches" not in name} == {
        "fc.0.weight": (5, 8),
        "fc.0.bias": (5,),
        "fc.1.weight": (5,),
        "fc.1.bias": (5,),
        "fc.1.running_mean": (5,),
        "fc.1.running_var": (5,),
        "classifier.weight": (3, 5),
        "classifier.bias": (3,),
    }


def test_linear_projection_is_nothing_but_linear(images):
    network = Tiny(feat_dim=5, projection="linear")
    assert set(head_tensors(network)) == {"fc.0.weight", "fc.0.bias"}
    pooled = network.conv(images).relu().mean((2, 3))
    torch.testing.assert_close(network(images).embedding, pooled @ network.fc[0].weight.T + network.fc[0].bias)


def test_bn_neck_has_no_shift_and_its_classifier_no_bias():
    network = Tiny(feat_dim=None, neck="bnneck", num_classes=3)
    assert network.classifier.bias is None
    assert not network.bottleneck.bias.requires_grad
    assert network.bottleneck.weight.requires_grad


@pytest.mark.parametrize("neck_feat", ["before", "after"])
def test_metric_loss_sees_the_feature_before_the_neck_and_comparison_the_chosen_one(images, neck_feat):
    network = Tiny(feat_dim=None, neck="bnneck", neck_feat=neck_feat, num_classes=3)
    pooled = network.conv(images).relu().mean((2, 3))
    network.train()
    output = network(images)
    torch.testing.assert_close(output.embedding, pooled)
    normalized = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(output.logits, normalized @ network.classifier.weight.T)

    network.eval()
    necked = (pooled - network.bottleneck.running_mean) / (network.bottleneck.running_var + 1e-5).sqrt()
    torch.testing.assert_close(network(images).embedding, pooled if neck_feat == "before" else necked)
    torch.testing.assert_close(network(images).logits, necked @ network.classifier.weight.T)


def test_dropout_touches_the_scores_and_not_the_embedding(images):
    network = Tiny(feat_dim=None, dropout=0.5, num_classes=3).train()
    first, second = network(images), network(images)
    assert torch.equal(first.embedding, second.embedding)
    assert not torch.equal(first.logits, second.logits)
    network.eval()
    assert torch.equal(network(images).logits, network(images).logits)


@pytest.mark.parametrize("option", [{"neck": "bn"}, {"neck_feat": "both"}, {"projection": "tanh"}, {"pooling": "max"}])
def test_unknown_option_is_refused_by_name(option):
    with pytest.raises(InputError, match=rf"model\.network\.{next(iter(option))} is"):
        Tiny(**option)


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_is_the_generalized_mean(images, p):
    maps = images.abs()
    channels = [values.flatten().tolist() for image in maps for values in image]
    expected = torch.tensor([(sum(v**p for v in values) / len(values)) ** (1 / p) for values in channels]).view(4, 3)
    torch.testing.assert_close(GeM(p)(maps).flatten(1), expected, atol=1e-5, rtol=1e-5)


def test_gem_runs_from_the_average_to_the_maximum_and_learns_where(images):
    maps = images.abs() / images.abs().max()
    torch.testing.assert_close(GeM(1.0)(maps), maps.mean((2, 3), keepdim=True))
    torch.testing.assert_close(GeM(100.0)(maps), maps.amax((2, 3), keepdim=True), atol=0.05, rtol=0)
    network = Tiny(feat_dim=None, pooling="gem")
    assert set(head_tensors(network)) == {"global_pool.p"}
    network(images).embedding.sum().backward()
    assert network.global_pool.p.grad.isfinite().all()
    assert network.global_pool.p.grad.abs() > 0


def test_gem_of_a_dead_channel_is_finite():
    maps = torch.zeros(1, 2, 3, 3, requires_grad=True)
    pooled = GeM()(maps)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert maps.grad.isfinite().all()
