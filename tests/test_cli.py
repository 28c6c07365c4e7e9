"""What a stranger's mistakes get: one line that names the culprit, and an exit status that isn't 0."""

import functools
import importlib
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from reidlab import cli, config
from reidlab.cli import _parse, _with_file, build_parser, main
from reidlab.config.overrides import MEANT
from reidlab.errors import InputError
from reidlab.models import osnet_x0_5
from reidlab.places import leaves

RELEASED = [f"run.root={config.SHIPPED}/data/models", "run.name=demo_osnet_x0_25"]


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail with one line holding all of some texts."""

    def check(command, *texts):
        assert main(command) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("reidlab: ")
        for text in texts:
            assert text in error, error

    return check


@pytest.fixture
def here(tmp_path):
    return [f"run.root={tmp_path / 'runs'}", "run.name=t", "data.num_workers=0"]


def at(root):
    return ["data=market1501", f"data.root={root}"]


def test_a_truncated_image_is_named_by_every_stage_that_reads_it(market, small, tmp_path, here, refused):
    broken = tmp_path / "market"
    shutil.copytree(market, broken)
    for folder in ("bounding_box_train", "query"):
        for file in (broken / folder).iterdir():
            if "s1_000001" in file.name:
                file.write_bytes(file.read_bytes()[:300])
    place = [*small, *at(broken), *here]
    refused(["data", *place], ".jpg", "truncated")
    refused(["train", *place], ".jpg", "truncated")
    refused(["evaluate", *place, "run.name=e"], ".jpg", "truncated")


def test_a_root_that_does_not_exist(tmp_path, here, refused):
    refused(["run", *at(tmp_path / "nowhere"), *here], str(tmp_path / "nowhere"))


def test_an_unreadable_folder(market, tmp_path, here, refused, monkeypatch):
    locked = tmp_path / "market"
    shutil.copytree(market, locked)
    (locked / "query").chmod(0)
    if os.geteuid() == 0:
        _deny_root(locked / "query", monkeypatch)
    refused(["data", *at(locked), *here], str(locked / "query"), "Permission denied")
    (locked / "query").chmod(0o755)


def _deny_root(folder, monkeypatch):
    """Answer as the kernel would anybody but root, who may read everything."""
    scandir = os.scandir

    def deny(path="."):
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)


def test_a_missing_folder_is_named_with_what_was_found(market, tmp_path, here, refused):
    partial = tmp_path / "market"
    shutil.copytree(market, partial)
    shutil.rmtree(partial / "query")
    refused(["data", *at(partial), *here], "query", "bounding_box_train")


def test_a_csv_without_a_column(tmp_path, here, refused):
    pd.DataFrame({"path": ["a.jpg"], "identity": [1]}).to_csv(tmp_path / "samples.csv", index=False)
    refused(["data", "data=csv", f"data.root={tmp_path}", *here], "samples.csv", "pid", "identity")


def test_a_checkpoint_of_another_architecture(market, tmp_path, here, refused):
    torch.save(osnet_x0_5().state_dict(), tmp_path / "other.pth")
    command = ["evaluate", *at(market), *here, "model=osnet_x0_25", f"model.weights={tmp_path / 'other.pth'}"]
    refused(command, "other.pth", "looks like osnet_x0_5")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(market, tmp_path, here, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evil.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, "evil.pt")
    for name in ("evil.pth", "evil.pt"):
        refused(["evaluate", *at(market), *here, f"model.weights={name}"], name, "refused: holds pickled code")
    assert not Path("executed").exists()


def test_a_file_that_is_no_checkpoint(market, tmp_path, here, refused):
    (tmp_path / "notes.pth").write_text("not weights")
    refused(["evaluate", *at(market), *here, f"model.weights={tmp_path / 'notes.pth'}"], "notes.pth")
    refused(["evaluate", *at(market), *here, "model.weights=absent.pth"], "absent.pth")


@pytest.mark.parametrize(
    ("given", "is_file"),
    [("w.pth", True), ("x.pth.tar", True), ("model.pth.tar-60", True), ("W.PTH", True), ("a.onnx", True),
     ("best.safetensors", True), ("pytorch_model.bin", True), ("osnet_x0_25", False), ("osnet_x0.25", False)],
)  # fmt: skip
def test_what_is_taken_for_a_file(given, is_file):
    assert _with_file([f"model={given}"]) == [f"evaluate.file={given}" if is_file else f"model={given}"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("compare run.name=t a.jpg seed=1 b.jpg", {"first": Path("a.jpg"), "second": Path("b.jpg")}),
        ("predict ++run.name=t here seed=1 there", {"images": [Path("here"), Path("there")]}),
        ("forget run.name=t seed=1 007", {"pid": "007"}),
        ("evaluate run.name=t --against u seed=1", {"against": "u"}),
    ],
)
def test_overrides_stand_anywhere(command, expected):
    args = _parse(build_parser(), command.split())
    assert expected.items() <= vars(args).items()
    assert [each.lstrip("+") for each in args.overrides] == ["run.name=t", "seed=1"]


def test_a_folder_with_an_equals_sign_is_no_override(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day=1").mkdir()
    args = _parse(build_parser(), ["predict", "run.name=t", "day=1"])
    assert args.images == [Path("day=1")] and args.overrides == ["run.name=t"]


def test_what_belongs_to_no_argument_is_refused(refused, capsys):
    refused(["compare", "a.jpg", "run.name=t"], "compare: an image is missing; write reidlab compare A.jpg B.jpg")
    for command in ("evaluate run.name=t --against u --agianst", "doctor seed=1"):
        with pytest.raises(SystemExit):
            main(command.split())
        assert "unrecognized arguments: " in capsys.readouterr().err


def test_a_misspelled_key(here, refused):
    refused(["train", "trainer.max_epoch=3", *here], "did you mean trainer.max_epochs?")


def test_help_lists_the_stages_without_loading_torch():
    code = "import sys; from reidlab.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for stage in ("data", "train", "evaluate", "export", "run", "notebooks"):
        assert f"\n    {stage}" in done.stdout


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        (["evaluate", "experiment=demo"], "rows that were scored are kept"),
        (["quantize", "model=osnet_x0_25", "run.name=a b"], "no file is half-written"),
        (["search", "optimizer.lr=1,2"], "ended trials are kept"),
        (["enroll", "images", *RELEASED], "of a folder by predict.out, and on a server, what was enrolled is kept"),
    ],
)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(command, kept, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for module in ("evaluate", "quantize", "search", "enroll"):
        monkeypatch.setattr(f"reidlab.stages.{module}.run", interrupted)
    assert main(command) == 130
    error = capsys.readouterr().err
    assert kept in error and f"to go on: {shlex.join(['reidlab', *command])}" in error


def test_a_fault_of_the_program_is_one_line_and_its_traceback_a_file(here, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no such thing\nas this")

    monkeypatch.delenv("REIDLAB_DEBUG", raising=False)
    monkeypatch.setattr("reidlab.stages.data.run", broken)
    assert main(["data", *here]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    file = tmp_path / "runs" / "t" / "traceback-data.txt"
    assert line == f"reidlab: data: stopped by RuntimeError: no such thing; the traceback is in {file}"
    assert "in broken" in file.read_text()
    monkeypatch.setenv("REIDLAB_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["data", *here])


def test_a_reader_that_has_gone_is_no_fault():
    command = f"{sys.executable} -m reidlab.cli | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_output_into_a_full_file_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-m", "reidlab.cli"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("reidlab: a file: No space left on device; free space")
    assert done.stderr.count("\n") == 1


def test_config_prints_what_a_run_would_keep(capsys):
    assert cli.main(["config", "experiment=smoke", "seed=7"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == config.plain(config.compose(["experiment=smoke", "seed=7"])) and printed["seed"] == 7


def test_the_help_of_a_stage_lists_groups_choices_and_common_keys(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    said = capsys.readouterr().out
    for group in config.groups():
        names = config.choices(group)
        assert len(names) < 2 or (f"  {group}=" in said and all(name in said for name in names))
    keys = leaves(config.plain(config.compose()))
    assert all(key in said and key in keys for key in cli.OFTEN)
    assert max(map(len, said.splitlines())) <= 120


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.epochs", "did you mean trainer.max_epochs"),
        ("model.lr", "did you mean optimizer.lr"),
        ("training.batch_size", "did you mean data.batch_size"),
        ("optimizer.weight_decays", "did you mean optimizer.weight_decay"),
        ("classes", "it follows from the images: see data=class_folders"),
        ("model.num_classes", "it follows from the images: see data=class_folders"),
    ],
)
def test_a_wrong_key_suggests_what_has_an_effect(key, meant):
    with pytest.raises(InputError, match=f"{key}: no such key.*{meant}"):
        config.compose([f"{key}=3"])


@pytest.mark.parametrize("word", MEANT)
def test_words_of_other_tools_lead_to_the_key_that_does_it(word):
    with pytest.raises(InputError, match=f"did you mean {MEANT[word]}"):
        config.compose([f"{word}=3"])
    assert MEANT[word] in leaves(config.plain(config.compose()))


@pytest.mark.parametrize(
    ("words", "rank", "expected"),
    [
        ([], "0", "data train evaluate export"),
        (["--all"], "0", "data train evaluate export quantize deploy report"),
        (["stages=[report,train]"], "0", "train report"),
        (["--all"], "1", "data train"),  # a process that another one has started to train with it
    ],
)
def test_run_goes_through_its_stages_in_their_order(words, rank, expected, tmp_path, monkeypatch):
    called = []
    monkeypatch.setenv("LOCAL_RANK", rank)

    def stage(name, run):
        called.append(name)
        run.keep_config()

    for name in (*cli.WHOLE, *cli.ALL):
        monkeypatch.setattr(importlib.import_module(f"reidlab.stages.{name}"), "run", functools.partial(stage, name))
    monkeypatch.setattr("reidlab.stages.evaluate.print_results", lambda run: None)
    assert cli.main(["run", *words, "experiment=smoke", f"run.root={tmp_path}"]) == 0
    assert called == expected.split()


def test_run_names_a_stage_that_there_is_not(capsys):
    assert cli.main(["run", "stages=[data,fly]"]) == 2
    assert "stages: fly is none; there are data, train" in capsys.readouterr().err
