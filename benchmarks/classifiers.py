"""The four classifiers of a data set, trained, evaluated and quantized for several seeds; a row each, and their means.

    python benchmarks/classifiers.py data.root=FLOWERS                     # seeds 0 and 1; hours on a CPU
    python benchmarks/classifiers.py --seeds 0 --csv data/flowers_results.csv data.root=FLOWERS
    python benchmarks/classifiers.py --finished --keep data/models data.root=FLOWERS   # what is trained alone
    python benchmarks/classifiers.py --recipe plant_leaves --csv data/plant_leaves_results.csv data.root=LEAVES

Accuracies are top-1 on the test split, which is used for no training and not to choose the way to int8; intervals
(95 %) are over its images. A seed changes the classifier's initial weights, order and augmentation; splits and
pretrained backbones (`pretrained.py`) stay. Runs are kept in `runs/`; the same command goes on where it was stopped.
The networks at 224 go on from those at 128, of the same seed. `--keep` copies the int8 .tflite and the weights of the
first seed to a folder.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
from kept import keep

from reidlab.console import log, print_table
from reidlab.errors import InputError
from reidlab.files import write_atomic
from reidlab.metrics import share_interval
from reidlab.run import File, Row, Run, provenance
from reidlab.stages import evaluate, quantize, train

NETWORKS = ("fdmobilenet_x0_25", "st_fdmobilenet_v1")
SIDES = (128, 224)
BEFORE = {224: 128}  # what goes on from what
CARD = """# {name}

Classifies {classes}: {network}, {side} x {side} pixels.
An int8 .tflite from raw pixels to confidences, and the float weights.

Top-1 accuracy on {images:.0f} test photographs that training didn't see: int8 {int8:.1%}
(95 % interval {low:.1%} to {high:.1%}), float {float:.1%}.
The way to int8, {method}, was chosen on photographs of the {chosen_on} split.
Trained on all the others for {epochs} epochs, going on from {before}; seed {seed}{teacher}.

    reidlab predict picture.jpg experiment={name} run.root=data/models

Made by `python benchmarks/classifiers.py --recipe {recipe} --seeds {seed} --networks {network} --keep data/models
data.root=DIR`.
"""


def main(argv: list[str] | None = None) -> int:
    """Do what isn't done yet, print the table, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="flowers", choices=("flowers", "plant_leaves"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--finished", action="store_true", help="train nothing: only runs whose training has ended")
    parser.add_argument("--csv", type=Path, help="write the table here too")
    parser.add_argument("--keep", type=Path, help="copy the first seed's models to this folder")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of all runs")
    args = parser.parse_args(argv)
    rows = []
    try:
        for seed in args.seeds:
            for side in args.sides:
                for network in args.networks:
                    run = composed(args.recipe, network, side, seed, args.overrides)
                    if args.finished and not run.training.get("finished"):
                        continue
                    if side in BEFORE and not args.finished:
                        train.run(composed(args.recipe, network, BEFORE[side], seed, args.overrides))
                    rows.append({"network": network, "side": side, "seed": seed, **figures(run)})
                    if args.keep and seed == args.seeds[0]:
                        keep_classifier(run, args.recipe, args.keep, rows[-1])
    except InputError as error:
        print(f"classifiers: {error}", file=sys.stderr)
        return 2
    if not rows:
        print("classifiers: no training has ended", file=sys.stderr)
        return 2
    table = with_means(pd.DataFrame(rows))
    print_table(table.set_index(["network", "side", "seed"]), "top-1 accuracy on the test split")
    if args.csv:
        write_atomic(args.csv, table.round(4).assign(commit=provenance()["git_commit"]).to_csv(index=False))
    return 0


def composed(recipe: str, network: str, side: int, seed: int, overrides: list[str]) -> Run:
    """One run, named after its seed."""
    name = f"{recipe}_{network}_{{}}_s{seed}"
    start = [f"model.weights=runs/{name.format(BEFORE[side])}/{File.BEST}"] if side in BEFORE else []
    own = [f"experiment={recipe}_{network}_{side}", f"run.name={name.format(side)}", f"seed={seed}"]
    return Run.compose([*own, *start, "logger=csv", "quantize.formats=[tflite]", *overrides])


def figures(run: Run) -> dict[str, float | str]:
    """`figures_of` a run, which is trained, evaluated and quantized first, as far as that isn't done."""
    log.info(f"== {run.name}")
    train.run(run)
    for stage, row in ((evaluate, Row.CHECKPOINT), (quantize, Row.TFLITE_INT8)):
        if row not in run.results:
            stage.run(run)
    return figures_of(run)


def figures_of(run: Run) -> dict[str, float | str]:
    """Accuracies of a finished run as shares, the file's size, and what the way to int8 is and was chosen on."""
    fp32, int8 = run.results[Row.CHECKPOINT].figures, run.results[Row.TFLITE_INT8].figures
    count = int(int8["num_images"])
    interval = share_interval(round(int8["top-1"] * count), count)
    found = {"images": int8["num_images"], "float": fp32["top-1"], "int8": int8["top-1"]}
    found |= {"low": interval.low, "high": interval.high, "size_kib": int8["size_kib"]}
    made = run.table_of(File.PARITY).iloc[0]
    return {"epochs": run.training["epochs"], **found, "method": made["method"], "chosen_on": made["chosen_on"]}


def with_means(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a row for the mean over the seeds of each network and side, where there are two or more."""
    means = []
    for (network, side), rows in table.groupby(["network", "side"], sort=False):
        if len(rows) > 1:
            mean = rows.mean(numeric_only=True)
            interval = share_interval(round(mean["int8"] * mean["images"]), int(mean["images"]))
            means.append({**mean, "network": network, "side": side, "seed": "mean", "low": interval.low,
                          "high": interval.high})  # fmt: skip
    return pd.concat([table, pd.DataFrame(means)], ignore_index=True) if means else table


def keep_classifier(run: Run, recipe: str, models: Path, row: dict) -> None:
    """Keep a run, and its int8 .tflite."""
    network, side = row["network"], row["side"]
    folder = models / f"{recipe}_{network}_{side}"
    before = f"{recipe}_{network}_{BEFORE[side]}" if side in BEFORE else f"pretrained_{network}"
    teacher = ", distilled from EfficientNet-Lite0" if run["distill"] else ""
    about = {"name": folder.name, "recipe": recipe, "before": before, "teacher": teacher}
    card = CARD.format(**row, **about, classes=", ".join(run.classes))
    keep(run, folder, (Row.CHECKPOINT, Row.TFLITE, Row.TFLITE_INT8), card)
    write_atomic(folder / File.TFLITE_INT8, (run / File.TFLITE_INT8).read_bytes())


if __name__ == "__main__":
    sys.exit(main())
