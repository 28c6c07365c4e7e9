"""Files of other tools: every one is embedded as a slow calculation says, or refused in one line."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidlab.errors import InputError
from reidlab.export import flatbuffer, runtime, tflite

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 2, 3), np.uint8)
VALUES = PIXELS.reshape(5, 24).astype(float)  # channels last, as the files here take them
TYPES = TensorProto


@pytest.fixture
def save(tmp_path):
    """Save an .onnx of nodes: from `x` (N, 4, 2, 3), by default, to outputs given as name, type and shape."""

    def write(nodes, outputs, kind=TYPES.FLOAT, inputs=(), constants=None, metadata=None, shape=("n", 4, 2, 3)):
        given = [helper.make_tensor_value_info("x", kind, shape)]
        given += [helper.make_tensor_value_info(name, type_, dims) for name, type_, dims in inputs]
        made = [helper.make_tensor_value_info(name, type_, dims) for name, type_, dims in outputs]
        stored = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
        graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "g", given, made, stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        onnx.save(model, tmp_path / "theirs.onnx")
        return tmp_path / "theirs.onnx"

    return write


def flat(output="y"):
    return "Flatten", ["x"], [output], {}


def two(save, first, second, shapes=((("n", 24)), ("n", 24))):
    """A file with two outputs: the second is the negative of the first."""
    nodes = [flat(first), ("Neg", [first], [second], {})]
    return save(nodes, [(name, TYPES.FLOAT, shape) for name, shape in zip((first, second), shapes, strict=True)])


def test_the_output_that_is_called_an_embedding_is_taken(save):
    for names, sign in ((("logits", "embedding"), -1), (("Embeddings", "scores"), 1), (("cls", "bn_feature"), -1)):
        embedder = runtime.open_model(two(save, *names))
        assert embedder(PIXELS) == pytest.approx(sign * VALUES / 255)
        assert any("the output" in line and names[0] in line and names[1] in line for line in embedder.assumed)


def test_the_only_output_of_two_dimensions_is_taken(save):
    nodes = [("Identity", ["x"], ["map"], {}), flat("vector")]
    file = save(nodes, [("map", TYPES.FLOAT, ("n", 4, 2, 3)), ("vector", TYPES.FLOAT, ("n", 24))])
    embedder = runtime.open_model(file)
    assert embedder(PIXELS) == pytest.approx(VALUES / 255) and "the output vector of map" in embedder.assumed[0]
    flattened = runtime.open_model(file, output="map")
    assert flattened(PIXELS) == pytest.approx(VALUES / 255) and any("flattened" in line for line in flattened.assumed)


@pytest.mark.parametrize(
    ("vector", "shape"), [("output", (0, 24)), ("bn_feature", (0, 24)), ("bn_feature", (0, 24, 1, 1))]
)
def test_a_map_that_is_called_features_is_no_embedding(save, vector, shape):
    nodes = [("Identity", ["x"], ["features"], {}), ("Reshape", ["x", "shape"], [vector], {})]
    made = [("features", TYPES.FLOAT, ("n", 4, 2, 3)), (vector, TYPES.FLOAT, ("n", *shape[1:]))]
    embedder = runtime.open_model(save(nodes, made, constants={"shape": np.array(shape)}))
    assert embedder(PIXELS) == pytest.approx(VALUES / 255)
    assert any(f"the output {vector} of" in line for line in embedder.assumed)


@pytest.mark.parametrize("shape", [(1, 1, 24), (1, 24), (24, 1, 1)])
def test_a_vector_that_is_called_an_embedding_may_have_any_axes(save, shape):
    """As of tools with channels last; the scores beside it aren't taken for it."""
    nodes = [flat("scores"), ("Neg", ["scores"], ["n"], {}), ("Reshape", ["n", "shape"], ["embedding"], {})]
    made = [("scores", TYPES.FLOAT, ("n", 24)), ("embedding", TYPES.FLOAT, ("n", *shape))]
    embedder = runtime.open_model(save(nodes, made, constants={"shape": np.array((-1, *shape))}))
    assert embedder(PIXELS) == pytest.approx(-VALUES / 255)


def scored(save, names, widths):
    """A file with two outputs: the first numbers of an image, and the negatives of the first."""
    nodes = [flat("f"), ("Slice", ["f", "zero", "first", "axis"], [names[0]], {}), ("Neg", ["f"], ["g"], {})]
    nodes += [("Slice", ["g", "zero", "second", "axis"], [names[1]], {})]
    numbers = {"zero": 0, "axis": 1, "first": widths[0], "second": widths[1]}
    made = [(name, TYPES.FLOAT, ("n", width)) for name, width in zip(names, widths, strict=True)]
    return save(nodes, made, constants={name: np.array([number]) for name, number in numbers.items()})


@pytest.mark.parametrize(
    ("names", "widths", "classes"),
    [
        (("embedding", "logits"), (8, 3), 3),
        (("embedding", "logits"), (3, 3), 3),
        (("embedding", "logits"), (8, 3), 0),  # nobody knows how many
        (("embedding", "logits"), (8, 3), 5),  # to be refused as of other classes
        (("feat", "output"), (8, 3), 3),
        (("logits", "feature_scores"), (8, 3), 3),
    ],
)
def test_scores_are_wanted_of_a_classifier(save, names, widths, classes):
    embedder = runtime.open_model(scored(save, names, widths), classes=classes)
    assert embedder(PIXELS) == pytest.approx(-VALUES[:, :3] / 255)
    assert any(f"the output {names[1]} of" in line for line in embedder.assumed)


def test_scores_that_might_both_be_meant_are_listed(save):
    for names, widths, classes in ((("a", "b"), (3, 3), 3), (("a", "b"), (8, 3), 0)):
        with pytest.raises(InputError, match=r"choose by evaluate\.output=NAME"):
            runtime.open_model(scored(save, names, widths), classes=classes)


def test_outputs_that_might_both_be_meant_are_listed(save):
    file = two(save, "a", "b")
    with pytest.raises(
        InputError, match=r"theirs\.onnx: has 2 outputs, a \(-1, 24\) float32; b .*evaluate\.output=NAME"
    ):
        runtime.open_model(file)
    assert runtime.open_model(file, output="b")(PIXELS) == pytest.approx(-VALUES / 255)
    with pytest.raises(InputError, match=r"has no output c; evaluate\.output may be one of a .*; b "):
        runtime.open_model(file, output="c")


def test_a_second_input_is_refused_by_name(save):
    nodes = [flat("f"), ("Add", ["f", "camera"], ["y"], {})]
    file = save(nodes, [("y", TYPES.FLOAT, ("n", 24))], inputs=[("camera", TYPES.FLOAT, (1, 24))])
    with pytest.raises(InputError, match=r"takes 2 inputs, x \(-1, 4, 2, 3\) float32; camera \(1, 24\) float32"):
        runtime.open_model(file)


@pytest.mark.parametrize("where", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("target", [(1, 24), (1, -1)])
def test_a_constant_reshape_takes_one_image_at_a_time(save, target, where, capsys):
    weight = np.random.default_rng(1).normal(size=(24, 7)).astype(np.float32)
    nodes = [("Reshape", ["x", "shape"], ["f"], {}), ("MatMul", ["f", "w"], ["y"], {})]
    file = save(nodes, [("y", TYPES.FLOAT, ("n", 7))], constants={"shape": np.array(target), "w": weight})
    embedder = runtime.open_model(file, runtime=where)
    for _ in range(2):
        assert embedder(PIXELS) == pytest.approx(VALUES / 255 @ weight, abs=1e-4)
    assert capsys.readouterr().out.count("takes one image at a time") == 1


def test_a_graph_that_fails_on_one_image_is_one_line(save):
    file = save([("Reshape", ["x", "shape"], ["y"], {})], [("y", TYPES.FLOAT, (5, 7))],
                constants={"shape": np.array([5, 7])})  # fmt: skip
    with pytest.raises(InputError, match=r"theirs\.onnx: onnxruntime fails on float32 \(1, 4, 2, 3\)") as error:
        runtime.open_model(file)(PIXELS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        (TYPES.DOUBLE, 255),
        (TYPES.FLOAT16, 255),
        (TYPES.INT32, 1),
        (TYPES.INT64, 1),
        (TYPES.UINT16, 1),
        (TYPES.UINT8, 1),
    ],
)
def test_every_type_of_number_is_fed(save, kind, scale):
    nodes = [("Cast", ["x"], ["c"], {"to": TYPES.FLOAT}), ("Flatten", ["c"], ["y"], {})]
    embedder = runtime.open_model(save(nodes, [("y", TYPES.FLOAT, ("n", 24))], kind=kind))
    assert embedder(PIXELS) == pytest.approx(VALUES / scale, rel=1e-3)
    assert ("raw pixels 0..255" in embedder.assumed[0]) == (scale == 1)


@pytest.mark.parametrize("kind", [TYPES.DOUBLE, TYPES.FLOAT16])
def test_other_floats_are_returned(save, kind):
    nodes = [("Cast", ["x"], ["c"], {"to": kind}), ("Flatten", ["c"], ["y"], {})]
    found = runtime.open_model(save(nodes, [("y", kind, ("n", 24))]))(PIXELS)
    assert found.dtype == np.float32 and found == pytest.approx(VALUES / 255, rel=1e-3)


def test_inputs_and_outputs_without_numbers_are_refused(save):
    nodes = [("Cast", ["x"], ["c"], {"to": TYPES.FLOAT}), ("Flatten", ["c"], ["y"], {})]
    with pytest.raises(InputError, match=r"its input x \(-1, 4, 2, 3\) bool isn't of numbers"):
        runtime.open_model(save(nodes, [("y", TYPES.FLOAT, ("n", 24))], kind=TYPES.BOOL))
    nodes = [flat("f"), ("ArgMax", ["f"], ["y"], {"axis": 1})]
    with pytest.raises(InputError, match=r"its output y \(-1, 1\) int64 can't be an embedding"):
        runtime.open_model(save(nodes, [("y", TYPES.INT64, ("n", 1))]))


def test_values_that_are_not_finite_are_refused(save):
    file = save([flat("f"), ("Log", ["f"], ["y"], {})], [("y", TYPES.FLOAT, ("n", 24))])
    pixels = PIXELS.copy()
    pixels[0, 0] = 0
    with pytest.raises(InputError, match=r"theirs\.onnx: returns values that aren't finite"):
        runtime.open_model(file)(pixels)


def test_metadata_of_other_tools(save):
    made = [("y", TYPES.FLOAT, ("n", 24))]
    embedder = runtime.open_model(save([flat()], made, metadata={"classes": "{0: 'person'}", "distance": "cosine"}))
    assert "nothing by its metadata's classes, which isn't JSON, or is of another kind" in embedder.assumed
    for mean in ("0.485 0.456 0.406", "[0.5, 0.5]", '["a", 1, 2]', "[0, 0, NaN]"):
        file = save([flat()], made, metadata={"mean": mean, "std": "[1, 1, 1]"})
        with pytest.raises(InputError, match="mean"):
            runtime.open_model(file)
    with pytest.raises(InputError, match=r"std"):
        runtime.open_model(save([flat()], made, metadata={"mean": "[0, 0, 0]", "std": "[1, 0, 1]"}))
    with pytest.raises(InputError, match="color order GBR"):
        runtime.open_model(save([flat()], made, metadata={"color_order": "GBR"}))


DAMAGES = {
    "input": lambda graph, model: setattr(graph.operators[2], "inputs", np.array([9999, 1, 2], np.int32)),
    "missing output": lambda graph, model: setattr(graph.operators[2], "outputs", np.array([-7], np.int32)),
    "operator code": lambda graph, model: setattr(graph.operators[2], "opcodeIndex", 77),
    "buffer": lambda graph, model: setattr(graph.tensors[3], "buffer", 4000),
    "graph's input": lambda graph, model: setattr(graph, "inputs", np.array([4096], np.int32)),
    "negative size": lambda graph, model: setattr(graph.tensors[0], "shape", np.array([1, -32, 16, 3], np.int32)),
    "huge size": lambda graph, model: setattr(graph.tensors[0], "shape", np.array([1, 65536, 65536, 3], np.int32)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tflite_never_reaches_litert(damage, steps, ranges, tmp_path):
    model = flatbuffer.read_tflite(tflite.integer_file(steps, ranges, {}))
    DAMAGES[damage](model.subgraphs[0], model)
    file = tmp_path / "damaged.tflite"
    file.write_bytes(flatbuffer.write_tflite(model))
    with pytest.raises(InputError, match=r"damaged\.tflite: damaged, it refers to what it doesn't hold"):
        runtime.open_model(file)


def test_constants_of_another_size_are_noticed(steps, ranges, tmp_path):
    model = flatbuffer.read_tflite(tflite.integer_file(steps, ranges, {}))
    graph = model.subgraphs[0]
    tensor = next(tensor for tensor in graph.tensors if model.buffers[tensor.buffer].data is not None)
    tensor.shape = np.array([*tensor.shape[:-1], tensor.shape[-1] * 8], np.int32)
    (tmp_path / "short.tflite").write_bytes(flatbuffer.write_tflite(model))
    with pytest.raises(InputError, match=r"short\.tflite: damaged"):
        runtime.open_model(tmp_path / "short.tflite")


def test_pipes_and_folders_are_no_models(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.tflite").mkdir()
    for name in ("pipe.onnx", "folder.tflite"):
        with pytest.raises(InputError, match=rf"{name}: can't be read"):
            runtime.open_model(tmp_path / name)
