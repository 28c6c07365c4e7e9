"""MixStyle against its formula, one image and channel at a time."""

import pytest
import torch

from reidlab import models
from reidlab.errors import InputError
from reidlab.models import MixStyle


@pytest.fixture
def maps():
    return torch.randn(6, 3, 8, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1


def style(maps):
    return maps.mean((2, 3)), maps.std((2, 3), correction=0)


def test_each_image_takes_a_mixture_of_its_own_and_another_style(maps):
    torch.manual_seed(3)
    mixed = MixStyle(p=1.0, alpha=0.5)(maps)
    torch.manual_seed(3)
    torch.rand(())
    weights = torch.distributions.Beta(0.5, 0.5).sample((6, 1, 1, 1)).flatten().tolist()
    other = torch.randperm(6).tolist()
    assert other != list(range(6))
    for image in range(6):
        for channel in range(3):
            own, others, w = maps[image, channel], maps[other[image], channel], weights[image]
            mean = w * own.mean() + (1 - w) * others.mean()
            deviation = w * own.std(correction=0) + (1 - w) * others.std(correction=0)
            expected = (own - own.mean()) / own.std(correction=0) * deviation + mean
            torch.testing.assert_close(mixed[image, channel], expected, atol=1e-4, rtol=1e-4)


def test_content_is_kept_where_only_the_style_changes(maps):
    mixed = MixStyle(p=1.0)(maps)
    for normalized in (maps, mixed):
        mean, deviation = style(normalized)
        normalized -= mean[..., None, None]
        normalized /= deviation[..., None, None]
    torch.testing.assert_close(mixed, maps, atol=1e-4, rtol=1e-4)


def test_evaluation_and_probability_zero_leave_the_maps_alone(maps):
    assert torch.equal(MixStyle(p=1.0).eval()(maps), maps)
    assert torch.equal(MixStyle(p=0.0)(maps), maps)


def test_it_mixes_as_often_as_asked(maps):
    torch.manual_seed(0)
    mix = MixStyle(p=0.3)
    mixed = sum(not torch.equal(mix(maps[:3]), maps[:3]) for _ in range(600))
    assert 0.2 < mixed / 600 < 0.35  # some shuffles of three are no shuffle


def test_styles_are_constants_for_the_gradient(maps):
    maps.requires_grad_()
    mixed = MixStyle(p=1.0)(maps)
    (gradient,) = torch.autograd.grad(mixed.sum(), maps)
    scale = gradient[:, :, :1, :1]
    torch.testing.assert_close(gradient, scale.expand_as(gradient))
    assert (scale > 0).all()


@pytest.mark.parametrize(
    ("name", "stages", "channels"),
    [
        ("osnet_x0_25", ["conv2", "conv3"], [64, 96]),
        ("osnet_ain_x0_25", ["pool2"], [64]),
        ("resnet18", ["layer1", "layer2"], [64, 128]),
    ],
)
def test_networks_mix_after_the_chosen_stages(name, stages, channels):
    network = getattr(models, name)(mixstyle=stages)
    assert network.state_dict().keys() == getattr(models, name)().state_dict().keys()
    calls = []
    network.mixstyle.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].shape[1]))
    network(torch.randn(4, 3, 64, 32))
    assert calls == channels


def test_unknown_stage_is_refused_with_those_that_exist():
    with pytest.raises(InputError, match=r"model\.network\.mixstyle is 'layer1': use one of conv1, maxpool, conv2"):
        models.osnet_x0_25(mixstyle=["layer1"])
