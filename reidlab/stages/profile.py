"""Where the time of `reidlab run --profile` went: a table and a picture in the run folder."""

import pandas as pd

from reidlab import plots
from reidlab.console import log, print_table
from reidlab.plots.saving import save_figure
from reidlab.run import File, Run
from reidlab.timing import Parts


def run(run: Run, spent: Parts, decode_s: float) -> pd.DataFrame:
    """Write and print the table of the seconds of each part of each stage.

    `decode_s` are seconds of the processes that decode images while the training goes on: beside the table, not in it.
    """
    table = time_spent(spent)
    file = run.write(File.PROFILE, table.to_csv())
    save_figure(plots.time_spent(table), file.with_suffix(".png"))
    print_table(table, f"{run.name}: where {table['seconds'].sum():.0f} s went")
    workers = run.datamodule().num_workers
    log.info(f"training images took {decode_s:.1f} s to decode, by {workers} processes beside" if workers else
             f"training images took {decode_s:.1f} s of wait to decode")  # fmt: skip
    log.info(file)
    return table


def time_spent(spent: Parts) -> pd.DataFrame:
    """Columns part, seconds and share of all, a row each part of a stage in the order of their beginning.

    The part `other` is what a stage spends outside of its parts.
    """
    rows = [(stage, " / ".join(parts) or "other", seconds) for (stage, *parts), seconds in spent.seconds.items()]
    table = pd.DataFrame(rows, columns=["stage", "part", "seconds"]).set_index("stage")
    return table.assign(share=table["seconds"] / table["seconds"].sum())
