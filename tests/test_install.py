"""The wheel, installed without the clone: it holds what it needs, and works in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reidlab.config import CLONE
from reidlab.deploy.server import PACKAGES

PYPROJECT = tomllib.loads((CLONE / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
TINY = (
    *("trainer.max_epochs=1", "trainer.accelerator=cpu", "logger=none", "evaluate.resamples=50"),
    *("data.size=[32,16]", "data.batch_size=16", "data.source.size=[64,32]", "data.source.images_per_camera=2"),
)
KEPT = "data/models/demo_osnet_x0_25/checkpoints/best.ckpt"


def test_every_package_is_listed():
    folders = {file.parent.relative_to(CLONE) for file in (CLONE / "reidlab").rglob("__init__.py")}
    assert {".".join(folder.parts) for folder in folders} | {*SETUPTOOLS["package-dir"]} == {*SETUPTOOLS["packages"]}


def pins(file):
    """Name -> version and number of hashes of a lock file, in which nothing but that stands."""
    found = {}
    for entry in file.read_text().replace("\\\n", " ").splitlines():
        name, version, hashes = re.fullmatch(
            r"([\w.-]+)==(\S+)(?: ; [^#]+?)?((?: +--hash=sha256:[0-9a-f]{64})+) *", entry
        ).groups()
        found[canonicalize_name(name)] = version, hashes.count("sha256")
    return found


def test_everything_that_is_installed_has_a_hash():
    locked = pins(CLONE / "requirements.lock")
    wanted = dict(line.split("==") for line in (CLONE / "constraints.txt").read_text().splitlines())
    wanted = {canonicalize_name(name): version for name, version in wanted.items()}
    assert {name: version for name, (version, _) in locked.items()} | {"torch": wanted["torch"]} == wanted
    assert "torch" not in locked  # its builds come from indexes of their own
    extras = dict(PROJECT["optional-dependencies"])
    assert "mlflow" in extras and not any("mlflow" in each for each in extras["all"])
    del extras["mlflow"]  # it isn't installed
    for requirement in map(Requirement, [*PROJECT["dependencies"], *chain(*extras.values())]):
        name = canonicalize_name(requirement.name)
        assert name == "reidlab" or wanted[name] in requirement.specifier, requirement
    triton = pins(PACKAGES)
    for requirement in map(Requirement, PACKAGES.with_suffix(".in").read_text().splitlines()):
        assert triton[requirement.name][0] in requirement.specifier


def test_hooks_are_the_tools_of_the_environment():
    (repository,) = yaml.safe_load((CLONE / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        tool = Path(hook["entry"].split()[0])
        assert hook["language"] == "system" and tool.parent == Path(".venv/bin")
        assert Path(sysconfig.get_path("scripts"), tool.name).exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the clone, which a build would leave its files in."""
    source = tmp_path_factory.mktemp("source")
    for name in ("reidlab", "conf", "notebooks", "pyproject.toml", "README.md", "LICENSE"):
        (shutil.copytree if (CLONE / name).is_dir() else shutil.copy)(CLONE / name, source / name)
    shutil.copytree(CLONE / "data" / "models", source / "data" / "models")
    for table in (CLONE / "data").glob("*.csv"):
        shutil.copy(table, source / "data")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "-q", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", source / "dist", source], check=True)
    (file,) = (source / "dist").glob("*.whl")
    return file


@pytest.fixture(scope="module")
def reidlab(wheel, tmp_path_factory):
    """Run the installed command in a folder; the environment has this one's packages, but not its link to the clone."""
    prefix = tmp_path_factory.mktemp("environment")
    venv.create(prefix)
    packages = next(prefix.glob("lib/*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # a .pth file in there isn't read
    options = ["--no-deps", "--no-index", "-q", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", prefix]
    subprocess.run([*pip, "install", *options, wheel], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "REIDLAB_ROOT")}
    environment["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")  # nbconvert's templates

    def run(folder, *words, status=0):
        done = subprocess.run(
            [prefix / "bin" / words[0], *words[1:]], cwd=folder, env=environment, capture_output=True,
            text=True, timeout=550, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_what_it_reads(wheel):
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    inside = [file for file in (CLONE / "reidlab").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {file.relative_to(CLONE) for file in inside} <= held
    beside = [*CLONE.glob("conf/**/*.yaml"), *CLONE.glob("notebooks/*.ipynb"), *CLONE.glob("data/*.csv")]
    beside += [*CLONE.glob("data/models/*/checkpoints/*"), *CLONE.glob("data/models/*/*.json")]
    assert len(beside) > 150
    assert {Path("reidlab/share") / file.relative_to(CLONE) for file in beside} <= held
    assert sum(entry.compress_size for entry in zipfile.ZipFile(wheel).infolist()) < 20e6


@pytest.mark.slow
def test_it_is_the_installed_package_that_runs(reidlab, tmp_path):
    code = "import reidlab, reidlab.config as c; print(reidlab.__file__, c.CLONE, c.SHIPPED, c.root(), sep='\\n')"
    module, clone, shipped, root = reidlab(tmp_path, "python", "-c", code).split()
    assert "site-packages" in module and Path(shipped) == Path(module).parent / "share"
    assert clone == "None" and Path(root) == tmp_path


@pytest.mark.slow
def test_a_workspace_from_its_first_command_to_a_notebook(reidlab, tmp_path):
    reidlab(tmp_path, "reidlab", "init", ".")
    assert {place.name for place in tmp_path.iterdir()} == {"README.md", "conf", "data", "notebooks"}
    reidlab(tmp_path, "reidlab", "data", "experiment=smoke", *TINY)
    assert (tmp_path / "runs" / "smoke" / "data" / "summary.csv").is_file()
    assert (tmp_path / "data" / "synthetic_smoke").is_dir()
    kept = [f"model.weights={KEPT}", "run.name=kept"]
    assert "mAP" in reidlab(tmp_path, "reidlab", "evaluate", "experiment=smoke", *kept, *TINY)
    reidlab(tmp_path, "reidlab", "run", "experiment=smoke", *TINY)
    assert (tmp_path / "runs" / "smoke" / "export" / "model.onnx").is_file()
    given = ["-p", "experiment=mine", "-p", f"overrides={' '.join(TINY)}"]
    reidlab(tmp_path, "reidlab", "notebooks", "01", *given)
    assert (tmp_path / "runs" / "notebooks" / "01_data.html").is_file()
    assert (tmp_path / "runs" / "mine" / "data" / "summary.csv").is_file()


@pytest.mark.slow
def test_without_a_workspace_recipes_of_ones_own_are_found_too(reidlab, tmp_path):
    own = tmp_path / "conf" / "experiment" / "other.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults: [smoke]\nrun: {name: other}\n")
    code = "from reidlab import Run; print(Run.compose(['experiment=other']).folder)"
    assert reidlab(tmp_path, "python", "-c", code).strip() == str(tmp_path / "runs" / "other")
    said = reidlab(tmp_path, "reidlab", "train", "experiment=othr", status=2)
    assert "did you mean other?" in said and "smoke" in said
