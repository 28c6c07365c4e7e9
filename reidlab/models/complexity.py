"""How large and how expensive a network is: parameters and multiply-accumulates."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Complexity:
    """What a network costs per image, up to its embedding.

    - `parameters`: learnable values, each counted once
    - `parameters_per_use`: counted once per application, as tables that walk the calls do; differs from `parameters`
      where a module is shared, such as OSNet's gate
    - `macs`: multiply-accumulates of convolutions and linear layers, biases left out
    """

    parameters: int
    parameters_per_use: int
    macs: int


def complexity(network: nn.Module, size: tuple[int, int] = (256, 128)) -> Complexity:
    """Measure the network on one image of `size` (height, width), without its classifier, which deployment drops."""
    uses = macs = 0

    def count(module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        nonlocal uses, macs
        uses += sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs += output.numel() * module.weight[0].numel()

    embedder = [module for name, module in network.named_modules() if name.split(".")[0] != "classifier"]
    hooks = [module.register_forward_hook(count) for module in embedder]
    training = network.training
    try:
        reference = next(network.parameters(), torch.empty(0))
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size, dtype=reference.dtype, device=reference.device))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    parameters = sum(p.numel() for name, p in network.named_parameters() if name.split(".")[0] != "classifier")
    return Complexity(parameters, uses, macs)
