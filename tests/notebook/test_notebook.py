"""What notebooks call, and their execution, held against tiny notebooks made here."""

import base64
import html
import io
import os
import re

import nbformat
import pandas as pd
import papermill
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reidlab import notebook, places
from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.notebook import execute
from reidlab.run import Row, Run


@pytest.fixture
def write(tmp_path, monkeypatch, warm_kernels):
    """A function that writes a notebook of code cells, the first one its parameters, where `execute_all` looks."""
    monkeypatch.setenv("JUPYTER_PATH", str(warm_kernels))
    monkeypatch.setattr(places, "SHIPPED", tmp_path)
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()

    def write(name, *cells):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        made.cells[0].metadata["tags"] = ["parameters"]
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, tmp_path / "notebooks" / f"{name}.ipynb")

    return write


PARAMETERS = 'experiment = "smoke"\noverrides = []'


def printed(file):
    cells = nbformat.read(file, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)


def test_parameters_arrive_and_overrides_are_split_as_a_shell_would(write, tmp_path):
    write("00_echo", PARAMETERS, "print(experiment, overrides)")
    out = tmp_path / "out"
    table = execute.execute_all(["experiment=demo", "overrides=seed=1 data.size=[64,32] 'run.name=a b'"], folder=out)
    assert printed(out / "00_echo.ipynb") == "demo ['seed=1', 'data.size=[64,32]', 'run.name=a b']\n"
    assert table.loc["00_echo", "failure"] == ""
    assert "<html" in (out / "00_echo.html").read_text()


def test_a_failing_cell_is_named_and_the_others_still_run(write, tmp_path, capsys):
    write("00_broken", PARAMETERS, "1 / 0")
    write("01_sound", PARAMETERS, "print('fine')")
    with pytest.raises(
        InputError, match=r"^00_broken\.ipynb, cell 2: ZeroDivisionError: division by zero; see .*broken"
    ):
        execute.execute_all(folder=tmp_path / "out")
    assert printed(tmp_path / "out" / "01_sound.ipynb") == "fine\n"
    shown = capsys.readouterr().out
    assert "failed" in shown and "done" in shown


@pytest.mark.parametrize(
    ("parameters", "only", "message"),
    [
        (["experimnt=demo"], [], "experimnt: notebooks have no such parameter; did you mean experiment?"),
        (["colour=red"], [], "colour: notebooks have no such parameter; there are experiment, overrides"),
        (["demo"], [], "-p demo: write name=value, such as -p experiment=demo"),
        (
            ["experiment=a", "experiment=b"],
            [],
            "-p experiment=b: experiment is given twice, the other time as a; leave one out",
        ),
        (["overrides=it's"], [], "-p overrides=it's: No closing quotation; close it, or put a backslash before it"),
        ([], ["07_deploy"], "07_deploy: no such notebook; there are 00_echo"),
    ],
)
def test_mistakes_are_found_before_anything_runs(write, tmp_path, parameters, only, message):
    write("00_echo", PARAMETERS)
    with pytest.raises(InputError) as error:
        execute.execute_all(parameters, only, folder=tmp_path / "out")
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_a_misspelled_parameter_is_an_error_under_papermill_itself(write, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write("00_strict", PARAMETERS, "from reidlab.notebook import configure\nrun = configure(experiment, overrides)")
    file = tmp_path / "notebooks" / "00_strict.ipynb"
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean overrides"):
        papermill.execute_notebook(file, tmp_path / "out.ipynb", {"overides": []}, progress_bar=False)


def test_only_takes_names_and_numbers(write):
    for name in ("00_one", "01_two", "02_three"):
        write(name, PARAMETERS)
    assert [file.stem for file in execute._choose(["02", "00_one.ipynb"])] == ["00_one", "02_three"]


def test_configure_takes_a_list_or_text():
    assert notebook.configure("smoke", ["seed=3"])["seed"] == 3
    assert notebook.configure("smoke", "seed=3 run.name=other", "run.name=third").name == "third"


def test_show_displays_png_of_figures_and_files(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    figure = Figure(figsize=(2, 1))
    figure.text(0.5, 0.5, "hello")
    notebook.show(figure)
    figure.savefig(tmp_path / "file.png")
    notebook.show(tmp_path / "file.png")
    assert [Image.open(io.BytesIO(image.data)).size for image in shown] == [(400, 200), (200, 100)]
    assert shown[0].width == 200


def test_show_puts_a_table_beside_a_picture(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    notebook.show(Figure(figsize=(2, 1)), pd.DataFrame({"mAP": [0.5]}, index=["trained"]))
    Figure(figsize=(2, 1)).savefig(tmp_path / "file.png")
    notebook.show(tmp_path / "file.png", pd.Series({"threshold": 0.25}, name="value"))
    for page, number in zip((one.data for one in shown), ("0.500", "0.250"), strict=True):
        content = base64.b64decode(page.split("base64,")[1].split('"')[0])
        assert Image.open(io.BytesIO(content)).format == "PNG"
        assert f"<td>{number}</td>" in page
    assert 'width="200"' in shown[0].data


def test_show_page_frames_a_page_as_it_is(tmp_path, monkeypatch):
    shown, text = [], '<p title="a">1 &lt; 2</p>'
    monkeypatch.setattr("IPython.display.display", shown.append)
    (tmp_path / "card.html").write_text(text)
    notebook.show_page(tmp_path / "card.html")
    (frame,) = re.findall(r'<iframe srcdoc="([^"]*)"[^>]* sandbox>', shown[0].data)
    assert html.unescape(frame) == text


def test_settings_are_a_table_of_leaves():
    table = notebook.settings(notebook.configure("smoke", []), "optimizer", "schedule")
    assert table.loc["optimizer.lr", "value"] == "0.02" and table.loc["schedule.warmup_epochs", "value"] == "1"


def test_results_and_artifacts_of_a_run(tmp_path):
    run = notebook.configure("smoke", [f"run.root={tmp_path}"])
    write_json(tmp_path / "smoke" / "metrics.json", {"checkpoint": {"mAP": 0.5, "num_query": 4}})
    assert notebook.results(run).to_dict("index") == {"checkpoint": {"mAP": 0.5, "num_query": 4}}
    run.write(".metrics.lock", "")
    assert notebook.artifacts(run).data.index.tolist() == ["metrics.json"]
    assert notebook.artifacts(run, "export").data.empty
    shown = notebook.artifacts(run).to_html()
    assert f'<a href="{os.path.relpath(run / "metrics.json")}">metrics.json</a>' in shown


def test_words_for_a_gain_and_a_difference_follow_their_intervals(tmp_path):
    run = notebook.configure("smoke", [f"run.root={tmp_path}"])
    run.record({"checkpoint": {"mAP": 0.6}, "untrained": {"mAP": 0.2}})
    write_json(run / "evaluate/untrained/intervals.json", {"mAP": [0.1, 0.3]})
    for low, words in ((0.4, "more than chance"), (0.25, "may be chance")):
        write_json(run / "evaluate/checkpoint/intervals.json", {"mAP": [low, 0.8]})
        assert words in notebook.gain(run) and f"0.600 [{low:.3f}, 0.800]" in notebook.gain(run)
    write_json(run / "evaluate/untrained/intervals.json", {"mAP": [0.85, 0.9]})
    assert "worse than untrained" in notebook.gain(run)
    write_json(run / "evaluate/untrained/intervals.json", {})
    assert notebook.gain(run).endswith("of untrained has no interval")
    other = notebook.configure("smoke", [f"run.root={tmp_path}", "run.name=other"])
    for low, words in ((0.1, ": more than chance"), (-0.1, "no more than chance")):
        run.write("evaluate/checkpoint/against_other.csv", f",difference,low,high,p_value\nmAP,0.2,{low},0.3,0.01\n")
        assert words in notebook.difference(run, other)
        assert f"smoke minus other +0.200 [{low:+.3f}, +0.300]" in notebook.difference(run, other)


def test_numbers_of_tables_have_digits_that_fit():
    shown = pd.DataFrame({"a": [14010852.0, 849.45, 58.0, 9.5, 0.02, 0.00002, 0.0]}).to_string().split()
    assert shown[2::2] == ["14,010,852", "849.5", "58", "9.500", "0.020", "2.0e-05", "0.000"]


def test_demo_results_prefer_what_was_measured_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where there is no runs/demo of a user's
    monkeypatch.setattr(notebook, "DEMO_RESULTS", tmp_path / "published.csv")
    assert notebook.demo_results().empty and "not measured yet" in capsys.readouterr().out
    published = pd.DataFrame({"row": ["checkpoint"], "mAP": [0.8], "rank-1": [0.9], "machine": ["m"], "commit": ["c"]})
    published.to_csv(tmp_path / "published.csv", index=False)
    assert notebook.demo_results().loc["checkpoint", "mAP"] == 0.8
    assert "measured elsewhere" in capsys.readouterr().out
    run = Run.compose(["experiment=demo"])
    run.keep_config()
    run.record({Row.CHECKPOINT: {"mAP": 0.7, "rank-1": 0.8, "mINP": 0.1}, "emulated m7": {"instructions": 7}})
    assert notebook.demo_results().to_dict("index") == {"checkpoint": {"mAP": 0.7, "rank-1": 0.8}}


def test_a_copy_has_the_picture_of_a_widget_in_its_place(write, tmp_path):
    shown = "from matplotlib.figure import Figure\nimport ipywidgets\nfrom reidlab.notebook.widgets import Explorer\n"
    shown += "Explorer([ipywidgets.IntSlider()], lambda value: Figure(figsize=(1, 1)))"
    write("00_widget", PARAMETERS, shown, "ipywidgets.FloatProgress()")
    execute.execute_all(folder=tmp_path / "out")
    page = (tmp_path / "out" / "00_widget.html").read_text()
    assert len(re.findall(r'<img[^>]+src="data:image/png;base64,', page)) == 1
    assert "FloatProgress(value" not in page


def test_overrides_that_are_given_several_times_all_count(write, tmp_path):
    write("00_echo", PARAMETERS, "print(overrides)")
    execute.execute_all(["overrides=a=1 'b=x y'", "overrides=c=2"], folder=tmp_path / "out")
    assert printed(tmp_path / "out" / "00_echo.ipynb") == "['a=1', 'b=x y', 'c=2']\n"


def test_links_of_a_copy_lead_where_they_led(write, tmp_path, monkeypatch):
    shown = "from reidlab.notebook import artifacts, configure\nimport reidlab\n"
    write("00_linked", PARAMETERS, shown + "artifacts(configure('smoke', ['run.name=a b']))")
    (file,) = (tmp_path / "notebooks").iterdir()
    made = nbformat.read(file, as_version=4)
    made.cells.append(
        nbformat.v4.new_markdown_cell("[docs](../docs/a.md#part) [next](01_next.ipynb) [web](https://a/b)")
    )
    nbformat.write(made, file)
    for place in ("runs/a b/card.html", "docs/a.md", "elsewhere/x"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    execute.execute_all()
    out = tmp_path / "runs" / "notebooks"
    page = (out / "00_linked.html").read_text()
    assert 'href="../a%20b/card.html"' in page and 'href="../../docs/a.md#part"' in page
    assert 'href="01_next.html"' in page and 'href="https://a/b"' in page
    copy = nbformat.read(out / "00_linked.ipynb", as_version=4)
    assert 'href="../a%20b/card.html"' in copy.cells[1].outputs[-1].data["text/html"]


@pytest.mark.skipif(not notebook.DEMO_RESULTS.exists(), reason="data/demo_results.csv: nothing published yet")
def test_the_published_demo_results_name_their_machine():
    table = pd.read_csv(notebook.DEMO_RESULTS, index_col="row")
    assert list(table) == ["mAP", "rank-1", "machine", "commit"]
    assert {"checkpoint", "untrained", "color-histogram"} <= set(table.index)


def test_a_notebook_of_people_refuses_an_experiment_of_classes(tmp_path):
    overrides = f"run.root={tmp_path}"
    with pytest.raises(InputError, match=r"experiment=flowers_smoke: its task is classification, and here it is reid"):
        notebook.configure("flowers_smoke", overrides)
    assert notebook.configure("flowers_smoke", overrides, task=None).is_classifier
