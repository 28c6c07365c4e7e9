"""What a run folder tells of the machine and the account that made it: nothing, but for paths in two places."""

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile

import pytest

from reidlab import cli
from reidlab.files import without_folders
from reidlab.stages import export

TELL_TALE = "zz-tell-tale"
KNOWN = ("config.yaml", "gallery")  # a run that goes on needs its folders, and a gallery the paths of its images
RENAMED = "import json, socket, sys; from reidlab import cli; {}; sys.exit(max(map(cli.main, json.loads(sys.argv[1]))))"
NAMESPACE = ("unshare", "--map-root-user", "--uts")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/crops", "crops"),
        ("/home/o'me, jr/my crops/", ""),
        ("data.root=/home/me/crops", "data.root=crops"),
        ("roots=[/home/me/a,/home/me/b]", "roots=[b]"),
        ("no such file: '/home/me/a.jpg'", "no such file: 'a.jpg'"),
        ("https://a.example/b/c", "https://a.example/b/c"),
        ("data/crops/a.jpg, 1/2/3, a / b / c, ../x/y", "data/crops/a.jpg, 1/2/3, a / b / c, ../x/y"),
        (r"^(?P<pid>\d+)/.*", r"^(?P<pid>\d+)/.*"),
    ],
)
def test_paths_are_cut_to_their_names(text, expected):
    assert without_folders(text) == expected


def test_a_traceback_has_no_folders(small, tmp_path, monkeypatch):
    def fail(run):
        raise RuntimeError(f"of {tmp_path / TELL_TALE / 'image.jpg'}")

    monkeypatch.setattr(export, "run", fail)
    home = tmp_path / TELL_TALE
    assert cli.main(["export", *small, f"run.root={home}", "run.name=one"]) == 1
    text = (home / "one" / "traceback-export.txt").read_text()
    assert 'File "reidlab/cli.py"' in text and "RuntimeError: of image.jpg" in text
    assert TELL_TALE not in text and str(tmp_path) not in text


@pytest.mark.slow
def test_a_run_folder_tells_nothing_of_its_machine(small, market, tmp_path):
    home = tmp_path / f"{TELL_TALE}-user"
    crops, work, out = shutil.copytree(market, home / "crops"), home / "work", home / "work" / "runs"
    (work / "conf" / "logger").mkdir(parents=True)
    (work / "conf" / "logger" / "all.yaml").write_text("defaults: [csv, tensorboard, wandb]\n")
    given = [text for text in small if not text.startswith(("data.root=", "logger="))] + [f"data.root={crops}"]
    quick = ["quantize.formats=[onnx]", "quantize.runtimes=[onnxruntime]", "quantize.images=8", "quantize.method=ptq"]
    commands = [
        ["train", *given, "logger=all", "trainer.max_epochs=2"],
        *(["data"], ["evaluate", "evaluate.resamples=20", "evaluate.baselines=[untrained]"], ["export"]),
        ["quantize", *quick, "quantize.max_drop=100", "quantize.threads=1"],
        *(["deploy", "deploy=edge_linux"], ["deploy", "deploy=nvidia"], ["report"]),
        *(["predict", str(crops / "query")], ["enroll", str(crops / "query"), r"gallery.pattern='(?P<pid>\d+)_.+'"]),
    ]
    named = [[*command, "run.name=one"] for command in commands]
    environment = {name: value for name, value in os.environ.items() if name not in ("PWD", "OLDPWD", "WANDB_MODE")}
    environment |= {"HOME": str(home), "REIDLAB_ROOT": str(work)}
    environment |= dict.fromkeys(("USER", "LOGNAME", "USERNAME", "HOSTNAME"), f"{TELL_TALE}-user")
    renames = subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode == 0
    host = f"socket.sethostname('{TELL_TALE}-host')" if renames else "..."
    argv = [*(NAMESPACE if renames else ()), sys.executable, "-c", RENAMED.format(host), json.dumps(named)]
    done = subprocess.run(argv, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    words = [TELL_TALE, *([] if renames else [socket.gethostname()] if len(socket.gethostname()) > 7 else [])]
    kinds = set()
    for file in filter(lambda path: path.is_file(), out.rglob("*")):
        kinds.add(file.suffix)
        parts = [file.name.encode(), file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as content:
                parts += [content.read(name) for name in content.namelist()]
        if file.relative_to(out).parts[1] not in KNOWN:
            assert not [word for word in words for part in parts if word.encode() in part], file
    assert TELL_TALE in (out / "one" / "config.yaml").read_text()  # what this test looks for would be found
    assert {".ckpt", ".wandb", ".onnx", ".html", ".json", ".csv", ".zip"} <= kinds
    assert list(out.glob("one/tensorboard/*/events.out.tfevents.*")) and list(out.glob("one/csv/*/hparams.yaml"))
