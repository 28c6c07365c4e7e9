"""Several files embed a split whose images are read once."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from reidlab.errors import InputError
from reidlab.export.parity import embed_file, embed_files


class Mean:
    """Stands for a file: its embeddings are the channels' means times a factor."""

    def __init__(self, factor, size=(8, 4)):
        self.factor, self.size, self.file = factor, size, f"{factor}.onnx"

    def __call__(self, images):
        return self.factor * images.mean((1, 2), dtype="float32")


@pytest.fixture
def data():
    images, reads = torch.randint(256, (7, 3, 8, 4), dtype=torch.uint8), []

    def loader(table):
        reads.append(len(table))
        return [{"image": part} for part in images[: len(table)].split(3)]

    return SimpleNamespace(size=(8, 4), loader=loader, samples=None, reads=reads, images=images)


def test_files_embed_the_same_images_which_are_read_once(data):
    table = pd.DataFrame({"pid": range(7)})
    found = embed_files([Mean(1), Mean(2, size=(-1, -1))], data, table, "two files")
    assert data.reads == [7]
    expected = data.images.float().mean((2, 3))
    for factor, outputs in zip((1, 2), found, strict=True):
        torch.testing.assert_close(outputs.values, factor * expected)
        assert outputs.table is table
    assert torch.equal(embed_file(Mean(2), data, table, "one").values, found[1].values)


def test_a_file_of_another_size_is_named_before_any_image_is_read(data):
    with pytest.raises(InputError, match=r"3.onnx: takes images of \(16, 4\)"):
        embed_files([Mean(1), Mean(3, size=(16, 4))], data, pd.DataFrame({"pid": range(7)}), "two files")
    assert data.reads == []
