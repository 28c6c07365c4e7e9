"""The insides of OSNet against what its layers must give."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from reidlab.errors import InputError
from reidlab.evaluation import anatomy
from reidlab.models import osnet_ain_x0_25, osnet_x0_25, resnet18

TABLE = pd.DataFrame({"path": [f"{n}.png" for n in range(4)]})


class Data:
    """The part of a data module that is needed."""

    blur_heads = False

    def loader(self, table):
        yield {"image": torch.randint(0, 256, (len(table), 3, 128, 64), dtype=torch.uint8)}

    def preprocess(self, batch):
        return {"image": batch["image"] / 255}


@pytest.fixture(params=[osnet_x0_25, osnet_ain_x0_25])
def network(request):
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def seen(network):
    return anatomy.watch(network, Data(), TABLE)


def test_streams_see_3_to_9_cells_of_their_block(seen):
    for block in ("conv2.0", "conv2.1"):  # of 32 x 16 cells
        table = anatomy.windows(seen, block).table
        assert table["height"].tolist() == table["width"].tolist() == [3, 5, 7, 9]


def test_the_first_block_sees_what_its_layers_say():
    """A 7x7/2 stem and a 3x3/2 pool see 11 pixels, 4 apart; each 3x3 adds two steps of these."""
    seen = anatomy.watch(osnet_x0_25(), Data(), TABLE)
    outputs = seen.blocks["conv2.0"].outputs
    spans = [np.flatnonzero(anatomy.sensitivity(output, seen.input).any(1)) for output in outputs]
    for layers, span in enumerate(spans, 1):
        assert 11 + 8 * (layers - 1) < span[-1] - span[0] + 1 <= 11 + 8 * layers


def test_fields_grow_from_block_to_block_and_from_stream_to_stream(seen):
    table = anatomy.receptive_fields(seen).table
    assert table.columns.tolist() == list(seen.blocks)
    assert (table.loc["4 layers"] > table.loc["1 layer"]).all()
    assert table.loc["1 layer", "conv4.1"] > table.loc["1 layer", "conv2.0"]


def test_gates_are_what_scales_the_streams(network, seen):
    block = network.conv3[1]
    output = seen.blocks["conv3.1"].outputs[2]
    gates = seen.gates("conv3.1")
    assert gates.shape == (4, 4, 24) and (gates > 0).all() and (gates < 1).all()
    expected = output * torch.from_numpy(gates[2])[..., None, None]
    torch.testing.assert_close(block.gate(output), expected)


def test_shares_of_favored_streams_divide_what_is_equal():
    gates = np.array([[[0.9, 0.1, 0.5]], [[0.5, 0.2, 0.5]], [[0.1, 0.0, 0.5]], [[0.2, 0.1, 0.5]]])
    assert anatomy._shares(gates).tolist() == pytest.approx([1.25 / 3, 1.25 / 3, 0.25 / 3, 0.25 / 3])


def test_favorites_of_all_blocks(network, seen):
    block = network.conv2[0]
    block.gate.fc1.bias.data.fill_(-100)  # all hidden units off: the gate sees nothing
    block.gate.fc2.bias.data.fill_(1)
    table = anatomy.favorites(anatomy.watch(network, Data(), TABLE)).table
    assert table.index.tolist() == list(seen.blocks)
    assert table.loc["conv2.0"].tolist() == [0.25, 0.25, 0.25, 0.25, 0, 0]
    assert table.filter(like="layer").sum(axis=1).tolist() == pytest.approx([1] * 6)


@pytest.mark.parametrize("kind", ["lite", "depthwise-first", "full"])
def test_a_layers_kernel_does_what_the_layer_does(kind):
    torch.manual_seed(0)
    layer = osnet_x0_25(convolution=kind).conv2[0].streams[0].eval()
    image = torch.randn(1, 16, 6, 6)
    scale = (1 + layer.bn.eps) ** 0.5
    expected = F.relu(F.conv2d(image, torch.from_numpy(anatomy.kernel(layer)), padding=1) / scale)
    torch.testing.assert_close(layer(image), expected, atol=1e-5, rtol=1e-5)


def test_what_the_three_kinds_of_layer_cost_and_can_say(monkeypatch):
    monkeypatch.setattr(anatomy, "latency_ms", lambda network, size: 1.0)
    networks = {kind: osnet_x0_25(convolution=kind) for kind in ("lite", "depthwise-first", "full")}
    table = anatomy.convolutions(networks, (64, 32)).table
    assert table["rank of an output"].tolist() == [1, 9, 9]
    assert table["rank of an input"].tolist() == [9, 1, 9]
    assert (
        table.loc["lite", "parameters"] == table.loc["depthwise-first", "parameters"] < table.loc["full", "parameters"]
    )


def test_latency_is_positive():
    assert anatomy.latency_ms(torch.nn.Identity(), (8, 4)) > 0


def test_a_network_without_omni_scale_blocks_is_refused():
    with pytest.raises(InputError, match="ResNet has no omni-scale blocks; take model=osnet_x0_25"):
        anatomy.watch(resnet18(), Data(), TABLE)
