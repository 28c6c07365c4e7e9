"""Stage `data`: read a data set, name what is wrong with it, and show what is in it."""

import numpy as np
import pandas as pd

from reidlab import plots
from reidlab.console import log, print_table
from reidlab.data import ImageDataModule
from reidlab.data.images import read_size
from reidlab.errors import InputError
from reidlab.files import storage_errors
from reidlab.plots.saving import save_figure
from reidlab.run import File, Run

FINDINGS_PRINTED = 5  # of each kind
SIZES_DRAWN = 5000


@storage_errors()
def run(run: Run) -> Run:
    """Validate a run's data and write summary, findings and pictures into its `data` folder.

    Raises InputError, after everything is written, where a finding is an error.
    """
    datamodule = run.datamodule()
    samples, table = datamodule.samples, datamodule.summary()
    run.keep_config()
    print_table(table, f"{datamodule.name}: {samples.root}")
    for note in samples.notes:
        log.info(f"note: {note}")
    found = pd.DataFrame(datamodule.validate(), columns=["level", "kind", "where", "message"])
    _print_findings(found)
    run.write(File.DATA_SUMMARY, table.to_csv())
    shown = samples.labeled(samples.table).rename(columns={"pid": "label"} if run.is_classifier else {})
    run.write(File.DATA_SAMPLES, shown.to_csv(index=False))
    findings = run.write(File.DATA_FINDINGS, found.to_csv(index=False))
    errors = found[found["level"] == "error"]
    if len(errors):
        more = f" (and {len(errors) - 1} more errors, see {findings})" if len(errors) > 1 else ""
        raise InputError(f"{errors.iloc[0]['where']}: {errors.iloc[0]['message']}{more}")
    _draw(run, datamodule)
    log.info(f"data: {run / File.DATA}")
    return run


def _print_findings(found: pd.DataFrame) -> None:
    for (level, kind), rows in found.groupby(["level", "kind"]):
        for row in rows.head(FINDINGS_PRINTED).itertuples():
            log.info(f"{level}: {row.where}: {row.message}")
        if len(rows) > FINDINGS_PRINTED:
            log.info(f"{level}: ... {len(rows)} of the kind '{kind}' in all")


def _draw(run: Run, datamodule: ImageDataModule) -> None:
    samples, folder = datamodule.samples, run / File.DATA
    one, several = ("class", "classes") if run.is_classifier else ("identity", "identities")
    train = samples.split("train")
    sheet = plots.identity_sheet(
        train if len(train) else samples.table,
        lambda path: run.picture(samples.root / path),
        names=samples.names,
        cameras=samples.cameras,
    )
    save_figure(sheet, folder / f"{several}.png")
    save_figure(plots.images_per_identity(samples.table, one, several), folder / f"images_per_{one}.png")
    files = samples.files()[:: -(-len(samples.table) // SIZES_DRAWN)]
    sizes = np.array([read_size(file)[::-1] for file in files])
    save_figure(plots.image_sizes(sizes, datamodule.size), folder / "sizes.png")
