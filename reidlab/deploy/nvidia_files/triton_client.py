"""Compare images by a Triton server: python triton_client.py A.jpg B.jpg ... prints each one's distance to the first.

Needs numpy and Pillow. --url and --model name the server and its model.
"""

import argparse
import json
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

CARD = json.loads((Path(__file__).parent / "test_vector" / "expected.json").read_text())


def fit(image: Image.Image) -> np.ndarray:
    """An image at the model's size, (H, W, 3) uint8 RGB, upright, resized as in training, bit for bit: rows first."""
    (height, width), image = CARD["size"], ImageOps.exif_transpose(image).convert("RGB")
    narrow = image.resize((width, image.height), Image.Resampling.BILINEAR)
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


def server_options() -> argparse.ArgumentParser:
    """The options that name a server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="reid_onnxruntime", help="or reid_tensorrt, or reid_python")
    return parser


if __name__ == "__main__":
    parser = server_options()
    parser.add_argument("images", nargs="+")
    args = parser.parse_args()
    first, *others = (embed(fit(Image.open(file))[None], args.url, args.model)[0] for file in args.images)
    for file, other in zip(args.images[1:], others, strict=True):
        found, threshold = distance(first, other), CARD["threshold"]
        verdict = "" if threshold is None else "  the same" if found <= threshold else "  different"
        print(f"{found:.4f}  {file}{verdict}")
