"""Shell completion: what TAB offers, as the shell asks for it."""

import os
import subprocess
import sys

import pytest

from reidlab import cli, config, places
from reidlab.config import choices


def offered(line, answer):
    """What argcomplete writes into a file for bash, for a line with the cursor at its end."""
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    command = [sys.executable, "-c", "from reidlab.cli import main; main()"]
    subprocess.run(command, env=os.environ | asked, timeout=200, check=True)
    return {word.strip() for word in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "expected", "absent"),
    [
        ("reidlab da", {"data", "dashboard"}, "train"),
        ("reidlab train experiment=sm", {"smoke"}, "demo"),
        ("reidlab evaluate model=osnet_x0", {"osnet_x0_25", "osnet_x0_5", "osnet_x0_75"}, "resnet50"),
        ("reidlab train optimizer.w", {"optimizer.weight_decay="}, "optimizer.lr="),
    ],
)
def test_the_shell_is_offered(line, expected, absent, tmp_path):
    found = offered(line, tmp_path / "answer")
    assert expected <= found and absent not in found


def test_overrides_are_groups_then_their_choices_or_runs(tmp_path, monkeypatch):
    assert {"run.name=", "experiment=", "model="} <= set(cli.complete_overrides(""))
    assert cli.complete_overrides("loss=") == [f"loss={choice}" for choice in choices("loss")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.yaml").touch()
    (tmp_path / "runs" / "notebooks").mkdir()
    assert cli.complete_overrides("run.name=") == ["run.name=mine"]
    assert cli.complete_overrides("data.root=/") == []


def test_notebooks_are_offered_by_name():
    assert cli.complete_notebooks()[0] == "00_quickstart"


def test_the_keys_that_are_offered_are_those_of_the_config():
    settings = config.plain(config.compose(["distill=standard", "callbacks=small_first"]))
    for group in settings.keys() - {"seed", "threads", "compile"}:
        known = {f"{group}.{key}" for key in places.leaves(settings[group])}
        assert known - {"data.root", "run.overrides"} <= {*places.group_keys(group)}, group
    assert "optimizer.nesterov" in places.group_keys("optimizer")  # of a choice that isn't the default
