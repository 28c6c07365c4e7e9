"""Executing all notebooks, as `reidlab notebooks` does."""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pandas as pd

from reidlab.config import find_files, root
from reidlab.console import log, print_table
from reidlab.errors import InputError
from reidlab.files import write_atomic

if TYPE_CHECKING:
    import nbformat

_WIDGET = "application/vnd.jupyter.widget-view+json"


def execute_all(parameters: Sequence[str] = (), only: Sequence[str] = (), folder: Path | None = None) -> pd.DataFrame:
    """Execute notebooks in reading order; each executed one and an HTML copy go into `folder`, else `runs/notebooks`.

    The notebooks are the released ones and the workspace's own. `parameters` are `name=value`, where the value of
    `overrides`, which may be given several times, is split as a shell would; `only` has names such as `01_data`, or
    `01`. Prints and returns a table of what was done. Raises InputError for a parameter that none of them has or that
    can't be read, and, after all have been tried, for the first one with a failing cell.
    """
    try:
        import papermill
    except ImportError as error:
        raise InputError("notebooks need papermill: pip install 'reidlab[notebooks]'") from error

    folder = folder or root() / "runs" / "notebooks"
    chosen = _choose(only)
    known = {notebook: papermill.inspect_notebook(notebook) for notebook in chosen}
    given = _given(parameters)
    check_parameters(given, {name for names in known.values() for name in names})
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, notebook in enumerate(chosen, 1):
        log.info(f"== {notebook.stem} ({number} of {len(chosen)})")
        try:
            rows.append(_execute(notebook, {name: given[name] for name in given if name in known[notebook]}, folder))
        except KeyboardInterrupt:
            log.info(f"left to execute: {' '.join(left.stem for left in chosen[number - 1 :])}")
            raise
    table = pd.DataFrame(rows, columns=["notebook", "seconds", "failure"]).set_index("notebook")
    print_table(table.assign(result=table["failure"].map(lambda f: "failed" if f else "done"))[["seconds", "result"]])
    log.info(f"executed notebooks: {folder}")
    if failures := [failure for failure in table["failure"] if failure]:
        more = f" ({len(failures)} notebooks failed)" if len(failures) > 1 else ""
        raise InputError(failures[0] + more)
    return table


def _execute(notebook: Path, parameters: dict, folder: Path) -> tuple[str, float, str]:
    """Name, seconds, and the line that says which cell failed and why, or nothing."""
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    executed, failure = folder / notebook.name, ""
    try:
        papermill.execute_notebook(notebook, executed, parameters, progress_bar=sys.stderr.isatty())
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".splitlines()[0]
        failure = f"{notebook.name}, cell {error.exec_count}: {reason}; see {executed}"
    except DeadKernelError:
        failure = f"{notebook.name}: its kernel died, perhaps for want of memory; see {executed}"
    made = nbformat.read(executed, as_version=4)
    _settle(made, notebook.parent, folder)
    write_atomic(executed, nbformat.writes(made))
    _write_html(made, executed)
    return notebook.stem, float(made.metadata.papermill.duration or 0.0), failure


def _settle(made: "nbformat.NotebookNode", home: Path, folder: Path) -> None:
    """Let links lead from `folder` where they led at home, and leave out widgets that are nothing without a kernel.

    Those that carry a picture stay; progress bars don't. Links of outputs begin at the working folder.
    """
    made.metadata.pop("widgets", None)
    for key in ("input_path", "output_path"):  # of this machine
        made.metadata.get("papermill", {}).pop(key, None)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"(?<=\]\()(?=\.\./)[^)#]+", lambda link: _moved(link[0], home, folder), cell.source)
        elif cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if set(out.get("data", ())) != {_WIDGET, "text/plain"}]
            for data in (out.data for out in cell.outputs if "text/html" in out.get("data", ())):
                data["text/html"] = re.sub(
                    r'(?<=<a href=")[^":#]+', lambda link: _moved(link[0], Path.cwd(), folder), data["text/html"]
                )


def _moved(link: str, old: Path, new: Path) -> str:
    return quote(os.path.relpath(old / unquote(link), new))


def _write_html(made: "nbformat.NotebookNode", executed: Path) -> None:
    """An HTML copy beside an executed notebook, which asks no other host for anything and links to its siblings."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="", jupyter_widgets_base_url="")
    body, _ = exporter.from_notebook_node(made)
    write_atomic(executed.with_suffix(".html"), re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body))


def _choose(only: Sequence[str]) -> list[Path]:
    """The notebooks with these names or numbers, all without any, in reading order."""
    notebooks = find_files("notebooks", "[0-9][0-9]_*.ipynb")
    for name in only:
        if not any(_is(name, stem) for stem in notebooks):
            raise InputError(f"{name}: no such notebook; there are {', '.join(notebooks)}")
    return [file for stem, file in notebooks.items() if not only or any(_is(name, stem) for name in only)]


def _is(name: str, stem: str) -> bool:
    return name.removesuffix(".ipynb") in (stem, stem[:2])


def _given(parameters: Iterable[str]) -> dict[str, str | list[str]]:
    """Parameters by name, those in `overrides` together; InputError for one that can't be read or is given twice."""
    given, overrides = dict[str, str | list[str]](), list[str]()
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals:
            raise InputError(f"-p {parameter}: write name=value, such as -p experiment=demo")
        if name == "overrides":
            try:
                overrides += shlex.split(value)
            except ValueError as error:
                raise InputError(f"-p {parameter}: {error}; close it, or put a backslash before it") from error
        elif name in given:
            raise InputError(f"-p {parameter}: {name} is given twice, the other time as {given[name]}; leave one out")
        given[name] = overrides if name == "overrides" else value
    return given


def check_parameters(given: Iterable[str], known: Collection[str]) -> None:
    """InputError for a parameter that notebooks don't have."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
            raise InputError(f"{name}: notebooks have no such parameter; {guess}")
