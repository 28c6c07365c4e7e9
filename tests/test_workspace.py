"""A workspace as `reidlab init` lays it out, and what is found in it."""

import re

import nbformat
import pytest

from reidlab import cli, config
from reidlab.errors import InputError
from reidlab.workspace import init


def test_it_has_a_recipe_that_composes_the_notebooks_and_no_more(tmp_path, monkeypatch, capsys):
    assert cli.main(["init", str(tmp_path / "mine")]) == 0
    assert {place.name for place in (tmp_path / "mine").iterdir()} == {"README.md", "conf", "data", "notebooks"}
    monkeypatch.chdir(tmp_path / "mine" / "notebooks")  # JupyterLab starts a kernel beside its notebook
    assert config.root() == tmp_path / "mine"
    cfg = config.compose(["experiment=mine"])
    assert cfg.run.name == "mine" and cfg.run.root == str(tmp_path / "mine" / "runs")
    released = sorted(file.name for file in (config.SHIPPED / "notebooks").glob("*.ipynb"))
    assert sorted(file.name for file in (tmp_path / "mine" / "notebooks").iterdir()) == released
    notebooks = config.find_files("notebooks", "*.ipynb")
    assert {file.parent for file in notebooks.values()} == {tmp_path / "mine" / "notebooks"}


def test_its_notebooks_link_to_what_it_has(tmp_path):
    init(tmp_path)
    for file in (tmp_path / "notebooks").iterdir():
        text = "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells)
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
        assert links and all((file.parent / link).exists() for link in links)
    text = (tmp_path / "notebooks" / "10_identities.ipynb").read_text()
    assert "page on video (`docs/video.md` of reidlab's repository)" in text


def test_the_commented_changes_of_its_recipe_compose(tmp_path, monkeypatch):
    init(tmp_path)
    recipe = tmp_path / "conf" / "experiment" / "mine.yaml"
    recipe.write_text(re.sub(r"^( *)# (?= *(- override|\w+:))", r"\1", recipe.read_text(), flags=re.MULTILINE))
    monkeypatch.chdir(tmp_path)
    cfg = config.compose(["experiment=mine"])
    assert cfg.model.name == "osnet_x0_5" and cfg.data.name == "folders" and cfg.optimizer.lr == 1e-3
    assert cfg.data.root == str(tmp_path / "data" / "crops")


def test_what_exists_stays_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert tmp_path / "README.md" not in init(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert init(tmp_path) == []


def test_a_file_in_the_way_is_an_error_of_one_line(tmp_path):
    (tmp_path / "conf").touch()
    with pytest.raises(InputError, match="no workspace can be laid out here"):
        init(tmp_path)
