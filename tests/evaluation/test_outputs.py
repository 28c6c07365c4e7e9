"""Outputs of networks, and choosing some of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from reidlab.evaluation import Outputs, embed
from reidlab.models import Output


@pytest.fixture
def outputs():
    table = pd.DataFrame({"path": list("abcd"), "pid": [1, 2, 3, 4], "split": ["query", "gallery", "train", "query"]},
                         index=[7, 3, 9, 1])  # fmt: skip
    return Outputs(torch.arange(8.0).view(4, 2), table)


def test_rows_are_chosen_by_position_or_mask(outputs):
    for chosen in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        some = outputs.rows(chosen)
        assert some.values.tolist() == [[4, 5], [0, 1]] and some.table["path"].tolist() == ["c", "a"]
    some = outputs.rows(outputs.table["pid"] > 2)
    assert some.values.tolist() == [[4, 5], [6, 7]] and some.column("pid").tolist() == [3, 4]
    assert len(outputs.rows([]).table) == len(outputs.rows([]).values) == 0


def test_splits_keep_the_order_of_the_table(outputs):
    assert outputs.split("gallery", "query").table["path"].tolist() == ["a", "b", "d"]


class FirstColumn(nn.Module):
    """Embeds an image as the mean of its first column."""

    def forward(self, image):
        return Output(image[:, :, :, 0].mean((1, 2))[:, None], None)


class Data:
    """The part of a data module that embedding needs; two batches."""

    samples = None

    def __init__(self, images):
        self.images = images

    def loader(self, table):
        return ({"image": self.images[table.index[start : start + 2]]} for start in range(0, len(table), 2))

    def preprocess(self, batch):
        return {"image": batch["image"] / 255}


def test_a_network_is_run_over_a_table_and_perhaps_over_its_mirror_images():
    images = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8)
    table = pd.DataFrame({"path": ["x", "y", "z"]}, index=[2, 0, 1])
    network = FirstColumn().train()
    left, right = (images[[2, 0, 1], :, :, column].double().mean((1, 2)) / 255 for column in (0, -1))
    plain = embed(network, Data(images), table, "cpu", "test")
    both = embed(network, Data(images), table, "cpu", "test", flip=True)
    assert not network.training and plain.table is table
    torch.testing.assert_close(plain.values.squeeze(1).double(), left, atol=1e-6, rtol=0)
    torch.testing.assert_close(both.values.squeeze(1).double(), (left + right) / 2, atol=1e-6, rtol=0)
