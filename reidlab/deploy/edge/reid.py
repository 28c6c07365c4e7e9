"""Compare or classify images on a small Linux board: python reid.py A.jpg B.jpg ...

Prints each one's distance to the first; of a classifier, the likeliest class of each and its confidence.
Needs numpy, Pillow, and ai-edge-litert (for model.tflite) or onnxruntime (for model.onnx).
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
CARD = json.loads((HERE / "card.json").read_text())  # size (height, width), threads, distance, threshold, classes
CLASSES = CARD.get("classes")
RUNTIMES = {"model.tflite": "ai_edge_litert", "model.onnx": "onnxruntime"}


def available() -> list[str]:
    """The models whose runtime is installed."""
    return [name for name, runtime in RUNTIMES.items() if (HERE / name).exists() and find_spec(runtime)]


def load(name: str):
    """A function from an image (H, W, 3) uint8 RGB to its embedding or class scores (D,)."""
    if name == "model.onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(HERE / name), providers=["CPUExecutionProvider"])
        key = session.get_inputs()[0].name
        return lambda image: session.run(None, {key: fit(image).transpose(2, 0, 1)[None] / np.float32(255)})[0][0]
    from ai_edge_litert.interpreter import Interpreter

    run, table = Interpreter(str(HERE / name), num_threads=CARD["threads"]), np.load(HERE / "pixels.npy")  # (256, 3)
    given, made = run.get_input_details()[0], run.get_output_details()[CARD["output"]]
    run.resize_tensor_input(given["index"], CARD["input"])
    run.allocate_tensors()

    def embed(image: np.ndarray) -> np.ndarray:
        values = table[fit(image)[..., CARD["order"]], [0, 1, 2]]
        values = values.transpose(2, 0, 1) if CARD["input"][1] == 3 else values
        run.set_tensor(given["index"], np.repeat(values[None], CARD["input"][0], axis=0))
        run.invoke()
        codes, (scale, zero) = run.get_tensor(made["index"]).reshape(CARD["input"][0], -1)[0], made["quantization"]
        return np.float32(scale) * (codes.astype(np.float32) - zero) if scale else codes.astype(np.float32)

    return embed


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


def compare(first: np.ndarray, other: np.ndarray, threshold: float | None) -> tuple[float, str]:
    """The distance of two embeddings, and whether they are of the same identity, where that is known."""
    found = distance(first, other)
    return found, "" if threshold is None else "same" if found <= threshold else "different"


def classify(scores: np.ndarray) -> tuple[float, str]:
    """The confidence in the likeliest class, and its name."""
    if CARD["logits"]:
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    return float(scores.max()), CLASSES[scores.argmax()]


if __name__ == "__main__":
    if len(sys.argv) < (2 if CLASSES else 3) or not available():
        sys.exit(__doc__)
    name, files = available()[0], sys.argv[1:]
    made = [*map(load(name), map(read, files))]
    threshold = CARD["threshold"][name]
    answers = map(classify, made) if CLASSES else (compare(made[0], other, threshold) for other in made[1:])
    for file, (value, word) in zip(files if CLASSES else files[1:], answers, strict=True):
        print(f"{value:.4f}  {file}  {word}".rstrip())
