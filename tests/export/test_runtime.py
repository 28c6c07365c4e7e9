from fractions import Fraction

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime, tflite
from reidlab.export.backends import Port

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 2, 3), np.uint8)


@pytest.fixture
def flat_onnx(tmp_path):
    """An .onnx that returns its input, flattened."""

    def write(shape, kind=TensorProto.FLOAT, metadata=None):
        given = helper.make_tensor_value_info("x", kind, shape)
        output = helper.make_tensor_value_info("y", kind, [shape[0], "d"])
        graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"])], "g", [given], [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        onnx.save(model, tmp_path / "flat.onnx")
        return tmp_path / "flat.onnx"

    return write


@pytest.mark.parametrize("where", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_any_batch_is_served(flat_onnx, batch, where):
    embedder = runtime.open_model(flat_onnx([batch, 4, 2, 3]), runtime=where)
    assert embedder(PIXELS) == pytest.approx(PIXELS.reshape(5, 24) / 255)


def test_the_layout_is_read_from_the_shape(flat_onnx):
    first, last = runtime.open_model(flat_onnx([1, 3, 4, 2])), runtime.open_model(flat_onnx([1, 4, 2, 3]))
    assert (first.channels_first, first.size) == (True, (4, 2)) and (last.channels_first, last.size) == (False, (4, 2))


@pytest.mark.parametrize("where", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("shape", "first"),
    [
        (["b", "c", "h", "w"], True),
        (["b", "c", 6, 7], True),
        (["b", "c", "h", 7], True),
        (["b", "c", 6, "w"], True),
        (["b", 6, 7, "c"], False),
        (["b", 6, "w", "c"], False),
        (["b", "h", "w", 3], False),
        (["b", 3, "h", "w"], True),
    ],
)
def test_channels_that_a_shape_leaves_open(flat_onnx, shape, first, where):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 7, 3), np.uint8)
    embedder = runtime.open_model(flat_onnx(shape), runtime=where)
    expected = [[image[y, x, c] for c in range(3) for y in range(6) for x in range(7)] for image in pixels]
    assert embedder(pixels) == pytest.approx((np.array(expected) if first else pixels.reshape(2, -1)) / 255)
    assert embedder.size == tuple(n if isinstance(n, int) else -1 for n in (shape[2:] if first else shape[1:3]))
    open_both = not {3, 6, 7} & {shape[1], shape[3]}
    assert any("images (B, 3, H, W)" in line for line in embedder.assumed) == open_both


@pytest.mark.parametrize("shape", [["b", 1, "h", "w"], ["b", "h", "w", 1], ["b", "h", "w", 4], ["b", 6, 7, 5]])
def test_images_of_other_channels_are_refused(flat_onnx, shape):
    with pytest.raises(InputError, match="isn't a batch of RGB images"):
        runtime.open_model(flat_onnx(shape))


def test_channels_first_pixels_are_transposed(flat_onnx):
    assert runtime.open_model(flat_onnx([1, 3, 4, 2]))(PIXELS) == pytest.approx(
        PIXELS.transpose(0, 3, 1, 2).reshape(5, 24) / 255
    )


def test_mean_std_and_color_order_are_applied(flat_onnx):
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    embedder = runtime.open_model(flat_onnx([1, 4, 2, 3]), mean=mean, std=std, color_order="BGR")
    assert embedder(PIXELS) == pytest.approx(((PIXELS[..., ::-1] / 255 - mean) / std).reshape(5, 24), abs=1e-5)
    assert embedder.assumed == []


def test_what_the_file_says_needs_no_assumption(flat_onnx):
    known = {"mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]", "color_order": "RGB"}
    embedder = runtime.open_model(flat_onnx([1, 4, 2, 3], metadata=known))
    assert embedder.assumed == [] and embedder(PIXELS) == pytest.approx(PIXELS.reshape(5, 24) / 127.5 - 1, abs=1e-5)


def test_what_is_left_open_is_assumed_and_said(flat_onnx):
    assert len(runtime.open_model(flat_onnx([1, 4, 2, 3])).assumed) == 2
    raw = runtime.open_model(flat_onnx([1, 4, 2, 3], TensorProto.UINT8))
    assert raw(PIXELS) == pytest.approx(PIXELS.reshape(5, 24)) and "raw pixels" in raw.assumed[0]


def test_a_tflite_file_describes_itself(steps, ranges, images, tmp_path):
    (tmp_path / "m.tflite").write_bytes(tflite.integer_file(steps, ranges, {"color_order": "RGB"}, output="int8"))
    embedder = runtime.open_model(tmp_path / "m.tflite")
    assert (embedder.input.dtype, embedder.output.dtype, embedder.assumed) == (np.uint8, np.int8, [])
    (tmp_path / "f.tflite").write_bytes(tflite.integer_file(steps, ranges, {"color_order": "RGB"}))
    assert embedder(images) == pytest.approx(runtime.open_model(tmp_path / "f.tflite")(images))


def test_a_file_written_here_serves_any_batch_at_once(steps, ranges, images, tmp_path):
    (tmp_path / "own.tflite").write_bytes(tflite.integer_file(steps, ranges, {"color_order": "RGB"}))
    own, calls = runtime.open_model(tmp_path / "own.tflite"), []
    run = own.run
    own.run = lambda batch: calls.append(len(batch)) or run(batch)
    together = own(images)
    assert calls == [len(images)]
    assert together == pytest.approx(np.concatenate([own(image[None]) for image in images]), abs=1e-6)


def test_a_foreign_int8_input_is_encoded_by_its_scale(steps, ranges, images, tmp_path):
    model = flatbuffer.read_tflite(tflite.integer_file(steps, ranges, {}))
    (tmp_path / "uint8.tflite").write_bytes(flatbuffer.write_tflite(model))
    graph = model.subgraphs[0]
    graph.operators = graph.operators[1:]  # without QUANTIZE the input is int8
    graph.inputs = graph.operators[0].inputs[:1]
    model.signatureDefs, model.metadata = [], []
    (tmp_path / "int8.tflite").write_bytes(flatbuffer.write_tflite(model))
    expected = runtime.open_model(tmp_path / "uint8.tflite")(images)
    assert runtime.open_model(tmp_path / "int8.tflite")(images) == pytest.approx(expected)
    encoded = runtime.open_model(tmp_path / "int8.tflite", mean=[0, 0, 0], std=[1, 1, 1])
    assert encoded.input.zero_point == -128 and encoded(images) == pytest.approx(expected)
    shifted = runtime.open_model(tmp_path / "int8.tflite", mean=[0.5] * 3, std=[1, 1, 1]).prepare(images)
    assert shifted == pytest.approx(np.clip(np.round((images / 255 - 0.5) * 255) - 128, -128, 127), abs=1)


def test_pixels_that_are_their_own_codes_cost_no_arithmetic(steps, ranges, images, tmp_path):
    (tmp_path / "m.tflite").write_bytes(tflite.integer_file(steps, ranges, {"mean": [0.0] * 3, "std": [1.0] * 3}))
    embedder = runtime.open_model(tmp_path / "m.tflite")
    assert np.shares_memory(embedder.prepare(images), images) and embedder.assumed == ["color order RGB"]


def test_codes_and_values_are_inverse():
    port = Port((1, 4), np.dtype(np.int8), 0.5, -3)
    assert port.decode(np.array([-3, 1], np.int8)).tolist() == [0.0, 2.0]
    assert port.encode(np.array([0.0, 2.0, 1e9])).tolist() == [-3, 1, 127]


@pytest.mark.parametrize(("kind", "zero"), [("uint8", 127), ("int8", -1)])
@pytest.mark.parametrize("given", [(0.5, 0.5), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_a_quantized_input_keeps_every_level_of_a_pixel(kind, zero, given, order, tmp_path):
    """Scale 2/255 on [-1, 1], as Teachable Machine's files have it: each pixel value lies halfway between two codes."""
    build, scale = flatbuffer.Builder(), float(np.float32(2 / 255))
    image = build.tensor((1, 16, 16, 3), kind, scale, zero)
    shape = build.tensor([2], "int32", data=[1, 768])
    made = build.op("RESHAPE", [image, shape], build.tensor((1, 768), kind, scale, zero))
    (tmp_path / "m.tflite").write_bytes(build.finish(image, made, ("x", "y"), {}))
    mean, std = ([value] * 3 if isinstance(value, float) else value for value in given)
    embedder = runtime.open_model(tmp_path / "m.tflite", mean=mean, std=std, color_order=order)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    codes = embedder.prepare(pixels).reshape(256, 3).astype(int)
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    for column, channel in enumerate(range(3) if order == "RGB" else (2, 1, 0)):
        assert (np.diff(codes[:, column]) >= 0).all()
        for pixel, code in enumerate(codes[:, column]):
            exact = (Fraction(pixel, 255) - Fraction(mean[column])) / Fraction(std[column]) / Fraction(scale) + zero
            assert abs(min(max(exact, least), most) - code) <= Fraction(1, 2), (pixel, channel)
    if mean == std:
        assert [len(np.unique(column)) for column in codes.T] == [255] * 3
    assert embedder(pixels).reshape(256, 3) == pytest.approx((codes - zero) * scale, abs=1e-6)


def test_a_tflite_file_that_fills_more_than_it_says_is_refused():
    build = flatbuffer.Builder()
    given, size = build.tensor([1, 4, 2, 3], "float32"), build.tensor([2], "int32", data=[1, 2**31 - 1])
    one = build.tensor([], "float32", data=np.float32(1))
    made = build.op("FILL", [size, one], build.tensor([1, 4], "float32"))
    with pytest.raises(InputError, match="damaged"):
        flatbuffer.require_sound(flatbuffer.read_tflite(build.finish(given, made, ("x", "y"), {})))


def test_files_that_are_no_models_are_input_errors(tmp_path, flat_onnx, steps, ranges):
    with pytest.raises(InputError, match=r"none\.onnx: no such file"):
        runtime.open_model(tmp_path / "none.onnx")
    for name, content in {
        "a.onnx": b"no",
        "b.tflite": b"no",
        "c.tflite": tflite.integer_file(steps, ranges, {})[:2000],
        "d.pt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            runtime.open_model(tmp_path / name)
    with pytest.raises(InputError, match=r"isn't a batch of RGB images"):
        runtime.open_model(flat_onnx([1, 24]))
    with pytest.raises(InputError, match=r"its mean is .*pixels in \[0, 1\], divided by 255"):
        runtime.open_model(flat_onnx([1, 4, 2, 3]), mean=[123.675, 116.28, 103.53], std=[58.4, 57.1, 57.4])
    with pytest.raises(InputError, match="its std is"):
        runtime.open_model(flat_onnx([1, 4, 2, 3]), mean=[0, 0, 0], std=[255, 255, 255])
    loud = flat_onnx([1, 4, 2, 3]).rename(tmp_path / "NET.ONNX")
    assert runtime.open_model(loud)(PIXELS).shape == (5, 24)
    with pytest.raises(InputError, match="both mean and std"):
        runtime.open_model(flat_onnx([1, 4, 2, 3]), mean=[0, 0, 0])
