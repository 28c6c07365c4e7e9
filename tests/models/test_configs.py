"""Every yaml of conf/model builds its network, with all keys that the stages read."""

import pytest
import torch

from reidlab.config import choices, compose, instantiate
from reidlab.metrics.closeness import Distance

KEYS = {"name", "network", "weights", "mean", "std", "distance"}


@pytest.mark.parametrize("name", choices("model"))
def test_config_builds_its_network(name):
    model = compose([f"model={name}"]).model
    assert set(model) >= KEYS and model.name == name and model.distance in Distance.__args__
    assert len(model.mean) == len(model.std) == 3
    network = instantiate(model.network, num_classes=3).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, 64, 32))
    assert output.embedding.shape == (2, network.feat_dim)
    if any(True for _ in network.parameters()):
        assert output.logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "distance"),
    [
        ("osnet_x1_0", "euclidean"),
        ("osnet_ain_x1_0", "cosine"),
        ("resnet50", "cosine"),
        ("fdmobilenet_x0_25", "euclidean"),
    ],
)
def test_published_figures_are_for_this_distance(name, distance):
    assert compose([f"model={name}"]).model.distance == distance


def test_the_histogram_takes_pixels_as_they_are():
    model = compose(["model=color_histogram"]).model
    assert (list(model.mean), list(model.std)) == ([0, 0, 0], [1, 1, 1])
