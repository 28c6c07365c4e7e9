"""Command `publish`: a trained network as a folder for model hubs, on this machine or at the Hugging Face Hub."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import safetensors.torch

from reidlab import __version__, card
from reidlab.config import TRAINING_KEYS, as_config, as_yaml
from reidlab.console import log
from reidlab.errors import InputError
from reidlab.export.hub import ABOUT, LIBRARY, WEIGHTS, hub_name, is_published, upload
from reidlab.export.metadata import about
from reidlab.files import file_hash, storage_errors, temporary_folder, without_folders, write_atomic, write_json
from reidlab.models import Confidences
from reidlab.places import expanded
from reidlab.run import File, Run
from reidlab.stages.deploy import deployable

FILES = (File.ONNX, File.ONNX_INT8, File.TFLITE, File.TFLITE_INT8)
OF_ITS_USE = ("seed", "task", "model")  # by which a network is loaded, with the size of its images and the device
TEXTS = (".json", ".csv", ".yaml", ".svg")
PICTURES = (".png", ".jpg")
LINK = re.compile(r"\[((?:[^\[\]\\]|\\.)*)\]\(([^):#]+)\)")
EXAMPLE = '''"""Print what the network says of images: python example.py A.jpg B.jpg C.jpg. Needs reidlab."""

import sys
from pathlib import Path

import numpy as np
import reidlab

model = reidlab.load(Path(__file__).parent)
files = sys.argv[1:]
if len(files) < (1 if model.classes else 2):
    sys.exit(__doc__)
if model.classes:
    for file, confidences in zip(files, model(files), strict=True):
        print(file, model.classes[confidences.argmax()], f"{confidences.max():.3f}")
elif "threshold" in model.verdict:
    for file in files[1:]:
        print(file, model.same(files[0], file))
else:  # no threshold was calibrated
    first, *others = model(files)  # (D,) float32 each
    for file, other in zip(files[1:], others, strict=True):
        if model.distance == "cosine":
            distance = 1 - first @ other / np.linalg.norm(first) / np.linalg.norm(other)
        else:
            distance = np.linalg.norm(first - other)
        print(file, f"{model.distance} distance {distance:.4g}")
'''
LOAD = """
## Load it

```python
import reidlab

model = reidlab.load({place})
embeddings = model(["a.jpg", "b.jpg"])  # python example.py a.jpg b.jpg does the same
```

`reidlab train model={model} model.weights={weights}` goes on from it.
"""


@storage_errors()
def run(run: Run, to: str, public: bool = False) -> str:
    """Write a run's network, its files, settings and card into a folder, or upload them; returns where they are.

    Raises InputError without a trained checkpoint, where the folder holds something else, and for what the Hub refuses.

    Args:
        run: evaluated and exported, as far as its figures and files are to be there.
        to: a folder, or `hf:USER/NAME`.
        public: at the Hub, let everybody see a repository that is made now.
    """
    name = hub_name(to)
    if not run.is_trained:
        raise InputError(f"{run.folder}: no trained checkpoint to publish; run `{run.command('train')}` first")
    if name:
        with tempfile.TemporaryDirectory(prefix="reidlab-") as folder:
            _fill(run, Path(folder), to)
            address = upload(Path(folder), name, public)
        log.info(f"published: {address}")
        return address
    place = expanded(to).absolute()
    if place.exists() and not (place.is_dir() and (is_published(place) or not any(place.iterdir()))):
        raise InputError(f"--to {to}: holds something else than a published network; choose another folder")
    if (place / ".git").exists():
        raise InputError(f"--to {to}: would replace a git repository; publish to another folder, or to hf:USER/NAME")
    with temporary_folder(place.parent, place.name) as folder:
        _fill(run, folder / "new", place.name)
        before = place.rename(folder / "before") if place.exists() else None
        try:
            (folder / "new").rename(place)
        except OSError:
            if before:
                before.rename(place)
            raise
    log.info(f"published: {place}")
    return str(place)


def _fill(run: Run, folder: Path, name: str) -> None:
    """Write all files of a published network, which is loaded by that name."""
    network, checkpoint = run.network, run.checkpoint
    network = network.network if isinstance(network, Confidences) else network
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    told = {"library_name": LIBRARY, "version": __version__, "task": run.task}
    write_json(folder / ABOUT, {**told, **about(run), "weights_file_hash": file_hash(folder / WEIGHTS)})
    write_atomic(folder / File.CONFIG, as_yaml(as_config(_settings(run))))
    write_atomic(folder / "example.py", EXAMPLE)
    for file in _exported(run):
        write_atomic(folder / file, (run / file).read_bytes())
    card.write_card(run)
    text = LINK.sub(lambda link: _with_file(run, folder, link), (run / File.CARD_MARKDOWN).read_text())
    names = {"place": json.dumps(name, ensure_ascii=False), "model": run["model.name"], "weights": f"FOLDER/{WEIGHTS}"}
    write_atomic(folder / "README.md", without_folders(text).rstrip() + "\n" + LOAD.format(**names))
    run.require_unchanged(checkpoint)


def _settings(run: Run) -> dict:
    """The settings without folders of this machine, those of the training as it was recorded."""

    def clean(node):
        if isinstance(node, dict):
            return {key: clean(child) for key, child in node.items()}
        if isinstance(node, list):
            return [clean(child) for child in node]
        return without_folders(node) if isinstance(node, str) else node

    then = run.as_trained.settings if run.as_trained else {}
    settings = {key: value for key, value in run.settings.items() if key not in TRAINING_KEYS}
    settings |= {key: then[key] for key in TRAINING_KEYS if key in then} | {key: run[key] for key in OF_ITS_USE}
    settings["data"] = then.get("data", {}) | {"size": run["data.size"]}
    settings.setdefault("trainer", {"accelerator": run["trainer.accelerator"]})
    settings = clean(settings)
    settings["model"]["weights"], settings["run"]["root"] = None, "runs"
    return settings


def _exported(run: Run) -> Iterator[str]:
    """The exported files of the present checkpoint; says which are left out, and how they are made."""
    given = deployable(run)
    for file in FILES:
        try:
            given.file(file)
        except InputError as error:
            log.info(f"left out: {error}")
        else:
            yield file


def _with_file(run: Run, folder: Path, link: re.Match) -> str:
    """A link of the card, with the file that it leads to; its text alone where that stays here."""
    name = unquote(link[2])
    file = run / name
    allowed = (*TEXTS, *PICTURES) if run["privacy.share_images"] else TEXTS
    if (folder / name).exists() or name == File.CONFIG:
        return link[0]
    if file.suffix not in allowed or not file.is_file() or not file.resolve().is_relative_to(run.folder.resolve()):
        return link[1]
    binary = file.suffix in PICTURES
    write_atomic(folder / name, file.read_bytes() if binary else without_folders(file.read_text()))
    return link[0]
