"""Compare or classify images by a Triton server: python triton_client.py A.jpg B.jpg ...

Prints each one's distance to the first; of a classifier, the likeliest class of each and its confidence.
Needs numpy and Pillow. --url and --model name the server and its model.
"""

import argparse
import json
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

CARD = json.loads((Path(__file__).parent / "test_vector" / "expected.json").read_text())
CLASSES = CARD.get("classes")


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


def embed(images: np.ndarray, url: str, model: str) -> np.ndarray:
    """Outputs (B, D) of pixels (1, H, W, 3) uint8 by the server, as a whole batch, over HTTP with binary tensors."""
    values = np.ascontiguousarray(images.transpose(0, 3, 1, 2) / np.float32(255), "<f4")
    values = np.repeat(values, CARD["batch"], axis=0)
    given = {"name": CARD["input"], "datatype": "FP32", "shape": values.shape}
    given["parameters"] = {"binary_data_size": values.nbytes}
    wanted = {"name": CARD["output"], "parameters": {"binary_data": True}}
    head = json.dumps({"inputs": [given], "outputs": [wanted]}).encode()
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", head + values.tobytes())
    request.add_header("Inference-Header-Content-Length", str(len(head)))
    with urllib.request.urlopen(request, timeout=60) as answer:
        length, content = int(answer.headers["Inference-Header-Content-Length"]), answer.read()
    shape = json.loads(content[:length])["outputs"][0]["shape"]
    return np.frombuffer(content[length:], "<f4").reshape(shape)


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


def server_options() -> argparse.ArgumentParser:
    """The options that name a server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="reid_onnxruntime", help="or reid_tensorrt, or reid_python")
    return parser


def main() -> None:
    """Print a line for each image."""
    parser = server_options()
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()
    made = [embed(fit(read(file))[None], args.url, args.model)[0] for file in args.images]
    threshold = CARD["threshold"]
    answers = map(classify, made) if CLASSES else (compare(made[0], other, threshold) for other in made[1:])
    for file, (value, word) in zip(args.images if CLASSES else args.images[1:], answers, strict=True):
        print(f"{value:.4f}  {file}  {word}".rstrip())


if __name__ == "__main__":
    main()
