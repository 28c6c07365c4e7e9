"""The house rules that a machine can hold: imports point downwards, configs and heavy packages stay where they are."""

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reidlab"
FLOORS = (
    ("bounds", "config", "console", "errors", "files", "memory", "places", "progress", "threads", "timing",
     "untrusted"),
    ("data", "metrics", "models", "plots"),
    ("run",),
    ("evaluation", "gallery", "training"),
    ("export",),
    ("deploy",),
    ("card", "dashboard", "doctor", "interop", "service", "workspace"),
    ("stages",),
    ("notebook",),
    ("cli", "__init__"),
)  # fmt: skip
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}
KNOWS_CONFIGS = ("config", "run", "stages", "cli", "notebook")
CONFIG_NAMES = {"cfg", "DictConfig", "OmegaConf", "omegaconf"}
FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass
class Source:
    """What a file imports anywhere in it, its names, and (name, attribute) wherever an attribute is taken of a name."""

    imports: set[str]
    names: set[str]
    attributes: set[tuple[str, str]]


@cache
def source(file):
    found = Source(set(), set(), set())
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "reidlab":
            found.imports |= {f"reidlab.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.imports.add(node.module)
        elif isinstance(node, ast.Name):
            found.names.add(node.id)
        elif isinstance(node, ast.arg):
            found.names.add(node.arg)
        elif isinstance(node, ast.Attribute):
            found.attributes.add((getattr(node.value, "id", ""), node.attr))
    return found


def owner(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_floor():
    assert {owner(file) for file in FILES} <= set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    own = owner(file)
    for name in source(file).imports:
        other = name.split(".")[1] if name.startswith("reidlab.") else own
        if other in FLOOR and other != own:
            assert FLOOR[other] < FLOOR[own] or FLOOR[own] == 0, f"{own} (floor {FLOOR[own]}) imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_only_stages_and_what_serves_them_know_configs(file):
    if owner(file) in KNOWS_CONFIGS:
        return
    found = source(file)
    assert not (found.names | {name.split(".")[0] for name in found.imports}) & CONFIG_NAMES
    assert ("run", "config") not in found.attributes


def test_hydra_stays_in_config():
    users = {owner(file) for file in FILES if any(name.split(".")[0] == "hydra" for name in source(file).imports)}
    assert users == {"config"}


HEAVY = ("tensorflow", "pytorch_lightning", "torchmetrics", "torch._dynamo", "scipy.stats", "torch", "pandas", "numpy",
         "hydra")  # fmt: skip


LOADED = (  # what is imported one after the other, and what of `HEAVY` may be loaded by then
    ("import reidlab.cli, reidlab.doctor, reidlab.places", ()),
    ("import reidlab, reidlab.workspace, reidlab.interop.tao", ("hydra",)),
    ("import reidlab.dashboard; from reidlab.stages import matrix", ("pandas", "numpy", "hydra")),
    (
        "from reidlab.stages import data, evaluate, export, quantize, deploy, report, predict, identify, track",
        ("torch", "pandas", "numpy", "hydra"),
    ),
    ("from reidlab.stages import train", HEAVY[1:]),
)


@pytest.fixture(scope="module")
def loaded():
    """Of `HEAVY`, what a fresh process has loaded after each of `LOADED`."""
    steps = [f"{imports}; print(*(m for m in {HEAVY} if m in sys.modules))" for imports, _ in LOADED]
    done = subprocess.run([sys.executable, "-c", "\n".join(["import sys", *steps])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [set(line.split()) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("step", range(len(LOADED)), ids=[imports for imports, _ in LOADED])
def test_a_command_loads_only_what_it_needs(step, loaded):
    """As each step allows all that those before it do, one process tells of each step by itself, too."""
    _, allowed = LOADED[step]
    assert loaded[step] <= set(allowed)


def test_links_of_the_readme_resolve():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
