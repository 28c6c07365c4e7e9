"""Read Keras model files, `.keras` and `.h5`, as data: layers and weights, without Keras or code of theirs."""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reidlab.errors import InputError
from reidlab.files import read_bytes
from reidlab.models.layers import Layer, Pairing, behind_pad, linear, trace, window
from reidlab.untrusted import parse_json, printable

SUFFIXES = (".keras", ".h5", ".hdf5")
MAX_FILE = 1 << 30
MAX_LAYERS = 4000
MAX_READS = 4 * MAX_LAYERS  # calls of layers, and what these read
MEMBERS = ("config.json", "model.weights.h5")  # of a .keras file
# Each variable of a layer with weights, in the order of .keras files, whose groups have the snake-case names here
VARIABLES = {
    "Conv2D": ("conv2d", ("kernel", "bias")),
    "DepthwiseConv2D": ("depthwise_conv2d", ("kernel", "bias")),
    "Dense": ("dense", ("kernel", "bias")),
    "BatchNormalization": ("batch_normalization", ("gamma", "beta", "moving_mean", "moving_variance")),
}
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
NONE = (0, 0, 0, 0)


def is_keras(file: str | Path) -> bool:
    """Whether a file is a Keras model by its name."""
    return Path(file).suffix.lower() in SUFFIXES


def read_for(network: nn.Module, file: Path) -> dict[str, Tensor]:
    """The weights of a Keras file by the names that they have in a network of the same layers.

    Its layers are paired with the network's from the output back to the image; each must have the same kind, kernel,
    stride and padding. A classifier that only the file has is `classifier.weight` and `classifier.bias`.
    """
    model = KerasFile(file)
    embedding, logits = trace(network)
    output = model.scores
    tries = [(mine, output) for mine in (logits, embedding) if mine is not None]
    if output.kind == "conv":
        tries.append((embedding, output.inputs[0]))
    pairing = Pairing()
    found = next(((mine, theirs) for mine, theirs in tries if pairing.fits(mine, theirs)), None)
    if found is None:
        raise InputError(f"{file}: doesn't fit this network: {_difference(pairing)}")
    pairs = pairing.pairs(*found)
    if found == (embedding, output.inputs[0] if output.inputs else None):
        pairs["classifier"] = output
    modules = dict(network.named_modules())
    weights: dict[str, Tensor] = {}
    for name, layer in pairs.items():
        tensors = model.tensors(layer)
        if layer.kind == "norm":  # its eps is the network's own; the rest of the file's goes into the variance
            tensors["running_var"] = tensors["running_var"] + (layer.module["epsilon"] - modules[name].eps)
        weights |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
    return weights


def count_classes(file: Path) -> int:
    """The number of scores of a Keras file's classifier; 0 where it ends with an embedding."""
    model = KerasFile(file)
    return len(model.tensors(model.scores)["weight"]) if model.scores.kind == "conv" else 0


def _difference(pairing: Pairing) -> str:
    mine, theirs = pairing.difference or (None, None)
    if mine is None or theirs is None:
        return "another architecture"
    text = f"{theirs} in the file{f' ({theirs.name})' if theirs.name else ''}, here {mine}"
    differing = {key for key in mine.options if mine.options[key] != theirs.options.get(key)}
    same_kind = mine.kind == theirs.kind and differing == {"pads"}
    return f"{text}; set model.network.padding=tensorflow" if same_kind and mine.options["pads"] != NONE else text


class KerasFile:
    """A Keras model with one image as its input; `scores` is its last layer before the softmax.

    Raises InputError in one line for a file that is damaged, holds code, links to other files, unpacks to much more
    than its size, or has a layer that is none of `LAYERS`.

    Args:
        file: `.keras`, or `.h5` with the whole model.
    """

    def __init__(self, file: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise InputError(f"{file}: reading it takes h5py; pip install 'reidlab[keras]'") from error
        self.file, content = file, read_bytes(file, MAX_FILE)
        self._budget = 4 * len(content)  # bytes of weights
        with self._refusing_damage():
            if zipfile.is_zipfile(io.BytesIO(content)):
                config, content = self._unzip(content)
                self._weights = h5py.File(io.BytesIO(content), "r")
                self._groups = _groups_of(config)
            else:
                self._weights = h5py.File(io.BytesIO(content), "r")
                config, self._groups = self._stored_config(), {}
            self.scores = _Reader(config).output
            while self.scores.kind in ("softmax", "sigmoid") and self.scores.inputs:
                self.scores = self.scores.inputs[0]

    def tensors(self, layer: Layer) -> dict[str, Tensor]:
        """The weights of a layer as torch arranges them, by torch's names."""
        with self._refusing_damage():
            arrays = dict(self._arrays(layer))
            if layer.kind == "norm":
                size = len(arrays["moving_mean"])
                arrays = {"gamma": np.ones(size, np.float32), "beta": np.zeros(size, np.float32)} | arrays
                return {NORM[name]: torch.from_numpy(values) for name, values in arrays.items()}
            kernel = arrays["kernel"]
            order = (2, 3, 0, 1) if layer.options["depthwise"] else (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            found = {"weight": torch.from_numpy(np.ascontiguousarray(kernel.transpose(order)))}
            return found | ({"bias": torch.from_numpy(arrays["bias"])} if "bias" in arrays else {})

    def _arrays(self, layer: Layer) -> Iterator[tuple[str, np.ndarray]]:
        """The variables of a layer by Keras's names."""
        config = layer.module
        _, names = VARIABLES[config["class"]]
        present = {"gamma": "scale", "beta": "center", "bias": "use_bias"}
        present_names = [name for name in names if config.get(present.get(name), True)]
        if self._groups:
            for number, name in enumerate(present_names):
                yield name, self._array(f"{self._groups[layer.name]}/vars/{number}")
            return
        group = f"model_weights/{layer.name}"
        paths = [_text(path) for path in self._node(group).attrs["weight_names"]]
        stored = {path.split("/")[-1].split(":")[0].removeprefix("depthwise_"): path for path in paths}
        for name in present_names:
            yield name, self._array(f"{group}/{stored[name]}")

    def _array(self, path: str) -> np.ndarray:
        """A dataset of numbers that lies in the file itself."""
        import h5py

        data = self._node(path)
        if not isinstance(data, h5py.Dataset) or data.dtype.kind != "f" or data.external or data.is_virtual:
            raise ValueError(f"{path} isn't a plain array of numbers")
        self._budget -= data.nbytes
        if self._budget < 0:
            raise ValueError("its weights are larger than the file")
        values = np.asarray(data[()], np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{path} holds values that aren't finite")
        return values

    def _node(self, path: str) -> Any:
        """A group or dataset of the file, reached by hard links alone: others may lead to other files."""
        import h5py

        node = self._weights
        for part in path.split("/"):
            if not isinstance(node, h5py.Group) or not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise ValueError(f"has no {path}")
            node = node[part]
        return node

    def _stored_config(self) -> dict[str, Any]:
        if "model_config" not in self._weights.attrs:
            raise ValueError("holds weights alone; save the whole model, with model.save(FILE)")
        return parse_json(_text(self._weights.attrs["model_config"]))

    def _unzip(self, content: bytes) -> tuple[dict[str, Any], bytes]:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if missing := [name for name in MEMBERS if name not in sizes]:
                raise ValueError(f"is a zip without {missing[0]}")
            if sum(sizes.values()) > self._budget:
                raise ValueError(f"unpacks to {sum(sizes.values()):,} bytes, of {len(content):,}")
            config, weights = (archive.read(name) for name in MEMBERS)
        return parse_json(config), weights

    def _refusing_damage(self) -> "_Refusing":
        return _Refusing(self.file)


class _Refusing:
    """Any error of the readers within it becomes one line of an InputError that names the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            reason = printable(" ".join(str(error).split()))[:300]
            raise InputError(f"{self.file}: can't be used as a Keras model: {reason}") from error
        if isinstance(error, Exception) and not isinstance(error, InputError):  # arbitrary bytes fail in arbitrary ways
            raise InputError(
                f"{self.file}: can't be read as a Keras model, it is damaged or something else ({type(error).__name__})"
            ) from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _layers_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    layers = config["config"]["layers"]
    if len(layers) > MAX_LAYERS:
        raise ValueError(f"has {len(layers)} layers, more than {MAX_LAYERS}")
    return layers


def _groups_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Where a .keras file has the weights of each layer: numbered by class, in the order of the layers."""
    counts: Counter[str] = Counter()
    places = {}
    for layer in _layers_of(config):
        if layer["class_name"] in VARIABLES:
            group, _ = VARIABLES[layer["class_name"]]
            number = counts[group]
            places[layer["config"]["name"]] = f"layers/{group}_{number}" if number else f"layers/{group}"
            counts[group] += 1
    return places


class _Reader:
    """Builds `Layer`s from a model's config, each call of a layer when all its inputs are known; see `output`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        if config.get("class_name") not in ("Functional", "Model", "Sequential"):
            raise ValueError(f"is a {config.get('class_name')}; save a Functional or Sequential model")
        self.known: dict[tuple[str, int], Layer] = {}
        self.sizes: dict[Layer, tuple[int, int] | None] = {}  # (H, W) of each one's maps, where known
        waiting, reads = [], 0
        for call in self._calls(config):
            waiting.append(call)
            reads += 1 + len(call[3])
            if reads > MAX_READS:
                raise ValueError(f"calls its layers more than {MAX_READS} times")
        while waiting:
            later = []
            for name, number, layer, refs in waiting:
                if all(ref in self.known for ref in refs):
                    self.known[name, number] = self._read(layer, [self.known[ref] for ref in refs])
                else:
                    later.append((name, number, layer, refs))
            if len(later) == len(waiting):
                raise ValueError(f"{waiting[0][0]} reads what no layer makes")
            waiting = later
        self.output = self.known[self.last]

    def _calls(self, config: Mapping[str, Any]) -> Iterator[tuple[str, int, dict, list[tuple[str, int]]]]:
        """Name of a layer, number of the call, the layer, and the calls that it reads."""
        layers = _layers_of(config)
        if config["class_name"] == "Sequential":
            before: list[tuple[str, int]] = []
            if layers[0]["class_name"] != "InputLayer":
                shape = layers[0]["config"].get("batch_input_shape") or [None] * 4
                first = {"class_name": "InputLayer", "config": {"name": "(image)", "batch_shape": shape}}
                layers = [first, *layers]
            for layer in layers:
                name = layer["config"]["name"]
                yield name, 0, layer, before
                before = [(name, 0)]
            self.last = before[0]
            return
        inputs, outputs = (list(_refs(config["config"][key])) for key in ("input_layers", "output_layers"))
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"has {len(inputs)} inputs and {len(outputs)} outputs; save a model with one of each")
        self.last = outputs[0]
        for layer in layers:
            for number, node in enumerate(layer["inbound_nodes"] or [[]]):
                yield layer["config"]["name"], number, layer, list(_refs(node))

    def _read(self, layer: Mapping[str, Any], inputs: list[Layer]) -> Layer:
        kind, config = layer["class_name"], layer["config"]
        name = str(config["name"])
        if kind == "Lambda":
            raise ValueError(f"the Lambda layer {name} holds code, which isn't run; replace it by plain layers")
        if kind not in LAYERS:
            raise ValueError(f"{name} is a {kind}, which no network here has; there are {', '.join(sorted(LAYERS))}")
        if config.get("data_format", "channels_last") != "channels_last":
            raise ValueError(f"{name} has channels first; save the model with channels_last")
        size = self.sizes[inputs[0]] if inputs else None
        made, size = LAYERS[kind](name, config | {"class": kind}, inputs, size)
        self.sizes[made] = size
        activation = config.get("activation", "linear")
        if kind not in ("Activation",) and activation != "linear":
            made = _activation(name, config, [made], size)[0]
            self.sizes[made] = size
        return made


def _refs(node: Any) -> Iterator[tuple[str, int]]:
    """The calls (layer, number) that a node of a config names, in their order, in Keras 2's or 3's form."""
    if isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            name, number, _ = node["config"]["keras_history"]
            yield str(name), int(number)
            return
        node = list(node.values())
    if isinstance(node, Sequence) and not isinstance(node, str):
        if len(node) >= 3 and isinstance(node[0], str) and all(isinstance(n, int) for n in node[1:3]):
            yield node[0], node[1]
            node = node[3:]
        for child in node:
            yield from _refs(child)


Size = tuple[int, int] | None
Read = Callable[[str, dict, list[Layer], Size], tuple[Layer, Size]]


def _image(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    shape = config.get("batch_shape") or config.get("batch_input_shape") or [None] * 4
    if len(shape) != 4 or shape[3] not in (3, None):
        raise ValueError(f"its input is {shape}, expected RGB images")
    return Layer("image", name), (shape[1], shape[2]) if shape[1] and shape[2] else None


def _moving(kind: str) -> Read:
    """A layer that moves a window over maps."""

    def read(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
        kernel = tuple(config.get("kernel_size") or config["pool_size"])
        stride = tuple(config["strides"] or kernel)
        dilation = tuple(config.get("dilation_rate", (1, 1)))
        if config.get("groups", 1) != 1 or config.get("depth_multiplier", 1) != 1:
            raise ValueError(f"{name} has groups or a depth multiplier, which no network here has")
        if kind != "conv" and inputs[0].kind == "pad" and inputs[0].inputs[0].kind not in ("relu", "relu6"):
            raise ValueError(f"{name} pools padded maps that may be negative")
        given, pads = inputs, NONE
        if config["padding"] == "same":
            lengths = [(taps - 1) * apart + 1 for taps, apart in zip(kernel, dilation, strict=True)]
            sides = zip(size or (None, None), lengths, stride, strict=True)
            (top, bottom), (left, right) = (ends_of_same(*each) for each in sides)
            pads = (left, right, top, bottom)
        given, around = behind_pad(given, pads)
        options = window(kernel, stride, around)
        if kind == "conv":
            options |= {"dilation": dilation, "depthwise": config["class"] == "DepthwiseConv2D"}
        if size is not None:
            own = pads if config["padding"] == "same" else NONE
            ends = (own[2] + own[3], own[0] + own[1])
            size = tuple((side + end - (taps - 1) * apart - 1) // step + 1 for side, end, taps, apart, step in
                         zip(size, ends, kernel, dilation, stride, strict=True))  # fmt: skip
        return Layer(kind, name, given, options, config if kind == "conv" else None), size

    return read


def ends_of_same(side: int | None, taps: int, step: int) -> tuple[int, int]:
    """Zeros that `same` adds before and behind maps of a side; if it isn't known, those of a multiple of the stride."""
    total = max(taps - step if side is None else (-(-side // step) - 1) * step + taps - side, 0)
    return total // 2, total - total // 2


def _pad(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    (top, bottom), (left, right) = config["padding"]
    size = None if size is None else (size[0] + top + bottom, size[1] + left + right)
    return Layer("pad", name, inputs, {"pads": (left, right, top, bottom)}), size


def _norm(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    axis = config["axis"]
    if (axis[0] if isinstance(axis, list) else axis) not in (-1, 1 if size == (1, 1) else 3):
        raise ValueError(f"{name} normalizes the axis {axis}, expected channels")
    epsilon = config.get("epsilon", 1e-3)  # Keras's own
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise ValueError(f"{name} has the epsilon {json.dumps(epsilon)[:40]}, expected a number below 1")
    return Layer("norm", name, inputs, module=config | {"epsilon": epsilon}), size


def _activation(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    kind = config["activation"]
    if kind == "linear":
        return inputs[0], size
    if kind not in ("relu", "relu6", "sigmoid", "softmax"):
        raise ValueError(f"{name} has the activation {json.dumps(kind)[:40]}, which no network here has")
    return Layer(kind, name, inputs), size


def _relu(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    most = config.get("max_value")
    if most not in (None, 6) or config.get("negative_slope") or config.get("threshold"):
        raise ValueError(f"{name} is a ReLU that no network here has")
    return Layer("relu" if most is None else "relu6", name, inputs), size


def _flat(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    if size != (1, 1):
        raise ValueError(f"{name} flattens feature maps; networks here pool them")
    return inputs[0], size


def _dense(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    return linear(name, [_flat(name, config, inputs, size)[0]], config), (1, 1)


def _folded(kind: str) -> Read:
    """An operation of two or more, as many of two."""

    def read(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
        made = inputs[0]
        for other in inputs[1:]:
            made = Layer(kind, name, [made, other])
        return made, size

    return read


def _operator(name: str, config: dict, inputs: list[Layer], size: Size) -> tuple[Layer, Size]:
    kind = {"add": "add", "multiply": "mul"}.get(str(config["function"]).split(".")[-1])
    if kind is None or len(inputs) != 2:
        raise ValueError(f"{name} is the operation {config['function']}, which no network here has")
    return Layer(kind, name, inputs), size


LAYERS: dict[str, Read] = {
    "InputLayer": _image,
    "Conv2D": _moving("conv"),
    "DepthwiseConv2D": _moving("conv"),
    "Dense": _dense,
    "BatchNormalization": _norm,
    "Activation": _activation,
    "ReLU": _relu,
    "Softmax": lambda name, config, inputs, size: (Layer("softmax", name, inputs), size),
    "ZeroPadding2D": _pad,
    "MaxPooling2D": _moving("max_pool"),
    "AveragePooling2D": _moving("average_pool"),
    "GlobalAveragePooling2D": lambda name, config, inputs, size: (Layer("mean", name, inputs), (1, 1)),
    "Add": _folded("add"),
    "Multiply": _folded("mul"),
    "TFOpLambda": _operator,
    "Dropout": lambda name, config, inputs, size: (inputs[0], size),
    "Flatten": _flat,
    "Reshape": _flat,
}
