"""Compare outputs of the test vector's image with those that are expected.

python test_vector.py                     every model*.onnx beside this file, by ONNX Runtime
python test_vector.py --triton            a Triton server; --url and --model name it
python test_vector.py --trtexec OUT.json  what trtexec wrote by --exportOutput, of --loadInputs=...test_vector/input.bin
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from triton_client import CARD, embed, server_options

HERE = Path(__file__).parent
FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}


def by_onnxruntime(file: Path, images: np.ndarray) -> np.ndarray:
    """Outputs (B, D) of pixels (1, H, W, 3) uint8, as a whole batch, by a file."""
    import onnxruntime

    values = np.repeat(images.transpose(0, 3, 1, 2) / np.float32(255), CARD["batch"], axis=0)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(None, {CARD["input"]: values})[0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity of two outputs (D,)."""
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))


def main() -> int:
    """Print a line for each form; the number of those that are wrong."""
    parser = server_options()
    parser.usage = __doc__
    parser.add_argument("--triton", action="store_true")
    parser.add_argument("--trtexec", type=Path, metavar="OUT.json")
    args = parser.parse_args()
    images = np.asarray(Image.open(HERE / "test_vector" / "image.png"))[None]
    if args.trtexec:
        (made,) = (side for side in json.loads(args.trtexec.read_text()) if side["name"] == CARD["output"])
        found = {args.trtexec.name: np.array(made["values"], float)[: len(CARD["expected"][min(CARD["expected"])])]}
    elif args.triton:
        found = {args.model: embed(images, args.url, args.model)[0]}
    else:
        found = {FILES[name]: by_onnxruntime(HERE / FILES[name], images)[0] for name in CARD["expected"]}
    wrong = 0
    for name, output in found.items():
        cosines = {precision: cosine(output, np.array(values)) for precision, values in CARD["expected"].items()}
        meant = [precision for precision in cosines if FILES[precision] == name] or [
            max(cosines, key=cosines.__getitem__)
        ]
        right = cosines[meant[0]] >= LEAST_COSINE[meant[0]]
        wrong += not right
        print(f"{name}: cosine {cosines[meant[0]]:.6f} to {meant[0]}, {'right' if right else 'WRONG'}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
