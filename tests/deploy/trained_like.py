"""OSNet as the project converts it to an int8 .tflite, with batch norms as training leaves them."""

import numpy as np
import torch

from reidlab.export import tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps


def soft_images(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Blocks of colour under noise, uint8 (N, H, W, 3); the first are black and white."""
    random = np.random.default_rng(seed)
    blocks = random.random((count, size[0] // 16, size[1] // 16, 3)).repeat(16, 1).repeat(16, 2)
    noise = random.random((count, *size, 3)) * random.random((count, 1, 1, 1))
    images = (255 * (0.6 * blocks + 0.4 * noise)).astype(np.uint8)
    images[0], images[1:2] = 0, 255
    return images


def int8_tflite(network: torch.nn.Module, size: tuple[int, int], mean=(0, 0, 0), std=(1, 1, 1)) -> bytes:
    """The network's int8 .tflite: uint8 pixels in, float32 embedding out."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.6, 1.4, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    images = soft_images(16, size).astype(np.float32) / 255
    normalized = (torch.from_numpy(images) - torch.tensor(mean)) / torch.tensor(std)
    network.train()
    with torch.no_grad():
        for _ in range(10):
            network(normalized.permute(0, 3, 1, 2))
    steps = as_steps(deployable(network.eval(), mean, std), size)
    return tflite.integer_file(steps, observe(steps.arrays, [images], "minmax"), {"model": "osnet"})
