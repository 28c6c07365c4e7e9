"""The sensitivity of each layer: every step in turn is quantized to int8 while all others stay float."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from reidlab.export.grid import activation_grids, with_float_only
from reidlab.export.ranges import Range
from reidlab.export.simulate import fake_quantized
from reidlab.export.steps import IMAGE, StepNetwork
from reidlab.progress import bar


def sensitivity(
    network: StepNetwork,
    ranges: Mapping[str, Range],
    batches: Iterable[np.ndarray],
    figures: Callable[[Tensor, Tensor], dict[str, float]],
    symmetric: bool = False,
    per_channel: bool = True,
) -> pd.DataFrame:
    """A row for each step: its kind and the figures of the embeddings where it alone is in int8.

    Steps that no int8 file has in int8 have none. A step that reads the image reads it as int8. Only what comes after a
    step is computed again.

    Args:
        network: the float network.
        ranges: of its activations.
        batches: pixels (B, H, W, 3) float32 in [0, 1]; small ones, since all of a batch's tensors are kept.
        figures: of embeddings and float embeddings (N, D).
        symmetric: zero points of 0.
        per_channel: a scale for each output channel of the weights.
    """
    grids = activation_grids(network, ranges, symmetric)
    floats = with_float_only(network)
    tried = {step.name: position for position, step in enumerate(network.steps) if step.name not in floats}
    kept: dict[str, list[Tensor]] = {name: [] for name in tried}
    plain = []
    with torch.inference_mode():
        for batch in bar(batches, desc="each layer alone", unit="batch"):
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
            values = dict(network.tensors(pixels))
            plain.append(values[network.output].flatten(1))
            for position in tried.values():
                step = network.steps[position]
                inputs = [grids[name].round(values[name]) if name == IMAGE else values[name] for name in step.inputs]
                changed = {step.name: fake_quantized(step, inputs, grids[step.name], per_channel)}
                for later in network.steps[position + 1 :]:
                    if not changed.keys().isdisjoint(later.inputs):
                        changed[later.name] = later(*(changed.get(n, values[n]) for n in later.inputs))
                kept[step.name].append(changed.get(network.output, values[network.output]).flatten(1))
    expected = torch.cat(plain)
    rows = {
        name: {"kind": network.steps[position].kind, **figures(torch.cat(kept[name]), expected)}
        for name, position in tried.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")
