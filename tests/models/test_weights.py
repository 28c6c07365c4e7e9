"""Loading checkpoints: every form that published files have, and every way in which a file can be wrong."""

import io
import os
import pickle
from argparse import Namespace

import numpy as np
import pytest
import safetensors.torch
import torch

from reidlab import models
from reidlab.errors import InputError
from reidlab.models import load_weights, read_weights, recognize
from reidlab.models.weights import KEYS


class Code:
    """Unpickling this runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture(scope="module")
def source():
    """A network of few tensors."""
    torch.manual_seed(1)
    return models.FDMobileNet(0.25, num_classes=10)


@pytest.fixture
def network():
    """The same with other weights."""
    torch.manual_seed(2)
    return models.FDMobileNet(0.25, num_classes=10)


@pytest.fixture
def osnet():
    torch.manual_seed(2)
    return models.osnet_x0_25(num_classes=10)


def training_checkpoint(source, best):
    """What torchreid keeps of a training: state, epoch, best score, optimizer, scheduler."""
    optimizer = torch.optim.Adam(source.parameters(), amsgrad=True)
    source(torch.zeros(2, 3, 64, 32)).logits.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    return {
        "state_dict": source.state_dict(),
        "epoch": 3,
        "rank1": best,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS = {
    "bare": lambda state: state,
    "data parallel": lambda state: prefixed("module.", state),
    "wrapped": lambda state: {"state_dict": prefixed("module.", state), "epoch": 1},
    "wrapped in model": lambda state: {"model": state},
    "lightning": lambda state: {"state_dict": prefixed("network.", state), "epoch": 4, "loops": {}},
    "tao": lambda state: {"state_dict": prefixed("model.base.", state), "pytorch-lightning_version": "2.6.0"},
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "compiled inside data parallel": lambda state: {"net": prefixed("module._orig_mod.", state)},
    "a compiled stage": lambda state: {k.replace("block2.", "block2._orig_mod.", 1): t for k, t in state.items()},
    "model_state_dict": lambda state: {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {"state": {}}},
    "net": lambda state: {"net": state, "acc": 0.9, "epoch": 2},
    "net_dict": lambda state: {"net_dict": state},
    "two keys deep": lambda state: {"checkpoint": 1, "state_dict": {"model": state}},
    "averaged alone": lambda state: {"state_dict_ema": state},
    "ema_model": lambda state: {"ema_model": state, "epoch": 2},
    "deepspeed": lambda state: {"module": state, "global_steps": 7},
    "timm": lambda state: {"state_dict": state, "args": Namespace(lr=0.1, model="osnet"), "arch": "osnet"},
    "boxmot": lambda state: {
        "state_dict": state,
        "model_name": "osnet_x0_25",
        "num_classes": 10,
        "preprocess": "resize",
    },
    "curves beside it": lambda state: {"state_dict": state, "cmc": np.linspace(0, 1, 50)},
    "losses beside it": lambda state: (
        state | {"criterion.centers": torch.ones(3, 2), "center_loss.weight": torch.ones(2)}
    ),
    "torch before 1.1": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old style"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_whole(form, zipped, source, network, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(FORMS[form](source.state_dict()), file, _use_new_zipfile_serialization=zipped)
    report = load_weights(network, file)
    assert report.complete
    assert not report.missing
    assert all(name.startswith(("criterion", "center_loss")) for name in report.left_out)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, source.get_parameter(name)), name


@pytest.mark.parametrize("name", ["weights.safetensors", "WEIGHTS.SAFETENSORS"])
def test_safetensors_loads_whole(name, source, network, tmp_path):
    file = tmp_path / name
    safetensors.torch.save_file(source.state_dict(), file)
    assert len(load_weights(network, file).loaded) == len(source.state_dict())
    assert torch.equal(network.classifier.weight, source.classifier.weight)


@pytest.mark.parametrize("best", [0.5, np.float64(0.5), np.float32(0.5)], ids=["python", "float64", "float32"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old style"])
def test_training_checkpoint_with_its_numpy_score_loads(best, zipped, source, network, tmp_path):
    file = tmp_path / "model.pth.tar-3"
    torch.save(training_checkpoint(source, best), file, _use_new_zipfile_serialization=zipped)
    assert load_weights(network, file).complete


def test_numpy_score_of_an_older_numpy_loads(source, tmp_path):
    file = tmp_path / "model.pth.tar-3"
    torch.save(
        {"state_dict": source.state_dict(), "rank1": np.float64(0.5)}, file, _use_new_zipfile_serialization=False
    )
    content = file.read_bytes()
    assert b"numpy._core.multiarray" in content
    file.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(read_weights(file)) == len(source.state_dict())


def test_other_identities_leave_the_classifier_out_and_say_so(osnet, tmp_path):
    file = tmp_path / "market.pth"
    torch.save(models.osnet_x0_25(num_classes=751).state_dict(), file)
    own = osnet.classifier.weight.clone()
    report = load_weights(osnet, file)
    assert report.complete
    assert torch.equal(osnet.classifier.weight, own)
    assert report.missing == ["classifier.weight", "classifier.bias"]
    assert report.left_out["classifier.weight"] == "751x512 in the file, 10x512 here"
    assert str(report) == (
        f"{file}: 565 tensors loaded; left out classifier.weight (751x512 in the file, 10x512 here), "
        "classifier.bias (751 in the file, 10 here)"
    )


UNUSABLE = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "sparse rows": lambda tensor: tensor.flatten(1).to_sparse_csr(),
    "nested": lambda tensor: torch.nested.nested_tensor([*tensor]),
    "meta": lambda tensor: tensor.to("meta"),
    "qint8": lambda tensor: torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8),
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "int8": lambda tensor: (100 * tensor).to(torch.int8),
    "bool": lambda tensor: tensor > 0,
    "not finite": lambda tensor: tensor / 0,
}


@pytest.mark.filterwarnings("ignore")  # of kinds of tensors that torch gives up
@pytest.mark.parametrize("name", ["stem.conv.weight", "classifier.weight"])
@pytest.mark.parametrize("form", UNUSABLE)
def test_what_can_be_no_weights_is_refused_by_name(form, name, source, network, tmp_path):
    state = source.state_dict()
    file = tmp_path / "weights.pth"
    torch.save(state | {name: UNUSABLE[form](state[name])}, file)
    with pytest.raises(InputError, match=rf"weights\.pth: .*{name} \(({form}|not plain numbers)\).*; give .*float"):
        load_weights(network, file)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_floats_of_any_size_load(kind, source, network, tmp_path):
    state = {name: t.to(kind) if t.is_floating_point() else t for name, t in source.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    assert load_weights(network, tmp_path / "weights.pth").complete
    assert torch.equal(network.stem.conv.weight, source.stem.conv.weight.to(kind).float())


def test_network_without_classifier_takes_a_file_with_one(source, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(source.state_dict(), file)
    report = load_weights(models.FDMobileNet(0.25), file)
    assert report.complete
    assert set(report.left_out) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("averaged", "last", "said"),
    [
        (lambda state: {"state_dict_ema": state}, "state_dict", "state_dict_ema"),
        (lambda state: {"ema": {"module": state, "decay": 0.9}}, "model", "ema.module"),
        (lambda state: {"ema_model": state}, "model", "ema_model"),
    ],
)
def test_averaged_weights_are_taken_before_the_last_ones_and_it_is_said(
    averaged, last, said, source, network, tmp_path
):
    other = {name: torch.zeros_like(tensor) for name, tensor in source.state_dict().items()}
    torch.save({last: other, **averaged(source.state_dict())}, tmp_path / "w.pth.tar")
    report = load_weights(network, tmp_path / "w.pth.tar")
    assert torch.equal(network.stem.conv.weight, source.stem.conv.weight)
    assert f"taken from {said}, there is {last} too" in str(report)


def test_two_tensors_for_one_name_are_refused(source, network, tmp_path):
    state = source.state_dict()
    twice = prefixed("model.", state) | {"network.stem.conv.weight": state["stem.conv.weight"] + 1}
    torch.save(twice, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"both model\.stem\.conv\.weight and network\.stem\.conv\.weight would be"):
        load_weights(network, tmp_path / "w.pth")


HEADS = {  # of the file, of the network, what is named, what is advised
    "projection": ({}, {"projection": "linear"}, "fc.1.weight", "model.network.projection=relu"),
    "no neck": ({"neck": "bnneck"}, {}, "bottleneck.weight", "model.network.neck=bnneck"),
    "neck": ({}, {"neck": "bnneck"}, "bottleneck.weight", "model.network.neck=null"),
    "no projection": (
        {},
        {"feat_dim": None},
        "fc.0.weight",
        "model.network.feat_dim=512 model.network.projection=relu",
    ),
    "no exponent": ({"pooling": "gem"}, {}, "global_pool.p", "model.network.pooling=gem"),
    "exponent": ({}, {"pooling": "gem"}, "global_pool.p", "model.network.pooling=avg"),
    "width": ({"feat_dim": 256}, {}, "fc.0.weight", "model.network.feat_dim=256"),
}


@pytest.mark.parametrize("head", HEADS)
def test_another_head_is_incomplete_by_name_and_by_advice(head, tmp_path):
    theirs, mine, named, advised = HEADS[head]
    torch.save(models.osnet_x0_25(num_classes=3, **theirs).state_dict(), tmp_path / "w.pth")
    report = load_weights(models.osnet_x0_25(num_classes=3, **mine), tmp_path / "w.pth")
    assert not report.complete
    assert named in report.unfit and named in str(report)
    assert report.advice == f"set {advised}"


def test_parts_of_a_network_that_are_not_here_are_incomplete(tmp_path):
    """Non-local blocks and attention stand beside the stages that they act between."""
    state = models.resnet18(neck="bnneck").state_dict()
    torch.save(prefixed("backbone.", state) | {"backbone.NL_2.0.g.weight": torch.zeros(4, 4, 1, 1)}, tmp_path / "w.pth")
    report = load_weights(models.resnet18(neck="bnneck"), tmp_path / "w.pth")
    assert report.unfit == ["NL_2.0.g.weight"]


def test_another_embedding_width_is_reported_as_incomplete(osnet, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(osnet.state_dict(), file)
    narrow = models.osnet_x0_25(feat_dim=256, num_classes=10)
    report = load_weights(narrow, file)
    assert not report.complete
    assert "fc.0.weight (512x128 in the file, 256x128 here)" in str(report)
    assert torch.equal(narrow.conv5.conv.weight, osnet.conv5.conv.weight)


@pytest.mark.parametrize("other", ["osnet_x0_5", "osnet_ain_x0_25", "osnet_ibn_x1_0"])
def test_another_architecture_is_refused_by_its_name(other, osnet, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(getattr(models, other)(num_classes=10).state_dict(), file)
    before = {name: tensor.clone() for name, tensor in osnet.state_dict().items()}
    with pytest.raises(
        InputError, match=rf"weights\.pth: doesn't fit .*conv1\.\w+.* and \d+ more; .*like {other}$"
    ) as info:
        load_weights(osnet, file)
    assert "\n" not in str(info.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in osnet.state_dict().items())


def test_unknown_architecture_is_refused(osnet, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"stem.weight": torch.zeros(3)}, file)
    with pytest.raises(InputError, match=r"doesn't fit this network at conv1\.conv\.weight.*another architecture"):
        load_weights(osnet, file)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old style"])
def test_code_in_a_checkpoint_is_named_and_never_run(zipped, source, network, tmp_path):
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    content = {"state_dict": source.state_dict(), "extra": Code(f"touch {trace}")}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"weights\.pth: refused: holds pickled code \(posix\.system\)"):
        load_weights(network, file)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_bare_pickle_is_never_run(protocol, network, tmp_path):
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    file.write_bytes(pickle.dumps(Code(f"touch {trace}"), protocol))
    with pytest.raises(InputError, match=r"weights\.pth: "):
        load_weights(network, file)
    assert not trace.exists()


def test_whole_pickled_network_is_refused_with_advice(source, network, tmp_path):
    file = tmp_path / "model.pth"
    torch.save(source, file)
    with pytest.raises(
        InputError, match=r"holds pickled code \(reidlab\.models\.fdmobilenet\.FDMobileNet\); save its state_dict"
    ):
        load_weights(network, file)


def saved(state, zipped=True):
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: b"",
        lambda state: b"hello, I am a text",
        lambda state: saved(state)[:5000],
        lambda state: saved(state)[:-2000],
        lambda state: saved(state, zipped=False)[:5000],
        lambda state: saved(state, zipped=False)[:-2000],
    ],
    ids=["empty", "text", "zip cut early", "zip cut late", "old style cut early", "old style cut late"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_file_is_named(spoil, suffix, source, network, tmp_path):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(spoil(source.state_dict()))
    with pytest.raises(InputError, match=rf"weights\{suffix}: can't be read as a checkpoint") as info:
        load_weights(network, file)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 1}, torch.ones(2)], ids=["list", "no tensors", "tensor"])
def test_file_without_weights_is_named(content, network, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    with pytest.raises(InputError, match=r"weights\.pth: holds no weights"):
        load_weights(network, file)


def nested(depth, content):
    for _ in range(depth):
        content = {"model": content}
    return content


def shared(depth):
    """Mappings of which each holds the next under all keys: 15 ** depth ways to the last."""
    content = {}
    for _ in range(depth):
        content = dict.fromkeys(KEYS, content)
    return content


def circular(**more):
    content = dict(more)
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (shared(40), "holds no weights"),
        (circular(), "holds no weights"),
        (nested(400, {}), "holds no weights"),
        (nested(400, {"fc.weight": torch.ones(1)}), "lie more than 20 mappings deep; save the state_dict alone"),
        (circular(weight=torch.ones(1)), "lie more than 20 mappings deep"),
    ],
    ids=["shared", "circular", "deep", "deep with tensors", "circular with tensors"],
)
def test_mappings_in_each_other_are_looked_through_once(content, message, network, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        load_weights(network, tmp_path / "weights.pth")


def test_weights_a_few_mappings_deep_are_found(source, network, tmp_path):
    torch.save(nested(10, source.state_dict()), tmp_path / "weights.pth")
    assert load_weights(network, tmp_path / "weights.pth").complete


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_missing_file_is_named(name, network, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_weights(network, tmp_path / name)


# -- fast-reid's format, made from a network of ours


def fastreid_state(network, form):
    """A network's tensors by fast-reid's names, with the buffers that it normalizes pixels by.

    Its versions differ in the neck (`bottleneck.0`, `bottleneck.1` after a 1x1 convolution, or `bnneck`) and in the
    classifier (`weight`, or `classifier.weight`).
    """
    neck = {"new": "bottleneck.0", "reduced": "bottleneck.1", "old": "bnneck"}[form]
    renamed = {"bottleneck": neck, "global_pool": "pool_layer", "fc.0": "bottleneck.0"}
    state = {}
    for name, tensor in network.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if name == "classifier.weight":
            state["heads.weight" if form != "old" else "heads.classifier.weight"] = tensor
        elif layer == "fc.0":
            if kind == "weight":  # its convolution has no bias
                state["heads.bottleneck.0.weight"] = tensor[:, :, None, None]
        else:
            state[f"heads.{renamed[layer]}.{kind}" if layer in renamed else f"backbone.{name}"] = tensor
    state["pixel_mean"] = 255 * torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    state["pixel_std"] = 255 * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return {"model": state, "optimizer": {"state": {}}, "iteration": 9}


@pytest.mark.parametrize(
    ("form", "architecture"),
    [("new", "resnet18"), ("reduced", "resnet18_ibn_a"), ("old", "resnet18"), ("new", "resnet50_ibn_a")],
)
def test_a_file_of_fastreid_embeds_as_its_network(form, architecture, tmp_path):
    build = getattr(models, architecture)
    head = {"neck": "bnneck", "feat_dim": None, "pooling": "gem", "stem_ceil_mode": True, "num_classes": 5}
    head |= {"feat_dim": 16, "projection": "linear"} if form == "reduced" else {}
    torch.manual_seed(1)
    theirs = build(**head)
    theirs(torch.randn(8, 3, 64, 32))  # so that the norms have statistics
    theirs.bottleneck.weight.data.uniform_(0.5, 2)
    theirs.global_pool.p.data.fill_(2.5)
    torch.save(fastreid_state(theirs, form), tmp_path / "model_best.pth")
    torch.manual_seed(2)
    ours = build(**head)
    report = load_weights(ours, tmp_path / "model_best.pth")
    assert report.complete and not report.missing and not report.left_out and not report.notes
    assert recognize(read_weights(report.file)) == architecture
    assert report.mean == pytest.approx((0.485, 0.456, 0.406)) and report.std == pytest.approx((0.229, 0.224, 0.225))
    images = torch.randn(3, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(ours.eval()(images).embedding, theirs.eval()(images).embedding)


def test_a_reduction_of_old_fastreid_with_an_activation_of_its_own_is_incomplete(tmp_path):
    state = fastreid_state(models.resnet18(neck="bnneck", feat_dim=None), "old")
    state["model"]["heads.bottleneck.0.weight"] = torch.zeros(16, 512, 1, 1)
    torch.save(state, tmp_path / "w.pth")
    report = load_weights(models.resnet18(neck="bnneck", feat_dim=None), tmp_path / "w.pth")
    assert report.unfit == ["heads.bottleneck.0.weight"]


def test_the_stem_of_fastreid_is_asked_for(tmp_path):
    torch.save(fastreid_state(models.resnet18(neck="bnneck", feat_dim=None), "new"), tmp_path / "w.pth")
    report = load_weights(models.resnet18(neck="bnneck", feat_dim=None), tmp_path / "w.pth")
    assert report.complete and "model.network.stem_ceil_mode=true" in str(report)


@pytest.mark.parametrize("layer", ["fc.0", "bottleneck"])
def test_a_head_without_bias_has_one_of_zero(layer, tmp_path):
    head = {"feat_dim": 16, "projection": "linear", "neck": "bnneck"}
    source, network = models.resnet18(**head), models.resnet18(**head)
    network.get_submodule(layer).bias.data.fill_(3)
    state = {name: tensor for name, tensor in source.state_dict().items() if name != f"{layer}.bias"}
    torch.save(state, tmp_path / "w.pth")
    report = load_weights(network, tmp_path / "w.pth")
    assert report.complete and f"0, as the file has none: {layer}.bias" in str(report)
    assert not network.get_submodule(layer).bias.any()


def test_a_torchscript_program_is_named_as_such(network, tmp_path, recwarn):
    file = tmp_path / "program.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(file)
    recwarn.clear()
    with pytest.raises(InputError, match=r"program\.pt: refused: a TorchScript program; save its state_dict"):
        load_weights(network, file)
    assert not any("TorchScript" in str(each.message) for each in recwarn)
