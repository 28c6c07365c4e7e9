"""Composing configs: what a stranger types wrong is answered with what is right."""

import itertools
import json
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from reidlab import config, places
from reidlab.config.values import plain, settle, written
from reidlab.errors import InputError
from reidlab.run import Run
from reidlab.stages import train


def message(*overrides):
    with pytest.raises(InputError) as caught:
        config.compose(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_misspelled_key_suggests_the_right_one():
    assert "did you mean data.root?" in message("data.rot=x")
    assert "did you mean trainer.max_epochs?" in message("max_epoch=3")
    assert "did you mean model?" in message("modle=osnet_x1_0")
    assert "did you mean data.batch_size?" in message("data.batchsize=3")


def test_a_misspelled_choice_suggests_the_right_one_and_lists_all():
    text = message("model=osnet_x025")
    assert "did you mean osnet_x0_25?" in text and "osnet_x1_0" in text
    assert "did you mean demo?" in message("experiment=dmo")


def test_a_value_of_another_type_is_refused():
    assert "expected int, as in data.batch_size=" in message("data.batch_size=many")
    assert "expected bool" in message("run.overwrite=3")


def test_a_value_may_be_of_another_type_than_an_experiments_where_its_bound_allows_it():
    hour = ["experiment=people_in_an_hour", "trainer.max_time=00:01:30:00"]
    assert config.compose(hour).trainer.max_time == "00:01:30:00"
    assert "or a time such as" in message("trainer.max_time=true")


@pytest.mark.parametrize("value", ["true", "null", "5", "[k1]"])
@pytest.mark.parametrize("section", ["evaluate.rerank", "evaluate.expansion", "quantize.qat", "model.network", "run"])
def test_a_value_in_place_of_settings_is_answered_with_one_of_these(section, value):
    text = message(f"{section}={value}")
    example = text.rpartition("as in ")[2].partition("=")[0]
    assert text.startswith(f"{section}=") and OmegaConf.select(config.compose(), example) is not None
    assert not section.startswith("evaluate") or text.endswith(f"{section}.enabled=true")


def test_settings_that_may_be_left_out_whole_may_be_null(workspace):
    left_out = ["data=flowers", "model=osnet_x0_25", "data.crop=null", "task.mix=null", "loss.softmax=null"]
    cfg = config.compose([*left_out, "evaluate.rerank={enabled: true}"])
    assert cfg.data.crop is cfg.task.mix is cfg.loss.softmax is None and cfg.evaluate.rerank.k1 == 20
    assert config.compose(["data=msmt17", "data.source.images=all"]).data.source.images == "all"
    assert message("data.source=null").startswith("data.source=None: it has settings of its own")


@pytest.mark.parametrize("key", ["mean", "std"])
def test_images_are_normalized_as_the_model_says(key, workspace):
    assert message(f"data.{key}=[0.5,0.5,0.5]").endswith(f"set model.{key}, which data.{key} follows")
    assert config.compose([f"model.{key}=[0.5,0.5,0.5]"]).data[key] == [0.5, 0.5, 0.5]
    (workspace / "conf" / "data").mkdir()
    (workspace / "conf" / "data" / "mine.yaml").write_text(f"defaults: [market1501, _self_]\n{key}: [0.4, 0.4, 0.4]\n")
    assert f"data.{key}=[0.4, 0.4, 0.4]: the network" in message("data=mine")


def test_an_unreadable_override_is_named():
    assert "write key=value" in message("data.root")


def test_numbers_and_null_fit_where_numbers_are():
    cfg = config.compose(["optimizer.lr=1", "data.num_instances=null", "data.size=[64,32]"])
    assert cfg.optimizer.lr == 1 and cfg.data.num_instances is None and cfg.data.size == [64, 32]


def test_null_leaves_out_an_optional_group_that_an_experiment_chose():
    taught, alone = (config.compose(["experiment=demo_distilled", *more]) for more in ([], ["distill=null"]))
    assert "distill" in taught and "distill" not in alone
    assert alone.model == taught.model
    assert "data=None: no such choice" in message("data=null")


def test_relative_paths_start_at_the_working_folder_or_else_at_the_workspace(tmp_path, monkeypatch):
    (tmp_path / "crops").mkdir()
    monkeypatch.chdir(tmp_path)
    assert config.compose(["data.root=crops"]).data.root == str(tmp_path / "crops")
    cfg = config.compose(["data=market1501"])
    assert cfg.data.root == cfg.data.source.root == str(config.root() / "data" / "market1501")
    assert Path(cfg.run.root).is_absolute()


def test_a_tilde_that_is_nobodys_home_is_part_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody_here").mkdir()
    monkeypatch.setenv("HOME", "/home/me")
    cfg = config.compose(["data=market1501", "data.root=~nobody_here", "run.root=~/runs"])
    assert cfg.data.root == str(tmp_path / "~nobody_here") and cfg.run.root == "/home/me/runs"
    assert config.resolve_path("~nobody_else/a") == config.root() / "~nobody_else" / "a"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A working folder below a workspace with configs of its own."""
    for name, text in {
        "experiment/mine.yaml": "# @package _global_\ndefaults: [smoke, override /model: tiny]\nrun: {name: mine}\n",
        "model/tiny.yaml": "defaults: [osnet_x0_25]\nname: tiny\nnetwork: {feat_dim: 8}\n",
        "logger/none.yaml": "mine: null\n",
        "extra/one.yaml": "a: 1\n",
    }.items():
        file = tmp_path / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    return tmp_path


def test_configs_of_the_workspace_stand_beside_the_released_ones(workspace):
    cfg = config.compose(["experiment=mine"])
    assert cfg.model.name == "tiny" and cfg.model.network.feat_dim == 8 and cfg.model.distance == "cosine"
    assert cfg.data.name == config.compose(["experiment=smoke"]).data.name
    assert {"mine", "smoke", "demo"} <= set(config.choices("experiment"))
    assert {"extra", "model"} <= set(config.groups()) and config.choices("extra") == ["one"]
    assert "did you mean mine?" in message("experiment=min")


def test_a_config_of_the_workspace_takes_the_place_of_a_released_namesake(workspace):
    assert config.compose(["logger=none"]).logger == {"mine": None}
    assert config.choices("logger").count("none") == 1


def test_an_editors_link_to_nowhere_is_no_config(workspace):
    (workspace / "conf" / "experiment" / ".#mine.yaml").symlink_to("somebody@somewhere.123")
    assert config.compose(["experiment=mine"]).model.name == "tiny"


def test_a_config_is_composed_anew_when_a_file_of_it_changes(workspace):
    file = workspace / "conf" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\nseed: 1\n")
    assert config.compose(["experiment=mine"]).seed == 1
    file.write_text("# @package _global_\nseed: 22\n")
    assert config.compose(["experiment=mine"]).seed == 22
    config.compose(["experiment=mine"]).seed = 3
    assert config.compose(["experiment=mine"]).seed == 22
    state, other = file.stat(), file.with_name(".other")
    other.write_text("# @package _global_\nseed: 33\n")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(file)  # of the same size and time
    assert config.compose(["experiment=mine"]).seed == 33


def test_an_experiment_that_nothing_would_read_is_named(workspace):
    for name, text in {"bare": "seed: 7\n", "child": "# @package _global_\ndefaults: [bare]\n"}.items():
        (workspace / "conf" / "experiment" / f"{name}.yaml").write_text(text)
    told = "conf/experiment/bare.yaml: nothing reads its settings; begin it with `# @package _global_`"
    assert message("experiment=bare") == told
    assert config.compose(["experiment=child"]).seed == 7
    (workspace / "conf" / "experiment" / "bare.yaml").write_text("defaults: [mine]\n")
    assert config.compose(["experiment=bare"]).model.name == "tiny"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('data: {exclude_same_camera: "false"}', "data.exclude_same_camera='false': expected bool"),
        ('evaluate: {rerank: {enabled: "no"}}', "evaluate.rerank.enabled='no': expected bool"),
        ("data: {num_instances: null}\nevaluate: {flip: 1}", "evaluate.flip=1: expected bool"),
        ("evaluate: {flp: true}", "evaluate.flp: no such key; did you mean evaluate.flip?"),
        ("optimiser: {lr: 1}", "optimiser.lr: no such key; did you mean optimizer.lr?"),
        ("model: {netwrk: {feat_dim: 1}}", "model.netwrk.feat_dim: no such key; did you mean model.network"),
        ("evaluate: {rerank: true}", "evaluate.rerank=True: it has settings of its own"),
        ("seed: {a: 1}", "seed={'a': 1}: expected int"),
    ],
)
def test_what_an_experiment_of_ones_own_sets_is_held_to_the_settings(workspace, settings, told):
    (workspace / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{settings}\n")
    assert message("experiment=mine").startswith(f"conf/experiment/mine.yaml: {told}")
    (workspace / "conf" / "experiment" / "child.yaml").write_text("# @package _global_\ndefaults: [mine]\n")
    assert message("experiment=child", "schedule=constant").startswith(f"conf/experiment/mine.yaml: {told}")


def test_an_experiment_may_add_arguments_and_entries(workspace):
    (workspace / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /data: folders, override /callbacks: ema]\n"
        "optimizer: {betas: [0.9, 0.99]}\ncallbacks: {mine: {_target_: a.B, c: 1}, ema: null}\naugment: {flip: null}\n"
        "data: {source: {splits: {test: b, train: a}}}\nmodel: {network: {feat_dim: null}}\ndistill: {_target_: a.C}\n"
    )
    cfg = config.compose(["experiment=mine"])
    assert cfg.optimizer.betas == [0.9, 0.99] and cfg.callbacks.mine.c == 1 and cfg.callbacks.ema is None
    assert cfg.data.source.splits == {"test": "b", "train": "a"} and cfg.distill == {"_target_": "a.C"}


def test_a_switch_in_a_file_of_a_group_is_no_text(workspace):
    (workspace / "conf" / "evaluate").mkdir()
    (workspace / "conf" / "evaluate" / "mine.yaml").write_text('defaults: [default]\nflip: "no"\n')
    assert message("evaluate=mine") == "evaluate.flip=no: expected true or false, without quotes"
    assert message("data.exclude_same_camera=null").startswith("data.exclude_same_camera=None: expected true or false")


def test_settings_of_hydras_own_are_none_of_a_run(workspace):
    (workspace / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra: {run: {dir: x}}\nseed: 3\n"
    )
    cfg = config.compose(["experiment=mine"])
    assert cfg.seed == 3 and "hydra" not in cfg


def test_a_group_may_be_a_link_to_a_folder(workspace):
    (workspace / "shared").mkdir()
    (workspace / "conf" / "optimizer").symlink_to(workspace / "shared")
    for rate in (0.5, 0.7):
        (workspace / "shared" / "ours.yaml").write_text(f"_target_: torch.optim.Rprop\n_partial_: true\nlr: {rate}\n")
        cfg = config.compose(["optimizer=ours"])
        assert cfg.optimizer.lr == rate and config.instantiate(cfg.optimizer).func is torch.optim.Rprop


@pytest.mark.parametrize(
    "text", [b"seed: [1\n", b"seed: 1\nseed: 2\n", b"optimizer:\n\tlr: 1\n", b"# caf\xe9\nseed: 1\n"]
)
def test_a_file_that_is_no_yaml_is_named(workspace, text):
    file = workspace / "conf" / "experiment" / "mine.yaml"
    file.write_bytes(b"# @package _global_\n" + text)
    assert message("experiment=mine").startswith("conf/experiment/mine: can't be read (")
    file.write_text("# @package _global_\nseed: 1\n")
    assert config.compose(["experiment=mine"]).seed == 1


def test_threads_compose_at_once_and_within_a_hydra_of_the_users_own(workspace):
    (workspace / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 1\n")
    (workspace / "theirs").mkdir()
    (workspace / "theirs" / "app.yaml").write_text("mine: 5\n")
    with initialize_config_dir(str(workspace / "theirs"), version_base="1.3"), ThreadPoolExecutor(4) as threads:
        seeds = threads.map(lambda seed: config.compose(["experiment=mine", f"seed={seed}"]).seed, range(4))
        assert [*seeds] == [*range(4)]
        assert compose("app", ["mine=6"]) == {"mine": 6}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=3", "data.size=[64,32]", "model.network.dropout=0.2", "optimizer.lr=1e-2"],
        ["experiment=demo", "seed=3", "data.size=[64,32]", "run.name=x"],
        [
            "optimizer=muon",
            "+optimizer.more=1",
            "seed=4",
            "optimizer.lr=${seed}",
            "model=resnet18",
            "loss=softmax_triplet",
        ],
        ["callbacks=ema", "~callbacks.ema", "+logger.more={a: 1}", "optimizer.lr=1", "optimizer.lr=2"],
        ["data=folders", "data.source.splits={train: a, test: b}", "data.about.kind='a b'", "distill=standard"],
    ],
)
def test_overrides_do_what_they_do_in_hydra(overrides):
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        expected = OmegaConf.to_container(compose("config", overrides), resolve=True)
    found = config.compose(overrides)
    del found.run.overrides
    relative = json.dumps(OmegaConf.to_container(found)).replace(f"{config.CLONE}/", "")
    assert json.loads(relative) == expected


@pytest.mark.parametrize(
    ("experiment", "choice", "gone", "kept"),
    [
        ("people_in_an_hour", "schedule=warmup_multistep", "schedule.final_factor", {"schedule.warmup_epochs": 0}),
        ("osnet_x1_0_market1501", "schedule=constant", "schedule.milestones", {"schedule.factor": 1}),
        ("flowers_st_fdmobilenet_v1_128", "augment=none", "augment.policy.p", {"augment.policy": None}),
        ("flowers_st_fdmobilenet_v1_128", "callbacks=default", "callbacks.ema", {"callbacks.early_stopping": None}),
        ("smoke", "data=folders", "data.source.num_identities", {"data.size": [64, 32], "data.source.seed": 1}),
    ],
)
def test_another_choice_beside_an_experiment_has_no_keys_of_the_experiments_own(experiment, choice, gone, kept):
    assert OmegaConf.select(config.compose([f"experiment={experiment}"]), gone) is not None
    cfg = config.compose([f"experiment={experiment}", choice])
    assert OmegaConf.select(cfg, gone) is None
    assert {key: OmegaConf.select(cfg, key) for key in kept} == kept


def test_an_experiments_fitting_values_and_whole_objects_stay_beside_another_choice(workspace):
    (workspace / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nschedule: {warmup_epochs: 3, final_factor: 0.5}\n"
        "callbacks: {mine: {_target_: a.B, c: 1}, best: {mode: min}, ema: {decay: 0.5}}\n"
    )
    cfg = config.compose(["experiment=mine", "schedule=warmup_multistep", "callbacks=default"])
    assert cfg.schedule.warmup_epochs == 3 and "final_factor" not in cfg.schedule
    assert cfg.callbacks.mine == {"_target_": "a.B", "c": 1} and cfg.callbacks.best.mode == "min"
    assert "ema" not in cfg.callbacks


def test_a_settled_config_is_one_of_its_plain_values():
    """References are followed, to leaves and mappings, in lists too; what is quoted stays text."""
    content = {
        "a": 1, "b": "${a}", "c": r"\${a}", "d": "${c}", "e": ["${a}", {"f": "${e[0]} and ${a}"}],
        "g": {"h": "${b}", "i": None}, "j": "${g}", "k": "x${c}", "l": [], "m": {}, "n": True, "o": 1.5,
        "p": r"\\${a}", "q": {"1.2": "${a}", 3: "${d}"},
    }  # fmt: skip
    settled = OmegaConf.create({"deeper": content, **content})
    values = config.plain(settled)
    settle(settled, values)
    assert OmegaConf.to_container(settled) == OmegaConf.to_container(config.as_config(values))
    assert config.plain(settled) == values


def test_paths_start_at_the_workspace_above_the_working_folder(workspace, monkeypatch, tmp_path_factory):
    assert config.resolve_path("runs") == workspace / "runs"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.setenv("REIDLAB_ROOT", str(elsewhere))
    assert config.resolve_path("runs") == elsewhere / "runs"


def test_without_a_workspace_the_clone_is_it_or_else_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.root() == config.CLONE == Path(__file__).parents[1]
    monkeypatch.setattr(places, "CLONE", None)
    assert config.root() == tmp_path


def test_released_models_are_found_from_any_workspace_unless_it_has_its_own(workspace):
    model = Path("data", "models", "demo_osnet_x0_25", "checkpoints", "best.ckpt")
    assert config.resolve_path(model) == config.SHIPPED / model
    (workspace / model).parent.mkdir(parents=True)
    (workspace / model).touch()
    assert config.resolve_path(model) == workspace / model


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_a_run_name_stays_inside_runs(name):
    with pytest.raises(InputError, match="not usable as a folder's name"):
        config.run_folder(OmegaConf.create({"run": {"root": "runs", "name": name}}))


def test_later_stages_take_the_runs_own_config_with_new_overrides_on_top(tmp_path):
    place = [f"run.root={tmp_path}", "run.name=a"]
    trained = config.compose(["model=osnet_x0_5", "data=market1501", "seed=7", *place])
    trained.model.distance = "cosine"  # as if conf/ had another value then
    config.write_config(trained, tmp_path / "a" / "config.yaml")
    assert config.compose_for(place) == {**trained, "run": {**trained.run, "overrides": trained.run.overrides}}
    later = config.compose_for(["evaluate.resamples=3", "data=deepsportradar", *place])
    assert later.evaluate.resamples == 3
    assert later.data.name == "deepsportradar" and not later.data.exclude_same_camera
    assert later.model.name == "osnet_x0_5" and later.model.distance == "cosine" and later.seed == 7


def test_what_is_given_now_counts_whatever_was_given_before(tmp_path):
    """Of a run without a training, whose config each stage writes; and of a trained one whose release had others."""
    place = [f"run.root={tmp_path}", "run.name=a"]
    Run.compose(["data=market1501", *place, "evaluate.wanted_fpr=0.01", "deploy=nvidia"]).keep_config()
    for fpr, target in ((0.2, "trackers"), (0.01, "nvidia"), (0.2, "c"), (0.01, "nvidia")):
        run = Run.resume([*place, f"evaluate.wanted_fpr={fpr}", f"deploy={target}"])
        assert run["evaluate.wanted_fpr"] == fpr and run["deploy"] == plain(config.compose([f"deploy={target}"]).deploy)
        run.keep_config()
        assert Run.resume(place)["evaluate.wanted_fpr"] == fpr
    Run.resume([*place, "deploy=nvidia", "deploy.largest_batch=4"]).keep_config()
    assert Run.resume(place)["deploy.largest_batch"] == 4
    for target in ("c", "trackers", "nvidia"):  # each with what is its own
        run = Run.resume([*place, f"deploy={target}"])
        assert run["deploy"] == plain(config.compose([f"deploy={target}"]).deploy)
        run.keep_config()
    cfg = config.compose(["data=market1501", *place])
    cfg.model.distance = "cosine"  # as if conf/ had another value then
    config.write_config(cfg, tmp_path / "a" / "config.yaml")
    assert config.compose_for(place).model.distance == "cosine"
    assert config.compose_for([*place, "model.distance=euclidean"]).model.distance == "euclidean"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["evaluate.file=a.onnx", "evaluate.mean=[1,1,1]", "evaluate.std=[1,1,1]"], ["evaluate.file=b.onnx"]),
        (["evaluate.file=a.onnx", "evaluate.color_order=BGR"], ["model=osnet_x0_25", "model.weights=a.ckpt"]),
        (["evaluate.file=a.onnx", "evaluate.distance=cosine"], ["model.weights=a.ckpt"]),
        (["model.weights=a.ckpt", "model.mean=[1,1,1]"], ["model=osnet_x0_25", "model.weights=b.ckpt"]),
        (["model=osnet_x0_5", "model.weights=a.ckpt", "model.std=[1,1,1]"], ["model=osnet_x0_25"]),
        (["model.weights=a.ckpt", "model.distance=cosine"], ["evaluate.file=a.onnx"]),
        (["data.root=here"], ["data=dukemtmc"]),
        (["data.root=here", "data.name=mine", "data.about.license=MIT"], ["data.root=there"]),
        (["evaluate.file=a.onnx", "evaluate.mean=[1,1,1]"], ["experiment=osnet_x1_0_market1501"]),
        (["data.root=here", "data.source.distractors=false"], ["data=dukemtmc", "data.root=there"]),
    ],
)
def test_another_network_file_or_data_set_has_nothing_of_the_former_one(first, second, tmp_path):
    """By the settings of a run that was given the second alone, after two stages that wrote theirs, too."""
    common = ["data=market1501", "data.size=[64,32]", f"run.root={tmp_path}"]
    wanted = [Run.compose([*common, *second])[key] for key in ("model", "data", "evaluate")]
    Run.compose([*common, *first, "run.name=a"]).keep_config()
    place, written = [common[2], "run.name=a"], tmp_path / "a" / "config.yaml"
    for _ in range(2):
        run = Run.resume([*place, *second])
        run.keep_config()
        for stored in (run, Run.resume(place), Run.compose([*config.read_config(written).run.overrides, *place])):
            assert [stored[key] for key in ("model", "data", "evaluate")] == wanted


def test_the_same_network_or_data_set_named_again_keeps_what_was_said_of_it(tmp_path):
    place = [f"run.root={tmp_path}", "run.name=a"]
    said = ["model.mean=[1,1,1]", "data.root=here", "evaluate.mean=[1,1,1]"]
    Run.compose(["experiment=smoke", "data=market1501", "evaluate.file=a.onnx", *said, *place]).keep_config()
    again = ["model=osnet_x0_25", "data=market1501", "evaluate.file='./a.onnx'"]  # the first as the experiment chooses
    run = Run.resume([*place, *again, "evaluate.flip=true"])
    assert run["model.mean"] == run["evaluate.mean"] == [1, 1, 1]
    assert run["data.root"] == str(config.resolve_path("here"))


def test_a_training_takes_the_place_of_a_file_that_was_evaluated_and_its_network_keeps_its_settings(tmp_path):
    place = [f"run.root={tmp_path}", "run.name=a"]
    given = ["data=market1501", "evaluate.file=a.onnx", "evaluate.output=y", "model.mean=[0.5,0.5,0.5]"]
    Run.compose([*given, *place]).keep_config()
    run = Run.begin(place)
    assert run["evaluate.file"] is run["evaluate.output"] is None and run["model.mean"] == [0.5] * 3
    looked_at = Run.begin(place, trains=False)  # by `data`
    looked_at.keep_config()
    assert [Path(looked_at["evaluate.file"]).name, looked_at["evaluate.output"]] == ["a.onnx", "y"]
    (tmp_path / "a" / "checkpoints").mkdir()  # of a training that was refused
    assert Run.resume(place)["evaluate.output"] == "y"
    (tmp_path / "a" / "checkpoints" / "last.ckpt").touch()
    for opened in (Run.resume(place), Run(tmp_path / "a")):  # whose config is that of the evaluation
        assert opened["evaluate.file"] is None and opened.foreign_file is None
    elsewhere = Run.resume([*place, "evaluate.file=b.ckpt"])
    assert elsewhere["evaluate.file"] == "b.ckpt" and elsewhere["model.mean"] == [0.5] * 3


def test_a_stored_config_says_nothing_of_where_to_send(tmp_path):
    place, theirs = [f"run.root={tmp_path}", "run.name=a"], tmp_path / "a" / "config.yaml"
    sent = {"gallery.folder": "qdrant+https://elsewhere/people", "predict.ray": "ray://elsewhere:1"}
    sent |= {"predict.out": "/tmp/out", "track.root": "/tmp/film", "logger.mlflow.tracking_uri": "http://elsewhere"}
    cfg = config.compose(["logger=mlflow", *place])
    own = {key: OmegaConf.select(cfg, key) for key in sent}
    for key, value in sent.items():
        OmegaConf.update(cfg, key, value)
    cfg.run.overrides = ["logger=mlflow", *(f"{key}='{value}'" for key, value in sent.items())]
    config.write_config(cfg, theirs)
    for stored in (config.compose_for(place), config.compose_to_begin(place, True)):
        assert {key: OmegaConf.select(stored, key) for key in sent} == own
    assert config.compose_for([*place, "gallery.folder=here"]).gallery.folder == "here"


def test_a_run_whose_images_were_normalized_otherwise_opens_with_the_models_normalization_set(tmp_path):
    """Earlier releases trained one network then, and exported another."""
    place, earlier = [f"run.root={tmp_path}", "run.name=a"], "[0.5,0.5,0.5]"
    cfg = config.compose(["data=market1501", *place])
    cfg.data.mean = [0.5, 0.5, 0.5]
    cfg.run.overrides = ["data=market1501", f"data.mean={earlier}"]
    config.write_config(cfg, tmp_path / "a" / "config.yaml")
    with pytest.raises(InputError, match=r"a/config\.yaml: data\.mean=\[0\.5, 0\.5, 0\.5\]: .*; set model\.mean"):
        config.compose_for(place)
    opened = config.compose_for([*place, f"model.mean={earlier}"])
    assert opened.data.mean == opened.model.mean == [0.5, 0.5, 0.5]


def test_a_stage_after_training_refuses_an_unknown_run_with_the_nearest_name(tmp_path):
    place = f"run.root={tmp_path}"
    with pytest.raises(InputError, match=r"run.name=x: no such run in .*; `reidlab train` makes one"):
        config.compose_for([place, "run.name=x"])
    for name in ("mine", "yours"):
        config.write_config(config.compose([place, f"run.name={name}"]), tmp_path / name / "config.yaml")
    with pytest.raises(InputError, match=r"run.name=mnie: no such run in .*; did you mean mine\?"):
        config.compose_for([place, "run.name=mnie", "evaluate.resamples=3", "seed=1", "data.size=[64,32]"])
    with pytest.raises(InputError, match=r"run.name=synthetic-osnet_x0_25: no such run in .*; there are mine, yours"):
        config.compose_for([place])
    (tmp_path / "crops").mkdir()
    with pytest.raises(InputError, match=r"run.name=crops: it holds no config.yaml, and so is no run; there are mine"):
        config.compose_for([place, "run.name=crops"])
    for source in ("data=market1501", "model=osnet_x1_0", "experiment=demo", "model.weights=a.pth",
                   "evaluate.file=a.onnx", "predict.model=a.onnx"):  # fmt: skip
        assert config.compose_for([place, "run.name=new", source]).run.name == "new"
    assert not (tmp_path / "new").exists() and not [*(tmp_path / "crops").iterdir()]


def test_training_goes_on_from_the_config_that_a_named_run_has(tmp_path):
    place = [f"run.root={tmp_path}", "run.name=mine"]
    kept = config.compose(["data=market1501", "data.size=[64,32]", *place])
    config.write_config(kept, tmp_path / "mine" / "config.yaml")
    cfg = config.compose_to_begin([*place, "seed=3", "model=osnet_x1_0", "run.overwrite=true"], True)
    assert (
        cfg.data == {**kept.data, "seed": 3} and cfg.seed == 3 and cfg.model.name == "osnet_x1_0" and cfg.run.overwrite
    )
    assert cfg.run.overrides == ["data=market1501", "data.size=[64,32]", "seed=3", "model=osnet_x1_0"]
    assert config.training_differences(config.compose([*cfg.run.overrides, *place]), cfg) == []
    for choice in ("data=synthetic", "experiment=demo"):
        assert config.compose_to_begin([*place, choice], True) == config.compose([*place, choice])
    others = [f"run.root={tmp_path}", "seed=3"]
    assert config.compose_to_begin(others, True) == config.compose(others)


PATHS = ["/crops of (1)/x", "/a,b", "/a=b", "/a#b", "/a[1]", "/[a]/b", "/a{b}", "/it's", '/6" tall', "/a\\b", "/a; b",
         "/ü", "/a: b", "/a(b", "/100%", "/a&b|c", "/#(,=)[1] 'x'"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_needs_no_quotes_of_hydras(path):
    cfg = config.compose(["data=market1501", f"data.root={path}", f"evaluate.file={path}", f"run.root={path}"])
    assert cfg.data.root == cfg.data.source.root == cfg.evaluate.file == cfg.run.root == path


def test_names_are_text_and_what_is_quoted_stays_as_it_is(tmp_path):
    for name in ("2024_06", "007", "1e3", "true", "a,b", "x (1)"):
        cfg = config.compose([f"run.name={name}"])
        assert cfg.run.name == name and config.run_folder(cfg).name == name
        config.write_config(cfg, tmp_path / name / "config.yaml")
        assert Run.resume([f"run.root={tmp_path}", f"run.name={name}", "seed=2"]).folder == tmp_path / name
    quoted = ["data=csv", "data.root='/a (1)'", 'evaluate.file="/b (1)"', "model.weights=null"]
    cfg = config.compose(quoted)
    assert (cfg.data.root, cfg.evaluate.file, cfg.model.weights) == ("/a (1)", "/b (1)", None)


@pytest.mark.parametrize(
    ("override", "value"),
    [("card.about=crops (1)", "crops (1)"), ("card.about=a # b", "a # b"), ("card.about=a,b", "a,b"),
     ("evaluate.also=[csv:/a (1),csv:/b]", ["csv:/a (1)", "csv:/b"])],
)  # fmt: skip
def test_another_override_that_cant_be_read_is_answered_with_how_to_write_it(override, value):
    text = message(f"+{override}")
    assert f"+{override}" in text and "once for Hydra and once for the shell" in text
    (word,) = shlex.split(text.rpartition("shell: ")[2])
    assert (
        config.compose([word])["card" if "card" in override else "evaluate"][
            override.partition("=")[0].rpartition(".")[2]
        ]
        == value
    )


def test_half_of_a_path_with_spaces_is_put_to_the_override_before_it():
    text = message("data.root=/my", "crops")
    assert text.endswith("write key=value; if it belongs to the one before it, 'data.root=/my crops'")


def test_a_name_that_no_folder_can_have_is_one_line(tmp_path):
    assert "300 characters; a folder's name has 200 at most" in refused("run.name=" + "x" * 300)
    assert "not usable as a folder's name" in refused("run.name=null")
    assert "File name too long" in message("data.root=" + "x" * 300)
    with pytest.raises(InputError, match="File name too long"):
        Run("x" * 300)


def refused(*overrides):
    with pytest.raises(InputError) as caught:
        Run.compose(overrides)
    return str(caught.value)


def test_only_what_training_depends_on_counts_as_a_difference(tmp_path):
    one = config.compose(["seed=1"])
    same = config.compose(["seed=1", "data.num_workers=0", "logger=csv", f"run.root={tmp_path}", "run.name=b"])
    other = config.compose(["seed=2"])
    assert config.training_differences(one, same) == []
    assert "seed: 1 -> 2" in config.training_differences(one, other)


CHOICES = {group: [f"{group}={choice}" for choice in config.choices(group)] for group in config.groups()}
ALONE = [[choice] for group in ("experiment", "logger", "task") for choice in CHOICES.pop(group)]
TOGETHER = [[choice for choice in row if choice] for row in itertools.zip_longest(*CHOICES.values())]


@pytest.mark.parametrize("chosen", [*ALONE, *TOGETHER], ids=" ".join)
def test_every_choice_builds_what_training_takes(chosen, tmp_path):
    """Each choice once, one of each group at a time; alone what chooses for other groups or needs more installed."""
    if "logger=mlflow" in chosen:
        pytest.importorskip("mlflow", reason="needs the mlflow extra")
    cfg = config.compose([*chosen, f"run.root={tmp_path}"])
    assert isinstance(config.instantiate(cfg.data).augment, nn.Module)
    network = config.instantiate(cfg.model.network, num_classes=3)
    assert network.feat_dim > 0
    loss = config.instantiate(cfg.loss, num_classes=3, embedding_size=8)
    terms = loss(torch.rand(12, 8), torch.rand(12, 3), torch.arange(12) % 3)
    assert terms and all(term.isfinite() for term in terms.values())
    optimizer = config.instantiate(cfg.optimizer)(nn.Linear(2, 2).parameters())
    config.instantiate(cfg.schedule)(optimizer)
    assert callable(config.instantiate(cfg.regime).parameter_groups)
    assert callable(config.instantiate(cfg.task))
    callbacks = [config.instantiate(callback) for callback in cfg.callbacks.values() if callback]
    loggers = [config.instantiate(logger) for logger in cfg.logger.values() if logger]
    options = {"default_root_dir": tmp_path, "accelerator": "cpu"}
    train.bare_trainer(Run.of(cfg), callbacks=callbacks, logger=loggers, **options)
    if cfg.get("distill"):
        file = "weights" if "weights" in cfg.distill else "teacher"
        cfg.distill[file] = None
        with pytest.raises(InputError, match=rf"distill\.{file}: name the "):
            train.build_distillation(Run.of(cfg), network, None, "")


def test_configs_are_walked_as_omegaconf_walks_them():
    tree = {
        "one": 1, "text": "x${one}", "ref": "${one}", "node": "${group}", "item": "${list[1].deep}", "no": [],
        "list": ["${one}", {"deep": "${ref}"}, [None, "a"]],
        "group": {"escaped": "\\${one}", "slashes": "a\\\\${one}", "none": None, "false": False},
    }  # fmt: skip
    for cfg in (OmegaConf.create(tree), config.compose(["experiment=demo"])):
        assert plain(cfg) == OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert written(cfg) == OmegaConf.to_container(cfg)
    assert plain(OmegaConf.create(tree).list) != written(OmegaConf.create(tree).list)
    for wrong in ({"a": "???"}, {"a": "${b}"}, {"a": ["${nobody}"]}, {"a": {"b": "${a}"}}):
        with pytest.raises((OmegaConfBaseException, RecursionError)):
            OmegaConf.to_container(OmegaConf.create(wrong), resolve=True, throw_on_missing=True)
        with pytest.raises(OmegaConfBaseException):
            plain(OmegaConf.create(wrong))
