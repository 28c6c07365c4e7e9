"""Quantization of a trained network to int8, by methods from the cheapest to the most expensive."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, Dataset

from reidlab.console import log
from reidlab.data import ImageDataModule
from reidlab.errors import InputError
from reidlab.export import qdq, tflite
from reidlab.export.calibration import CalibrationImages, as_pixels
from reidlab.export.equalize import correct_biases, equalize
from reidlab.export.folding import deployable
from reidlab.export.ranges import OBSERVERS, Range, observe, wide_enough, with_all_pixels
from reidlab.export.sensitivity import sensitivity
from reidlab.export.simulate import QATOptions, Simulation, relative_error
from reidlab.export.steps import StepNetwork, as_steps
from reidlab.run import File

METHODS = ("ptq", "equalized", "qat", "mixed")
FORMATS = ("tflite", "onnx")
OUTPUTS = ("float32", "int8")
SENSITIVITY_BATCH = 16
RAW_PIXELS = {"color_order": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3}  # of pixels in [0, 1]: files normalize inside


def check_choices(setting: str, values: Iterable[str], allowed: Collection[str]) -> None:
    """InputError for a value of a quantization setting that doesn't exist."""
    for value in values:
        if value not in allowed:
            raise InputError(f"quantize.{setting}: there is no {value}; choose from {', '.join(allowed)}")


@dataclass(frozen=True)
class QuantizationOptions:
    """The form of int8 files and how their ranges are found; InputError for a choice that doesn't exist.

    Args:
        formats: of the files: "tflite", "onnx".
        observer: of the ranges: "typical", "minmax", "percentile" or "entropy", see `ranges.observe`.
        percentile: of the observer of that name.
        per_channel: whether weights have a scale for each output channel, or one for the whole tensor.
        output: of the .tflite: "float32", or "int8" with a scale and zero point.
        symmetric_onnx: whether the .onnx has int8 activations with zero point 0, as TensorRT requires, or uint8 ones.
        mixed_steps: how many steps `mixed` leaves in float.
        qat: the recipe of `qat`.
        names: of the .onnx's input and output.
    """

    formats: Collection[str] = FORMATS
    observer: str = "typical"
    percentile: float = 99.99
    per_channel: bool = True
    output: str = "float32"
    symmetric_onnx: bool = True
    mixed_steps: int = 8
    qat: QATOptions = field(default_factory=QATOptions)
    names: tuple[str, str] = qdq.NAMES

    def __post_init__(self) -> None:
        check_choices("formats", self.formats, FORMATS)
        check_choices("observer", [self.observer], OBSERVERS)
        check_choices("output", [self.output], OUTPUTS)

    @property
    def symmetric(self) -> bool:
        """Whether a simulation has zero points of 0: the coarser of the two formats' activations."""
        return "onnx" in self.formats and self.symmetric_onnx


class Quantized(NamedTuple):
    """A quantized network: its steps, the range of each activation, the steps left in float, and the files' content.

    Files take raw RGB pixels, the .tflite as uint8 (B, H, W, 3), the .onnx as float32 (B, 3, H, W) in [0, 1]; a float
    .tflite comes with the int8 one.
    """

    method: str
    network: StepNetwork
    ranges: dict[str, Range]
    float_steps: tuple[str, ...] = ()
    files: Mapping[File, bytes] = {}


def quantize(
    network: nn.Module,
    calibration: Iterable[np.ndarray],
    method: str = "ptq",
    *,
    mean: Sequence[float],
    std: Sequence[float],
    options: QuantizationOptions = QuantizationOptions(),
    metadata: Mapping[str, Any] | None = None,
) -> Quantized:
    """Quantize a network to int8 by one method; see `Quantizer` for several, and for other images than calibration's.

    >>> found = quantize(network, [images], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    >>> Path("model.tflite").write_bytes(found.files[File.TFLITE_INT8])

    Raises InputError for a network with an operation that has no int8 counterpart.

    Args:
        network: normalized images (B, 3, H, W) -> an output with an `embedding` (B, D).
        calibration: batches of RGB images (B, H, W, 3) uint8, on which the ranges of activations are observed.
        method: one of METHODS, see `Quantizer.quantize`.
        mean: of each channel, of pixels in [0, 1], by which the network's images are normalized.
        std: likewise.
        options: the form of the files.
        metadata: what the files say of themselves.
    """
    return Quantizer(network, calibration, mean, std, options, metadata).quantize(method)


class Quantizer:
    """Quantizes a network by one method after the other, which share its calibration and its sensitivity.

    Args:
        network: as for `quantize`, like all that isn't listed here.
        calibration: likewise.
        mean: likewise.
        std: likewise.
        options: likewise.
        metadata: likewise.
        training: images that `qat` trains on, see `finetune`; those of `calibration` by default.
        validation: batches like `calibration` that `costs` is measured on and the best epoch of `qat` chosen on; those
            of `calibration` by default.
        main_figure: of the embeddings (N, D) of `validation`, from 0 to 1; `costs` then has its drop, too.
    """

    def __init__(
        self,
        network: nn.Module,
        calibration: Iterable[np.ndarray],
        mean: Sequence[float],
        std: Sequence[float],
        options: QuantizationOptions = QuantizationOptions(),
        metadata: Mapping[str, Any] | None = None,
        training: ImageDataModule | DataLoader | None = None,
        validation: Iterable[np.ndarray] | None = None,
        main_figure: Callable[[Tensor], float] | None = None,
    ) -> None:
        self.network, self.mean, self.std, self.options = network, mean, std, options
        self.calibration = CalibrationImages(calibration)
        self.metadata = {"input_size": [*self.calibration.size], **(metadata or {}), **RAW_PIXELS}
        self.training = training
        given = [*validation] if isinstance(validation, Iterator) else validation
        self.validation = self.calibration.batches if given is None else given
        self.main_figure = main_figure

    def quantize(self, method: str = "ptq") -> Quantized:
        """Quantize by a method.

        - `ptq`: post-training quantization: weights as they are, ranges as observed
        - `equalized`: the same after cross-layer equalization and bias correction
        - `qat`: quantization-aware training of weights and ranges
        - `mixed`: mixed precision: the steps with the largest error in `costs` stay in float
        """
        check_choices("method", [method], METHODS)
        found = getattr(self, f"_{method}")()
        found = found._replace(ranges=wide_enough(found.network, found.ranges))
        return found._replace(files=self._files(found))

    @cached_property
    def costs(self) -> pd.DataFrame:
        """A row for each step, when it alone is in int8: `relative_error` of the embeddings, `drop` in points."""
        figure = self.main_figure and cache(self.main_figure)

        def figures(found: Tensor, expected: Tensor) -> dict[str, float]:
            drop = {"drop": 100 * (figure(expected) - figure(found))} if figure else {}
            return drop | {"relative_error": float(relative_error(found, expected))}

        batches = as_pixels(self.validation, SENSITIVITY_BATCH)
        symmetric, per_channel = self.options.symmetric, self.options.per_channel
        return sensitivity(self._plain.network, self._plain.ranges, batches, figures, symmetric, per_channel)

    def _ptq(self) -> Quantized:
        return self._plain

    def _equalized(self) -> Quantized:
        graph = self._graph()
        equalize(graph)
        correct_biases(graph, self.calibration, self.options.per_channel)
        return self._calibrated(graph, "equalized")

    def _mixed(self) -> Quantized:
        worst = self.costs.nlargest(self.options.mixed_steps, "relative_error").index
        return self._plain._replace(method="mixed", float_steps=tuple(worst))

    def _qat(self) -> Quantized:
        from reidlab.export.finetune import finetune  # Lightning, seconds that the other methods don't need

        plain, options = self._plain, self.options
        simulation = Simulation(plain.network, plain.ranges, options.symmetric, options.per_channel)
        training = _shuffled(self.calibration.batches) if self.training is None else self.training
        validation = [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in as_pixels(self.validation, 64)]
        epoch = finetune(simulation, plain.network, training, options.qat, validation)
        log.info(f"qat: epoch {epoch} of {options.qat.epochs} is the nearest to the float network")
        return Quantized("qat", simulation.network.requires_grad_(False), simulation.ranges())

    @cached_property
    def _plain(self) -> Quantized:
        """The trained network as it is, from which the float file is written, whatever the method."""
        return self._calibrated(self._graph(), "ptq")

    @cached_property
    def _float_tflite(self) -> bytes:
        return tflite.float_file(self._plain.network, self.metadata)

    def _graph(self) -> fx.GraphModule:
        return deployable(self.network, self.mean, self.std)

    def _calibrated(self, graph: fx.GraphModule, method: str) -> Quantized:
        network, options = as_steps(graph, self.calibration.size), self.options
        ranges = observe(network.arrays, self.calibration, options.observer, options.percentile)
        return Quantized(method, network, with_all_pixels(network, ranges))

    def _files(self, found: Quantized) -> dict[File, bytes]:
        options, (_, network, ranges, float_steps, _) = self.options, found
        files = {}
        if "tflite" in options.formats:
            files[File.TFLITE] = self._float_tflite
            files[File.TFLITE_INT8] = tflite.integer_file(
                network, ranges, self.metadata, options.per_channel, options.output, float_steps
            )
        if "onnx" in options.formats:
            files[File.ONNX_INT8] = qdq.integer_onnx(
                network, ranges, self.metadata, options.symmetric_onnx, options.per_channel, float_steps, options.names
            )
        return files


def _shuffled(batches: Iterable[np.ndarray], size: int = 32) -> DataLoader:
    """Images as training batches, in a new order each epoch; no batch of one, since the loss has its variance."""
    images = [{"image": torch.from_numpy(image).permute(2, 0, 1)} for batch in as_pixels(batches) for image in batch]
    if len(images) < 2:
        raise InputError("qat: one image is too few to train on; calibrate on more, or give images for training")
    size = min(size, len(images))
    return DataLoader(cast(Dataset, images), size, shuffle=True, drop_last=len(images) % size == 1)
