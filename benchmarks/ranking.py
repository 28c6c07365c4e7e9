"""Time and memory of the ranking against the bare matrix product of the same features, and against other evaluators.

    python benchmarks/ranking.py                                        # Market-1501's shape
    python benchmarks/ranking.py --shape market1501 msmt17 market+500k --json ranking.json
    python benchmarks/ranking.py --torchreid DIR --fastreid DIR --rerank  # checkouts, on the same input

Two products are the floor: `q @ g.T` in one piece, and in blocks into one reused buffer, which needs no fresh memory.
Every round times all of them in turn, so that other load on the machine meets them alike; figures are medians. Memory
is the growth of the resident set over what the features hold, watched in a round of its own. A checkout's Cython
evaluator is built in a temporary folder if Cython and a compiler are there, else its Python one runs (minutes).
"""

import argparse
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from reidlab.errors import refusing
from reidlab.metrics import rank, rank_reranked, rerank
from reidlab.metrics.closeness import block_rows

DIM = 512
MIB = 2**20


class Shape(NamedTuple):
    """How many of each; `distractors` are the gallery items of nobody."""

    num_query: int
    num_gallery: int
    distractors: int
    identities: int
    cameras: int


SHAPES = {
    "market1501": Shape(3368, 15913, 2798, 750, 6),
    "msmt17": Shape(11659, 82161, 0, 3060, 15),
    "market+500k": Shape(3368, 515913, 502798, 750, 6),
}


class World(NamedTuple):
    """The arguments of `rank`."""

    query: Tensor
    gallery: Tensor
    query_pids: Tensor
    gallery_pids: Tensor
    query_camids: Tensor
    gallery_camids: Tensor


class Cost(NamedTuple):
    """Wall time and growth of the resident set."""

    seconds: float
    mib: float


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": f"{platform.processor() or platform.machine()}, {options.threads} threads"}
    print(f"{report['machine']}; torch {torch.__version__}; {options.features} features of {DIM} numbers")
    for name in options.shape:
        world = generate(SHAPES[name], options.features)
        report[name] = {"ours": compare_with_products(name, world, options.repeats)}
        for library, checkout in (("torchreid", options.torchreid), ("fastreid", options.fastreid)):
            if checkout:
                report[name][library] = compare_with_library(library, checkout, world, options.repeats)
        if options.rerank:
            report[name]["rerank"] = time_reranking(world, options.torchreid)
        del world
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["market1501"])
    parser.add_argument("--features", choices=("clustered", "random"), default="clustered")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rerank", action="store_true", help="also time k-reciprocal re-ranking")
    parser.add_argument("--torchreid", type=Path, metavar="DIR", help="a checkout of deep-person-reid")
    parser.add_argument("--fastreid", type=Path, metavar="DIR", help="a checkout of fast-reid")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser.parse_args()


def generate(shape: Shape, features: str) -> World:
    """Unit vectors: around one centre per identity (mAP near 90 %, as a good network's), or of no one at all."""
    draw = torch.Generator().manual_seed(0)
    query_pids = torch.randint(1, shape.identities + 1, (shape.num_query,), generator=draw)
    gallery_pids = torch.randint(1, shape.identities + 1, (shape.num_gallery,), generator=draw)
    gallery_pids[torch.randperm(shape.num_gallery, generator=draw)[: shape.distractors]] = 0
    centre = normalize(torch.randn(shape.identities + 1, DIM, generator=draw)) * (DIM**0.5 * (features == "clustered"))

    def embed(pids: Tensor) -> Tensor:
        embeddings = torch.randn(len(pids), DIM, generator=draw)
        embeddings *= 1.5 * torch.exp(0.5 * torch.randn(len(pids), 1, generator=draw))  # some images are poor
        for part, centres in zip(embeddings.split(4096), pids.split(4096), strict=True):
            part += centre[centres] * (centres > 0)[:, None]
            part /= part.norm(dim=1, keepdim=True)
        return embeddings

    cameras = (torch.randint(1, shape.cameras + 1, (n,), generator=draw) for n in (shape.num_query, shape.num_gallery))
    return World(embed(query_pids), embed(gallery_pids), query_pids, gallery_pids, *cameras)


def compare_with_products(name: str, world: World, repeats: int) -> dict:
    """Our ranking beside both bare products."""
    contenders = {"product": bare_product, "product in blocks": blocked_product, "reidlab": lambda w: rank(*w)}
    if len(world.query) * len(world.gallery) * 4 > 5 * 2**30:
        del contenders["product"]
    costs, results = rounds({label: lambda run=run: run(world) for label, run in contenders.items()}, repeats)
    summary = results["reidlab"].summary()
    print(f"\n{name}: {len(world.query):,} x {len(world.gallery):,}, mAP {summary['mAP']:.4f}")
    for label, cost in costs.items():
        ratios = [f"{costs['reidlab'].seconds / cost.seconds:5.2f} x" if label != "reidlab" else ""]
        print_row(label, cost, *ratios)
    return {label: cost._asdict() for label, cost in costs.items()} | {"summary": summary}


def bare_product(world: World) -> None:
    _ = world.query @ world.gallery.T


def blocked_product(world: World) -> None:
    rows = block_rows(len(world.gallery))
    buffer = torch.empty(rows, len(world.gallery))
    for part in world.query.split(rows):
        torch.mm(part, world.gallery.T, out=buffer[: len(part)])


def compare_with_library(library: str, checkout: Path, world: World, repeats: int) -> dict:
    """Their evaluator, distances included, beside ours; the figures must agree."""
    evaluate, kind = load_evaluator(library, checkout)
    if kind == "Python":
        repeats = 1
    label = f"{library}, {kind}"
    costs, results = rounds({label: lambda: evaluate(world), "reidlab": lambda: rank(*world)}, repeats)
    theirs, ours = results[label], results["reidlab"].summary()
    apart = max(abs(theirs[key] - ours[key]) for key in theirs)
    times = costs[label].seconds / costs["reidlab"].seconds
    print_row(label, costs[label], f"{times:.1f} x the time of reidlab ({costs['reidlab'].seconds:.2f} s)")
    print(f"{'':22}figures differ by at most {apart:.1e} ({', '.join(theirs)})")
    if apart > 1e-4:
        raise SystemExit(f"{label}: the figures do not agree: {theirs} and {ours}")
    return {"kind": kind, "times": times, "apart": apart} | {name: cost._asdict() for name, cost in costs.items()}


def load_evaluator(library: str, checkout: Path) -> tuple[Callable[[World], dict[str, float]], str]:
    """A function of a world that returns figures under our names, and whether it is Cython or Python."""
    package, distances = {
        "torchreid": ("torchreid.metrics", ("torchreid.metrics.distance", "compute_distance_matrix")),
        "fastreid": ("fastreid.evaluation", ("fastreid.utils.compute_dist", "build_dist")),
    }[library]
    stub_packages(checkout, package, distances[0])
    extension = build_extension(checkout / package.replace(".", "/") / "rank_cylib" / "rank_cy.pyx")
    if extension:
        sys.modules[f"{package}.rank_cylib.rank_cy"] = extension
        stub_packages(checkout, f"{package}.rank_cylib.rank_cy")
    ranking = importlib.import_module(f"{package}.rank")
    distance = getattr(importlib.import_module(distances[0]), distances[1])

    def evaluate(world: World) -> dict[str, float]:
        matrix = np.asarray(distance(world.query, world.gallery, "euclidean"))
        ids = (world.query_pids, world.gallery_pids, world.query_camids, world.gallery_camids)
        cmc, precision, *penalty = ranking.evaluate_rank(matrix, *(i.numpy() for i in ids), max_rank=20)
        figures = {"mAP": float(np.mean(precision)), **{f"rank-{k}": float(cmc[k - 1]) for k in (1, 5, 10, 20)}}
        return figures | ({"mINP": float(np.mean(penalty[0]))} if penalty else {})

    return evaluate, "Cython" if extension else "Python"


def stub_packages(checkout: Path, *modules: str) -> None:
    """Make the parents of these modules importable without running them, which would want all their requirements."""
    for module in modules:
        parents = module.split(".")[:-1]
        for depth in range(1, len(parents) + 1):
            package = types.ModuleType(".".join(parents[:depth]))
            package.__path__ = [str(checkout.joinpath(*parents[:depth]))]
            sys.modules.setdefault(package.__name__, package)


def build_extension(source: Path) -> types.ModuleType | None:
    """Compile a .pyx in a temporary folder, which is left to the system to clean; None if that can't be done."""
    folder = Path(tempfile.mkdtemp(prefix="ranking-"))
    target = folder / source.name
    target.write_text(source.read_text().replace("long[:]", "long long[:]"))
    flags = os.environ | {"CFLAGS": f"-O3 -w -I{np.get_include()}"}
    command = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", str(target)]
    build = subprocess.run(command, cwd=folder, env=flags, capture_output=True, text=True, check=False)
    built = list(folder.glob("**/rank_cy*.so"))
    if build.returncode or not built:
        print(f"{source}: can't be built: {(build.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return None
    spec = importlib.util.spec_from_file_location("rank_cy", built[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def time_reranking(world: World, torchreid: Path | None) -> dict:
    """Our re-ranking, and torchreid's with the distances that it wants (8.9 GB at Market-1501's shape)."""
    contenders = {"reidlab, re-ranked": lambda: rank_reranked(*world)}
    if torchreid and len(world.gallery) < 20_000:
        stub_packages(torchreid, "torchreid.utils.rerank")
        dense = importlib.import_module("torchreid.utils.rerank").re_ranking
        contenders["torchreid re_ranking"] = lambda: dense(
            *(
                torch.cdist(a, b).numpy()
                for a, b in zip(world[:1] * 2 + world[1:2], world[1:2] + world[:2], strict=True)
            )
        )
    costs, results = rounds(contenders, 1)
    for label, cost in costs.items():
        print_row(label, cost)
    report = {label: cost._asdict() for label, cost in costs.items()}
    report["summary"] = results["reidlab, re-ranked"].summary()
    print(f"{'':22}mAP {report['summary']['mAP']:.4f}")
    if "torchreid re_ranking" in results:
        theirs, start, apart = torch.from_numpy(results["torchreid re_ranking"]), 0, []
        for ours in rerank(world.query, world.gallery):
            apart.append((ours - theirs[start : start + len(ours)]).abs().flatten())
            start += len(ours)
        apart = torch.cat(apart)
        report["apart"] = {"largest": apart.max().item(), "share over 1e-5": (apart > 1e-5).float().mean().item()}
        print(f"{'':22}distances differ by {report['apart']}")
    return report


def rounds(contenders: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Cost], dict[str, Any]]:
    """Run all in turn: once for memory, then `repeats` times for time, of which the median counts; and the results."""
    results, mib, seconds = {}, {}, {label: [] for label in contenders}
    for label, run in contenders.items():
        results[label], mib[label] = watched(run)
    for _ in range(repeats):
        for label, run in contenders.items():
            begin = time.perf_counter()
            run()
            seconds[label].append(time.perf_counter() - begin)
    return {label: Cost(median(seconds[label]), mib[label]) for label in contenders}, results


def watched(run: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and by how many MiB the resident set rose above what it was (looked at every 5 ms)."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # so that memory freed earlier is not there to be used unseen
    before, peak, over = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    result = run()
    over.set()
    watcher.join()
    return result, max(peak - before, 0) / MIB


def resident() -> int:
    """Bytes of this process in memory; 0 where /proc isn't there to tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def print_row(label: str, cost: Cost, note: str = "") -> None:
    print(f"{label:22}{cost.seconds:9.2f} s {cost.mib:9.0f} MiB   {note}", flush=True)


if __name__ == "__main__":
    with refusing():
        main()
