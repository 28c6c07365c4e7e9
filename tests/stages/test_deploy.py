"""The stage around all targets: how they are built, what they refuse, and which networks are compared."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.config import CLONE, CONF, choices, instantiate
from reidlab.deploy.target import Target
from reidlab.errors import InputError
from reidlab.export import tflite
from reidlab.export.folding import deployable
from reidlab.export.ranges import observe
from reidlab.export.steps import as_steps
from reidlab.files import read_json
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


def test_a_run_without_a_recorded_split_is_compared_by_the_name_of_its_data(runs):
    run = runs("mine", {})
    runs("theirs", {"test": "aaa"})
    runs("other", {"test": "aaa"}, "data.name=other")
    table = pd.read_csv(deploy.run(run) / File.CHOICE)
    assert list(dict.fromkeys(table["model"])) == ["mine", "theirs"]


def test_a_target_is_a_class_and_a_yaml(small, tmp_path):
    """With this test, three edits: nothing else names the targets."""
    place = tmp_path / "project"
    (place / "conf").mkdir(parents=True)
    for group in CONF.iterdir():
        (place / "conf" / group.name).symlink_to(group)
    (place / "conf" / "deploy").unlink()
    (place / "conf" / "deploy").mkdir()
    (place / "conf" / "deploy" / "c.yaml").symlink_to(CONF / "deploy" / "c.yaml")
    (place / "conf" / "deploy" / "toy.yaml").write_text("_target_: toy.Toy\nname: toy\ngreeting: hello\n")
    (place / "toy.py").write_text(
        textwrap.dedent("""\
            from dataclasses import dataclass

            from reidlab.deploy import Target
            from reidlab.files import write_atomic


            @dataclass(frozen=True)
            class Toy(Target):
                greeting: str

                def deploy(self, given, out):
                    write_atomic(out / "toy.txt", f"{self.greeting} {given.name}")
                    return {"toy": {"letters": len(self.greeting)}}
            """)
    )
    code = "from reidlab.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    command = ["deploy", "deploy=toy", "deploy.greeting=hi", f"run.root={tmp_path}", "run.name=tiny", *small]
    environment = {**os.environ, "REIDLAB_ROOT": str(place), "PYTHONPATH": f"{CLONE}{os.pathsep}{place}"}
    done = subprocess.run([sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "tiny"
    assert (folder / File.DEPLOY / "toy" / "toy.txt").read_text() == "hi tiny"
    assert read_json(folder / File.METRICS)["toy"]["letters"] == 2
