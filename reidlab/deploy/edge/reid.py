"""Compare people on a small Linux board: python reid.py A.jpg B.jpg ... prints each one's distance to the first.

Needs numpy, Pillow, and ai-edge-litert (for model.tflite) or onnxruntime (for model.onnx).
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
CARD = json.loads((HERE / "card.json").read_text())  # size (height, width), distance, threads, threshold
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


if __name__ == "__main__":
    if len(sys.argv) < 3 or not available():
        sys.exit(__doc__)
    name = available()[0]
    first, *others = map(load(name), map(read, sys.argv[1:]))
    for file, found in zip(sys.argv[2:], (distance(first, other) for other in others), strict=True):
        threshold = CARD["threshold"][name]
        print(f"{found:.4f}  {file}", *([] if threshold is None else ["same" if found <= threshold else "different"]))
