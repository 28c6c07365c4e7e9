"""What a student gains from its teacher, over several seeds, on the demo's people.

    python benchmarks/distillation.py                      # teacher; student from scratch and distilled, seeds 0 to 2
    python benchmarks/distillation.py --csv data/distillation_results.csv trainer.precision=bf16-mixed
    python benchmarks/distillation.py --seeds 0 --distilled distill.temperature=8 --name hotter
    python benchmarks/distillation.py --keep data/models trainer.precision=bf16-mixed

Overrides are for all runs, those after `--distilled` for the distilled student's alone. Seeds change initial weights
and augmentation; the teacher and the division of the identities stay. All runs are kept in `runs/`, and the same
command goes on where it was stopped; `--keep` copies the weights of the teacher and of the first seed's distilled
student to a folder, in float16. Those in `data/` are of the demo's recipe at commit 04b99de, of 16 epochs. The interval
of a seed's gain is over test identities, that of the mean gain is Student's t over the seeds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from kept import keep
from scipy import stats

from reidlab.console import log, print_table
from reidlab.errors import InputError
from reidlab.files import write_atomic
from reidlab.run import File, Row, Run, provenance
from reidlab.stages import evaluate, train

CARD = """# {network}, trained on drawn people

Finds people again: crops of {size} pixels. Notebooks 04 and 05 start from it.

mAP {mean_ap:.3f} for {queries} queries of the demo's test people, whom no training saw. Trained on {people} of its
other people for {epochs} epochs, seed {seed}{taught}. Weights in float16. Apache-2.0.

Made by `python benchmarks/distillation.py --keep data/models trainer.precision=bf16-mixed`.
"""
FEWER = ["evaluate.baselines=[]", "logger=csv"]


def main(argv: list[str] | None = None) -> int:
    """Train and score what isn't yet, print the table, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", default="distilled", help="what the names of the distilled runs begin with")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    parser.add_argument("--keep", type=Path, help="copy the teacher's and the first distilled student's weights here")
    parser.add_argument("--distilled", nargs="+", default=[], help="Hydra overrides of the distilled student alone")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of all runs")
    args = parser.parse_args(argv)
    try:
        table = compare(args.seeds, args.name, args.overrides, args.distilled)
        if args.keep:
            for name in ("demo_teacher", f"{args.name}_{args.seeds[0]}"):
                keep_network(Run(name), args.keep)
    except InputError as error:
        print(f"distillation: {error}", file=sys.stderr)
        return 2
    print_table(table, "mAP of the teacher, of the student from scratch, and distilled")
    if args.csv:
        write_atomic(args.csv, table.round(4).assign(commit=provenance()["git_commit"]).to_csv())
    return 0


def compare(seeds: list[int], name: str, overrides: list[str], distilled_overrides: list[str]) -> pd.DataFrame:
    """One row a seed, then their mean: mAP of teacher, scratch and distilled, the gain and its 95 % interval."""
    teacher, rows = scored("demo_teacher", "demo_teacher", 0, *overrides), {}
    for seed in seeds:
        scratch = scored("demo", f"scratch_{seed}", seed, *overrides)
        taught = [*overrides, *distilled_overrides, f"evaluate.against={scratch.name}"]
        distilled = scored("demo_distilled", f"{name}_{seed}", seed, *taught)
        against = pd.read_csv(distilled / File.EVALUATE / Row.CHECKPOINT / f"against_{scratch.name}.csv", index_col=0)
        rows[seed] = [mean_ap(teacher), mean_ap(scratch), mean_ap(distilled), *against.loc["mAP"].iloc[:3]]
    table = pd.DataFrame.from_dict(rows, "index", columns=["teacher", "scratch", "distilled", "gain", "low", "high"])
    if len(seeds) > 1:
        gains = table["gain"]
        low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), gains.sem())
        table.loc["mean"] = [*table[["teacher", "scratch", "distilled", "gain"]].mean(), low, high]
    return table.astype(np.float64).rename_axis("seed")


def scored(experiment: str, name: str, seed: int, *overrides: str) -> Run:
    """A run, trained if it wasn't, and evaluated."""
    log.info(f"== {name}")
    given = [f"experiment={experiment}", f"run.name={name}", f"seed={seed}", "data.seed=0", *FEWER, *overrides]
    return evaluate.run(train.run(Run.compose(given)))


def keep_network(run: Run, root: Path) -> None:
    """Keep a run with a card."""
    figures, trained, name = run.results[Row.CHECKPOINT].figures, run.training, run["model.name"]
    card = CARD.format(
        network=name,
        size=" x ".join(map(str, run["data.size"])),
        mean_ap=figures["mAP"],
        queries=figures["num_query"],
        people=trained["num_identities"],
        epochs=trained["epochs"],
        taught=", distilled from OSNet x1.0" if run["distill"] else "",
        seed=run["seed"],
    )
    keep(run, root / f"demo_{name}", (Row.CHECKPOINT,), card, half=True)


def mean_ap(run: Run) -> float:
    return run.results[Row.CHECKPOINT].figures["mAP"]


if __name__ == "__main__":
    sys.exit(main())
