"""Odd values in any setting, and folders and streams that can't be used: one line that names the culprit."""

import math
import subprocess
import sys

import pytest
import yaml

from reidlab import bounds, config
from reidlab.bounds import bound_of
from reidlab.cli import main
from reidlab.errors import InputError

NOT_NUMBERS = ("card", "logger", "experiment")  # words for people, and what trackers take
BAD = {  # a representative of each kind of bound, by hand: the values that it must refuse
    "seed": (-1, 2**32, 0.5, math.nan, None, "x", True),
    "data.size": ([8], [8, 8, 8], [0, 8], [-8, 8], [8.5, 8], ["a", "b"], [10**6, 8], 8, None),
    "data.batch_size": (0, 1, -4, 10**9, 2.5, None),
    "data.num_instances": (0, -1, 1.5, 10**9),
    "data.source.lists.train": ("", [], [""], 3),
    "data.exclude_same_camera": ("false", 0, None),
    "data.num_workers": (-1, 10**6),
    "data.val_fraction": (-0.1, 1, 2, math.nan),
    "model.std": ([0, 1, 1], [1, 1], [1, 1, math.inf], 1),
    "optimizer.lr": (0, -1, math.nan, math.inf, "fast", None),
    "trainer.max_epochs": (0, -1, 1.5, math.inf, None),
    "trainer.accelerator": ("banana", "", None),
    "trainer.precision": ("foo", 8, None),
    "trainer.limit_train_batches": (0, -1, 2.5, math.nan),
    "trainer.log_every_n_steps": (0, 10**400),
    "quantize.max_drop": (10**400, -(10**400), math.nan),
    "callbacks.ema.decay": (0, 1, math.nan),
    "evaluate.distance": ("manhattan", 5, None),
    "evaluate.flip": ("no", "false", 0, 1, None),
    "evaluate.rerank.enabled": ("false", 1, None),
    "evaluate.resamples": (0, -1, 10**9, 0.5),
    "evaluate.wanted_fpr": (-1, 0, 1, 1.1, math.nan),
    "predict.k": (0, -1, 1.5, None),
    "predict.precision": ("float64", 16, None),
    "predict.processes": (0, -1, 1.5, 10**6, None),
    "predict.gpus": (-1, "all", None),
    "export.opset": (0, 12, 99, 18.5),
    "export.tolerance": (0, -1, math.nan, math.inf),
    "quantize.formats": ([], ["coreml"], "tflite"),
    "quantize.images": (0, -1, 10**9),
    "quantize.percentile": (50, 101, math.nan),
    "quantize.qat.lr": (0, -1, 2),
    "deploy.images": (0, -1, 0.5),
    "deploy.name": ("../elsewhere", "a/b", ".hidden", " ", "a b"),
    "deploy.timeout_s": (0, -1, math.inf),
}
GOOD = {
    "seed": (0, 2**32 - 1),
    "data.size": ([1, 1], [256, 128]),
    "data.num_instances": (None, 1, 4),
    "data.source.lists.train": (None, "a.txt", ["a.txt", "b.txt"]),
    "data.val_fraction": (0, 0.99),
    "trainer.limit_train_batches": (1.0, 1, 7, 0.5),
    "evaluate.resamples": (1, 2000),
    "evaluate.mean": (None, [0.5, 0.5, 0.5]),
    "quantize.method": ("auto", ["equalized", "qat"]),
    "quantize.percentile": (99.99, 100),
    "trainer.devices": ("auto", 1, -1, [0, 1]),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_value_that_no_stage_can_use_is_refused_by_the_name_of_its_key(key, value):
    with pytest.raises(InputError) as error:
        bounds.check_bounds({key: value})
    assert str(error.value).startswith(f"{key}={value}: expected ") and "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in GOOD.items() for value in values])
def test_usable_values_pass(key, value):
    bounds.check_bounds({key: value})


def leaves_of(file):
    """Dotted key and value of the numbers, switches and lists that a file of a group sets."""
    content = yaml.safe_load(file.read_text()) or {}
    content.pop("defaults", None)
    leaves = config.values.leaves(content)
    return {
        key: value
        for key, value in leaves.items()
        if isinstance(value, int | float | list) and not key.endswith("_partial_")
    }


def test_every_number_switch_and_list_of_the_settings_has_a_bound_that_holds_it():
    without = []
    for file in sorted(config.CONF.glob("*/*.yaml")):
        if file.parent.name in NOT_NUMBERS:
            continue
        for key, value in leaves_of(file).items():
            whole = f"{file.parent.name}.{key}"
            without += [] if bound_of(whole) else [f"{file.name}: {whole}"]
            bounds.check_bounds({whole: value})
    assert not without


def test_the_experiments_keep_the_bounds():
    for file in sorted(config.CONF.glob("experiment/*.yaml")):
        bounds.check_bounds(leaves_of(file))


def test_of_values_that_follow_from_each_other_the_given_one_is_named():
    with pytest.raises(InputError, match=r"^model\.std=\[0, 1, 1\]: expected a list of 3, each a number above 0"):
        config.compose(["data=market1501", "model.std=[0,1,1]"])


@pytest.fixture
def refused(capsys, small, tmp_path):
    """Runs a command on a small data set, which must end in one line that holds all of some texts."""

    def check(command, *texts, on_small=True):
        place = [*(small if on_small else []), f"run.root={tmp_path / 'runs'}", "run.name=t"]
        assert main([command[0], *place, *command[1:]]) == 2
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("reidlab: ") and "stopped by" not in line
        for text in texts:
            assert text in line, line

    return check


@pytest.mark.parametrize("stage", ["train", "evaluate", "export"])
def test_images_too_small_for_the_network(stage, refused):
    refused([stage, "data.size=[8,8]"], "data.size=[8, 8]")


def test_names_that_an_onnx_file_cannot_have(refused):
    refused(["export", "export.input_name=embedding"], "export.input_name=embedding", "differ")


def test_what_libraries_refuse_names_its_settings(refused):
    refused(["train", "optimizer=sgd", "optimizer.momentum=0"], "optimizer.*", "Nesterov")
    refused(["train", "trainer.limit_train_batches=0.01"], "trainer.*", "limit_train_batches")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("+data.source.num_identity=5", "data.source.num_identity: .* did you mean num_identities"),
        ("+data.foo=1", "data.foo: .* leave it out"),
        ("+trainer.max_epoch=1", "trainer.max_epoch: .* did you mean max_epochs"),
        ("+schedule.gama=1", "schedule.gama: "),
        ("+optimizer.foo=1", "optimizer.foo: "),
        ("+callbacks.best.foo=1", "callbacks.best.foo: "),
        ("+regime.foo=1", "regime.foo: "),
    ],
)
def test_a_key_that_is_no_argument_of_what_it_belongs_to_is_named(given, told):
    group = given[1:].partition(".")[0]
    with pytest.raises(InputError, match=f"^{told}"):
        config.instantiate(config.compose(["data.root=nosuch", given])[group])


def test_a_key_that_is_passed_on_to_where_nothing_takes_it_is_named_with_its_group(refused):
    refused(["train", "+task.foo=1"], "reidlab: task.foo: ")
    refused(["train", "+loss.softmax.foo=1"], "reidlab: loss.*: ", "'foo'")
    refused(["train", "+model.network.foo=1"], "reidlab: model.network.foo: ")


def test_devices_that_the_machine_lacks_are_refused_before_images_are_read(refused):
    refused(["train", "data.root=nosuch", "trainer.accelerator=cpu", "trainer.devices=9999"], "trainer.devices=9999")
    refused(["train", "data.root=nosuch", "trainer.accelerator=tpu"], "trainer.*", "torch_xla")


@pytest.mark.parametrize(("deleted", "told"), [
    ("~seed", "give it a value, as in seed=0"),
    ("~optimizer.lr", "give it a value, as in optimizer.lr="),
    ("~run.name", "give it a value"),
    ("~data.source", "set what is in it instead"),
    ("~logger", "choose logger=NAME, of csv, mlflow, none"),
    ("~evaluate", "choose evaluate=NAME, of default"),
    ("~sead", "did you mean seed?"),
])  # fmt: skip
def test_a_deleted_key_is_named_with_what_to_write_instead(deleted, told):
    with pytest.raises(InputError, match=f"^{deleted.strip('~') if 'mean' in told else deleted}: .*{told}"):
        config.compose([deleted])


def test_optional_entries_may_be_deleted():
    assert "early_stopping" not in config.compose(["~callbacks.early_stopping"]).callbacks
    assert "distill" not in config.compose(["~distill"])


def test_a_run_name_longer_than_file_systems_allow(refused):
    refused(["train", f"run.name={'x' * 300}"], "run.name=xxx", "200 at most")


def test_a_root_that_is_no_folder(refused, tmp_path):
    (tmp_path / "notes.txt").touch()
    for root in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "below"):
        refused(["train", f"run.root={root}"], "run.root=", "notes.txt is no folder")


@pytest.mark.parametrize("stage", ["data", "train", "evaluate", "export", "report"])
def test_released_models_stay_as_they_are(stage, refused, tmp_path):
    released = config.SHIPPED / "data" / "models"
    before = sorted(released.rglob("*"))
    name = "demo_osnet_x0_25" if stage in ("evaluate", "export", "report") else "t"
    words = [stage, f"run.root={released}", f"run.name={name}"] + [f"data.root={tmp_path / 'drawn'}"] * (name != "t")
    refused(words, str(released), "stays as it is", on_small=name == "t")
    assert sorted(released.rglob("*")) == before and not (tmp_path / "drawn").exists()


def test_a_table_of_the_folder_that_holds_something_else(refused, tmp_path):
    refused(["train", "trainer.max_epochs=0"], "trainer.max_epochs=0")
    folder = tmp_path / "runs" / "t"
    config.write_config(config.compose([f"run.root={folder.parent}", "run.name=t"]), folder / "config.yaml")
    (folder / "data").mkdir()
    (folder / "data" / "summary.csv").write_bytes(b"\x00\xff\x13")
    refused(["report"], "summary.csv", "not readable as a table")


def test_streams_that_the_caller_closed():
    command = f"{sys.executable} -m reidlab.cli >&- 2>&- <&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
