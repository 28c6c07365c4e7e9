"""How long commands take to start, as processor time and wall-clock time, beside those of an earlier commit.

    python benchmarks/commands.py [--before COMMIT] [--rounds 3]
    python benchmarks/commands.py --quantize data/models/demo_osnet_x0_25 experiment=demo [--before COMMIT] [--rounds 1]

With `--quantize` it is the whole `reidlab quantize` of a copy of a run, with the data sets of this workspace.
Every figure is the median of its rounds, in which now and before take turns. Processor time (user and system, children
included) hardly changes on a busy machine; wall-clock time does.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from reidlab.console import print_table
from reidlab.places import root

ROOT = Path(__file__).parents[1]
CLI = "import sys; from reidlab.cli import main; sys.argv = ['reidlab', *sys.argv[1:]]; sys.exit(main())"
ASKED = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": os.devnull}
LINES = ("reidlab ev", "reidlab evaluate model=", "reidlab train optimizer.")
STAGES = ("matrix", "data", "evaluate", "predict", "export", "quantize", "deploy", "report", "train")
STARTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "python alone": (["-c", "pass"], {}),
    "import torch": (["-c", "import torch"], {}),
    "--help": (["-c", CLI, "--help"], {}),
    "evaluate --help": (["-c", CLI, "evaluate", "--help"], {}),
    "doctor": (["-c", CLI, "doctor"], {}),
    **{f"TAB: {line}": (["-c", CLI], ASKED | {"COMP_LINE": line, "COMP_POINT": str(len(line))}) for line in LINES},
    **{f"imports of {stage}": (["-c", f"from reidlab.stages import {stage}"], {}) for stage in STAGES},
}


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="one to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantize", metavar="RUN", help="the folder of a run; overrides may follow")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        starts = quantizing(Path(folder), Path(args.quantize), args.overrides) if args.quantize else STARTS
        trees = {"now": ROOT}
        if args.before:
            trees["before"] = Path(folder) / "before"
            git("worktree", "add", "--detach", str(trees["before"]), args.before)
        try:
            rows = [(start, tree, *cost(*starts[start], place)) for _ in range(args.rounds)
                    for start in starts for tree, place in trees.items()]  # fmt: skip
        finally:
            if args.before:
                git("worktree", "remove", "--force", str(trees["before"]))
    found = pd.DataFrame(rows, columns=["start", "tree", "processor_s", "wall_s"])
    table = found.groupby(["start", "tree"], sort=False).median().unstack("tree")
    table.columns = [f"{figure} {tree}" for figure, tree in table.columns]
    if args.before:
        for figure in ("processor_s", "wall_s"):
            table[f"{figure} now / before"] = table[f"{figure} now"] / table[f"{figure} before"]
    print_table(table, "seconds to start")
    return 0


def quantizing(workspace: Path, run: Path, overrides: list[str]) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The command that quantizes a copy of a run, in a workspace with this one's data."""
    (workspace / "conf" / "experiment").mkdir(parents=True)
    (workspace / "data").symlink_to(root() / "data")
    shutil.copytree(run, workspace / "runs" / run.name)
    return {"quantize": (["-c", CLI, "quantize", f"run.name={run.name}", *overrides], {"REIDLAB_ROOT": str(workspace)})}


def cost(arguments: list[str], more: dict[str, str], tree: Path) -> tuple[float, float]:
    """Processor seconds, its children's too, and wall-clock seconds of one start."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=tree, env=os.environ | more | {"PYTHONPATH": str(tree)},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check="quantize" in arguments)  # fmt: skip
    after, wall = os.times(), time.perf_counter() - began
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
