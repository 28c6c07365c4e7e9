"""The notebooks themselves: their form, and that each runs with smoke parameters from any folder."""

import ast
import json
import re
import subprocess
import sys
from itertools import pairwise

import nbformat
import pytest

from reidlab.config import CLONE
from reidlab.notebook.execute import execute_all

FILES = sorted((CLONE / "notebooks").glob("*.ipynb"))
MAIN, OTHERS = FILES[:4], FILES[4:]
TINY = (
    "data.source.num_identities=10 data.source.train_identities=7 data.source.images_per_camera=2 data.size=[64,32] "
    "data.source.size=[64,32] data.val_fraction=0.3 data.val_identities=2 data.batch_size=16 "
    "trainer.max_epochs=1 trainer.accelerator=cpu "
    "evaluate.resamples=50 evaluate.pictured_queries=1 quantize.max_drop=100"
)
TINY_CLASSES = "data.size=[32,32] data.cache=null trainer.max_epochs=1 trainer.accelerator=cpu"
TINY_PEOPLE = "trainer.max_time=0.05 trainer.accelerator=cpu evaluate.resamples=50"
OF_CLASSES = ("09_image_classification",)
ON_DRAWN_PEOPLE = ("11_real_people",)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request):
    return request.param


@pytest.fixture
def notebook(file):
    return nbformat.read(file, as_version=4)


def test_there_are_all_notebooks_in_reading_order():
    first = ["00_quickstart", "01_data", "02_train_from_scratch", "03_evaluate"]
    assert [file.stem for file in MAIN] == first


def test_parameters_are_two_literals(notebook):
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    assert [statement.targets[0].id for statement in statements] == ["experiment", "overrides"]
    assert [type(ast.literal_eval(statement.value)) for statement in statements] == [str, list]


def test_it_asks_a_question_and_says_how_long_it_takes(notebook):
    opening = notebook.cells[0].source
    assert re.search(r"^# \d\d ", opening) and re.search(r"\*\*[^*]+\?\*\*", opening)
    assert re.search(r"\| runs \|.*minute", opening)


def test_it_links_to_its_neighbours(file, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert all((file.parent / link).exists() for link in links if not link.startswith("http"))
    for before, after in pairwise(FILES):
        if file in (before, after):
            assert (after if file == before else before).name in links
    assert "**Next:**" in notebook.cells[-1].source and "## Try it" in notebook.cells[-1].source


def test_it_only_calls(notebook):
    cells = code_of(notebook)
    lines = [[line for line in cell.source.splitlines() if line.strip()] for cell in cells]
    assert max(map(len, lines)) <= 15 and sum(map(len, lines)) <= 120
    for cell in cells:
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {
            ast.FunctionDef,
            ast.AsyncFunctionDef,
            ast.ClassDef,
            ast.Lambda,
            ast.For,
            ast.While,
            ast.Try,
        }


def test_every_exercise_has_a_folded_solution(notebook):
    asked, _, _ = notebook.cells[-1].source.partition("**Next:**")
    exercises = re.split(r"^\d\. ", asked, flags=re.MULTILINE)[1:]
    assert exercises and all("<details><summary>Solution</summary>" in exercise for exercise in exercises)
    assert "@@" not in asked


def test_it_is_stripped(notebook):
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_of(notebook))
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory, warm_kernels):
    """The notebooks of the main job, executed in order into one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(warm_kernels))
        folder = tmp_path_factory.mktemp("notebooks")
        yield folder, run_tiny(MAIN, folder, TINY, patch)


def run_tiny(files, folder, overrides, patch):
    """Execute notebooks into a folder, from a working folder that isn't the project's; the table of all."""
    patch.chdir(folder)
    patch.setenv("OMP_NUM_THREADS", "1")
    given = f"overrides={overrides} run.root={folder / 'runs'} data.root={folder / 'data'} track.root={folder / 'film'}"
    table = execute_all([given], [file.stem for file in files], folder)
    assert table.index.tolist() == [file.stem for file in files]
    assert (table["failure"] == "").all() and (table["seconds"] > 0).all()
    return table


def test_the_main_job_runs_with_smoke_parameters(executed):
    run = executed[0] / "runs" / "smoke"
    assert "checkpoint" in json.loads((run / "metrics.json").read_text())
    assert (run / "export" / "model.onnx").exists() and (run / "evaluation.html").exists()


@pytest.mark.slow
def test_the_others_run_with_smoke_parameters(tmp_path, monkeypatch):
    others = [file for file in OTHERS if file.stem not in (*OF_CLASSES, *ON_DRAWN_PEOPLE)]
    run_tiny(others, tmp_path, TINY, monkeypatch)


@pytest.mark.slow
def test_that_of_real_people_runs_on_drawn_ones(tmp_path, monkeypatch):
    run_tiny([file for file in FILES if file.stem in ON_DRAWN_PEOPLE], tmp_path, TINY_PEOPLE, monkeypatch)
    run = tmp_path / "runs" / "people_in_an_hour_synthetic"
    assert {"checkpoint", "untrained"} <= set(json.loads((run / "metrics.json").read_text()))


@pytest.mark.slow
def test_those_of_classes_run_on_drawn_shapes(tmp_path, monkeypatch):
    run_tiny([file for file in FILES if file.stem in OF_CLASSES], tmp_path, TINY_CLASSES, monkeypatch)
    run = tmp_path / "runs" / "flowers_smoke_shapes"
    assert (run / "export" / "model_int8.tflite").exists() and len(list((run / "predict").glob("*.csv"))) == 1


def test_each_leaves_a_copy_with_pictures_that_links_to_the_next(executed):
    folder, _ = executed
    for before, after in pairwise(MAIN):
        page = (folder / before.name).with_suffix(".html").read_text()
        assert f'href="{after.stem}.html"' in page
        assert re.search(r'<img[^>]+src="data:image/png;base64,', page)
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', page)


def test_nbval_finds_the_same_data_again(executed):
    folder, _ = executed
    quick = [str(folder / file.name) for file in MAIN[:3]]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder),
               "--nbval-lax", *quick]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_nothing_is_left_in_the_tree(executed):
    made = [CLONE / "runs" / "smoke", CLONE / "data" / "synthetic_smoke"]
    folder, _ = executed
    newer = [p for p in made if p.exists() and p.stat().st_mtime > (folder / FILES[0].name).stat().st_ctime]
    assert newer == []
