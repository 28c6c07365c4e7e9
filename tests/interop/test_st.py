"""A configuration of ST's services becomes an experiment that composes, and nothing in it is dropped in silence."""

import pytest
import torch

from reidlab import config
from reidlab.config import instantiate
from reidlab.errors import InputError
from reidlab.interop import st

CONFIGURATION = """
general:
  project_name: ReID
  global_seed: 127
operation_mode: chain_tqeb
model:
  model_name: mobilenetv2_a035
  input_shape: (256, 128, 3)
  pretrained: True
dataset:
  dataset_name: DeepSportradar
  training_path: ./sets/reid_training
  validation_split: 0.2
  test_query_path: ./sets/reid_test/query
  test_gallery_path: ./sets/reid_test/gallery
  quantization_split: 0.1
preprocessing:
  rescaling: {scale: 1/127.5, offset: -1}
  resizing: {interpolation: nearest, aspect_ratio: fit}
  color_mode: rgb
data_augmentation:
  random_flip: {mode: horizontal}
  random_shear: {factor: 0.1}
training:
  frozen_layers: None
  dropout: 0.35
  batch_size: 64
  epochs: 200
  optimizer: {Adam: {learning_rate: 0.0001, beta_1: 0.8}}
  callbacks:
    ReduceLROnPlateau: {monitor: val_loss, factor: 0.6, patience: 30, min_lr: 1.0e-05}
    EarlyStopping: {monitor: val_loss, restore_best_weights: true, patience: 90}
  triplet_loss: {margin: 0.2, strategy: semi_hard, distance_metric: cosine}
evaluation: {reid_distance_metric: cosine}
quantization:
  quantizer: TFlite_converter
  quantization_type: PTQ
  quantization_input_type: uint8
  quantization_output_type: int8
  granularity: per_tensor
benchmarking: {board: STM32N6570-DK}
shiny: {thing: 1}
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """The `conf/` of a workspace of the test's own."""
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    return tmp_path / "conf"


def imported(tmp_path, text):
    (tmp_path / "user_config.yaml").write_text(text)
    st.import_configuration(tmp_path / "user_config.yaml", "st")
    return config.compose(["experiment=st"])


def test_what_is_given_is_translated(conf, tmp_path, capsys):
    cfg = imported(tmp_path, CONFIGURATION)
    assert cfg.model.name == "mobilenetv2_x0_35" and cfg.seed == 127
    network = cfg.model.network
    assert (network.feat_dim, network.padding, network.dropout) == (None, "tensorflow", 0.35)
    assert list(cfg.model.mean) == pytest.approx([0.5] * 3) and list(cfg.model.std) == pytest.approx([0.5] * 3)
    assert cfg.data.name == "deepsportradar" and cfg.data.size == [256, 128] and cfg.data.batch_size == 64
    assert cfg.data.val_fraction == 0.2 and cfg.data.source.root.endswith("sets")
    assert cfg.data.source.splits == {
        "train": "reid_training", "query": "reid_test/query", "gallery": "reid_test/gallery"
    }  # fmt: skip
    assert cfg.loss.triplet.loss.loss.margin == 0.2 and cfg.loss.triplet.loss.miner.type_of_triplets == "semihard"
    assert cfg.optimizer._target_ == "torch.optim.Adam" and cfg.optimizer.lr == 1e-4 and cfg.optimizer.weight_decay == 0
    assert (cfg.schedule.factor, cfg.schedule.patience, cfg.schedule.min_lr) == (0.6, 30, 1e-5)
    assert cfg.trainer.max_epochs == 200 and cfg.callbacks.early_stopping.patience == 90
    assert cfg.model.distance == "cosine" and cfg.quantize.output == "int8" and not cfg.quantize.per_channel
    assert cfg.quantize.formats == ["tflite"] and cfg.quantize.method == "ptq"
    said = capsys.readouterr().out
    named = {line.split(": ")[1] for line in said.splitlines() if line.startswith("not supported: ")}
    assert named == {
        "general.project_name", "model.pretrained", "dataset.quantization_split",
        "preprocessing.resizing.interpolation",
        "data_augmentation.random_shear.factor", "training.optimizer.Adam.beta_1",
        "training.callbacks.ReduceLROnPlateau.monitor", "training.callbacks.EarlyStopping.monitor",
        "benchmarking.board", "shiny.thing",
    }  # fmt: skip
    stages = ("train", "quantize", "evaluate", "deploy deploy=stm32")
    assert (
        "operation_mode chain_tqeb: " + ", then ".join(f"`reidlab {stage} experiment=st`" for stage in stages) in said
    )


def test_a_classifier(conf, tmp_path):
    cfg = imported(
        tmp_path,
        """
operation_mode: training
model: {model_path: zoo/st_fdmobilenetv1_128_tfs.keras, input_shape: [128, 128, 3]}
dataset: {name: my_own, training_path: a/b/train, test_path: a/b/test}
preprocessing: {rescaling: {scale: 1/255, offset: 0}, color_mode: rgb}
training:
  optimizer: {SGD: {learning_rate: 0.01, momentum: 0.9}}
  callbacks: {LRWarmupCosineDecay: {warmup_steps: 20, max_lr: 0.0025, hold_steps: 30, decay_steps: 700}}
""",
    )
    assert cfg.model.name == "st_fdmobilenet_v1" and cfg.model.weights.endswith("st_fdmobilenetv1_128_tfs.keras")
    assert list(cfg.model.mean) == [0] * 3 and list(cfg.model.std) == pytest.approx([1] * 3)
    assert cfg.data._target_.endswith("ClassDataModule") and cfg.data.source.splits == {
        "train": "train", "val": None, "test": "test"
    }  # fmt: skip
    assert cfg.optimizer._target_ == "torch.optim.SGD" and cfg.optimizer.momentum == 0.9 and cfg.optimizer.lr == 0.0025
    assert (cfg.schedule.warmup_epochs, cfg.schedule.hold_epochs) == (20, 30)
    assert "early_stopping" not in cfg.callbacks or cfg.callbacks.early_stopping is None


@pytest.mark.parametrize(
    ("settings", "nesterov"),
    [
        ("momentum: 0.9", False),
        ("momentum: 0.9, nesterov: true", True),
        ("nesterov: true, momentum: 0.9", True),
        ("momentum: 0.9, nesterov: false", False),
        ("nesterov: true", False),  # without momentum the same in Keras, and refused by torch
    ],
)
def test_nesterovs_momentum(settings, nesterov, conf, tmp_path, capsys):
    cfg = imported(tmp_path, f"operation_mode: training\nmodel:\ntraining: {{optimizer: {{SGD: {{{settings}}}}}}}")
    assert cfg.optimizer.nesterov is nesterov and "not supported" not in capsys.readouterr().out
    instantiate(cfg.optimizer)([torch.nn.Parameter(torch.ones(1))])


def test_nesterov_is_true_or_false(conf, tmp_path):
    with pytest.raises(InputError, match=r"training\.optimizer\.SGD\.nesterov=maybe: not understood"):
        imported(tmp_path, "operation_mode: training\nmodel:\ntraining: {optimizer: {SGD: {nesterov: maybe}}}")


def test_a_choice_without_settings_of_its_own_is_that_choice(conf, tmp_path, capsys):
    cfg = imported(
        tmp_path,
        "operation_mode: training\ngeneral: {model_path: mobilenet_v2_0.35_224_int8.tflite}\nshiny: 1\nmodel:\n"
        "training: {optimizer: {SGD: }, callbacks: {ReduceLROnPlateau: {}, EarlyStopping: }}\ndataset: {}",
    )
    assert cfg.optimizer._target_ == "torch.optim.SGD"
    assert cfg.schedule._target_ == "torch.optim.lr_scheduler.ReduceLROnPlateau"
    said = capsys.readouterr().out
    named = {line.split(": ")[1] for line in said.splitlines() if line.startswith("not supported: ")}
    assert named == {"shiny", "training.callbacks.EarlyStopping", "model.model_path"}
    assert cfg.model.name == "mobilenetv2_x0_35"
    assert "model.model_name: not given; model=mobilenetv2_x0_35 is taken" in said


def test_a_network_that_nothing_names_is_told(conf, tmp_path, capsys):
    cfg = imported(tmp_path, "operation_mode: training\nmodel: {model_path: mine.tflite}\ntraining: {epochs: 3}")
    assert f"model.model_name: not given; model={cfg.model.name} is taken" in capsys.readouterr().out


def test_an_alpha_is_the_width_of_a_network(conf, tmp_path):
    cfg = imported(tmp_path, "operation_mode: training\nmodel: {model_name: fdmobilenet, alpha: 0.5}")
    assert cfg.model.name == "fdmobilenet_x0_5"


@pytest.mark.parametrize(
    ("mode", "stages"),
    [
        ("training", ["train"]),
        ("chain_eqeb", ["evaluate", "quantize", "evaluate", "deploy deploy=stm32"]),
        ("chain_qd", ["quantize", "deploy deploy=stm32"]),
        ("prediction", []),
    ],
)
def test_operation_modes(mode, stages):
    assert st.stages_of(mode) == stages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("operation_mode: flying\nmodel: {}\ngeneral: {a: 1}", "operation_mode=flying: unknown"),
        ("operation_mode: chain_xyz\ngeneral: {a: 1}", "operation_mode=chain_xyz: unknown"),
        ("operation_mode: training\nmodel: {model_name: yolo}", "model.model_name=yolo: not available.*osnet_a025"),
        ("operation_mode: training\nmodel: {input_shape: (1, 2)}", "input_shape=.*give .height, width, 3"),
        ("operation_mode: training\nmodel: {input_shape: __import__}", "model.input_shape=__import__: not understood"),
        ("preprocessing: {rescaling: {scale: 1/0}}", "rescaling.scale=1/0: not understood"),
        ("preprocessing: {rescaling: {scale: os.system(1)}}", "rescaling.scale=os.system.*not understood"),
        ("operation_mode: [training]\nmodel: {alpha: 1}", r"operation_mode=\['training'\]: unknown"),
        ("operation_mode: {a: 1}\nmodel: {alpha: 1}", "operation_mode={'a': 1}: unknown"),
        ("training: {}\nmodel: {alpha: wide}", "model.alpha=wide: not understood"),
        ("training: {}\nmodel: {alpha: [0.25]}", r"model.alpha=\[0.25\]: not understood"),
        ("training: {}\nmodel: {alpha: .inf}", "model.alpha=inf: not understood"),
        ("training: {batch_size: many}", "training.batch_size=many: not understood"),
        ("training: {optimizer: {Lion: {learning_rate: 1}}}", "training.optimizer=Lion"),
        ("training: {optimizer: {Adam: {learning_rate: 1}, SGD: {}}}", "training.optimizer: holds Adam and SGD"),
        (
            "training: {callbacks: {ReduceLROnPlateau: {}, LRWarmupCosineDecay: {max_lr: 1}}}",
            "training.callbacks: holds ReduceLROnPlateau and LRWarmupCosineDecay",
        ),
        ("hello: {a: 1}", "no user_config.yaml of ST's services"),
        ("training: !!python/object/apply:os.system ['echo']", "tag"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(text, message, conf, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        imported(tmp_path, text)
    assert "\n" not in str(error.value)
    assert not (conf / "experiment" / "st.yaml").exists()


def test_nothing_in_a_configuration_ends_the_comment_that_it_is_written_into(conf, tmp_path):
    text = 'preprocessing: {color_mode: "bgr\\nseed: 666 #"}\ntraining: {"dark\\u2028seed: 666 #": 1}'
    assert imported(tmp_path, text).seed == 0
    assert "seed: 666" in (conf / "experiment" / "st.yaml").read_text()
