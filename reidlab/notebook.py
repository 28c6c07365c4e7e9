"""What notebooks call besides the stages, and what executes them all."""

import ast
import base64
import difflib
import html
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from reidlab import plots
from reidlab.config import ROOT, compose, run_folder
from reidlab.data import ReidDataModule
from reidlab.errors import InputError
from reidlab.runs import read_json, write_atomic
from reidlab.show import png, print_table

NOTEBOOKS = ROOT / "notebooks"
PARAMETERS = ("experiment", "overrides")
DEMO_RESULTS = ROOT / "data" / "demo_results.csv"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_SHARPNESS = 2  # pixels of a shown figure per CSS pixel


def configure(experiment: str, overrides: Sequence[str] | str, *more: str) -> DictConfig:
    """The config of a notebook's two parameters and of `more` overrides; text of several is split as a shell would.

    Papermill only warns of a parameter that the notebook doesn't have; here that is an InputError.
    """
    _check_parameters(_injected(), PARAMETERS)
    given = shlex.split(overrides) if isinstance(overrides, str) else overrides
    return compose([f"experiment={experiment}", *given, *more])


def configure_classes(experiment: str, overrides: Sequence[str] | str, *more: str) -> DictConfig:
    """The same for photographs of classes; where these aren't there, drawn shapes take their place, as is printed."""
    cfg = configure(experiment, overrides, *more)
    if not cfg.task._target_.endswith("ClassificationTask"):
        raise InputError(f"experiment={experiment}: tells no classes; use flowers_smoke, or any other of the flowers")
    if Path(cfg.data.root).is_dir():
        return cfg
    print(f"no photographs in {cfg.data.root}: drawn shapes in their place")
    instead = ["data=shapes", f"data.root={cfg.data.root}_shapes", f"run.name={cfg.run.name}_shapes"]
    return configure(experiment, overrides, *instead, *more)


def show(picture: Figure | str | Path, table: pd.DataFrame | pd.Series | None = None) -> None:
    """Display a figure, or an image file, sharp and on white paper whatever the notebook's theme.

    A table stands beside it where the page is wide enough, else below.
    """
    from IPython.display import HTML, Image, display

    drawn = isinstance(picture, Figure)
    content = png(picture, 100 * _SHARPNESS) if drawn else Path(picture).read_bytes()
    width = int(picture.get_figwidth() * 100) if drawn else None
    if table is None:
        display(Image(content, width=width))
        return
    image = f'<img src="data:image/png;base64,{base64.b64encode(content).decode()}" width="{width or "auto"}"/>'
    rows = (table.to_frame() if isinstance(table, pd.Series) else table).to_html(border=0, max_rows=20)
    layout = "display: flex; flex-wrap: wrap; gap: 1.5em; align-items: flex-start"
    display(HTML(f'<div style="{layout}"><div>{image}</div><div>{rows}</div></div>'))


def show_page(file: Path, height: int = 700) -> None:
    """Display a self-contained HTML page in a frame of its own."""
    from IPython.display import HTML, display

    frame = f'<iframe srcdoc="{html.escape(file.read_text())}" width="100%" height="{height}" sandbox></iframe>'
    display(HTML(f"<div>{frame}</div>"))


def results(cfg) -> pd.DataFrame:
    """The table of a run's `metrics.json`, one row a network."""
    table = pd.DataFrame(read_json(run_folder(cfg) / "metrics.json")).T
    return table.astype({name: int for name in table if str(name).startswith("num_")}).rename_axis("row")


def settings(cfg, *groups: str) -> pd.DataFrame:
    """Some groups of a config as a table, one row a key."""
    chosen = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(groups)))
    return pd.json_normalize(chosen).astype(str).T.set_axis(["value"], axis=1)


def artifacts(cfg) -> pd.DataFrame:
    """The files of a run, and their sizes in kB; what isn't here didn't happen."""
    run = run_folder(cfg)
    files = sorted(file for file in run.rglob("*") if file.is_file() and "wandb" not in file.parts)
    sizes = [round(file.stat().st_size / 1000, 1) for file in files]
    return pd.DataFrame(
        {"kB": sizes}, index=pd.Index([file.relative_to(run).as_posix() for file in files], name=str(run))
    )


def demo_results() -> pd.DataFrame:
    """mAP and rank-1 of a trained network and its baselines on the whole demo, as measured; prints where.

    From this machine's `runs/demo`, where that was evaluated, else from the published `data/demo_results.csv`; empty
    where there is neither.
    """
    here = ROOT / "runs" / "demo" / "metrics.json"
    if metrics := read_json(here):
        print(f"measured here: {here}")
        return pd.DataFrame(metrics).T[["mAP", "rank-1"]].rename_axis("row")
    if not DEMO_RESULTS.exists():
        print("not measured yet; `make demo` measures it here")
        return pd.DataFrame(columns=["mAP", "rank-1"])
    print(f"measured elsewhere: {DEMO_RESULTS}; `make demo` measures it here")
    return pd.read_csv(DEMO_RESULTS, index_col="row")


def augmentations(datamodule: ReidDataModule, num_images: int = 4, num_draws: int = 8) -> Figure:
    """Some training images and what augmentation makes of them on several occasions."""
    originals = next(iter(datamodule.train_dataloader()))["image"][:num_images]  # (N, 3, H, W) uint8
    draws = [datamodule.augment(originals / 255) for _ in range(num_draws)]
    columns = [(draw.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy() for draw in draws]
    return plots.augmentation_sheet(list(originals.permute(0, 2, 3, 1).numpy()), list(zip(*columns, strict=True)))


def execute_all(
    parameters: Sequence[str] = (), only: Sequence[str] = (), folder: Path = ROOT / "runs" / "notebooks"
) -> pd.DataFrame:
    """Execute notebooks in reading order; each executed one and an HTML copy go into `folder`.

    `parameters` are `name=value`, where the value of `overrides` is split as a shell would; `only` has names such as
    `01_data`, or `01`. Prints and returns a table of what was done. Raises InputError for a parameter that none of them
    has, and, after all have been tried, for the first one with a failing cell.
    """
    try:
        import papermill
    except ImportError as error:
        raise InputError("notebooks need papermill: pip install 'reidlab[notebooks]'") from error

    chosen = _choose(only)
    known = {notebook: papermill.inspect_notebook(notebook) for notebook in chosen}
    given = dict(_split(parameter) for parameter in parameters)
    _check_parameters(given, {name for names in known.values() for name in names})
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, notebook in enumerate(chosen, 1):
        print(f"== {notebook.stem} ({number} of {len(chosen)})", flush=True)
        try:
            rows.append(_execute(notebook, {name: given[name] for name in given if name in known[notebook]}, folder))
        except KeyboardInterrupt:
            print(f"left to execute: {' '.join(left.stem for left in chosen[number - 1 :])}", flush=True)
            raise
    table = pd.DataFrame(rows, columns=["notebook", "seconds", "failure"]).set_index("notebook")
    print_table(table.assign(result=table["failure"].map(lambda f: "failed" if f else "done"))[["seconds", "result"]])
    print(f"executed notebooks: {folder}")
    if failures := [failure for failure in table["failure"] if failure]:
        more = f" ({len(failures)} notebooks failed)" if len(failures) > 1 else ""
        raise InputError(failures[0] + more)
    return table


def _execute(notebook: Path, parameters: dict, folder: Path) -> tuple[str, float, str]:
    """Name, seconds, and the line that says which cell failed and why, or nothing."""
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
    _write_html(executed)
    return notebook.stem, _seconds(executed), failure


def _seconds(executed: Path) -> float:
    import nbformat

    return float(nbformat.read(executed, as_version=4).metadata.papermill.duration or 0.0)


def _write_html(executed: Path) -> None:
    """An HTML copy beside an executed notebook, which asks no other host for anything and links to its siblings.

    Widgets need a kernel: it has the picture of those that carry one, and nothing of others, such as progress bars.
    """
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(embed_images=True, mathjax_url="", require_js_url="", jupyter_widgets_base_url="")
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if set(out.get("data", ())) != {_WIDGET, "text/plain"}]
    body, _ = exporter.from_notebook_node(notebook)
    write_atomic(executed.with_suffix(".html"), re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', body))


def _choose(only: Sequence[str]) -> list[Path]:
    """The notebooks with these names or numbers, all without any, in reading order."""
    notebooks = {file.stem: file for file in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if not notebooks:
        raise InputError(f"{NOTEBOOKS}: no notebooks; install reidlab from its clone (`pip install -e .`)")
    for name in only:
        if not any(_is(name, stem) for stem in notebooks):
            raise InputError(f"{name}: no such notebook; there are {', '.join(notebooks)}")
    return [file for stem, file in notebooks.items() if not only or any(_is(name, stem) for name in only)]


def _is(name: str, stem: str) -> bool:
    return name.removesuffix(".ipynb") in (stem, stem[:2])


def _split(parameter: str) -> tuple[str, str | list[str]]:
    name, equals, value = parameter.partition("=")
    if not equals:
        raise InputError(f"-p {parameter}: write name=value, such as -p experiment=demo")
    return name, shlex.split(value) if name == "overrides" else value


def _check_parameters(given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(known))}"
            raise InputError(f"{name}: notebooks have no such parameter; {guess}")


def _injected() -> list[str]:
    """The names in the cell that papermill put into the notebook that runs this, if it did."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    cells = [cell for cell in shell.user_ns.get("In", []) if cell.startswith("# Parameters\n")] if shell else []
    statements = [statement for cell in cells[-1:] for statement in ast.parse(cell).body]
    return [target.id for s in statements if isinstance(s, ast.Assign) for target in s.targets]
