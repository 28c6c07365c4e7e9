"""Inside an omni-scale network: receptive fields of its streams, its gates, and the kernels of its layers.

Each picture comes with its table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from reidlab import plots
from reidlab.data import ReidDataModule, blur_head
from reidlab.errors import InputError
from reidlab.models import complexity
from reidlab.models.osnet import OmniScaleBlock, OSNet
from reidlab.plots import Drawn

STREAMS = ("1 layer", "2 layers", "3 layers", "4 layers")
SHOWN = 13  # cells of a block's map around its middle


@dataclass(frozen=True)
class Activations:
    """Activations of an omni-scale block, one stream after the other."""

    inputs: list[Tensor] = field(default_factory=list)  # (B, C, h, w), one for all streams
    outputs: list[Tensor] = field(default_factory=list)  # (B, C, h, w)
    gates: list[Tensor] = field(default_factory=list)  # (B, C)


@dataclass(frozen=True)
class Pass:
    """A forward pass: images (B, H, W, 3) uint8, the input (B, 3, H, W) made of them, and each block's activations."""

    images: np.ndarray
    input: Tensor
    blocks: dict[str, Activations]

    def gates(self, block: str) -> np.ndarray:
        """(streams, B, C)."""
        return torch.stack(self.blocks[block].gates).detach().numpy()


def watch(network: nn.Module, datamodule: ReidDataModule, table: pd.DataFrame) -> Pass:
    """Send the images of a sample table through a network; InputError where it has no omni-scale blocks."""
    modules = {name: module for name, module in network.named_modules() if isinstance(module, OmniScaleBlock)}
    if not modules:
        raise InputError(f"{type(network).__name__} has no omni-scale blocks; take model=osnet_x0_25, or another OSNet")
    batch = next(iter(datamodule.loader(table)))
    images = batch["image"].permute(0, 2, 3, 1).numpy()
    images = np.stack([*map(blur_head, images)]) if datamodule.blur_heads else images
    seen = Pass(
        images, datamodule.preprocess(batch)["image"].requires_grad_(), {name: Activations() for name in modules}
    )
    hooks = [hook for name, module in modules.items() for hook in _listen(module, seen.blocks[name])]
    try:
        network.cpu().eval()(seen.input)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def sensitivity(output: Tensor, source: Tensor) -> np.ndarray:
    """Sensitivity of the output's middle to each place of its source, mean over images and channels. (H, W)"""
    height, width = output.shape[-2:]
    (gradient,) = torch.autograd.grad(output[..., height // 2, width // 2].sum(), source, retain_graph=True)
    return gradient.abs().mean((0, 1)).numpy()


def windows(seen: Pass, block: str) -> Drawn:
    """Draw the receptive field of each stream of a block on the block's own input, around the middle."""
    found = seen.blocks[block]
    maps = {name: sensitivity(output, found.inputs[0]) for name, output in zip(STREAMS, found.outputs, strict=True)}
    sizes = {name: (_span(values, 0), _span(values, 1)) for name, values in maps.items()}
    table = pd.DataFrame.from_dict(sizes, "index", columns=["height", "width"]).rename_axis("stream")
    captions = [f"{name}: {height} x {width}" for name, (height, width) in sizes.items()]
    return Drawn(plots.windows([_middle(values) for values in maps.values()], captions), table)


def receptive_fields(seen: Pass, image: int = 0) -> Drawn:
    """Draw the receptive field of each stream of each block on an image, and the rows that hold half of it."""
    rows, heights = [], pd.DataFrame(index=pd.Index(STREAMS, name="stream"), columns=list(seen.blocks), dtype=int)
    for number, stream in enumerate(STREAMS):
        tiles = []
        for name, block in seen.blocks.items():
            values = sensitivity(block.outputs[number], seen.input)
            heights.loc[stream, name] = half = _half(values)
            tiles.append(plots.Tile(plots.overlay(seen.images[image], values), f"{name}: {half} px"))
        rows.append(plots.TileRow(tiles, label=stream))
    return Drawn(plots.tile_sheet(rows, tile_width=0.9), heights.astype(int))


def favorites(seen: Pass) -> Drawn:
    """Draw, for each block, the share of channels whose gate is highest for each stream, over all images.

    `spread` is the mean difference between a channel's highest and lowest gate, 0 where the gates of all streams are
    equal; `changing` the share of channels whose highest gate belongs to different streams on different images.
    """
    values = {name: seen.gates(name) for name in seen.blocks}
    table = pd.DataFrame({name: _shares(v) for name, v in values.items()}, index=STREAMS).T.rename_axis("block")
    figure = plots.shares(table, "share of channels whose gate is highest for this stream")
    spread = {name: float(np.ptp(v, axis=0).mean()) for name, v in values.items()}
    changing = {name: float((v.argmax(0) != v.argmax(0)[0]).any(0).mean()) for name, v in values.items()}
    return Drawn(figure, table.assign(spread=pd.Series(spread), changing=pd.Series(changing)))


def gates(seen: Pass, block: str, count: int = 5) -> Drawn:
    """Draw a block's gates for some images, and the share of channels whose gate is highest for each stream."""
    values = seen.gates(block)[:, :count]
    usual = values.mean(1)
    order = np.lexsort((-usual.max(0), usual.argmax(0)))
    table = pd.DataFrame([_shares(values[:, image]) for image in range(values.shape[1])], columns=STREAMS)
    figure = plots.gate_weights(list(seen.images[:count]), values[..., order], STREAMS)
    return Drawn(figure, table.rename_axis("image"))


def convolutions(networks: Mapping[str, OSNet], size: tuple[int, int]) -> Drawn:
    """Compare networks that differ in the convolutions of their streams: cost, time, and the ranks of their kernels.

    The picture has the 3x3 kernels equivalent to the first layer of each. Their ranks count spatial patterns: how many
    an output channel combines, and how many an input channel is filtered by (9 is the most).
    """
    kernels = {name: kernel(cast(OmniScaleBlock, network.conv2[0]).streams[0]) for name, network in networks.items()}
    rows = {}
    for name, network in networks.items():
        cost, values = complexity(network, size), kernels[name].reshape(*kernels[name].shape[:2], -1)
        ranks = [int(np.linalg.matrix_rank(v).max()) for v in (values, values.transpose(1, 0, 2))]
        rows[name] = [cost.parameters, cost.macs / 1e6, latency_ms(network, size), *ranks]
    columns = ["parameters", "MMACs", "ms", "rank of an output", "rank of an input"]
    return Drawn(plots.kernel_patterns(kernels), pd.DataFrame.from_dict(rows, "index", columns=columns))


def kernel(layer: nn.Module) -> np.ndarray:
    """The 3x3 kernel (out, in, 3, 3) equivalent to a stream's layer, by its response to impulses."""
    maps = torch.eye(next(layer.parameters()).shape[0])[:, :, None, None]
    maps = nn.functional.pad(maps, (2, 2, 2, 2))  # (in, in, 5, 5)
    with torch.no_grad():
        for module in layer.modules():
            maps = module(maps) if isinstance(module, nn.Conv2d) else maps
    return maps[:, :, 1:-1, 1:-1].flip(2, 3).transpose(0, 1).numpy()


def latency_ms(network: nn.Module, size: tuple[int, int]) -> float:
    """Median time of one image on this CPU with PyTorch's threads as they are set."""
    images = torch.zeros(1, 3, *size)
    with torch.inference_mode():
        timer = Timer("network(images)", globals={"network": network.eval(), "images": images},
                      num_threads=torch.get_num_threads())  # fmt: skip
        return 1000 * timer.blocked_autorange(min_run_time=0.5).median


def _listen(module: OmniScaleBlock, block: Activations) -> list:
    """Hooks that keep the activations of a block."""
    return [
        module.conv1.register_forward_hook(lambda _, before, after: block.inputs.append(after)),
        module.gate.register_forward_hook(lambda _, before, after: block.outputs.append(before[0])),
        module.gate.fc2.register_forward_hook(lambda _, before, after: block.gates.append(after.sigmoid().flatten(1))),
    ]


def _shares(gates: np.ndarray) -> np.ndarray:
    """Gates (streams, ..., C) -> each stream's share of the highest ones, equals divided. (streams,)"""
    highest = gates == gates.max(0)
    return (highest / highest.sum(0)).reshape(len(gates), -1).mean(1)


def _span(values: np.ndarray, axis: int) -> int:
    """Extent of a map from the first to the last row (axis 0) or column that isn't 0."""
    inhabited = np.flatnonzero(values.any(1 - axis))
    return int(inhabited[-1] - inhabited[0] + 1) if len(inhabited) else 0


def _half(values: np.ndarray) -> int:
    """The rows in the middle of a map (H, W) that hold half of its sum."""
    held = values.sum(1).cumsum() / values.sum()
    low, high = held.searchsorted([0.25, 0.75])
    return int(high - low + 1)


def _middle(values: np.ndarray) -> np.ndarray:
    """The cells of a map around its middle."""
    height, width = (length // 2 for length in values.shape)
    reach = min(SHOWN // 2, height, width)
    return values[height - reach : height + reach + 1, width - reach : width + reach + 1]
