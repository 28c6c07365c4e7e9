"""Option `--dry-run`: it writes nothing, refuses what the stage refuses, and names what the stage then writes."""

import hashlib
from pathlib import Path

import pytest

from reidlab import cli
from reidlab.stages.dry_run import WRITES


def contents(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        for file in folder.rglob("*")
    }


def said(capsys):
    return dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)


def command_in(root, small):
    place = [f"run.root={root / 'runs'}", "run.name=t"]
    return [*small, "model=fdmobilenet_x0_25", *place, "trainer.max_epochs=1", "deploy=stm32"]


@pytest.fixture
def command(small, tmp_path, monkeypatch):
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    return command_in(tmp_path, small)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """The words of a run that is trained."""
    words = command_in(tmp_path_factory.mktemp("trained"), small)
    assert cli.main(["train", *words]) == 0
    return words


def test_each_stage_writes_what_it_said_and_a_dry_run_nothing(command, tmp_path, capsys):
    for stage in ("data", "train", "evaluate", "export", "report"):
        before = contents(tmp_path)
        assert cli.main([stage, *command, "--dry-run"]) == 0
        assert contents(tmp_path) == before
        announced = said(capsys)["writes"].split()
        assert cli.main([stage, *command]) == 0
        after = contents(tmp_path)
        changed = {path.split("/")[2] for path in after if path.count("/") > 1 or after[path] if "runs/t/" in path
                   if before.get(path) != after[path]}  # fmt: skip
        hidden = {name for name in changed if name.startswith(".")}
        assert changed - hidden <= {*announced}, stage
        assert stage == "report" or all((tmp_path / "runs" / "t" / name).exists() for name in announced), stage


def test_data_that_is_yet_to_be_drawn_is_not_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    for chosen in (["experiment=smoke"], ["data=shapes", "model=fdmobilenet_x0_25"]):
        assert cli.main(["run", *chosen, f"data.root={tmp_path / 'drawn'}", "--dry-run"]) == 0
        assert "yet to be drawn in" in said(capsys)["data"]
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_from_elsewhere_is_read(command, trained, tmp_path, capsys):
    weights = Path(next(word for word in trained if word.startswith("run.root="))[9:], "t", "checkpoints", "best.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    assert cli.main(["evaluate", *command, f"model={weights}", "--dry-run"]) == 0
    assert said(capsys)["network"].strip() == f"that of {weights}"
    assert cli.main(["evaluate", *command, f"model={broken}", "--dry-run"]) == 2


@pytest.mark.parametrize(("time", "told"), [("60", "60 minutes"), ("00:01:30:00", "a time of 00:01:30:00")])
def test_a_training_by_time_is_told_by_its_time(time, told, command, capsys):
    assert cli.main(["train", *command, f"trainer.max_time={time}", "--dry-run"]) == 0
    assert said(capsys)["training"].strip() == f"{told}, cpu"


@pytest.mark.parametrize("given", [["train", "seed=5"], ["quantize", "quantize.runtimes=[tvm]"], ["deploy"]])
def test_what_a_stage_refuses_its_dry_run_refuses_in_the_same_words(given, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    stage, *more = given
    capsys.readouterr()
    lines = []
    for option in ([], ["--dry-run"]):
        assert cli.main([stage, *trained, *more, *option]) == 2
        lines.append(capsys.readouterr().err)
    assert lines[0] == lines[1] and lines[0].startswith("reidlab: ")


def test_every_stage_is_known():
    assert {*WRITES} == {*cli.STAGES}
