"""Mutants of small .tflite and .onnx files, given to all that reads one: a result, or one line."""

import numpy as np
import pytest
import torch

from reidlab.export import quantizer
from reidlab.export.quiet import quiet
from reidlab.models.heads import ReIdNetwork
from reidlab.models.osnet import OmniScaleBlock, conv_norm
from reidlab.run import File

pytestmark = pytest.mark.slow
MUTANTS = 300
SIZE = (16, 8)
ENDS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


class SmallNet(ReIdNetwork):
    def __init__(self):
        super().__init__()
        self.conv1, self.maxpool = conv_norm(3, 8, kernel=3, stride=2), torch.nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = OmniScaleBlock(8, 64)
        self.stages = ("conv1", "maxpool", "conv2")
        self.add_head(64, 0, feat_dim=8)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """By suffix, small files of this project, int8, and of another tool, float."""
    import tensorflow as tf

    torch.manual_seed(0)
    network, place = SmallNet().eval(), tmp_path_factory.mktemp("originals")
    images = np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)
    ours = quantizer.quantize(network, [images], mean=[0.5] * 3, std=[0.25] * 3).files
    layers = torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(8)
    with quiet():
        plain = torch.nn.Sequential(*layers)
        plain(torch.zeros(1, 3, *SIZE))
        torch.onnx.export(plain, (torch.zeros(1, 3, *SIZE),), place / "theirs.onnx", dynamo=False)
        keras = [tf.keras.Input((*SIZE, 3)), tf.keras.layers.Conv2D(4, 3, 2, activation="relu"),
                  tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(8)]  # fmt: skip
        converted = tf.lite.TFLiteConverter.from_keras_model(tf.keras.Sequential(keras)).convert()
    return {
        ".tflite": [ours[File.TFLITE_INT8], converted],
        ".onnx": [ours[File.ONNX_INT8], (place / "theirs.onnx").read_bytes()],
    }


def flipped(content, random):
    for place in random.integers(0, len(content), random.integers(1, 9)):
        content[place] = random.choice([0, 1, 127, 128, 255, random.integers(256)])


def truncated(content, random):
    del content[random.integers(len(content)) :]


def spliced(content, random):
    """A part of it in the place of another, or between."""
    start, length, place = random.integers(0, len(content), 3)
    part = content[start : start + length % 400]
    content[place : place + random.choice([0, len(part)])] = part


def resized(content, random):
    """Words, which may be lengths and offsets, overwritten by extreme and by nearly right ones."""
    for place in random.integers(0, len(content) // 4, random.integers(1, 4)) * 4:
        nearly = int.from_bytes(content[place : place + 4], "little") + random.integers(-8, 9)
        word = int(random.choice([*ENDS, len(content), nearly]))
        content[place : place + 4] = (word % 2**32).to_bytes(4, "little")


MUTATIONS = (flipped, truncated, spliced, resized)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx"])
def test_mutants_are_read_or_refused_in_one_line(suffix, originals, check, tmp_path, tally):
    random, file = np.random.default_rng(0), tmp_path / f"theirs{suffix}"
    for original in originals[suffix]:
        file.write_bytes(original)
        check("read", file)
    for number in range(MUTANTS):
        content = bytearray(originals[suffix][number % 2])
        MUTATIONS[number // 2 % len(MUTATIONS)](content, random)
        file.write_bytes(content)
        tally(f"mutant of {suffix}", "one line" if check("read", file) else "right")
