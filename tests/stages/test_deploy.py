"""The stage around all targets: how they are built, what they refuse, and which networks are compared."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.config import CLONE, choices, instantiate
from reidlab.deploy.lowering import lower
from reidlab.deploy.target import Target
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.export import tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps
from reidlab.models import FDMobileNet
from reidlab.run import File, Row, Run
from reidlab.stages import deploy


def int8_file(weights_hash=None, seed=0):
    torch.manual_seed(seed)
    images = np.random.default_rng(0).random((4, 32, 16, 3)).astype(np.float32)
    steps = as_steps(deployable(FDMobileNet(0.25).eval(), [0.0] * 3, [1.0] * 3), (32, 16))
    metadata = {"model": "tiny"} | ({"weights_hash": weights_hash} if weights_hash else {})
    return tflite.integer_file(steps, observe(steps.arrays, [images], "minmax"), metadata)


@pytest.fixture(scope="module")
def plain_file():
    return int8_file()


@pytest.fixture
def runs(small, tmp_path, plain_file):
    """Make a run: its name, the protocol of its accuracy, and other settings."""

    def make(name, protocol=None, *more, score=0.5):
        settings = [*small, f"run.root={tmp_path}", f"run.name={name}", "deploy=c", "deploy.cores=[]", *more]
        run = Run.compose(settings)
        run.keep_config()
        run.write(File.TFLITE_INT8, plain_file)
        if protocol is not None:
            run.record({Row.CHECKPOINT: {"mAP": 0.9}, Row.TFLITE_INT8: {"mAP": score}}, protocol)
        return run

    return make


@pytest.mark.parametrize("name", choices("deploy"))
def test_every_yaml_builds_a_target_of_its_name(name):
    target = instantiate(Run.compose([f"deploy={name}"]).config.deploy)
    assert isinstance(target, Target) and target.name == name


def test_settings_without_a_target_are_refused(runs):
    run = runs("old")
    run.config.deploy.pop("_target_")  # as an earlier release stored them
    with pytest.raises(InputError, match="old: its settings name no target; add deploy=NAME, of c, edge_linux, nvidia"):
        deploy.run(run)


def test_a_file_of_another_checkpoint_is_refused(runs):
    run = runs("one")
    run.write(File.TFLITE_INT8, int8_file("0123456789abcdef"))
    message = r"model_int8\.tflite: made from another checkpoint; run `reidlab quantize run\.name=one` to make it again"
    with pytest.raises(InputError, match=message):
        deploy.run(run)
    assert not (run / File.DEPLOY).exists()
    run.write(File.TFLITE_INT8, int8_file(run.checkpoint))
    assert deploy.run(run).has(File.C_SOURCE)


def test_a_file_from_elsewhere_may_have_any_origin(runs, tmp_path):
    file = tmp_path / "theirs.tflite"
    file.write_bytes(int8_file("0123456789abcdef"))
    assert deploy.run(runs("one", None, f"deploy.model={file}")).has(File.C_SOURCE)


def test_damaged_files_of_the_run_are_refused_in_one_line(runs, plain_file):
    """Or read, where only weights are damaged; never an abort of the process or another exception."""
    run, random, refused = runs("one"), np.random.default_rng(0), 0
    content = np.frombuffer(plain_file, np.uint8)
    for _ in range(60):
        damaged = content.copy()
        places = random.integers(8, 3000, 4) * random.choice([1, -1])
        damaged[places] = random.choice([0, 1, 127, 128, 255])
        run.write(File.TFLITE_INT8, damaged.tobytes())
        try:
            lower(read_graph(deploy.deployable(run).file(File.TFLITE_INT8)))
        except InputError as error:
            assert "\n" not in str(error) and "model_int8.tflite" in str(error)
            refused += 1
    assert refused > 10


def test_networks_are_compared_on_one_test_split(runs):
    mine = {"test": "aaa", "exclude_same_camera": True, "distance": "euclidean"}
    run = runs("mine", mine)
    runs("theirs", mine | {"distance": "cosine"}, "data.name=renamed", score=0.4)
    runs("other-split", mine | {"test": "bbb"})
    runs("other-rule", mine | {"exclude_same_camera": False})
    runs("earlier", {})
    runs("earlier-of-other-data", {}, "data.name=renamed")
    runs("not-evaluated")
    (run.folder.parent / "broken").mkdir()
    (run.folder.parent / "broken" / "config.yaml").write_text("[")
    table = deploy.run(run).table_of(File.CHOICE)
    assert list(dict.fromkeys(table["model"])) == ["mine", "earlier", "not-evaluated", "theirs"]
    rows = table[table["target"] == "STM32H747I-DISCO"].set_index("model")
    assert rows["mAP"].round(3).dropna().to_dict() == {"mine": 0.5, "earlier": 0.5, "theirs": 0.4}
    marked = rows["note"].str.endswith("; test split not recorded").to_dict()
    assert marked == {"mine": False, "theirs": False, "earlier": True, "not-evaluated": True}


def test_a_file_from_elsewhere_is_compared_on_the_split_that_it_was_evaluated_on(runs, tmp_path):
    file, mine = tmp_path / "theirs.tflite", {"test": "aaa", "distance": "cosine"}
    file.write_bytes(int8_file(seed=1))
    run = runs("own", None, f"evaluate.file={file}")
    (run / File.TFLITE_INT8).unlink()
    run.record({file.name: {"mAP": 0.7}}, mine, files={file.name: file})
    for name, protocol in (("same", mine), ("other-split", mine | {"test": "bbb"})):
        runs(name, protocol)
    table = pd.read_csv(deploy.folder(deploy.run(run)) / "choice.csv")
    assert [*dict.fromkeys(table["model"])] == ["theirs.tflite", "same"]
    assert not table["note"].str.contains("not recorded").any()


def test_a_run_without_a_recorded_split_is_compared_by_the_name_of_its_data(runs):
    run = runs("mine", {})
    runs("theirs", {"test": "aaa"})
    runs("other", {"test": "aaa"}, "data.name=other")
    table = pd.read_csv(deploy.run(run) / File.CHOICE)
    assert list(dict.fromkeys(table["model"])) == ["mine", "theirs"]


def test_a_classifiers_board_files_need_none_of_its_images(tmp_path):
    shutil.copytree(CLONE / "data" / "models" / "flowers_st_fdmobilenet_v1_224", tmp_path / "flowers")
    given = [f"run.root={tmp_path}", "run.name=flowers", "deploy=stm32", f"data.root={tmp_path / 'nowhere'}"]
    run = deploy.run(Run.resume(given))
    assert (run / File.ESTIMATES).is_file()
