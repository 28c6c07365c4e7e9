import numpy as np
import pytest
import torch
from small_net import MEAN, SIZE, STD, SmallNet, unsettle

from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps


@pytest.fixture(scope="session")
def network():
    torch.manual_seed(0)
    return unsettle(SmallNet())


@pytest.fixture(scope="session")
def images():
    """Raw pixels (12, H, W, 3): soft random patterns, a black and a white image among them."""
    coarse = np.random.default_rng(0).random((12, 8, 4, 3)).repeat(4, 1).repeat(4, 2)
    coarse[3], coarse[7] = 0, 1
    return (coarse * 255).round().astype(np.uint8)


@pytest.fixture(scope="session")
def expected(network, images):
    """Embeddings of the images by the network itself, normalized by MEAN and STD."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return network((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)).embedding.numpy()


@pytest.fixture(scope="session")
def graph(network):
    return deployable(network, MEAN, STD)


@pytest.fixture(scope="session")
def steps(graph):
    return as_steps(graph, SIZE)


@pytest.fixture(scope="session")
def ranges(steps, images):
    return observe(steps.arrays, [images.astype(np.float32) / 255], "minmax")
