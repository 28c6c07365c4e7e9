"""Triton's Python back end: ONNX Runtime on one request or on a whole batch of them."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The life of a model in Triton."""

    def initialize(self, args: dict) -> None:
        """Load the ONNX file beside this one."""
        config = json.loads(args["model_config"])
        self.given, self.made = config["input"][0]["name"], config["output"][0]["name"]
        self.shape = tuple(map(int, config["input"][0]["dims"][-3:]))  # a fixed batch is before
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())

    def execute(self, requests: list) -> list:
        """Embed the images of all requests at once; a request of bad values fails alone."""
        images = [pb_utils.get_input_tensor_by_name(request, self.given).as_numpy() for request in requests]
        good = [image.shape[1:] == self.shape and bool(np.isfinite(image).all()) for image in images]
        batch = [image for image, fine in zip(images, good, strict=True) if fine]
        embeddings = iter(self._split(batch))
        return [self._answer(next(embeddings) if fine else None) for fine in good]

    def _split(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """Each request's part of the embeddings of a batch."""
        if not batch:
            return []
        (made,) = self.session.run([self.made], {self.given: np.concatenate(batch)})
        return np.split(made, np.cumsum([len(image) for image in batch])[:-1])

    def _answer(self, embeddings: np.ndarray | None):  # of a type that Triton adds when it runs this
        if embeddings is None:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self.given}: values that are not finite"))
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.made, embeddings)])
