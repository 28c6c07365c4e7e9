"""Functions for notebooks besides the stages, and the execution of all notebooks."""

import ast
import base64
import html
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from reidlab import plots
from reidlab.config import SHIPPED, root
from reidlab.console import log, written
from reidlab.data import ImageDataModule, blur_head
from reidlab.deploy import server
from reidlab.errors import InputError
from reidlab.notebook.execute import check_parameters
from reidlab.plots.saving import SHARPNESS, png
from reidlab.run import File, Row, Run

PARAMETERS = ("experiment", "overrides")
DRAWN = {"synthetic": "people", "shapes": "shapes"}
FEW_PEOPLE = (
    "data.size=[64,32]", "data.source.size=[64,32]", "data.source.num_identities=60", "data.source.train_identities=44",
    "trainer.max_time=0.4", "logger=csv",
)  # fmt: skip
DEMO_RESULTS = SHIPPED / "data" / "demo_results.csv"
pd.options.display.float_format = written


def configure(experiment: str, overrides: Sequence[str] | str, *more: str, task: str | None = "reid") -> Run:
    """The run of a notebook's two parameters and of `more` overrides; text of several is split as a shell would.

    Papermill only warns of a parameter that the notebook doesn't have; here that is an InputError, as is a task that
    isn't the notebook's. None stands for any task.
    """
    check_parameters(_injected(), PARAMETERS)
    run = Run.compose([f"experiment={experiment}", *_words(overrides), *more])
    if task not in (None, run["task.kind"]):
        raise InputError(f"experiment={experiment}: its task is {run['task.kind']}, and here it is {task}; use another")
    return run


def configure_or_draw(experiment: str, overrides: Sequence[str] | str, *more: str, task: str) -> Run:
    """Like `configure`; drawn shapes or people take the place of a folder that isn't there, which is logged."""
    run = configure(experiment, overrides, *more, task=task)
    if run["data.name"] in DRAWN or Path(run["data.root"]).is_dir():
        return run
    drawn = "shapes" if run.is_classifier else "synthetic"
    log.info(f"no folder {run['data.root']}: drawn {DRAWN[drawn]} in the place of its images")
    instead = [f"data={drawn}", f"data.root={run['data.root']}_{drawn}", f"run.name={run.name}_{drawn}"]
    few = FEW_PEOPLE if drawn == "synthetic" else []
    return configure(experiment, [*few, *_words(overrides)], *instead, *more, task=task)


def _words(overrides: Sequence[str] | str) -> Sequence[str]:
    return shlex.split(overrides) if isinstance(overrides, str) else overrides


def show(picture: Figure | str | Path, table: pd.DataFrame | pd.Series | None = None) -> None:
    """Display a figure, or an image file, sharp and on white paper whatever the notebook's theme.

    A table stands beside it where the page is wide enough, else below.
    """
    from IPython.display import HTML, Image, display

    content = png(picture, 100 * SHARPNESS) if isinstance(picture, Figure) else Path(picture).read_bytes()
    width = int(picture.get_figwidth() * 100) if isinstance(picture, Figure) else None
    kind = "webp" if content[8:12] == b"WEBP" else "png"
    if table is None and kind == "png":
        display(Image(content, width=width))
        return
    image = f'<img src="data:image/{kind};base64,{base64.b64encode(content).decode()}" width="{width or "auto"}"/>'
    if table is None:
        display(HTML(image))
        return
    rows = (table.to_frame() if isinstance(table, pd.Series) else table).to_html(border=0, max_rows=20, na_rep="–")
    layout = "display: flex; flex-wrap: wrap; gap: 1.5em; align-items: flex-start"
    display(HTML(f'<div style="{layout}"><div>{image}</div><div>{rows}</div></div>'))


def show_page(file: Path, height: int = 700) -> None:
    """Display a self-contained HTML page in a frame of its own."""
    from IPython.display import HTML, display

    frame = f'<iframe srcdoc="{html.escape(file.read_text())}" width="100%" height="{height}" sandbox></iframe>'
    display(HTML(f"<div>{frame}</div>"))


def results(run: Run) -> pd.DataFrame:
    """The figures of a run as numbers, one row a network; `run.table()` has them with their intervals, as text."""
    table = pd.DataFrame({row: result.figures for row, result in run.results.items()}).T
    return table.astype({name: int for name in table if str(name).startswith("num_")}).rename_axis("row")


def settings(run: Run, *groups: str) -> pd.DataFrame:
    """Some groups of a run's settings as a table, one row a key."""
    return pd.json_normalize({group: run[group] for group in groups}).astype(str).T.set_axis(["value"], axis=1)


def artifacts(run: Run, below: str = "") -> Styler:
    """Links to the files of a run, or to those whose path begins with `below`, and their sizes in kB (`.data`)."""
    files = {file.relative_to(run.folder): file for file in sorted(run.folder.rglob("*")) if file.is_file()}
    shown = {path.as_posix(): file for path, file in files.items() if path.parts[0] != "wandb" and path.name[0] != "."}
    kept = {name: file.stat().st_size / 1000 for name, file in shown.items() if name.startswith(below)}
    table = pd.DataFrame({"kB": kept.values()}, index=pd.Index(kept, name=str(run.folder)))
    here = os.path.relpath(run.folder)
    link = '<a href="{}">{}</a>'
    return table.style.format("{:,.1f}").format_index(
        lambda name: link.format(quote(f"{here}/{name}"), html.escape(name))
    )


def gain(run: Run, over: Row = Row.UNTRAINED) -> str:
    """Whether the main figure of a run is above that of a baseline by more than their 95 % intervals, in words."""
    main = run.figures[0]
    shown, ends = [], []
    for row in (Row.CHECKPOINT, over):
        value, interval = run.results[row].figures[main], run.intervals(row).get(main)
        if interval is None:
            return f"{main} {value:.3f} of {row} has no interval"
        low, high = interval
        shown.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
        ends.append((low, high))
    verdict = "the intervals overlap: it may be chance"
    if ends[0][0] > ends[1][1]:
        verdict = "the intervals don't overlap: more than chance"
    elif ends[0][1] < ends[1][0]:
        verdict = f"the intervals don't overlap: worse than {over}"
    return f"{main} {shown[0]}, {over} {shown[1]}; {verdict}"


def difference(run: Run, other: Run) -> str:
    """Comparison of two runs by `evaluate.against`, in words: the paired difference, and whether it may be chance."""
    main = run.figures[0]
    found = pd.read_csv(run / File.EVALUATE / Row.CHECKPOINT / f"against_{other.name}.csv", index_col=0)
    value, low, high = found.loc[main, ["difference", "low", "high"]]
    verdict = "more than chance" if low > 0 or high < 0 else "no more than chance may give"
    return f"{main}: {run.name} minus {other.name} {value:+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}"


def ask_triton(run: Run, images: Sequence[Path]) -> str:
    """Distances of images to the first by a Triton server started for the run, or why there is none."""
    try:
        with socket.socket() as http, socket.socket() as grpc:
            http.bind(("127.0.0.1", 0))
            grpc.bind(("127.0.0.1", 0))
            ports = http.getsockname()[1], grpc.getsockname()[1]
        with server.serving(run / File.TRITON, *ports):
            client = [sys.executable, str(run / File.DEPLOY_NVIDIA / "triton_client.py"), "--model", server.SERVED]
            command = [*client, "--url", f"http://127.0.0.1:{ports[0]}", *map(str, images)]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except InputError as error:
        return f"not asked: {error}"


def demo_results() -> pd.DataFrame:
    """mAP and rank-1 of a trained network and its baselines on the whole demo, as measured; prints where.

    From this machine's `runs/demo`, where that was evaluated, else from the published `data/demo_results.csv`; empty
    where there is neither.
    """
    here, wanted = root() / "runs" / "demo", (Row.CHECKPOINT, Row.UNTRAINED, Row.COLOR_HISTOGRAM)
    found = Run.stored(here).results if (here / File.CONFIG).exists() else {}
    if rows := {row: found[row].figures for row in wanted if row in found and "mAP" in found[row].figures}:
        log.info(f"measured here: {here / File.METRICS}")
        return pd.DataFrame(rows).T[["mAP", "rank-1"]].rename_axis("row")
    if not DEMO_RESULTS.exists():
        log.info("not measured yet; `reidlab run experiment=demo` measures it here")
        return pd.DataFrame(columns=["mAP", "rank-1"])
    log.info(f"measured elsewhere: {DEMO_RESULTS}; `reidlab run experiment=demo` measures it here")
    return pd.read_csv(DEMO_RESULTS, index_col="row")


def augmentations(datamodule: ImageDataModule, num_images: int = 4, num_draws: int = 8) -> Figure:
    """Some training images and what augmentation makes of them on several occasions."""
    originals = next(iter(datamodule.train_dataloader()))["image"][:num_images]  # (N, 3, H, W) uint8
    if datamodule.blur_heads:
        blurred = [blur_head(image) for image in originals.permute(0, 2, 3, 1).numpy()]
        originals = torch.from_numpy(np.stack(blurred)).permute(0, 3, 1, 2)
    draws = [datamodule.augment(originals / 255) for _ in range(num_draws)]
    columns = [(draw.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy() for draw in draws]
    return plots.augmentation_sheet(list(originals.permute(0, 2, 3, 1).numpy()), list(zip(*columns, strict=True)))


def _injected() -> list[str]:
    """The names in the cell that papermill put into the notebook that runs this, if it did."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    cells = [cell for cell in shell.user_ns.get("In", []) if cell.startswith("# Parameters\n")] if shell else []
    statements = [statement for cell in cells[-1:] for statement in ast.parse(cell).body]
    targets = [target for s in statements if isinstance(s, ast.Assign) for target in s.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
