"""Images a second of `reidlab predict` into a folder, by several processes beside one.

    python benchmarks/extraction.py runs/demo IMAGES [--processes 1 2] [--repeats 3] [--shard-images 64]

All ways take turns, each into a new folder, which must get the same bytes. A rate is that of the second half of the
files, when all processes have long begun; each has one thread. Give images for a minute or more. Where other programs
use the machine, images for each second of CPU time (the start of the processes included) say what sharing costs.
"""

import argparse
import resource
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import reidlab
from reidlab.console import print_table
from reidlab.errors import refusing
from reidlab.gallery.extraction import PARTS, extract


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder, or a file that `reidlab.load` takes")
    parser.add_argument("images", type=Path, help="a folder, CSV or archive of them")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shard-images", type=int, default=64)
    options = parser.parse_args()
    rates: dict[int, list[float]] = {count: [] for count in options.processes}
    costs: dict[int, list[float]] = {count: [] for count in options.processes}
    contents = set()
    for _ in range(options.repeats):
        for count in options.processes:
            with tempfile.TemporaryDirectory() as place:
                before = cpu_s()
                model, size = partial(reidlab.load, options.run.absolute()), options.shard_images
                done = extract(options.images, Path(place), model, shard_images=size, processes=count)
                parts = sorted(done.folder.glob(PARTS), key=lambda file: file.stat().st_mtime_ns)
                half = len(parts) // 2
                if half < 2 * count:
                    parser.error(f"{done.images} images are {len(parts)} files; give more, or smaller --shard-images")
                seconds = (parts[-1].stat().st_mtime_ns - parts[half].stat().st_mtime_ns) / 1e9
                rates[count].append(size * (len(parts) - 1 - half) / seconds)
                costs[count].append(done.images / (cpu_s() - before))
                contents.add(tuple(file.read_bytes() for file in sorted(parts)))
    assert len(contents) == 1, "the processes don't write the same bytes"
    table, columns = pd.DataFrame(), {"images_per_s": rates, "images_per_cpu_s": costs}
    first = options.processes[0]
    for name, of in columns.items():
        table[name] = pd.Series({count: np.median(found) for count, found in of.items()})
        table[f"{name}, ratio"] = pd.Series({count: np.median(np.divide(f, of[first])) for count, f in of.items()})
    table = table.rename_axis("processes")
    print_table(table, f"{options.run.name}, {done.images} images, {options.repeats} times in turns")


def cpu_s() -> float:
    """CPU time of this process and of those that it has waited for."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


if __name__ == "__main__":
    with refusing():
        main()
