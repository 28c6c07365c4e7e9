"""The size and cost of a network and of its blocks: shapes, parameters and multiply-accumulates."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reidlab.errors import InputError
from reidlab.models.heads import ReIdNetwork


@dataclass(frozen=True)
class Complexity:
    """The cost of a network per image, up to its embedding.

    - `parameters`: learnable values, each counted once
    - `parameters_per_use`: counted once per application, as tables that walk the calls do; differs from `parameters`
      where a module is shared, such as OSNet's gate
    - `macs`: multiply-accumulates of convolutions and linear layers, biases left out
    """

    parameters: int
    parameters_per_use: int
    macs: int


@dataclass(frozen=True)
class Block:
    """A part of a network as a picture shows it.

    - `name`: where it is, e.g. conv2.0; `kind`: its class, or the layers that it consists of
    - `shape`: of its output for one image, (C, H, W) or (D,)
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int


def complexity(network: nn.Module, size: tuple[int, int] = (256, 128)) -> Complexity:
    """Measure the network on one image of `size` (height, width), without its classifier, which deployment drops."""
    uses = macs = 0

    def count(module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        nonlocal uses, macs
        uses += sum(parameter.numel() for parameter in module.parameters(recurse=False))
        macs += _macs(module, output)

    embedder = [module for name, module in network.named_modules() if name.split(".")[0] != "classifier"]
    with _watched(embedder, count):
        _show_one_image(network, size)
    parameters = sum(p.numel() for name, p in network.named_parameters() if name.split(".")[0] != "classifier")
    return Complexity(parameters, uses, macs)


def blocks(network: ReIdNetwork, size: tuple[int, int] = (256, 128), classifier: bool = False) -> list[Block]:
    """The network block by block, in the order of computation, for one image of `size` (height, width).

    A stage that is a sequence of blocks is taken apart; what changes no shape, such as a norm, is counted with the
    block before. The classifier is left out unless asked for, so that the sums are those of `complexity`.
    """
    parts = list(_parts(network, classifier))
    shapes: list[tuple[int, ...]] = [()] * len(parts)
    macs = [0] * len(parts)
    part_of = {module: number for number, (_, part) in enumerate(parts) for module in part.modules()}

    def count(module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        macs[part_of[module]] += _macs(module, output)
        if module is parts[part_of[module]][1]:
            shapes[part_of[module]] = tuple(output.shape[1:])

    with _watched(part_of, count):
        _show_one_image(network, size)
    found: list[Block] = []
    for (name, part), shape, work in zip(parts, shapes, macs, strict=True):
        parameters = sum(p.numel() for p in part.parameters())
        if found and not work and shape == found[-1].shape:
            found[-1] = replace(found[-1], parameters=found[-1].parameters + parameters)
        else:
            found.append(Block(name, _kind(part), shape, parameters, work))
    return found


def _parts(network: ReIdNetwork, classifier: bool) -> Iterator[tuple[str, nn.Module]]:
    for stage in network.stages:
        module = getattr(network, stage)
        if isinstance(module, nn.Sequential) and all(any(child.children()) for child in module):
            yield from ((f"{stage}.{number}", child) for number, child in module.named_children())
        else:
            yield stage, module
    head = ("global_pool", "fc", "bottleneck", *(["classifier"] if classifier else []))
    for name in head:
        module = getattr(network, name, None)
        if module is not None and not isinstance(module, nn.Identity) and (name != "fc" or len(module)):
            yield name, module


def _kind(module: nn.Module) -> str:
    if not isinstance(module, nn.Sequential):
        return _layer(module) or type(module).__name__
    return " + ".join(filter(None, map(_layer, module.modules())))


def _layer(module: nn.Module) -> str:
    """The name of a layer that computes or pools; nothing for any other."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        stride = f" / {module.stride[0]}" if module.stride[0] > 1 else ""
        return f"{'depthwise' if 1 < module.groups == module.in_channels else 'conv'} {height} x {width}{stride}"
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return f"{'max' if isinstance(module, nn.MaxPool2d) else 'average'} pool / {module.stride}"
    return {nn.Linear: "linear", nn.AdaptiveAvgPool2d: "global average"}.get(type(module), "")


def _macs(module: nn.Module, output: Tensor) -> int:
    return output.numel() * module.weight[0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 0


@contextmanager
def _watched(modules: Iterable[nn.Module], hook: Callable) -> Iterator[None]:
    hooks = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def check_size(network: nn.Module, size: Sequence[int]) -> None:
    """Raise InputError where the network can't read images of a height and width: most often they are too small."""
    try:
        _show_one_image(network, size)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"data.size={list(size)}: the network can't read such images ({reason}); larger ones?"
        ) from error


def _show_one_image(network: nn.Module, size: Sequence[int]) -> None:
    """Run the network on a black image, and leave it in the mode that it was in."""
    training, reference = network.training, next(network.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size, dtype=reference.dtype, device=reference.device))
    finally:
        network.train(training)
