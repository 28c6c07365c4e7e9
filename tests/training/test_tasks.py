"""One step of training: what stops it, what a resumed run must remember."""

import math

import pytest
import torch

from reidlab.errors import InputError
from reidlab.run import File, Run
from reidlab.stages import train
from reidlab.training.tasks import ReidTask, mean_cosine, refuse_narrow_map

STATEFUL = [
    "model=osnet_x0_25",
    "loss=softmax_triplet_center",
    "callbacks=ema",
    "callbacks.ema.decay=0.5",
    "regime=fft",
    "regime.head_epochs=1",
    "trainer.accumulate_grad_batches=2",
    "trainer.gradient_clip_val=1.0",
]


def trained(small, root, name, *more):
    place = [f"run.root={root}", f"run.name={name}"]
    return train.run(Run.compose([*small, "model=fdmobilenet_x0_25", "trainer.max_epochs=2", *place, *more]))


def stop_before(epoch, monkeypatch):
    """Make training fail as the epoch starts."""
    start = ReidTask.on_train_epoch_start

    def fail(task):
        if task.current_epoch == epoch:
            raise RuntimeError("stopped")
        start(task)

    monkeypatch.setattr(ReidTask, "on_train_epoch_start", fail)


def test_all_state_is_resumed(small, tmp_path, monkeypatch):
    """Centers, averaged weights and accumulated steps end where an unbroken run has them."""
    unbroken = trained(small, tmp_path, "unbroken", *STATEFUL)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        stop_before(1, patch)
        trained(small, tmp_path, "broken", *STATEFUL)
    resumed = trained(small, tmp_path, "broken", *STATEFUL)
    one, two = (torch.load(run / File.LAST, weights_only=True) for run in (unbroken, resumed))
    for state in ("state_dict", "current_model_state"):
        assert all(torch.equal(tensor, two[state][name]) for name, tensor in one[state].items())
    assert one["state_dict"]["loss.losses.center.centers"].any()
    weight = "network.classifier.weight"
    assert not torch.equal(one["state_dict"][weight], one["current_model_state"][weight])


def test_a_loss_that_is_no_longer_finite_is_named_with_its_place(small, tmp_path):
    run = Run.compose([*small, f"run.root={tmp_path}", "run.name=steep", "optimizer=sgd"])
    run.config.optimizer.lr = 1e38  # which no override may be
    with pytest.raises(InputError, match=r"epoch 0, batch 1: the loss term 'softmax' is no longer finite"):
        train.run(run)
    assert not list((tmp_path / "steep" / "checkpoints").glob("*.ckpt"))


def test_losses_are_float32_in_mixed_precision(small, tmp_path, monkeypatch):
    seen, step = [], ReidTask.training_step
    monkeypatch.setattr(ReidTask, "training_step", lambda *a: seen.append(step(*a)) or seen[-1])
    more = ["data.size=[32,48]", "loss=arcface", "model.network.neck=null", "trainer.precision=bf16-mixed"]
    run = trained(small, tmp_path, "half", *more)
    state = torch.load(run / File.BEST, weights_only=True)["state_dict"]
    assert seen[0].dtype == state["loss.losses.arcface.W"].dtype == torch.float32
    assert not any("classifier" in name for name in state)  # no term learns from its logits


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_of_another_precision_take_images_as_they_are(small, tmp_path, precision):
    run = trained(
        small, tmp_path, precision, "data.size=[32,48]", "trainer.max_epochs=1", f"trainer.precision={precision}"
    )
    assert run.training["finished"]


@pytest.mark.parametrize(("instructions", "expected"), [
    ({"amx_bf16": True}, "bf16-mixed"), ({"amx_bf16": False, "avx512_bf16": True}, "bf16-mixed"),
    ({"avx512_bf16": False}, "32-true"), ({}, "32-true"),
])  # fmt: skip
def test_auto_is_the_precision_that_the_processor_has_instructions_for(
    small, tmp_path, monkeypatch, instructions, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    mixed, step = [], ReidTask.training_step
    monkeypatch.setattr(
        ReidTask, "training_step", lambda *a: mixed.append(torch.is_autocast_enabled("cpu")) or step(*a)
    )
    more = ["data.size=[32,48]", "trainer.precision=auto", "trainer.max_epochs=1", "trainer.accelerator=cpu"]
    run = trained(small, tmp_path, "auto", *more)
    assert run.training["precision"] == expected and {*mixed} == {expected == "bf16-mixed"}


def test_mixed_precision_clips_in_spite_of_fused_optimizers(small, tmp_path):
    more = [
        "data.size=[32,48]",
        "trainer.precision=bf16-mixed",
        "trainer.gradient_clip_val=1.0",
        "trainer.max_epochs=1",
    ]
    run = trained(small, tmp_path, "clipped", *more)
    assert run.training["finished"]


def test_maps_that_bf16_gets_wrong_on_a_processor_are_refused(small, tmp_path):
    said = "'block6.depthwise' wrongly, a convolution of stride 2 over a map 1 pixels wide.* trainer.precision=32-true"
    with pytest.raises(InputError, match=said):
        trained(small, tmp_path, "narrow", "trainer.max_epochs=1", "trainer.precision=bf16-mixed")


@pytest.mark.parametrize(("channels", "groups", "stride", "width", "padding"), [
    (64, 1, 2, 2, 1), (64, 1, 2, 1, 1), (64, 64, 3, 2, 1), (1, 1, 2, 2, 1), (8, 8, 3, 3, 1), (64, 1, 2, 4, 0),
    (8, 8, 3, 5, 0),
])  # fmt: skip
def test_a_narrow_map_is_refused_in_bf16_alone(channels, groups, stride, width, padding):
    """What gave NaN of spoilt memory, by hand; with two outputs for each of 8 inputs it isn't plainly depthwise."""
    layer = torch.nn.Conv2d(channels, 16 if channels == 8 else 64, 3, stride, padding, groups=groups)
    images = torch.zeros(1, channels, 16, width)
    output = layer(images)
    refuse_narrow_map("layer", layer, (images,), output)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=f"over a map {width} pixels wide"):
        refuse_narrow_map("layer", layer, (images,), output)
    with pytest.raises(InputError, match="wrongly"):
        refuse_narrow_map("layer", layer, (images.bfloat16(),), output)


@pytest.mark.parametrize("precision", ["bf16", "float32"])
@pytest.mark.parametrize(("groups", "kernel", "stride", "height", "width"), [
    (1, 3, 2, 16, 3), (1, 7, 2, 24, 4), (64, 3, 2, 5, 2), (64, 5, 2, 16, 5), (64, 3, 1, 7, 1), (1, 1, 2, 5, 1),
    (64, 3, 3, 6, 4), (1, 3, 2, 2, 2),
])  # fmt: skip
def test_convolutions_that_are_not_refused_agree_with_double_precision(
    precision, groups, kernel, stride, height, width
):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 64, kernel, stride, kernel // 2, groups=groups).to(memory_format=torch.channels_last)
    images = torch.randn(8, 64, height, width).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        spoil_free_memory()
        outputs = layer(images)
        refuse_narrow_map("layer", layer, (images,), outputs)
    gradient = torch.randn_like(outputs)
    spoil_free_memory()
    found = outputs, *torch.autograd.grad(outputs, (images, layer.weight), gradient)
    images = images.detach().double().requires_grad_()
    outputs = layer.double()(images)
    exact = outputs, *torch.autograd.grad(outputs, (images, layer.weight), gradient.double())
    for some, others in zip(found, exact, strict=True):
        torch.testing.assert_close(some.double(), others, rtol=0, atol=0.02 * others.abs().max().item())


def spoil_free_memory():
    """Leave NaN in it, so that what reads memory that it never wrote is seen."""
    sizes = [2**power for power in range(2, 18)] * 4
    kept = [torch.full((size,), math.nan) for size in sizes]
    del kept


def test_the_mean_cosine_is_that_of_all_pairs():
    torch.manual_seed(0)
    embeddings = torch.randn(5, 3)
    pairs = [torch.cosine_similarity(embeddings[a], embeddings[b], 0) for a in range(5) for b in range(5) if a != b]
    assert mean_cosine(embeddings).item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)
    assert mean_cosine(torch.tensor([[1.0, 2.0]]).repeat(4, 1) * torch.rand(4, 1)).item() == pytest.approx(1)
    assert mean_cosine(torch.ones(1, 3)).item() == pytest.approx(0, abs=1e-6)


class Blind(torch.nn.Module):
    """A projection after which all images are alike."""

    def __init__(self, projection):
        super().__init__()
        self.projection = projection

    def forward(self, feature):
        return 0 * self.projection(feature) + 1


@pytest.mark.parametrize(("loss", "first", "said"), [
    ("softmax_batch_all", 2, "stays at ln(classes) = 1.386 and the embeddings of a batch are all alike"),
    ("softmax", 3, "stays at ln(classes) = 1.386"),
    ("arcface", 2, "the embeddings of a batch are all alike, mean cosine 1.000"),
])  # fmt: skip
def test_a_collapse_is_said_with_what_to_change(loss, first, said, small, tmp_path, monkeypatch, capsys):
    build = train.build_network

    def blind(run, num_classes):
        network = build(run, num_classes)
        network.fc = Blind(network.fc)
        return network

    monkeypatch.setattr(train, "build_network", blind)
    trained(small, tmp_path, "blind", f"loss={loss}", "schedule=constant", "trainer.max_epochs=4", "optimizer.lr=1e-5")
    lines = [line for line in capsys.readouterr().out.splitlines() if "collapsed: " in line]
    assert [line.partition("  ")[0] for line in lines] == [f"epoch {number}/4" for number in range(first, 5)]
    assert said in lines[-1] and "lower optimizer.lr, raise schedule.warmup_epochs" in lines[-1]


def test_a_network_that_learns_or_warms_up_has_not_collapsed(small, tmp_path, capsys):
    trained(small, tmp_path, "learns", "schedule.warmup_epochs=0", "trainer.max_epochs=5", "optimizer.lr=3e-3")
    trained(small, tmp_path, "warms_up", "schedule.warmup_epochs=30", "trainer.max_epochs=5", "optimizer.lr=1e-5")
    trained(small, tmp_path, "unweighted", "loss.softmax.weight=0", "schedule=constant", "trainer.max_epochs=3")
    assert "collapsed" not in capsys.readouterr().out
