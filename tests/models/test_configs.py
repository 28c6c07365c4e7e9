"""Every yaml of conf/model builds its network, with all keys that the stages read."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from reidlab.config import CONF, instantiate
from reidlab.models import ColorHistogram

NAMES = sorted(file.stem for file in (CONF / "model").glob("[!_]*.yaml"))
KEYS = {"name", "network", "weights", "mean", "std", "distance"}


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_its_network(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = compose(f"model/{name}").model
    assert set(model) == KEYS
    assert model.name == name
    assert model.weights is None
    assert model.distance == ("cosine" if any(kind in name for kind in ("ain", "resnet", "reid")) else "euclidean")
    network = instantiate(model.network, num_classes=3).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, 64, 32))
    assert output.embedding.shape == (2, network.feat_dim)
    if isinstance(network, ColorHistogram):
        assert output.logits is None
        assert (list(model.mean), list(model.std)) == ([0, 0, 0], [1, 1, 1])
    else:
        assert output.logits.shape == (2, 3)
