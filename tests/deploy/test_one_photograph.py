"""One photograph, odd in size and lying on its side, through every path that reads images: one embedding."""

import importlib.util
import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from test_edge_linux import SIZE
from test_nvidia import settings  # noqa: F401
from trained_like import soft_images

import reidlab
from reidlab.data import read_image
from reidlab.deploy.edge_linux import SOURCES
from reidlab.deploy.nvidia import PYTHON_MODEL
from reidlab.export import qdq, tflite
from reidlab.export.folding import deployable
from reidlab.export.metadata import about
from reidlab.export.parity import embed_file
from reidlab.export.quantizer import RAW_PIXELS
from reidlab.export.runtime import open_model
from reidlab.export.steps import as_steps
from reidlab.run import File, Run
from reidlab.stages import export, predict

PHOTOGRAPHS = {"large": (467, 231), "tall": (97, 33), "small": (19, 11)}  # height and width, upright


@pytest.fixture(scope="module")
def run(settings):  # noqa: F811
    made = Run.compose([*settings, "run.name=photograph"])
    made.keep_config()
    export.run(made)
    steps = as_steps(deployable(made.network, made["model.mean"], made["model.std"]), SIZE)
    made.write(File.TFLITE, tflite.float_file(steps, about(made) | RAW_PIXELS))
    made.write("board/model.onnx", qdq.float_onnx(steps, {}))
    made.write("board/card.json", json.dumps({"size": SIZE, "distance": "cosine", "threads": 1}))
    made.write("board/reid.py", (SOURCES / "reid.py").read_bytes())
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place, exif = tmp_path_factory.mktemp("photographs"), Image.Exif()
    exif[0x112] = 6
    for seed, (name, (height, width)) in enumerate(PHOTOGRAPHS.items()):
        upright = Image.fromarray(soft_images(5, (48, 32))[2 + seed]).resize((width, height), Image.Resampling.BICUBIC)
        upright.rotate(90, expand=True).save(place / f"{name}.jpg", exif=exif, quality=95)
    return [place / f"{name}.jpg" for name in PHOTOGRAPHS]


def by_hand(run, image):
    """The network on one PIL image, whose rows are resized before its columns."""
    rows = image.convert("RGB").resize((SIZE[1], image.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(rows.resize(SIZE[::-1], Image.Resampling.BILINEAR), np.float32) / 255
    values = (pixels - run["model.mean"]) / run["model.std"]
    with torch.no_grad():
        return run.network(torch.tensor(values, dtype=torch.float32).permute(2, 0, 1)[None]).embedding[0].numpy()


def by_loader(run, files, **options):
    table = pd.DataFrame({"path": [file.name for file in files], "pid": 1, "camid": 0, "split": "query"})
    module = run.datamodule(**options)
    if options.get("cache"):
        module.samples = reidlab.data.Samples(table, files[0].parent)
    (batch,) = module.loader(table, files[0].parent)
    with torch.no_grad():
        return run.network(module.preprocess(batch)["image"]).embedding.numpy()


def by_embed_file(run, files, file):
    samples, module = predict.images_of(files[0].parent), run.datamodule()
    module.samples = samples
    found = embed_file(open_model(run / file), module, samples.table, "files").values.numpy()
    return found[[samples.table["path"].tolist().index(file.name) for file in files]]


def by_predict(run, files):
    samples = predict.images_of(files[0].parent)
    found = predict._model(run).embed(samples, "files").numpy()
    return found[[samples.table["path"].tolist().index(file.name) for file in files]]


def by_runner(run, files):
    spec = importlib.util.spec_from_file_location("board_reid", run / "board" / "reid.py")
    reid = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reid)
    embed = reid.load("model.onnx")
    return np.stack([embed(reid.read(file)) for file in files])


def by_triton(run, files):
    """Triton's Python model on what its client sends: the images at the network's size, as floats in [0, 1]."""
    place = run / "triton"
    (place / "1").mkdir(parents=True, exist_ok=True)
    (place / "1" / "model.onnx").write_bytes((run / "board" / "model.onnx").read_bytes())
    server = types.SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: types.SimpleNamespace(as_numpy=lambda: request),
        Tensor=lambda name, values: values,
        InferenceResponse=lambda tensors=None, error=None: tensors[0],
    )
    sys.modules["triton_python_backend_utils"] = server
    try:
        spec = importlib.util.spec_from_file_location("triton_model", PYTHON_MODEL)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del sys.modules["triton_python_backend_utils"]
    session = __import__("onnxruntime").InferenceSession(place / "1" / "model.onnx")
    config = {
        "input": [{"name": session.get_inputs()[0].name, "dims": [3, *SIZE]}],
        "output": [{"name": session.get_outputs()[0].name}],
    }
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_repository": str(place), "model_version": "1"})
    requests = [read_image(file, SIZE).transpose(2, 0, 1)[None] / np.float32(255) for file in files]
    return np.concatenate(model.execute(requests))


PATHS = {
    "training's loader": by_loader,
    "its cache": lambda run, files: by_loader(run, files, cache=files[0].parent.parent / "cache"),
    "predict": by_predict,
    "load(run)": lambda run, files: reidlab.load(run.folder)(files),
    "load(run) of pixels": lambda run, files: reidlab.load(run.folder)([read_image(file) for file in files]),
    "load(onnx)": lambda run, files: reidlab.load(run / File.ONNX)(files),
    "load(tflite)": lambda run, files: reidlab.load(run / File.TFLITE)(files),
    "evaluate model=onnx": lambda run, files: by_embed_file(run, files, File.ONNX),
    "evaluate model=tflite": lambda run, files: by_embed_file(run, files, File.TFLITE),
    "edge runner": by_runner,
    "triton": by_triton,
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_one_embedding(path, run, files):
    expected = np.stack([by_hand(run, ImageOps.exif_transpose(Image.open(file))) for file in files])
    found = PATHS[path](run, files)
    cosines = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() >= 0.9999, dict(zip(PHOTOGRAPHS, cosines.tolist(), strict=True))


def test_the_photographs_can_tell_wrong_paths(run, files):
    """Left on their sides, or sampled without averaging, they give other embeddings."""
    for file in files[:2]:
        upright = ImageOps.exif_transpose(Image.open(file))
        wrong = [Image.open(file)]
        if file.stem == "large":
            wrong.append(upright.resize(SIZE[::-1], Image.Resampling.NEAREST))
        for image in wrong:
            a, b = by_hand(run, upright), by_hand(run, image)
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 0.9999
