"""Any network in Roboflow's reid: `from encoder import load; model = load()` gives a `ReIDModel`.

Needs reid and onnxruntime.
"""

from pathlib import Path

import onnxruntime
import torch
from reid import ReIDModel
from reid.preprocessing import ReIDPreprocessing


class Encoder(torch.nn.Module):
    """Images (B, 3, H, W) -> embeddings (B, D) by an .onnx."""

    def __init__(self, file: str | Path):
        super().__init__()
        self.session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
        self.input = self.session.get_inputs()[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the file, whatever device the images are on."""
        return torch.from_numpy(self.session.run(None, {self.input.name: images.cpu().numpy()})[0])


def load(file: str | Path = Path(__file__).parent / "model.onnx") -> ReIDModel:
    """The model, which takes RGB pixels in [0, 1]: mean and standard deviation are in the file."""
    encoder = Encoder(file)
    height, width = encoder.input.shape[2:]
    plain = ReIDPreprocessing(input_size=(height, width), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ReIDModel(encoder, torch.device("cpu"), plain)
