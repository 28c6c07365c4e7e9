"""Networks as Keras models of plain layers, that Keras and ST's model zoo services go on training."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from reidlab.errors import InputError
from reidlab.export.quiet import quiet
from reidlab.models import Confidences
from reidlab.models.keras_files import ends_of_same
from reidlab.models.layers import WEIGHTED, Layer, trace

NO_PADS = (0, 0, 0, 0)


def keras_file(network: nn.Module, size: Sequence[int], name: str, tolerance: float = 1e-4) -> tuple[bytes, float]:
    """A network as a .keras of normalized images (B, H, W, 3), and its largest difference to the network.

    A Functional model, all of it trainable: to the embedding, or to class confidences by a dense layer with a softmax.

    Args:
        network: in evaluation mode; `Confidences` for class confidences.
        size: height and width of the images.
        name: of the model.
        tolerance: InputError where Keras's outputs differ by more, in parts of their largest value if that is over 1.
    """
    with quiet():
        try:
            import keras
        except ImportError as error:
            raise InputError("a Keras file takes Keras and TensorFlow; pip install 'reidlab[keras]'") from error
        network = network.cpu().eval()
        model = _Writer(keras, size).model(network, "".join(c if c.isalnum() or c in "_-." else "_" for c in name))
        images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = network(images).embedding.numpy()
        found = np.asarray(model(images.permute(0, 2, 3, 1).numpy(), training=False))
        difference = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
        if not difference <= tolerance:
            raise InputError(
                f"{name}: the Keras file differs from the checkpoint by {difference:.1e}, more than "
                f"export.tolerance={tolerance}; nothing was written"
            )
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.keras")
            return (Path(folder) / "model.keras").read_bytes(), difference


def rescaling(mean: Sequence[float], std: Sequence[float]) -> str:
    """The `preprocessing.rescaling` of ST's services that normalizes as a network here was trained."""
    scales = [1 / (255 * deviation) for deviation in std]
    offsets = [-average / deviation for average, deviation in zip(mean, std, strict=True)]
    if len({*scales}) > 1 or len({*offsets}) > 1:
        return "none fits: ST's has one scale for all channels; train with equal model.mean and equal model.std"
    return f"{{scale: {scales[0]:.8g}, offset: {offsets[0] + 0.0:.8g}}}"


class _Writer:
    """Builds a Keras model from the layers that a network's output comes from, each once."""

    def __init__(self, keras: Any, size: Sequence[int]) -> None:
        self.keras, self.made = keras, dict[str, Any]()
        self.image = keras.Input((*size, 3), name="image")

    def model(self, network: nn.Module, name: str) -> Any:
        """The Functional model."""
        classifies = isinstance(network, Confidences)
        embedding, logits = trace(network.network if isinstance(network, Confidences) else network)
        root = logits if classifies and logits is not None else embedding
        order = _in_order(root)
        maps = {source for layer in order if isinstance(layer.module, nn.Conv2d) for source in layer.inputs}
        values: dict[Layer, Any] = {}
        for layer in order:
            values[layer] = self._write(layer, [values[source] for source in layer.inputs], layer in maps)
        output = self.keras.layers.Softmax(name="softmax")(values[root]) if classifies else values[root]
        model = self.keras.Model(self.image, output, name=name)
        for layer in order:
            if layer.kind in WEIGHTED:
                self.made[layer.name].set_weights(_weights(layer.module))
        return model

    def _write(self, layer: Layer, given: list[Any], is_map: bool) -> Any:
        """The value of a layer; `is_map` where a convolution reads it."""
        layers, kind = self.keras.layers, layer.kind
        if kind == "image":
            return self.image
        if kind in ("conv", "max_pool", "average_pool"):
            return self._moving(layer, given[0])
        if kind == "norm":
            norm = layer.module
            options = {"epsilon": norm.eps, "momentum": 1 - norm.momentum}
            return self._once(layer, lambda name: layers.BatchNormalization(name=name, **options))(given[0])
        made = {
            "mean": lambda: layers.GlobalAveragePooling2D(keepdims=is_map),
            "relu": layers.ReLU,
            "relu6": lambda: layers.ReLU(max_value=6),
            "sigmoid": lambda: layers.Activation("sigmoid"),
            "add": layers.Add,
            "mul": layers.Multiply,
        }.get(kind)
        if made is None:
            raise InputError(f"{layer.name or kind}: has no Keras form; choose a network of plain layers")
        return made()(given if len(given) > 1 else given[0])

    def _moving(self, layer: Layer, given: Any) -> Any:
        """A layer that moves a window over maps, or a dense one."""
        layers, module, options = self.keras.layers, layer.module, layer.options
        if isinstance(module, nn.Linear):
            units, bias = module.out_features, module.bias is not None
            return self._once(layer, lambda name: layers.Dense(units, use_bias=bias, name=name))(given)
        left, right, top, bottom = options["pads"]
        dilation = options.get("dilation", (1, 1))
        lengths = [(taps - 1) * apart + 1 for taps, apart in zip(options["kernel"], dilation, strict=True)]
        same = [ends_of_same(*given) for given in zip(given.shape[1:3], lengths, options["stride"], strict=True)]
        is_same = ((top, bottom), (left, right)) == tuple(same)
        if not is_same and options["pads"] != NO_PADS:
            if layer.kind != "conv" and layer.inputs[0].kind not in ("relu", "relu6"):
                raise InputError(f"{layer.name}: pools padded maps that may be negative, which has no Keras form")
            given = layers.ZeroPadding2D(((top, bottom), (left, right)))(given)
        window = {"strides": options["stride"], "padding": "same" if is_same else "valid"}
        if layer.kind != "conv":
            pool = layers.MaxPooling2D if layer.kind == "max_pool" else layers.AveragePooling2D
            return pool(options["kernel"], **window)(given)
        window |= {"dilation_rate": dilation, "use_bias": module.bias is not None}
        if options["depthwise"]:
            make = lambda name: layers.DepthwiseConv2D(options["kernel"], name=name, **window)  # noqa: E731
        else:
            make = lambda name: layers.Conv2D(len(module.weight), options["kernel"], name=name, **window)  # noqa: E731
        return self._once(layer, make)(given)

    def _once(self, layer: Layer, make: Any) -> Any:
        """The Keras layer of a name, made when it is called first."""
        if layer.name not in self.made:
            self.made[layer.name] = make(layer.name.replace(".", "_"))
        return self.made[layer.name]


def _in_order(root: Layer) -> list[Layer]:
    """All layers that a layer depends on, and itself, each behind its inputs."""
    order: dict[Layer, None] = {}
    waiting = [(root, False)]
    while waiting:
        layer, ready = waiting.pop()
        if ready:
            order[layer] = None
        elif layer not in order:
            waiting += [(layer, True), *((source, False) for source in reversed(layer.inputs))]
    return [*order]


def _weights(module: Any) -> list[np.ndarray]:
    """A layer's variables as Keras arranges them."""
    found: list[Any]
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        found = [module.weight, module.bias, module.running_mean, module.running_var]
    else:
        is_linear, is_depthwise = isinstance(module, nn.Linear), getattr(module, "groups", 1) > 1
        order = (1, 0) if is_linear else (2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0)
        found = [module.weight.permute(order), *([] if module.bias is None else [module.bias])]
    return [tensor.detach().numpy() for tensor in found]
