"""How long commands take to start, as processor time and wall-clock time, beside those of an earlier commit.

    python benchmarks/commands.py [--before COMMIT] [--rounds 3]
    python benchmarks/commands.py --run data/models/demo_osnet_x0_25 --stages evaluate quantize -- experiment=demo
    python benchmarks/commands.py --images 50000 [--before COMMIT] [--rounds 1]
    python benchmarks/commands.py --demo [--before COMMIT]

With `--run` it is whole stages, of a copy of the run, with the data sets of this workspace. With `--images` it is the
whole `reidlab data` on so many images of 128x64 in Market-1501's layout, and the reading of a table of ten times as
many rows, each of a file that is there. With `--demo` it is the demo to its export, once, in a fresh checkout of the
last commit: the people drawn, a network trained, scored and exported.
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

import cv2
import numpy as np
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
    parser.add_argument("--run", type=Path, help="the folder of a run; overrides may follow")
    parser.add_argument("--stages", nargs="+", default=["quantize"], help="of that run")
    parser.add_argument("--images", type=int, metavar="COUNT", help="let `data` read so many")
    parser.add_argument("--demo", action="store_true", help="run the demo once, from nothing to its export")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        starts = STARTS
        if args.run:
            starts = working(Path(folder), args.run, args.stages, args.overrides)
        elif args.images:
            starts = reading(Path(folder), args.images)
        elif args.demo:
            starts, args.rounds = {"the demo": (["-c", CLI, "run", "experiment=demo"], {})}, 1
        trees, commits = {"now": ROOT}, {"now": "HEAD"} if args.demo else {}
        if args.before:
            commits["before"] = args.before
        for tree, commit in commits.items():
            trees[tree] = Path(folder) / tree
            git("worktree", "add", "--detach", str(trees[tree]), commit)
        try:
            rows = [(start, tree, *cost(*starts[start], place)) for _ in range(args.rounds)
                    for start in starts for tree, place in trees.items()]  # fmt: skip
        finally:
            for tree in commits:
                git("worktree", "remove", "--force", str(trees[tree]))
    found = pd.DataFrame(rows, columns=["start", "tree", "processor_s", "wall_s"])
    table = found.groupby(["start", "tree"], sort=False).median().unstack("tree")
    table.columns = [f"{figure} {tree}" for figure, tree in table.columns]
    if args.before:
        for figure in ("processor_s", "wall_s"):
            table[f"{figure} now / before"] = table[f"{figure} now"] / table[f"{figure} before"]
    print_table(table, "seconds")
    return 0


def working(
    workspace: Path, run: Path, stages: list[str], overrides: list[str]
) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Stages of a copy of a run, in a workspace with this one's data."""
    (workspace / "conf" / "experiment").mkdir(parents=True)
    (workspace / "data").symlink_to(root() / "data")
    shutil.copytree(run, workspace / "runs" / run.name)
    given = [f"run.root={workspace / 'runs'}", f"run.name={run.name}", *overrides]
    return {stage: (["-c", CLI, stage, *given], {"REIDLAB_ROOT": str(workspace)}) for stage in stages}


def reading(workspace: Path, count: int) -> dict[str, tuple[list[str], dict[str, str]]]:
    """The commands that read images in folders, 20 of each identity, and a table of links to them."""
    people, listed = workspace / "people", workspace / "listed"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (people / split).mkdir(parents=True)
    noise, rows = np.random.default_rng(0), ["path,pid,camid"]
    for number in range(count):
        pid, camid = number // 20, number % 6 + 1
        split = "bounding_box_train" if pid % 2 else "bounding_box_test" if number % 20 else "query"
        image = cv2.resize(noise.integers(0, 256, (16, 8, 3), np.uint8), (64, 128), interpolation=cv2.INTER_CUBIC)
        file = people / split / f"{pid:06d}_c{camid}s1_{number:06d}_00.jpg"
        cv2.imwrite(str(file), image)
        (listed / f"{pid:06d}").mkdir(parents=True, exist_ok=True)
        for copy in range(10):
            name = f"{pid:06d}/{number:06d}_{copy}.jpg"
            (listed / name).hardlink_to(file)
            rows.append(f"{name},{pid},{camid}")
    (listed / "samples.csv").write_text("\n".join(rows))
    folders = ["data=market1501", f"data.root={people}", f"run.root={workspace}", "run.name=people"]
    table = f"from reidlab.data import CsvSamples; CsvSamples('samples.csv', {str(listed)!r})()"
    return {f"data, {count:,} images": (["-c", CLI, "data", *folders], {}),
            f"reading {10 * count:,} rows": (["-c", table], {})}  # fmt: skip


def cost(arguments: list[str], more: dict[str, str], tree: Path) -> tuple[float, float]:
    """Processor seconds, its children's too, and wall-clock seconds of one start."""
    before, began = os.times(), time.perf_counter()
    completes = "_ARGCOMPLETE" in more
    subprocess.run([sys.executable, *arguments], cwd=tree, env=os.environ | more | {"PYTHONPATH": str(tree)},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=not completes)  # fmt: skip
    after, wall = os.times(), time.perf_counter() - began
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
