"""Keras's own code is the oracle: of the files that are read, of those that are written, and of the .tflite writer."""

import itertools

import numpy as np
import pytest
import torch

from reidlab import models
from reidlab.errors import InputError
from reidlab.export.folding import deployable
from reidlab.export.keras import keras_file, rescaling
from reidlab.export.steps import as_steps
from reidlab.export.tflite import float_file
from reidlab.models import Confidences, load_weights

pytestmark = pytest.mark.slow  # TensorFlow takes seconds to be imported


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras")


def unsettle(network):
    """Batch norms as training leaves them."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            for tensor, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                                      (module.weight.data, 0.5, 1.5), (module.bias.data, -0.2, 0.2)):  # fmt: skip
                tensor.uniform_(low, high)
    return network.eval()


def st_osnet(keras, alpha_channels, size, classes=None):
    """OSNet as ST's services build it: their order of layers, padding and epsilon; one gate for a block's streams."""
    layers = keras.layers

    def conv_norm(x, channels, relu=True, **options):
        x = layers.BatchNormalization()(layers.Conv2D(channels, use_bias=False, **{"kernel_size": 1, **options})(x))
        return layers.ReLU()(x) if relu else x

    def light(x, channels):
        x = layers.Conv2D(channels, 1, use_bias=False)(x)
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    def block(x, before, after):
        middle, identity = after // 4, x
        x = conv_norm(x, middle)
        streams = []
        for depth in range(1, 5):
            stream = x
            for _ in range(depth):
                stream = light(stream, middle)
            streams.append(stream)
        gate = [layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(middle // 16, 1), layers.ReLU(),
                layers.Conv2D(middle, 1), layers.Activation("sigmoid")]  # fmt: skip
        gates = streams
        for layer in gate:
            gates = [layer(value) for value in gates]
        a, b, c, d = (stream * value for stream, value in zip(streams, gates, strict=False))
        out = conv_norm(a + b + c + d, after, relu=False)
        return layers.ReLU()(out + (identity if before == after else conv_norm(identity, after, relu=False)))

    image = keras.Input((*size, 3))
    x = conv_norm(image, alpha_channels[0], kernel_size=7, strides=2, padding="same")
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for number, (before, after) in enumerate(itertools.pairwise(alpha_channels)):
        x = block(block(x, before, after), after, after)
        if number < 2:
            x = layers.AveragePooling2D(2, 2)(conv_norm(x, after))
    x = layers.GlobalAveragePooling2D()(conv_norm(x, alpha_channels[-1]))
    if classes:
        x = layers.Dense(classes, activation="softmax")(layers.Dropout(0.25)(x))
    return keras.Model(image, x, name="osnet")


def randomize(model, seed=0):
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            shape = layer.get_weights()[0].shape
            ends = ((0.5, 1.5), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5))
            layer.set_weights([generator.uniform(*end, shape) for end in ends])
    return model


def differs(model, network, size, seed=0):
    """Largest difference of the outputs, in parts of the largest value."""
    images = np.random.default_rng(seed).random((3, *size, 3), np.float32)
    expected = np.asarray(model(images, training=False))
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2)).embedding.numpy()
    return abs(found - expected).max() / abs(expected).max()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    ("name", "channels", "classes"), [("osnet_x0_25", (16, 64, 96, 128), None), ("osnet_x0_25", (16, 64, 96, 128), 7)]
)
def test_osnet_of_st_loads(name, channels, classes, suffix, keras, tmp_path):
    model = randomize(st_osnet(keras, channels, (96, 64), classes))
    file = tmp_path / f"osnet.{suffix}"
    model.save(file)
    network = getattr(models, name)(feat_dim=None, padding="tensorflow")
    report = load_weights(network, file)
    assert report.complete and not report.missing
    assert sorted(report.left_out) == (["classifier.bias", "classifier.weight"] if classes else [])
    embeds = keras.Model(model.input, model.layers[-3].output) if classes else model
    assert differs(embeds, network, (96, 64)) < 1e-4


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("top", [False, True])
def test_mobilenetv2_of_keras_loads(top, suffix, keras, tmp_path):
    options = {"include_top": True, "classes": 9} if top else {"include_top": False, "pooling": "avg"}
    model = randomize(keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None, **options))
    model.save(tmp_path / f"m.{suffix}")
    network = models.mobilenetv2_x0_35(padding="tensorflow", num_classes=9 if top else 0)
    assert load_weights(network, tmp_path / f"m.{suffix}").complete
    assert differs(model, Confidences(network) if top else network, (96, 96)) < 1e-4


CASES = [
    ("osnet_x0_25", {}, (64, 32)),
    ("osnet_x0_25", {"padding": "tensorflow", "feat_dim": None}, (96, 64)),
    ("mobilenetv2_x0_35", {"padding": "tensorflow"}, (64, 96)),
    ("st_fdmobilenet_v1", {"num_classes": 5, "padding": "tensorflow"}, (96, 96)),
    ("fdmobilenet_x0_25", {"num_classes": 3, "depthwise": "norm"}, (33, 47)),
    ("resnet18", {"neck": "bnneck", "feat_dim": 32}, (64, 32)),
]


@pytest.mark.parametrize(("name", "options", "size"), CASES)
def test_there_and_back(name, options, size, keras, tmp_path):
    network = unsettle(getattr(models, name)(**options))
    written = Confidences(network) if "num_classes" in options else network
    content, difference = keras_file(written, size, name)
    assert difference < 1e-4
    (tmp_path / "model.keras").write_bytes(content)
    model = keras.models.load_model(tmp_path / "model.keras")
    assert type(model).__name__ == "Functional" and differs(model, written, size) < 1e-4
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    again = getattr(models, name)(**options)
    report = load_weights(again, tmp_path / "model.keras")
    assert report.complete and not report.missing and not report.left_out
    for key, tensor in again.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(tensor, network.state_dict()[key], rtol=0, atol=1e-6)


def test_a_written_model_goes_on_learning_as_st_has_it(keras, tmp_path):
    """A dropout and a dense layer on the embedding, as ST's services put on a model that they are given."""
    content, _ = keras_file(unsettle(models.fdmobilenet_x0_25(padding="tensorflow")), (32, 32), "fd")
    (tmp_path / "model.keras").write_bytes(content)
    base = keras.models.load_model(tmp_path / "model.keras")
    assert all(layer.trainable for layer in base.layers)
    scores = keras.layers.Dense(4, activation="softmax")(keras.layers.Dropout(0.2)(base.output))
    model = keras.Model(base.input, [scores, base.output])
    keras.utils.set_random_seed(0)
    model.compile(keras.optimizers.Adam(1e-3), ["sparse_categorical_crossentropy", None])
    images, labels = np.random.default_rng(0).random((16, 32, 32, 3)), np.arange(16) % 4
    before = [variable.numpy().copy() for variable in base.trainable_variables]
    losses = model.fit(images, [labels, labels], epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    moved = [not np.array_equal(a, b.numpy()) for a, b in zip(before, base.trainable_variables, strict=False)]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize(("name", "options", "size"), [CASES[number] for number in (1, 2, 3)])
def test_the_tflite_writer_equals_tensorflows_converter(name, options, size, keras, tmp_path):
    import tensorflow as tf

    network = unsettle(getattr(models, name)(**options))
    written = Confidences(network) if "num_classes" in options else network
    (tmp_path / "model.keras").write_bytes(keras_file(written, size, name)[0])
    model = keras.models.load_model(tmp_path / "model.keras")
    theirs = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    ours = float_file(as_steps(deployable(written, (0, 0, 0), (1, 1, 1)), size), {})
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)

    def run(content, given):
        interpreter = tf.lite.Interpreter(
            model_content=content, experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF
        )
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], given)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    expected, found = run(theirs, pixels.astype(np.float32) / 255), run(ours, pixels)
    assert abs(found - expected).max() < 1e-4 * max(1, abs(expected).max())


def test_what_has_no_keras_form_is_refused(keras):
    with pytest.raises(InputError, match="InstanceNorm2d has no Keras form"):
        keras_file(models.osnet_ain_x0_25().eval(), (64, 32), "osnet")


def test_the_rescaling_that_st_is_told():
    assert rescaling((0, 0, 0), (1, 1, 1)) == f"{{scale: {1 / 255:.8g}, offset: 0}}"
    assert rescaling((0.5,) * 3, (0.5,) * 3) == f"{{scale: {1 / 127.5:.8g}, offset: -1}}"
    assert rescaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).startswith("none fits")
