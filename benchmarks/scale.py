"""Build time, memory, queries a second and recall of galleries of a million and more generated embeddings.

    python benchmarks/scale.py                                       # 1 M x 128, exact, IVF-PQ and HNSW
    python benchmarks/scale.py --rows 10000000 --index ivfpq --effort 16 32 64 --json scale.json
    python benchmarks/scale.py --rows 100000 --server milvus://127.0.0.1:19530/scale qdrant://127.0.0.1:6333/scale

The embeddings have unit length and lie around one center for each identity, ten images each; a query is another image
of an enrolled identity. Exact search is the yardstick of recall@k, and answers fewer queries where it is slow. Each
search runs in a process of its own; memory is its resident set at its highest, pages of mapped files included.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from reidlab.errors import refusing
from reidlab.gallery import Gallery

CHUNK = 262_144
IMAGES = 10  # of an identity
NOISE = 0.7  # length of what differs between two images of one, to a center of length 1
ACTIVE = 32  # directions in which centers lie
K = 10
BATCH = 500  # queries at a time
LIMIT_S = 30.0  # for exact search


def main() -> None:
    options = arguments()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gallery-"))
    report: dict[str, Any] = {"rows": options.rows, "dim": options.dim, "precision": options.precision}
    try:
        report["enroll"] = apart(enroll, folder, options.rows, options.dim, options.precision)
        print_row("enroll", report["enroll"])
        report["exact"], positions = apart(search, folder, options, None)
        print_row("exact", report["exact"])
        for kind in options.index:
            report[kind] = {"build": apart(build, folder, kind)}
            print_row(f"{kind}: build", report[kind]["build"])
            for effort in options.effort or {"ivfpq": (16, 32, 64), "hnsw": (200, 400)}[kind]:
                found, theirs = apart(search, folder, options, effort)
                count = min(len(positions), len(theirs))
                hits = (theirs[:count, :, None] == positions[:count, None]).any(1)
                found |= {f"recall@{k}": float(hits[:, :k].mean()) for k in (1, K)} | {"compared": count}
                report[kind][effort] = found
                print_row(f"{kind}: effort {effort}", found)
        for url in options.server:
            report[url] = apart(on_server, url, options)
            print_row(url.partition(":")[0], report[url])
    finally:
        if not options.folder:
            shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--precision", choices=("int8", "float16"), default="int8")
    parser.add_argument("--index", nargs="*", choices=("ivfpq", "hnsw"), default=["ivfpq", "hnsw"])
    parser.add_argument("--effort", type=int, nargs="+", help="cells searched, or length of the candidate list")
    parser.add_argument("--server", nargs="*", default=[], metavar="URL", help="collections that are empty, or absent")
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--folder", type=Path, help="keep the gallery here; default: a temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser.parse_args()


def apart(call: Any, *args: Any) -> Any:
    """The result of a function in a process of its own, whose memory is then its alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, args)


def opened(place: Path | str, precision: str | None = None) -> Gallery:
    model = SimpleNamespace(name="generated", checkpoint="0" * 16, size=(1, 1), distance="cosine", verdict={})
    return Gallery.open(place, model, precision=precision, template="best")


def draw(rows: np.ndarray, image: int, dim: int) -> np.ndarray:
    """Image number `image` of the identity of each row: unit vectors (n, dim)."""
    basis = np.random.default_rng(0).standard_normal((ACTIVE, dim)).astype(np.float32) / dim**0.5
    identity = rows // IMAGES
    numbers = np.unique(identity)
    centers = np.stack([np.random.default_rng(int(i)).standard_normal(ACTIVE, np.float32) for i in numbers])
    centers = centers @ basis
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    noise = np.random.default_rng([int(rows[0]), image]).standard_normal((len(rows), dim), np.float32) / dim**0.5
    values = centers[np.searchsorted(numbers, identity)] + NOISE * noise
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def fill(gallery: Gallery, rows: int, dim: int) -> float:
    """Enroll generated embeddings; seconds."""
    seconds = 0.0
    for start in range(0, rows, CHUNK):
        numbers = np.arange(start, min(start + CHUNK, rows))
        values, pids = draw(numbers, 0, dim), (numbers // IMAGES).tolist()
        begin = time.perf_counter()
        gallery.enroll_embeddings(values, pids)
        seconds += time.perf_counter() - begin
    return seconds


def enroll(folder: Path, rows: int, dim: int, precision: str) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    seconds = fill(opened(folder, precision), rows, dim)
    size = sum(file.stat().st_size for file in folder.glob("*"))
    return {"seconds": seconds, "rows_per_s": rows / seconds, "disk_mib": size / 2**20, "memory_mib": memory()}


def build(folder: Path, kind: str) -> dict[str, float]:
    gallery = opened(folder)
    begin = time.perf_counter()
    gallery.build_index(kind)  # type: ignore[arg-type]
    seconds = time.perf_counter() - begin
    size = sum(file.stat().st_size for file in folder.glob("index-*"))
    return {"seconds": seconds, "disk_mib": size / 2**20, "memory_mib": memory()}


def asked(options: argparse.Namespace) -> np.ndarray:
    """Other images of enrolled identities (n, D), in any order."""
    count = min(options.queries, options.rows)
    chosen = np.random.default_rng(2).choice(options.rows, count, replace=False)
    return draw(np.sort(chosen), 1, options.dim)[np.random.default_rng(3).permutation(count)]


def on_server(url: str, options: argparse.Namespace) -> dict[str, float]:
    """Enroll and identify through a server, and recall against exact search of what it holds."""
    gallery, queries = opened(url), asked(options)
    seconds, answered, begin = fill(gallery, options.rows, options.dim), 0, time.perf_counter()
    while answered < len(queries) and time.perf_counter() - begin < LIMIT_S:
        answered += len(gallery.identify_embeddings(queries[answered : answered + BATCH], K, threshold=1.0))
    speed = answered / (time.perf_counter() - begin)
    found = gallery.recall(queries[:BATCH], (1, K))
    return {
        "seconds": seconds,
        "queries_per_s": speed,
        "memory_mib": memory(),
        **found,
        "compared": len(queries[:BATCH]),
    }


def search(folder: Path, options: argparse.Namespace, effort: int | None) -> tuple[dict[str, float], np.ndarray]:
    """Speed in batches and one query at a time, and the positions found; exact without an effort."""
    gallery = opened(folder)
    if effort is None:
        gallery.store.about["index"] = None
    else:
        gallery.store.about["index"]["effort"] = effort
    queries = asked(options)
    gallery.nearest(queries[:1], K)  # opens what is opened once
    found, begin = [], time.perf_counter()
    for start in range(0, len(queries), BATCH):
        found.append(gallery.nearest(queries[start : start + BATCH], K).position)
        if effort is None and time.perf_counter() - begin > LIMIT_S:
            break
    seconds = time.perf_counter() - begin
    positions = np.concatenate(found)
    single = []
    for query in queries[:10]:
        begin = time.perf_counter()
        gallery.nearest(query[None], K)
        single.append(time.perf_counter() - begin)
    return {
        "queries_per_s": len(positions) / seconds,
        "one_query_ms": 1000 * float(np.median(single)),
        "memory_mib": memory(),
        "threads": torch.get_num_threads(),
    }, positions


def memory() -> float:
    """The resident set at its highest, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if os.uname().sysname == "Linux" else 2**20)


def print_row(label: str, figures: dict[str, float]) -> None:
    shown = "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())
    print(f"{label:18} {shown}", flush=True)


if __name__ == "__main__":
    with refusing():
        main()
