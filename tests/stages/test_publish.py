"""Command `publish`: the folder is whole, tells nothing of this machine, and gives the same embeddings elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

import reidlab
from reidlab import cli
from reidlab.errors import InputError
from reidlab.export.hub import WEIGHTS
from reidlab.run import File, Run
from reidlab.stages import evaluate, export, publish, train

FRESH = """
import runpy, sys, numpy as np, reidlab
_, place, out, *files = sys.argv
model = reidlab.load(place)
threshold = model.verdict.get("threshold", -1)
np.savez(out, embeddings=model(files), threshold=threshold, classes=model.classes)
sys.argv[1:] = files
runpy.run_path(f"{place}/example.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    run = Run.compose([*small, f"run.root={root}", "run.name=t", "trainer.max_epochs=1", "evaluate.wanted_fpr=0.1"])
    export.run(evaluate.run(train.run(run)))
    return run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    for name in ("b", "a"):
        (root / "images" / name).mkdir(parents=True)
        for number in range(12):
            image = random.integers(0, 256, (40, 24, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / name / f"{number}.png"), image)
    options = ["data=class_folders", f"data.root={root / 'images'}", "model=fdmobilenet_x0_25", "data.size=[32,32]",
               "data.num_workers=0", "trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none"]  # fmt: skip
    return train.run(Run.compose([*options, f"run.root={root / 'runs'}", "run.name=c", "data.batch_size=8"]))


def images(folder, count=3):
    random = np.random.default_rng(1)
    files = [folder / f"{number}.png" for number in range(count)]
    for number, file in enumerate(files):
        cv2.imwrite(str(file), random.integers(0, 256, (37 + number, 19, 3), dtype=np.uint8))
    return [*map(str, files)]


def loaded_elsewhere(python, place, folder, files):
    """What a process in another folder, without the run, gets; and what the example prints there."""
    out = folder / "out.npz"
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # with others sums are rounded in another order
    command = [*python, "-c", FRESH, str(place), str(out), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | threads)
    assert done.returncode == 0, done.stderr
    return np.load(out), done.stdout


@pytest.mark.parametrize("kind", ["trained", "classifier"])
def test_a_fresh_process_gets_the_same_embeddings(kind, tmp_path, request, warm):
    run = request.getfixturevalue(kind)
    place = publish.run(run, str(tmp_path / "pub"))
    files = images(tmp_path)
    moved = shutil.move(place, tmp_path / "elsewhere")
    (found, said), model = loaded_elsewhere(warm, moved, tmp_path, files), reidlab.load(run.folder)
    assert np.array_equal(found["embeddings"], model(files))
    assert found["threshold"] == model.verdict.get("threshold", -1) and found["classes"].tolist() == model.classes
    assert (kind == "trained") == ("threshold" in model.verdict)
    assert ("distance" if kind == "trained" else f"{files[0]} ") in said


def test_the_example_of_a_network_without_a_threshold_prints_distances_to_the_first(trained, tmp_path, warm):
    run = Run(shutil.copytree(trained.folder, tmp_path / "t"))
    (run / File.VERIFICATION).unlink()
    files, place = images(tmp_path), publish.run(run, str(tmp_path / "pub"))
    found, said = loaded_elsewhere(warm, place, tmp_path, files)
    first, *others = found["embeddings"].astype(np.float64)
    assert run["model.distance"] == "euclidean"
    for file, other, line in zip(files[1:], others, said.splitlines(), strict=True):
        name, value = line.removesuffix("\n").split(" euclidean distance ")
        assert name == file and float(value) == pytest.approx(np.linalg.norm(first - other), rel=1e-3)
    as_main = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    alone = subprocess.run([*warm, "-c", as_main, f"{place}/example.py", files[0]], capture_output=True, text=True)
    assert alone.returncode == 1 and "python example.py A.jpg" in alone.stderr and "Traceback" not in alone.stderr


def test_the_folder_is_whole_and_tells_nothing_of_this_machine(trained, tmp_path):
    folder = Path(publish.run(trained, str(tmp_path / "pub")))
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: ") and "reidlab.load(" in text
    assert str(tmp_path) not in text and 'reidlab.load("pub")' in text
    links = [link for link in re.findall(r"\]\(([^):#]+)\)", text) if not link.startswith("http")]
    assert links and [link for link in links if not (folder / link).exists()] == []
    assert (folder / File.ONNX).read_bytes() == (trained / File.ONNX).read_bytes()
    for file in folder.rglob("*"):
        if file.is_file() and file != folder / "README.md":
            assert str(trained.folder.parent).encode() not in file.read_bytes(), file
            assert trained["data.root"].encode() not in file.read_bytes(), file
    assert not [*folder.rglob("*.png"), *folder.rglob("*.jpg"), *folder.rglob("*.html")]  # privacy.share_images=false
    about = json.loads((folder / "config.json").read_text())
    assert about["weights_hash"] == trained.checkpoint and about["input_size"] == [32, 16]
    with safe_open(folder / WEIGHTS, "pt") as weights:
        assert {*weights.keys()} == {*trained.network.state_dict()}


def test_a_link_with_a_plus_in_it_takes_its_file_along(trained, tmp_path):
    run = Run(shutil.copytree(trained.folder, tmp_path / "t"))
    file = Path("evaluate", "checkpoint+rerank", "intervals.json")
    (run / file).parent.mkdir()
    (run / file).write_text("{}")
    link = f"[its intervals]({quote(str(file))})"
    assert publish.LINK.sub(lambda found: publish._with_file(run, tmp_path, found), link) == link
    assert (tmp_path / file).read_text() == "{}"


def test_a_stale_file_stays_at_home(trained, tmp_path, caplog):
    stale = shutil.copytree(trained.folder, tmp_path / "t")
    state = (stale / File.BEST).read_bytes()
    (stale / File.BEST).write_bytes(state + b"\0")  # another hash
    folder = Path(publish.run(Run.resume([f"run.root={tmp_path}", "run.name=t"]), str(tmp_path / "pub")))
    assert not (folder / File.ONNX).exists() and (folder / WEIGHTS).exists()


def test_what_is_published_again_replaces_it_and_nothing_else_is(trained, tmp_path):
    place = tmp_path / "pub"
    publish.run(trained, str(place))
    (place / "left.txt").touch()
    publish.run(trained, str(place))
    assert not (place / "left.txt").exists() and not [*tmp_path.glob(".*")]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"--to .*mine: holds something else than a published network"):
        publish.run(trained, str(tmp_path / "mine"))
    (place / "config.json").write_text('{"library_name": "transformers"}')
    with pytest.raises(InputError, match=r"--to .*pub: holds something else"):
        publish.run(trained, str(place))
    assert (place / "model.safetensors").exists()
    shutil.rmtree(place)
    publish.run(trained, str(place))
    (place / ".git").mkdir()
    with pytest.raises(InputError, match=r"--to .*pub: would replace a git repository"):
        publish.run(trained, str(place))


def test_what_was_published_stays_where_its_successor_finds_no_place(trained, tmp_path, monkeypatch):
    place = Path(publish.run(trained, str(tmp_path / "pub")))
    (place / "of_the_first.txt").touch()
    rename = Path.rename

    def full(self, target):
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match="No space left"):
        publish.run(trained, str(place))
    assert (place / "of_the_first.txt").exists() and reidlab.load(place)


def test_replaced_weights_are_refused(trained, tmp_path):
    place = Path(publish.run(trained, str(tmp_path / "pub")))
    (place / WEIGHTS).write_bytes((place / WEIGHTS).read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"model.safetensors: not the weights that config.json tells of"):
        reidlab.load(place)


def test_there_and_back_by_a_hub(trained, tmp_path, monkeypatch):
    """A client of `huggingface_hub`'s interface whose hub is a folder."""
    made = {}

    class HfApi:
        def create_repo(self, repo_id, *, private, exist_ok):
            made[repo_id] = private
            return f"https://hub.example/{repo_id}"

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id)

    fake = SimpleNamespace(HfApi=HfApi, snapshot_download=lambda repo_id: str(tmp_path / "hub" / repo_id))
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    command = ["publish", f"run.root={trained.folder.parent}", "run.name=t", "--to", "hf:me/demo"]
    assert cli.main(command) == 0
    assert made == {"me/demo": True}  # private
    files = images(tmp_path)
    assert np.array_equal(reidlab.load("hf:me/demo")(files), reidlab.load(trained.folder)(files))
    assert 'reidlab.load("hf:me/demo")' in (tmp_path / "hub" / "me" / "demo" / "README.md").read_text()


def test_an_untrained_run_has_nothing_to_publish(small, tmp_path):
    run = Run.compose([*small, f"run.root={tmp_path}", "run.name=u"])
    with pytest.raises(InputError, match=r"no trained checkpoint to publish; run `reidlab train run.name=u` first"):
        publish.run(run, str(tmp_path / "pub"))
