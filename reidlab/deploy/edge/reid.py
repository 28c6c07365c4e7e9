"""Compare people on a small Linux board: python reid.py A.jpg B.jpg ... prints the distance of each to the first.

Needs numpy, Pillow, and ai-edge-litert (for model.tflite) or onnxruntime (for model.onnx).
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
CARD = json.loads((HERE / "card.json").read_text())  # size (height, width), distance, threads
RUNTIMES = {"model.tflite": "ai_edge_litert", "model.onnx": "onnxruntime"}


def available() -> list[str]:
    """The models whose runtime is installed."""
    return [name for name, runtime in RUNTIMES.items() if (HERE / name).exists() and find_spec(runtime)]


def load(name: str):
    """A function from an image (H, W, 3) uint8 RGB to its embedding (D,)."""
    if name == "model.onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(HERE / name), providers=["CPUExecutionProvider"])
        key = session.get_inputs()[0].name
        return lambda image: session.run(None, {key: fit(image).transpose(2, 0, 1)[None] / np.float32(255)})[0][0]
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(HERE / name), num_threads=CARD["threads"]).get_signature_runner()
    return lambda image: next(iter(run(image=fit(image)[None]).values()))[0].copy()


def read(file) -> np.ndarray:
    """An image file's pixels (H, W, 3) uint8 RGB, upright, as in training; of 16 bits the upper 8."""
    image = ImageOps.exif_transpose(Image.open(file))
    deep = image.mode.startswith("I;16")
    return np.array((Image.fromarray(np.uint8(np.asarray(image) >> 8)) if deep else image).convert("RGB"))


def fit(image: np.ndarray) -> np.ndarray:
    """The image at the model's size, resized as in training, bit for bit: rows first."""
    height, width = CARD["size"]
    narrow = Image.fromarray(image).resize((width, len(image)), Image.Resampling.BILINEAR)
    return np.asarray(narrow.resize((width, height), Image.Resampling.BILINEAR))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two embeddings that the network was trained for."""
    return float(np.linalg.norm(a - b) if CARD["distance"] == "euclidean" else 1 - a @ b / np.sqrt(a @ a * (b @ b)))


if __name__ == "__main__":
    first, *others = map(load(available()[0]), map(read, sys.argv[1:]))
    for file, other in zip(sys.argv[2:], others, strict=True):
        print(f"{distance(first, other):.4f}  {file}")
