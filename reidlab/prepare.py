"""Stage `data`: read a data set, name what is wrong with it, and show what is in it."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from reidlab import plots
from reidlab.config import instantiate, run_folder
from reidlab.data import ClassDataModule, ReidDataModule, read_image
from reidlab.errors import InputError
from reidlab.runs import write_atomic
from reidlab.show import print_table, save_figure

FINDINGS_PRINTED = 5  # of each kind
SIZES_DRAWN = 5000


def run(cfg) -> Path:
    """Validate a run's data and write summary, findings and pictures into its `data` folder, which is returned.

    Raises InputError, after everything is written, where a finding is an error.
    """
    folder = run_folder(cfg) / "data"
    datamodule = instantiate(cfg.data)
    samples = datamodule.samples
    table = datamodule.summary()
    print_table(table, f"{datamodule.name}: {samples.root}")
    for note in samples.notes:
        print(f"note: {note}")
    findings = datamodule.validate()
    found = pd.DataFrame(findings, columns=["level", "kind", "where", "message"])
    _print_findings(found)
    write_atomic(folder / "summary.csv", table.to_csv())
    write_atomic(folder / "samples.csv", samples.table.to_csv(index=False))
    write_atomic(folder / "findings.csv", found.to_csv(index=False))
    errors = found[found["level"] == "error"]
    if len(errors):
        more = f" (and {len(errors) - 1} more errors, see {folder / 'findings.csv'})" if len(errors) > 1 else ""
        raise InputError(f"{errors.iloc[0]['where']}: {errors.iloc[0]['message']}{more}")
    _draw(datamodule, folder)
    print(f"data: {folder}")
    return folder


def _print_findings(found: pd.DataFrame) -> None:
    for (level, kind), rows in found.groupby(["level", "kind"]):
        for row in rows.head(FINDINGS_PRINTED).itertuples():
            print(f"{level}: {row.where}: {row.message}")
        if len(rows) > FINDINGS_PRINTED:
            print(f"{level}: ... {len(rows)} of the kind '{kind}' in all")


def _draw(datamodule: ReidDataModule, folder: Path) -> None:
    samples, classes = datamodule.samples, isinstance(datamodule, ClassDataModule)
    noun, plural = ("class", "classes") if classes else ("identity", "identities")
    train = samples.split("train")
    sheet = plots.identity_sheet(
        train if len(train) else samples.table, lambda path: read_image(samples.root / path), names=samples.names
    )
    save_figure(sheet, folder / f"{plural}.png")
    save_figure(plots.images_per_identity(samples.table, noun, plural), folder / f"images_per_{noun}.png")
    files = samples.files()[:: -(-len(samples.table) // SIZES_DRAWN)]
    sizes = np.array([Image.open(file).size for file in files])
    save_figure(plots.image_sizes(sizes, datamodule.size), folder / "sizes.png")
