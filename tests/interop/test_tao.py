"""A TAO specification becomes an experiment that composes, and nothing in it is dropped in silence."""

import pytest

from reidlab import config
from reidlab.errors import InputError
from reidlab.interop import tao
from reidlab.run import File, Run
from reidlab.stages import train

SPECIFICATION = """
model:
  backbone: resnet_50
  last_stride: 2
  pretrained_model_path: weights/resnet50.pth
  input_width: 64
  input_height: 128
  feat_dim: 512
  with_center_loss: True
  with_flip_feature: True
  label_smooth: False
  pretrain_hw_ratio: 2
dataset:
  train_dataset_dir: /sets/market/bounding_box_train
  test_dataset_dir: /sets/market/bounding_box_test
  query_dataset_dir: /sets/market/query
  num_classes: 751
  batch_size: 32
  num_instances: 8
  pixel_std: [0.229, 0.224, 0.225]
  prob: 0.25
  shiny: 3
re_ranking:
  re_ranking: True
  k1: 15
train:
  num_epochs: 60
  grad_clip: 5.0
  gpu_ids: [0, 1]
  optim:
    name: SGD
    base_lr: 1e-2
    momentum: 0.8
    lr_steps: [20, 40]
    center_lr: 0.25
    triplet_loss_margin: 0.4
    bias_lr_factor: 2
    warmup_method: linear
evaluate:
  checkpoint: model.pth
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """The `conf/` of a workspace of the test's own."""
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    return tmp_path / "conf"


def imported(tmp_path, text):
    (tmp_path / "spec.yaml").write_text(text)
    tao.import_specification(tmp_path / "spec.yaml", "tao")
    return config.compose(["experiment=tao"])


def test_what_is_given_is_translated_and_the_rest_has_taos_default(conf, tmp_path):
    cfg = imported(tmp_path, SPECIFICATION)
    network = cfg.model.network
    assert network._target_ == "reidlab.models.resnet50" and not network.stem_relu
    assert (network.last_stride, network.feat_dim, network.neck, network.neck_feat) == (2, 512, "bnneck", "after")
    assert cfg.model.weights.endswith("weights/resnet50.pth") and cfg.data.std == [0.229, 0.224, 0.225]
    assert cfg.data.size == [128, 64] and cfg.data.batch_size == 32 and cfg.data.num_instances == 8
    assert cfg.data.source.root == "/sets/market"
    assert cfg.data.source.splits == {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    assert cfg.augment.flip.p == 0.25 and cfg.augment.erasing.p == 0.5 and cfg.augment.crop.padding == 10
    assert cfg.loss.center.weight == 5e-4 and cfg.loss.center.loss.lr == 0.25
    assert cfg.loss.triplet.loss.loss.margin == 0.4 and cfg.loss.softmax.loss.label_smoothing == 0
    assert cfg.optimizer == {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01, "momentum": 0.8,
                             "nesterov": False, "weight_decay": 5e-4, "fused": True}  # fmt: skip
    assert cfg.schedule.milestones == [20, 40] and cfg.schedule.warmup_epochs == 10
    assert cfg.trainer.max_epochs == 60 and cfg.trainer.gradient_clip_val == 5 and cfg.seed == 1234
    assert cfg.evaluate.flip and cfg.evaluate.rerank == {"enabled": True, "k1": 15, "k2": 6, "weight": 0.3}


def test_every_key_that_is_not_supported_is_named_with_the_reason(conf, tmp_path, capsys):
    imported(tmp_path, SPECIFICATION)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not supported: ")]
    named = {line.split(": ")[1]: line for line in lines}
    assert set(named) == {
        "model.pretrain_hw_ratio", "dataset.num_classes", "dataset.shiny", "train.gpu_ids",
        "train.optim.bias_lr_factor", "evaluate.checkpoint",
    }  # fmt: skip
    assert "2: biases learn at the rate of the weights" in named["train.optim.bias_lr_factor"]
    assert "no key" in named["dataset.shiny"]


def test_what_stands_beside_the_sections_or_in_the_place_of_one_is_named(conf, tmp_path, capsys):
    imported(
        tmp_path,
        "results_dir: /results\nencryption_key: tlt_encode\nrandom_seed: 42\nmodel: [1]\ntrain: 3\nshiny: 1\n"
        "dataset: {batch_size: 4}\nevaluate:\nexport: {}\nre_ranking: {re_ranking: true}",
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not supported: ")]
    named = {line.split(": ")[1] for line in lines} - {"model.pretrain_choice"}
    assert named == {"results_dir", "encryption_key", "random_seed", "model", "train", "shiny"}


def test_the_older_spelling_is_the_same(conf, tmp_path):
    (tmp_path / "spec.yaml").write_text(SPECIFICATION)
    new = tao.read_specification(tmp_path / "spec.yaml")
    older = SPECIFICATION
    for section in ("model", "dataset", "re_ranking", "train", "evaluate"):
        older = older.replace(f"\n{section}:\n", f"\n{section}_config:\n")
    (tmp_path / "spec.yaml").write_text(older)
    assert tao.read_specification(tmp_path / "spec.yaml") == new


def test_an_empty_model_section_is_taos_default_network(conf, tmp_path, capsys):
    cfg = imported(tmp_path, "train: {seed: 1}")
    default = config.compose(["model=reidentificationnet"])
    assert cfg.model == default.model
    assert cfg.loss.triplet.loss.loss.margin == 0.3 and "center" not in cfg.loss
    assert "model.pretrain_choice: nothing is downloaded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {backbone: swin_tiny_patch4_window7_224}", "model.backbone=swin_tiny.*resnet_50"),
        ("model: {backbone: [resnet_50]}", "model.backbone=.*resnet_50"),
        ("train: {optim: {name: Lion}}", "train.optim.name=Lion.*Adam"),
        ("dataset: {batch_size: many}", "dataset.batch_size=many"),
        ("model: {with_center_loss: maybe}", "model.with_center_loss=maybe.*True or False"),
        ("model: {feat_dim: 1}\nmodel_config: {last_stride: 2}", "has both model and model_config; leave one out"),
        ("train: {optim: {name: {}}}", "train.optim.name={}: not available"),
        ("[1, 2]", "expected a mapping"),
        ("hello: {a: 1}", "no experiment specification"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(text, message, conf, tmp_path):
    with pytest.raises(InputError, match=message):
        imported(tmp_path, text)
    assert not (conf / "experiment" / "tao.yaml").exists()


def test_an_experiment_is_not_overwritten(conf, tmp_path):
    imported(tmp_path, "train: {seed: 1}")
    with pytest.raises(InputError, match="exists already"):
        imported(tmp_path, "train: {seed: 2}")


@pytest.mark.parametrize("end", ["\\n", "\\r", "\\x85", "\\u2028", "\\u2029", "\\0", "\\e[2J"])
@pytest.mark.parametrize("text", ['model: {"dark%sseed: 666 #": 1}', 'model: {id_loss_type: "%sseed: 666 #"}'])
def test_nothing_in_a_specification_ends_the_comment_that_it_is_written_into(text, end, conf, tmp_path, capsys):
    if end in ("\\0", "\\e[2J"):
        with pytest.raises(InputError, match="holds the character"):
            imported(tmp_path, text % end)
        return
    assert imported(tmp_path, text % end).seed == 1234
    written = (conf / "experiment" / "tao.yaml").read_text()
    assert "seed: 666" in written and all(letter.isprintable() or letter == "\n" for letter in written)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "a/b", "..", ".hidden", "_private", "a b", "a\nb", "a\n", "é"]
)
def test_a_name_that_is_no_plain_word_is_refused(name, conf, tmp_path):
    (tmp_path / "spec.yaml").write_text("train: {seed: 1}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="not usable"):
        tao.import_specification(tmp_path / "spec.yaml", name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_hostile_file_name_neither_names_the_experiment_nor_ends_its_comment(conf, tmp_path):
    file = tmp_path / "spec\nseed: 666 #.yaml"
    file.write_text("train: {seed: 1}")
    with pytest.raises(InputError, match="not usable"):
        tao.import_specification(file)
    tao.import_specification(file, "tao")
    assert config.compose(["experiment=tao"]).seed == 1


@pytest.mark.slow
def test_an_imported_experiment_trains(conf, tmp_path, small, market):
    (tmp_path / "spec.yaml").write_text("model: {backbone: resnet_18, feat_dim: 64, with_center_loss: True}")
    tao.import_specification(tmp_path / "spec.yaml", "tao")
    options = [option for option in small if not option.startswith("data=")]
    run = Run.compose(["experiment=tao", *options, f"run.root={tmp_path}", "trainer.max_epochs=1"])
    assert train.run(run).has(File.BEST)
