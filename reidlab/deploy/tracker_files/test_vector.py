"""Embed the test vector's image by the tool that this folder is for: python test_vector.py, where that is installed."""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
CARD = json.loads((HERE / "test_vector" / "expected.json").read_text())
RGB = np.array(Image.open(HERE / "test_vector" / "image.png"))
FRAME = np.ascontiguousarray(RGB[..., ::-1])
BOX = np.array([[0, 0, FRAME.shape[1], FRAME.shape[0]]], np.float32)  # left, top, right, bottom


def boxmot():
    """The file in BoxMOT."""
    from boxmot.reid.core.runtime import ReID

    return ReID(HERE / "model.onnx")(FRAME, BOX)


def ultralytics():
    """The encoder of the tracker that botsort.yaml makes."""
    from ultralytics.trackers.bot_sort import BOTSORT
    from ultralytics.utils import YAML, IterableSimpleNamespace

    settings = {**YAML.load(HERE / "botsort.yaml"), "model": str(HERE / "model.onnx"), "device": "cpu"}
    center_and_size = np.concatenate([(BOX[:, :2] + BOX[:, 2:]) / 2, BOX[:, 2:] - BOX[:, :2]], axis=1)
    return BOTSORT(IterableSimpleNamespace(**settings)).encoder(FRAME, center_and_size)


def roboflow():
    """The model of the folder, or that of encoder.py."""
    import supervision
    from reid import ReIDModel

    if (HERE / "encoder.py").exists():
        from encoder import load

        model = load()
    else:
        model = ReIDModel.from_pretrained(str(HERE), device="cpu")
    return model.extract_embeddings(supervision.Detections(xyxy=BOX), FRAME)


def deep_sort_realtime():
    """The embedder that the tracker is given."""
    from embedder import Embedder

    return Embedder().predict([FRAME])


def deepstream():
    """The file in ONNX Runtime, fed as nvtracker does: its engine is TensorRT's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: RGB.transpose(2, 0, 1)[None] / np.float32(255)})[0]


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    found, expected = np.asarray(globals()[CARD["tool"]]()[0], float), np.array(CARD["expected"]["fp32"])
    cosine = found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected))
    print(f"{CARD['tool']}: cosine {cosine:.6f} to the expected embedding, {'right' if cosine >= 0.999 else 'WRONG'}")
    sys.exit(not cosine >= 0.999)
