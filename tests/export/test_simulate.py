"""Simulated codes against the real files, what each layer costs, and training that wins back what int8 lost."""

import numpy as np
import pytest
import torch
from small_net import SIZE, SmallNet, unsettle
from torch.utils.data import DataLoader

from reidlab.export import qdq, runtime, tflite
from reidlab.export.equalize import consecutive_layers
from reidlab.export.finetune import finetune
from reidlab.export.folding import deployable
from reidlab.export.grid import activation_grids
from reidlab.export.ranges import observe
from reidlab.export.sensitivity import sensitivity
from reidlab.export.simulate import QATOptions, Simulation, fake_quantized, relative_error
from reidlab.export.steps import as_steps


def soft_images(count, seed):
    coarse = np.random.default_rng(seed).random((count, 8, 4, 3)).repeat(4, 1).repeat(4, 2)
    return (coarse * 255).round().astype(np.uint8)


def tensors(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def batches():
    return DataLoader([{"image": image} for image in tensors(soft_images(256, 5))], batch_size=32)


@pytest.fixture(scope="module")
def hard():
    """A network whose channels differ a thousandfold where its weights have but one scale, and its ranges."""
    torch.manual_seed(0)
    graph = deployable(unsettle(SmallNet()), [0] * 3, [1] * 3)
    for first, second in consecutive_layers(graph)[1:4]:
        factors = torch.logspace(-1.5, 1.5, len(first.weight)).view(-1, 1, 1, 1)
        first.weight.data *= factors
        if first.bias is not None:
            first.bias.data *= factors.flatten()
        second.weight.data /= factors.view(1, -1, 1, 1) if second.groups == 1 else factors
    steps = as_steps(graph, SIZE)
    return steps, observe(steps.arrays, [soft_images(32, 0).astype(np.float32) / 255], "minmax")


def by_file(steps, ranges, images, place, **how):
    place.write_bytes(tflite.integer_file(steps, ranges, {"color_order": "RGB"}, **how))
    return torch.from_numpy(runtime.open_model(place)(images))


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_simulation_computes_what_the_file_computes(steps, ranges, images, per_channel, tmp_path):
    found = by_file(steps, ranges, images, tmp_path / "m.tflite", per_channel=per_channel)
    with torch.no_grad():
        expected = Simulation(steps, ranges, per_channel=per_channel)(tensors(images))
        lost = relative_error(found, steps(tensors(images)))
    assert relative_error(found, expected) < 0.3 * lost or relative_error(found, expected) < 1e-3


def test_a_simulation_leaves_out_what_stays_float(steps, ranges, images):
    everything = [step.name for step in steps.steps]
    with torch.no_grad():
        simulated = Simulation(steps, ranges, float_steps=everything)(tensors(images))
        assert torch.allclose(simulated, steps(tensors(images)), atol=1e-6)


def test_ranges_come_out_as_they_went_in(steps, ranges):
    kept = Simulation(steps, ranges).ranges()
    assert kept.keys() == ranges.keys() and kept["add_1"] == pytest.approx(ranges["add_1"])


def test_training_wins_back_more_than_half_of_what_int8_lost(hard, tmp_path):
    steps, ranges = hard
    images, how = soft_images(64, 9), {"per_channel": False}  # images that nothing was calibrated or trained on
    with torch.no_grad():
        expected = steps(tensors(images))
    before = relative_error(by_file(steps, ranges, images, tmp_path / "before.tflite", **how), expected)
    simulation = Simulation(steps, ranges, **how)
    finetune(simulation, steps, batches(), QATOptions(epochs=3, lr=2e-3, range_lr=1e-2))
    trained = by_file(simulation.network, simulation.ranges(), images, tmp_path / "after.tflite", **how)
    assert relative_error(trained, expected) < before / 2
    with torch.no_grad():
        assert torch.equal(expected, steps(tensors(images)))  # the float network is what it was


def test_the_layer_that_was_made_hard_costs_most(steps, images):
    ranges = observe(steps.arrays, [images.astype(np.float32) / 255], "minmax")
    spoiled = ranges | {"network.conv2.conv2b.1.conv2": ranges["network.conv2.conv2b.1.conv2"]._replace(high=1e3)}
    batches = [images[:6].astype(np.float32) / 255, images[6:].astype(np.float32) / 255]

    def lost(found, expected):
        return {"lost": float(relative_error(found, expected))}

    costs = sensitivity(steps, spoiled, batches, lost)
    assert list(costs.index) == [step.name for step in steps.steps] and (costs["lost"] >= 0).all()
    worst, grids = "network.conv2.conv2b.1.conv2", activation_grids(steps, spoiled)
    assert costs["lost"].idxmax() == worst

    def alone(step, inputs):
        return fake_quantized(step, inputs, grids[worst]) if step.name == worst else step(*inputs)

    with torch.no_grad():
        expected, found = steps(tensors(images)), steps(tensors(images), alone)
    assert costs["lost"].max() == pytest.approx(float(relative_error(found, expected)), rel=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_simulation_reads_the_image_as_the_onnx_file_does(symmetric, tmp_path):
    torch.manual_seed(0)
    steps = as_steps(deployable(unsettle(SmallNet()), [0] * 3, [1] * 3), SIZE)
    images = soft_images(64, 4)
    ranges = observe(steps.arrays, [images.astype(np.float32) / 255], "minmax")
    (tmp_path / "m.onnx").write_bytes(qdq.integer_onnx(steps, ranges, {"color_order": "RGB"}, symmetric))
    found = torch.from_numpy(runtime.open_model(tmp_path / "m.onnx", runtime="onnxruntime")(images))
    simulation = Simulation(steps, ranges, symmetric)
    codes = 127 if symmetric else 255  # int8 around zero has 127 codes for pixels, uint8 has 255
    with torch.no_grad():
        simulated = simulation(tensors(images))
        assert torch.equal(simulated, simulation((tensors(images) * codes).round() / codes))
        unrounded = simulation.network(tensors(images), lambda step, inputs: steps_of(simulation, step, inputs))
    found = activation_grids(steps, ranges, symmetric)[steps.output].round(found)  # the file leaves that to its reader
    if symmetric:
        assert relative_error(found, simulated) < relative_error(found, unrounded)
    assert relative_error(found, simulated) < 1e-2


def steps_of(simulation, step, inputs):
    """A step of a simulation by itself."""
    return fake_quantized(step, inputs, simulation._grids()[step.name], simulation.per_channel)


def test_training_that_makes_it_worse_leaves_the_start(steps, ranges, images):
    simulation = Simulation(steps, ranges)
    before = {name: tensor.clone() for name, tensor in simulation.state_dict().items()}
    options = QATOptions(epochs=2, lr=1.0, range_lr=1.0)
    assert finetune(simulation, steps, batches(), options, [tensors(images)]) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in simulation.state_dict().items())
    assert finetune(simulation, steps, batches(), options) == 2  # without other images nobody can tell
    assert not all(torch.equal(tensor, before[name]) for name, tensor in simulation.state_dict().items())
