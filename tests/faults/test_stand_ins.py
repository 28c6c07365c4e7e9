"""A Git LFS pointer or a web page in a file's place is called by its name, whatever file was meant."""

import pytest

from reidlab.data import read_image
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.export.runtime import open_model
from reidlab.files import read_yaml
from reidlab.models import load_weights, osnet_x0_25

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 132\n"
PAGE = b"\n <!DOCTYPE html>\n<html><title>Sign in</title></html>"
READERS = {
    "weights.pth": lambda file: load_weights(osnet_x0_25(), file),
    "weights.safetensors": lambda file: load_weights(osnet_x0_25(), file),
    "model.onnx": open_model,
    "model.tflite": open_model,
    "graph.tflite": read_graph,
    "a.jpg": read_image,
    "config.yaml": read_yaml,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("content", "told"),
    [(POINTER, "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"), (PAGE, "a web page, not the")],
)
def test_a_stand_in_is_called_by_its_name(content, told, name, tmp_path):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {told}"):
        READERS[name](file)
