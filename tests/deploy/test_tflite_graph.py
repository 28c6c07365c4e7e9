import contextlib
import time

import numpy as np
import pytest
from tiny_models import RandomNetwork, TinyModel

from reidlab.deploy.footprint import op_costs
from reidlab.deploy.lowering import lower
from reidlab.deploy.tflite_graph import parse_graph, read_graph
from reidlab.errors import InputError


def small_network():
    net = RandomNetwork(0, 8, 6, 3)
    x = net.conv(net.pixels(), 4, 3, stride=2, relu=True)
    y = net.conv(x, 4, 3, depthwise=True)
    return net.content(net.dense(net.mean(net.add(x, y, 0.01), 0.01, flat=True), 5, 0.001))


def test_graph_holds_what_was_written():
    graph = parse_graph(small_network())
    assert [op.kind for op in graph.ops] == [
        "QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "DEQUANTIZE",
    ]  # fmt: skip
    conv = graph.ops[1]
    assert conv.options == {
        "padding": "SAME", "stride_w": 2, "stride_h": 2, "activation": "RELU", "dilation_w": 1, "dilation_h": 1,
    }  # fmt: skip
    weights = graph.tensors[conv.inputs[1]]
    assert weights.shape == (4, 3, 3, 3) and weights.dtype == "int8" and weights.data.shape == weights.shape
    assert weights.quantization.scale.shape == (4,) and weights.quantization.axis == 0
    assert graph.tensors[graph.inputs[0]].dtype == "uint8" and graph.tensors[graph.inputs[0]].nbytes == 8 * 6 * 3
    assert graph.tensors[graph.outputs[0]].dtype == "float32"


def test_costs_by_hand():
    costs = op_costs(parse_graph(small_network()))
    assert [cost.macs for cost in costs] == [0, 4 * 3 * 4 * 27, 4 * 3 * 4 * 9, 0, 0, 4 * 5, 0]
    assert costs[1].weight_bytes == 4 * 27 + 4 * 4
    assert (costs[3].input_bytes, costs[3].output_bytes) == (2 * 48, 48)
    assert costs[6].output_bytes == 5 * 4


def test_constants_behind_the_flatbuffer_are_found(tmp_path):
    net = TinyModel()
    x = net.tensor([1, 2], 0.1)
    weights = net.tensor([1, 2], 0.1, data=[[7, -3]])
    bias = net.tensor([1], 0.01, dtype="int32", data=[5])
    net.op("FULLY_CONNECTED", [x, weights, bias], net.tensor([1, 1], 0.1))
    buffer = net.model.buffers[1]
    outside, buffer.data = bytes(buffer.data), None
    buffer.offset, buffer.size = 1, 2
    length = len(net.finish([x], [3]))
    buffer.offset = length
    content = net.finish([x], [3])
    assert len(content) == length
    file = tmp_path / "large.tflite"
    file.write_bytes(content + outside)
    np.testing.assert_array_equal(read_graph(file).tensors[weights].data, [[7, -3]])
    with pytest.raises(InputError, match=f"2 bytes at offset {length}"):
        parse_graph(content)


def test_every_truncation_is_refused_with_an_offset():
    content = small_network()
    for length in range(0, len(content), 13):
        with pytest.raises(InputError, match=r"model\.tflite: .*(offset|buffer|bytes)"):
            parse_graph(content[:length])


def test_damaged_files_are_refused_or_read_but_never_crash():
    content = np.frombuffer(small_network(), np.uint8)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(800):
        damaged = content.copy()
        for _ in range(random.integers(1, 8)):
            damaged[random.integers(8, len(damaged))] = random.choice([0, 1, 127, 128, 255, random.integers(256)])
        try:
            lower(parse_graph(damaged.tobytes()))
        except InputError as error:
            assert "\n" not in str(error) and "model.tflite" in str(error)
            refused += 1
    assert refused > 150


def test_lengths_beyond_the_file_are_refused_at_once():
    """A vector of 4 billion tables, of strings and numbers that all lie inside the file, and a name that doesn't."""
    content = np.frombuffer(small_network(), np.uint8)
    words = content[: len(content) // 4 * 4].view("<u4")
    for value in (0xFFFFFFFF, 0x7FFFFFFF, len(content), len(content) // 4):
        for place in np.flatnonzero((words > 0) & (words < 40)):
            damaged = words.copy()
            damaged[place] = value
            started = time.monotonic()
            with contextlib.suppress(InputError):
                parse_graph(damaged.tobytes())
            assert time.monotonic() - started < 1


def test_absent_options_are_the_schemas_defaults():
    net = RandomNetwork(0, 4, 4, 3)
    x = net.conv(net.pixels(), 4)
    net.graph.operators[-1].builtinOptions = None
    options = parse_graph(net.finish([net.image], [x])).ops[-1].options
    assert options == {
        "padding": "SAME", "stride_w": 0, "stride_h": 0, "activation": "NONE", "dilation_w": 1, "dilation_h": 1,
    }  # fmt: skip


def test_random_bytes_are_no_model():
    random = np.random.default_rng(1)
    for _ in range(200):
        with pytest.raises(InputError):
            parse_graph(b"\x10\0\0\0TFL3" + random.bytes(random.integers(0, 400)))


def test_absent_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tflite"):
        read_graph(tmp_path / "none.tflite")


def test_unordered_and_doubly_written_tensors_are_refused():
    net = RandomNetwork(0, 4, 4, 3)
    x = net.conv(net.pixels(), 4)
    net.graph.operators.reverse()
    with pytest.raises(InputError, match="op 0 CONV_2D reads tensor 1 before"):
        parse_graph(net.finish([net.image], [x]))
    net.graph.operators.reverse()
    net.graph.operators.append(net.graph.operators[-1])
    with pytest.raises(InputError, match=f"op 2 CONV_2D writes tensor {x}"):
        parse_graph(net.finish([net.image], [x]))


@pytest.mark.parametrize(("position", "inputs"), [(1, [1]), (1, [1, -1]), (4, []), (0, [-1])])
def test_operators_without_the_inputs_that_they_need_are_refused(position, inputs):
    net = RandomNetwork(0, 8, 6, 3)
    x = net.conv(net.pixels(), 4, 3)
    x = net.conv(x, 4, 3, depthwise=True)
    x = net.mean(net.add(x, x, 0.01), 0.01)
    net.graph.operators[position].inputs = inputs
    with pytest.raises(InputError, match=rf"op {position} \w+ reads .* less than it needs"):
        parse_graph(net.finish([net.image], [x]))


def test_a_convolution_needs_weights_of_its_axes_and_an_output_with_some():
    net = RandomNetwork(0, 8, 6, 3)
    x = net.conv(net.pixels(), 4, 3)
    net.graph.tensors[x].shape = []
    with pytest.raises(InputError, match=r"op 1 CONV_2D has weights \[4, 3, 3, 3\] and writes \[\]"):
        parse_graph(net.finish([net.image], [x]))
    weights = net.graph.tensors[net.graph.operators[1].inputs[1]]
    weights.shape = [4, 27]
    with pytest.raises(InputError, match=r"op 1 CONV_2D has weights \[4, 27\]"):
        parse_graph(net.finish([net.image], [x]))
