"""What each layer costs alone: every step in turn is rounded to int8 codes while all others stay float."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from reidlab.export.grid import activation_grids
from reidlab.export.ranges import Range
from reidlab.export.simulate import with_codes
from reidlab.export.steps import StepNetwork
from reidlab.progress import bar


def sensitivity(
    network: StepNetwork,
    ranges: Mapping[str, Range],
    batches: Iterable[np.ndarray],
    figures: Callable[[Tensor, Tensor], dict[str, float]],
    symmetric: bool = False,
    per_channel: bool = True,
) -> pd.DataFrame:
    """A row for each step: its kind and what `figures(embeddings, float embeddings)` says (N, D) of it.

    `batches` are pixels (B, H, W, 3) in [0, 1]; small ones, since all of a batch's tensors are kept. Only what comes
    after a step is computed again.
    """
    grids = activation_grids(network, ranges, symmetric)
    kept: dict[str, list[Tensor]] = {step.name: [] for step in network.steps}
    plain = []
    with torch.inference_mode():
        for batch in bar(batches, desc="each layer alone", unit="batch"):
            pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)
            values = dict(network.tensors(pixels))
            plain.append(values[network.output].flatten(1))
            for position, step in enumerate(network.steps):
                changed = {step.name: with_codes(step, [values[n] for n in step.inputs], grids[step.name], per_channel)}
                for later in network.steps[position + 1 :]:
                    if not changed.keys().isdisjoint(later.inputs):
                        changed[later.name] = later(*(changed.get(n, values[n]) for n in later.inputs))
                kept[step.name].append(changed.get(network.output, values[network.output]).flatten(1))
    expected = torch.cat(plain)
    rows = {step.name: {"kind": step.kind, **figures(torch.cat(kept[step.name]), expected)} for step in network.steps}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")
