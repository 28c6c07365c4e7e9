"""The house rules that a machine can hold: imports point downwards, heavy packages stay where they belong."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "reidlab"
FLOORS = [
    ("errors", "runs", "config", "progress"),
    ("data", "models", "losses", "metrics", "optimizers", "schedules", "callbacks", "regimes", "plots"),
    ("tasks", "embedding", "show", "tracking", "completion"),
    ("retrieval", "classification", "distill"),
    ("export",),
    ("prepare", "train", "evaluate", "predict", "compare", "import_tao"),
    ("quantize", "search", "insight", "anatomy"),
    ("deploy",),
    ("card",),
    ("report", "notebook", "widgets", "doctor", "dashboard"),
    ("cli",),
]
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}


def imports(file):
    """(module imported, its first part below reidlab) of every import statement of a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "reidlab":
            yield from (f"reidlab.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def owner(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "__init__.py" or file.parent != PACKAGE]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    own = owner(file)
    for name in imports(file):
        other = name.split(".")[1] if name.startswith("reidlab.") else own
        if other in FLOOR and other != own:
            assert FLOOR[other] < FLOOR[own] or FLOOR[own] == 0, f"{own} (floor {FLOOR[own]}) imports {name}"


def test_hydra_stays_in_config_and_cli():
    users = {owner(file) for file in FILES if any(name.split(".")[0] == "hydra" for name in imports(file))}
    assert users <= {"config", "cli"}


def test_tensorflow_is_not_loaded_by_the_package():
    code = "import sys, reidlab.stages.train, reidlab.stages.evaluate, reidlab.export; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_links_of_the_readme_resolve():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target
