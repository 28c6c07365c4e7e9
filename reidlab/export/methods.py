"""Ways to int8, from the cheapest to the dearest; each makes a network, its ranges, and what stays float."""

import copy
from functools import cache, cached_property
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, fx, nn

from reidlab.data import Normalize, ReidDataModule
from reidlab.evaluation.embeddings import Embeddings, device_of
from reidlab.evaluation.retrieval import VALIDATION
from reidlab.export.calibration import CalibrationImages, pixels_of, unseen_images
from reidlab.export.equalize import correct_biases, equalize
from reidlab.export.finetune import finetune, relative_error
from reidlab.export.folding import deployable
from reidlab.export.parity import ClassScore, Score
from reidlab.export.ranges import Range, observe
from reidlab.export.sensitivity import sensitivity
from reidlab.export.simulate import Simulation
from reidlab.export.steps import StepNetwork, as_steps

SENSITIVITY_BATCH = 16
METHODS = ("ptq", "equalized", "mixed", "qat")


class Recipe(NamedTuple):
    """What files are written of."""

    network: StepNetwork
    ranges: dict[str, Range]
    float_steps: tuple[str, ...] = ()


class Methods:
    """The ways for one trained network, by the options of `conf/quantize`.

    - `ptq`: the weights as they are, and the ranges that calibration shows
    - `equalized`: the same of balanced layers with corrected biases
    - `mixed`: the steps that lose most alone stay float
    - `qat`: weights and ranges trained until int8 does what float did
    """

    def __init__(
        self, cfg, network: nn.Module, datamodule: ReidDataModule, images: CalibrationImages, score: Score | ClassScore
    ) -> None:
        self.cfg, self.options, self.network, self.score = cfg, cfg.quantize, network, score
        self.datamodule, self.images = datamodule, images
        self.symmetric = "onnx" in self.options.formats and self.options.symmetric_onnx  # the coarser of the grids

    @cached_property
    def plain(self) -> Recipe:
        """The trained network as it is, which float files are written of whichever way int8 goes."""
        return self._calibrated(self._graph())

    def ptq(self) -> Recipe:
        """Plain post-training quantisation."""
        return self.plain

    def equalized(self) -> Recipe:
        """Cross-layer equalisation and bias correction before."""
        graph = self._graph()
        equalize(graph)
        correct_biases(graph, self.images, self.options.per_channel)
        return self._calibrated(graph)

    def mixed(self) -> Recipe:
        """Mixed precision."""
        worst = self.costs.nlargest(self.options.mixed_steps, "lost").index
        return self.plain._replace(float_steps=tuple(worst))

    def qat(self) -> Recipe:
        """Quantisation-aware training of the plain recipe."""
        plain, options = self.plain, self.options.qat
        simulation = Simulation(plain.network, plain.ranges, self.symmetric, self.options.per_channel)
        module = copy.copy(self.datamodule)
        module.normalize = Normalize([0.0] * 3, [1.0] * 3)  # the network does that itself
        torch.manual_seed(self.cfg.seed)
        finetune(simulation, plain.network, module, options.epochs, options.lr, options.range_lr, device_of(self.cfg))
        return Recipe(simulation.network.requires_grad_(False), simulation.ranges())

    @cached_property
    def costs(self) -> pd.DataFrame:
        """What each step costs alone: `drop` in points of the main figure, and `lost`, see `relative_error`."""
        table = unseen_images(self.datamodule, self.options.sensitivity_images)

        @cache
        def main_figure(found: Tensor) -> float:
            return self.score.main_figure(Embeddings(found, table), VALIDATION)

        def figures(found: Tensor, expected: Tensor) -> dict[str, float]:
            drop = main_figure(expected) - main_figure(found)
            return {"drop": 100 * drop, "lost": float(relative_error(found, expected))}

        batches = pixels_of(self.datamodule, table, SENSITIVITY_BATCH)
        recipe = self.plain
        return sensitivity(recipe.network, recipe.ranges, batches, figures, self.symmetric, self.options.per_channel)

    def _graph(self) -> fx.GraphModule:
        return deployable(self.network, self.cfg.model.mean, self.cfg.model.std)

    def _calibrated(self, graph: fx.GraphModule) -> Recipe:
        network = as_steps(graph, self.cfg.data.size)
        return Recipe(network, observe(network.arrays, self.images, self.options.observer, self.options.percentile))
