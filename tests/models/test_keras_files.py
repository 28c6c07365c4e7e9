"""Keras files load as data: equal to Keras's own predictions, and nothing in them is run, followed or believed."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
import torch

from reidlab import models
from reidlab.errors import InputError
from reidlab.models import load_weights
from reidlab.models.keras_files import count_classes, ends_of_same
from reidlab.models.layers import Layer, Pairing, trace


def fdmobilenet_h5(file, alpha=0.25, classes=5, change=lambda layers: layers, seed=0):
    """An FD-MobileNet .h5 as Keras 2 writes them, by hand, with random weights."""
    generator, layers, weights = np.random.default_rng(seed), [], {}

    def layer(kind, name, variables=(), **config):
        before = [[[layers[-1]["config"]["name"], 0, 0, {}]]] if layers else []
        layers.append({"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": before})
        weights[name] = {
            f"{name}/{key}:0": generator.uniform(0.5, 1.5, shape).astype(np.float32) if key == "moving_variance"
            else generator.normal(0, 0.3, shape).astype(np.float32) for key, shape in variables
        }  # fmt: skip

    def norm(name, channels):
        variables = [(key, (channels,)) for key in ("gamma", "beta", "moving_mean", "moving_variance")]
        layer("BatchNormalization", name, variables, axis=[3], epsilon=1e-3)
        layer("Activation", f"{name}_relu", activation="relu")

    channels = [int(base * alpha) for base in (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 1024)]
    same = {"padding": "same", "data_format": "channels_last"}
    layer("InputLayer", "input_1", batch_input_shape=[None, 64, 64, 3])
    kernel = [("kernel", (3, 3, 3, channels[0]))]
    layer("Conv2D", "conv1", kernel, kernel_size=[3, 3], strides=[2, 2], use_bias=False, **same)
    norm("conv1_bn", channels[0])
    for number, (a, b, stride) in enumerate(
        zip(channels, channels[1:], (2, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1), strict=False), 1
    ):
        kernel = [("depthwise_kernel", (3, 3, a, 1)), ("bias", (a,))]
        layer("DepthwiseConv2D", f"dw{number}", kernel, kernel_size=[3, 3], strides=[stride] * 2, **same)
        kernel = [("kernel", (1, 1, a, b))]
        layer("Conv2D", f"pw{number}", kernel, kernel_size=[1, 1], strides=[1, 1], use_bias=False, **same)
        norm(f"pw{number}_bn", b)
    layer("GlobalAveragePooling2D", "pool")
    layer("Reshape", "reshape_1", target_shape=[1, 1, channels[-1]])
    layer("Dropout", "dropout", rate=0.3)
    kernel = [("kernel", (1, 1, channels[-1], classes)), ("bias", (classes,))]
    layer("Conv2D", "conv_preds", kernel, kernel_size=[1, 1], strides=[1, 1], **same)
    layer("Activation", "act_softmax", activation="softmax")
    layer("Reshape", "reshape_2", target_shape=[classes])
    layers = change(layers)
    config = {"layers": layers, "input_layers": [["input_1", 0, 0]], "output_layers": [["reshape_2", 0, 0]]}
    with h5py.File(file, "w") as stored:
        stored.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config})
        for name, variables in weights.items():
            group = stored.create_group(f"model_weights/{name}")
            group.attrs["weight_names"] = [key.encode() for key in variables]
            for key, values in variables.items():
                group[key] = values
    return file, weights


def same_conv(x, kernel, stride, groups=1):
    """TensorFlow's SAME convolution, sum by sum, of (C, H, W)."""
    taps, sides = kernel.shape[-1], x.shape[1:]
    made = [-(-side // stride) for side in sides]
    before = [max((m - 1) * stride + taps - side, 0) // 2 for m, side in zip(made, sides, strict=False)]
    out = np.zeros((len(kernel), *made))
    for row in range(made[0]):
        for column in range(made[1]):
            for i in range(taps):
                for j in range(taps):
                    y, z = row * stride + i - before[0], column * stride + j - before[1]
                    if 0 <= y < sides[0] and 0 <= z < sides[1]:
                        pixel = x[:, y, z]
                        out[:, row, column] += kernel[:, 0, i, j] * pixel if groups > 1 else kernel[:, :, i, j] @ pixel
    return out


def test_an_st_fdmobilenet_computes_what_its_weights_say(tmp_path):
    file, weights = fdmobilenet_h5(tmp_path / "fd.h5")
    assert count_classes(file) == 5
    network = models.fdmobilenet_x0_25(num_classes=5, padding="tensorflow")
    report = load_weights(network, file)
    assert report.complete and not report.missing and not report.left_out and len(report.loaded) == 84
    x = np.random.default_rng(1).random((3, 64, 64))
    given = torch.tensor(x[None], dtype=torch.float32)

    def norm(x, name):
        gamma, beta, mean, variance = (values[:, None, None] for values in weights[name].values())
        return np.maximum((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, 0)

    (kernel,) = weights["conv1"].values()
    x = norm(same_conv(x, kernel.transpose(3, 2, 0, 1), 2), "conv1_bn")
    for number, stride in enumerate((2, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1), 1):
        kernel, bias = weights[f"dw{number}"].values()
        x = same_conv(x, kernel.transpose(2, 3, 0, 1), stride, groups=2) + bias[:, None, None]
        (kernel,) = weights[f"pw{number}"].values()
        x = norm(same_conv(x, kernel.transpose(3, 2, 0, 1), 1), f"pw{number}_bn")
    kernel, bias = weights["conv_preds"].values()
    scores = x.mean((1, 2)) @ kernel[0, 0] + bias
    with torch.no_grad():
        found = network.eval()(given).logits[0].numpy()
    np.testing.assert_allclose(found, scores, atol=1e-4 * abs(scores).max())


def test_what_does_not_fit_is_named_with_what_to_set(tmp_path):
    file, _ = fdmobilenet_h5(tmp_path / "fd.h5")
    with pytest.raises(InputError, match=r"padded \[0, 1, 0, 1\].*set model.network.padding=tensorflow"):
        load_weights(models.fdmobilenet_x0_25(), file)
    with pytest.raises(InputError, match="doesn't fit this network"):
        load_weights(models.mobilenetv2_x0_35(padding="tensorflow"), file)
    with pytest.raises(InputError, match=r"8x3x3x3 in the file|stem.conv.weight"):
        load_weights(models.fdmobilenet_x0_5(padding="tensorflow"), file)
    report = load_weights(models.fdmobilenet_x0_25(padding="tensorflow"), file)
    assert report.complete and sorted(report.left_out) == ["classifier.bias", "classifier.weight"]
    report = load_weights(models.fdmobilenet_x0_25(padding="tensorflow", num_classes=7), file)
    assert "5x256 in the file" in report.left_out["classifier.weight"]


def changed(place, **changes):
    def change(layers):
        next(layer for layer in layers if layer["config"]["name"] == place).update(changes)
        return layers

    return change


def configured(place, **changes):
    def change(layers):
        next(layer for layer in layers if layer["config"]["name"] == place)["config"].update(changes)
        return layers

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("dropout", class_name="Lambda"), "Lambda layer dropout holds code"),
        (changed("dropout", class_name="Functional"), "dropout is a Functional"),
        (changed("dw3", inbound_nodes=[[["pw9", 0, 0, {}]]]), "reads what no layer makes"),
        (configured("conv1", data_format="channels_first"), "channels first"),
        (configured("conv1_bn_relu", activation="swish"), "activation .swish"),
        (configured("dw2", depth_multiplier=2), "depth multiplier"),
        (configured("conv1_bn", axis=[1]), "normalizes the axis"),
        (configured("conv1_bn", epsilon="0.001"), 'conv1_bn has the epsilon "0.001"'),
        (configured("conv1_bn", epsilon=None), "conv1_bn has the epsilon null"),
        (configured("input_1", batch_input_shape=[None, 64, 64, 1]), "expected RGB"),
    ],
)
def test_layers_of_no_network_here_are_refused_in_one_line(change, message, tmp_path):
    file, _ = fdmobilenet_h5(tmp_path / "fd.h5", change=change)
    with pytest.raises(InputError, match=message) as error:
        load_weights(models.fdmobilenet_x0_25(padding="tensorflow"), file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize(
    "nodes",
    [[[["dropout", n + 1, 0, {}]] for n in range(20_000)] + [[["image", 0, 0, {}]]], [[["image", 0, 0, {}]] * 20_000]],
    ids=["calls", "inputs"],
)
def test_a_layer_that_is_called_again_and_again_is_refused(nodes, tmp_path):
    """Each call reads the next one: looking through those that wait would take hours."""
    image = {"class_name": "InputLayer", "config": {"name": "image", "batch_shape": [None, 9, 9, 3]}}
    dropout = {"class_name": "Dropout", "config": {"name": "dropout"}, "inbound_nodes": nodes}
    config = {"layers": [image | {"inbound_nodes": []}, dropout], "input_layers": [["image", 0, 0]]}
    content = {"class_name": "Functional", "config": config | {"output_layers": [["dropout", 0, 0]]}}
    weights = io.BytesIO()
    h5py.File(weights, "w").close()
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(content))
        archive.writestr("model.weights.h5", weights.getvalue())
    with pytest.raises(InputError, match="calls its layers more than 16000 times"):
        count_classes(tmp_path / "a.keras")


def test_an_epsilon_that_the_file_leaves_out_is_that_of_keras(tmp_path):
    def without(layers):
        for layer in layers:
            layer["config"].pop("epsilon", None)
        return layers

    found = [
        load_weights(network := models.fdmobilenet_x0_25(padding="tensorflow"), file).complete and network.state_dict()
        for file, _ in (fdmobilenet_h5(tmp_path / "a.h5"), fdmobilenet_h5(tmp_path / "b.h5", change=without))
    ]
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in found), strict=True))


def test_links_to_other_files_are_not_followed(tmp_path):
    file, weights = fdmobilenet_h5(tmp_path / "fd.h5")
    secret = np.ones(next(iter(weights["conv1"].values())).shape, np.float32)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = secret
    for place in ("model_weights/conv1/conv1/kernel:0", "model_weights/dw1"):
        with h5py.File(file, "a") as stored:
            del stored[place]
            stored[place] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
        with pytest.raises(InputError, match=f"has no {place}"):
            load_weights(models.fdmobilenet_x0_25(padding="tensorflow"), file)
        file, _ = fdmobilenet_h5(tmp_path / "fd.h5")
    secret.tofile(tmp_path / "raw")
    with h5py.File(file, "a") as stored:
        del stored["model_weights/conv1/conv1/kernel:0"]
        external = [(str(tmp_path / "raw"), 0, secret.nbytes)]
        stored.create_dataset("model_weights/conv1/conv1/kernel:0", secret.shape, "f4", external=external)
    with pytest.raises(InputError, match="isn't a plain array"):
        load_weights(models.fdmobilenet_x0_25(padding="tensorflow"), file)


def test_what_unpacks_to_more_than_its_file_is_refused(tmp_path):
    file, _ = fdmobilenet_h5(tmp_path / "fd.h5")
    with h5py.File(file, "a") as stored:
        del stored["model_weights/conv1/conv1/kernel:0"]
        stored.create_dataset("model_weights/conv1/conv1/kernel:0", (1 << 20, 1 << 14), "f4", compression="gzip")
    with pytest.raises(InputError, match="larger than the file"):
        load_weights(models.fdmobilenet_x0_25(padding="tensorflow"), file)
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (50 << 20))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(InputError, match="unpacks to"):
        count_classes(tmp_path / "bomb.keras")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.keras", b"hello", "can't be read as a Keras model"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "can't be read as a Keras model"),
        ("a.keras", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    ],
)
def test_damaged_files_are_one_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_weights(models.fdmobilenet_x0_25(), tmp_path / name)


def test_damage_anywhere_is_one_line(tmp_path):
    file, _ = fdmobilenet_h5(tmp_path / "fd.h5")
    content, generator = file.read_bytes(), np.random.default_rng(0)
    for _ in range(20):
        broken = bytearray(content)
        for place in generator.integers(0, len(content), 40):
            broken[place] = generator.integers(256)
        broken = broken[: generator.integers(len(content) // 2, len(content))] if generator.random() < 0.3 else broken
        file.write_bytes(broken)
        try:
            load_weights(models.fdmobilenet_x0_25(padding="tensorflow"), file)
        except InputError as error:
            assert "\n" not in str(error)


def test_weights_alone_and_zips_of_something_else_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as stored:
        stored["x"] = [1.0]
    with pytest.raises(InputError, match="holds weights alone; save the whole model"):
        count_classes(tmp_path / "a.h5")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("data.pkl", b"")
    (tmp_path / "a.keras").write_bytes(content.getvalue())
    with pytest.raises(InputError, match=r"zip without config.json"):
        count_classes(tmp_path / "a.keras")


@pytest.mark.parametrize(
    ("side", "taps", "step", "ends"),
    [
        (8, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (256, 7, 2, (2, 3)),
        (9, 3, 1, (1, 1)),
        (None, 3, 2, (0, 1)),
        (8, 1, 2, (0, 0)),
    ],
)
def test_zeros_of_same(side, taps, step, ends):
    assert ends_of_same(side, taps, step) == ends


def test_operands_pair_either_way_round_and_shared_layers_stay_shared():
    def block(swapped, shared):
        image = Layer("image")
        a, b = Layer("conv", "a", [image], {"kernel": (1, 1)}), Layer("conv", "b", [image], {"kernel": (3, 3)})
        c = Layer("conv", "a" if shared else "c", [a], {"kernel": (1, 1)})
        return Layer("add", "", [b, c] if swapped else [c, b])

    mine, theirs, pairing = block(False, False), block(True, False), Pairing()
    assert pairing.fits(mine, theirs)
    assert {name: layer.name for name, layer in pairing.pairs(mine, theirs).items()} == {"a": "a", "b": "b", "c": "c"}
    theirs = block(True, True)
    assert pairing.fits(mine, theirs)
    with pytest.raises(InputError, match="one layer in one of the networks and several in the other"):
        pairing.pairs(mine, theirs)


def test_a_network_that_keras_does_not_have_is_refused(tmp_path):
    with pytest.raises(InputError, match="InstanceNorm2d has no Keras form"):
        trace(models.osnet_ain_x0_25())
