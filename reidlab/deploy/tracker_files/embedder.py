"""An embedder for deep-sort-realtime: `tracker = DeepSort(embedder=None); tracker.embedder = Embedder()`.

Needs numpy, Pillow and onnxruntime.
"""

from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


class Embedder:
    """Crops -> embeddings by the .onnx beside this file."""

    def __init__(self, file: str | Path = Path(__file__).parent / "model.onnx"):
        self.session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
        self.input = self.session.get_inputs()[0]
        self.height, self.width = self.input.shape[2:]

    def predict(self, crops: list[np.ndarray]) -> list[np.ndarray]:
        """BGR crops (H, W, 3) uint8 of any sizes -> as many embeddings (D,)."""
        if not crops:
            return []
        batch = np.stack([self.fit(crop) for crop in crops]).transpose(0, 3, 1, 2) / np.float32(255)
        return list(self.session.run(None, {self.input.name: batch})[0])

    def fit(self, crop: np.ndarray) -> np.ndarray:
        """RGB at the model's size, resized as in training, bit for bit: rows first."""
        image = Image.fromarray(np.ascontiguousarray(crop[..., ::-1]))
        narrow = image.resize((self.width, image.height), Image.Resampling.BILINEAR)
        return np.asarray(narrow.resize((self.width, self.height), Image.Resampling.BILINEAR))
