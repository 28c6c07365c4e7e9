"""Embeddings of a source of any size in a folder of Parquet files, by any number of processes, each image once.

A source is divided into shards of so many images before any of them is read. A shard is embedded by one process at a
time, in batches that the shard alone decides, by a fixed number of threads, and its file appears when it is whole:
whoever writes it, and after however many interruptions, it has the same bytes.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reidlab.console import log
from reidlab.data.folders import is_hidden
from reidlab.data.images import PIXEL_RULE, resize
from reidlab.data.listing import Entry, Reader, entries_of
from reidlab.errors import InputError, one_line
from reidlab.files import (
    claimed,
    locked,
    one_spelling,
    read_json,
    replacing,
    sweep,
    without_folders,
    write_json,
)
from reidlab.gallery.gallery import Embeds, Gallery, about_model
from reidlab.gallery.store import PRECISIONS, encode
from reidlab.progress import bar
from reidlab.threads import pace

# Names with "_" or "." in front are no data to readers of a folder of Parquet files.
MANIFEST, PLAN, REFUSED, LOCK, CLAIMS = "_manifest.json", "_plan.parquet", "_refused.csv", ".lock", ".claims"
PARTS = "part-*.parquet"
FORMAT = 1
LOCAL_STORE_BYTES = 100_000_000  # of a local Ray, which keeps nothing in it
AT_A_TIME = 256  # images in memory: a multiple of the batches that models make of them
STORED = {"float32": pa.float32(), **PRECISIONS}
TEXTS = pa.string()
BOX = pa.list_(pa.float64(), 4)
ABOUT = {"path": TEXTS, "pid": TEXTS, "camid": TEXTS, "time": pa.float64(), "frame": pa.int64(), "box": BOX}
PLANNED = pa.schema({**ABOUT, "file": TEXTS, "stamp": TEXTS, "offset": pa.int64(), "length": pa.int64(),
                     "refused": TEXTS})  # fmt: skip
SCHEMA = {"format": int, "checkpoint": str, "distance": str, "size": [int], "dim": int, "precision": str,
          "shard_images": int, "shards": int, "images": int, "source": str, "root": str}  # fmt: skip
Maker = Callable[[], Embeds]  # such as partial(reidlab.load, "runs/demo"); other processes get it


class Extraction(NamedTuple):
    """A finished folder of embeddings: how many images it holds, and how many couldn't be read."""

    folder: Path
    images: int
    refused: int


def extract(
    source: Path,
    folder: Path,
    make_model: Maker,
    *,
    precision: str = "float16",
    shard_images: int = 1024,
    processes: int = 1,
    threads: int = 1,
    pattern: str | re.Pattern[str] | None = None,
    about: Mapping[str, Any] | None = None,
    ray: str | None = None,
    gpus: float = 0,
) -> Extraction:
    """Embed all images of a source into `folder`; what is there already is kept, and other processes may take part.

    A row of `part-*.parquet`: path, pid, camid, time, frame, box (left, top, width, height), and the embedding, whose
    values are `embedding` times `scale`. Images that can't be read are in `_refused.csv`. Raises InputError where there
    is no image, and where the folder holds embeddings of another model or another source.

    Args:
        source: see `entries_of`.
        folder: for the result; it is made.
        make_model: returns the model; each process calls it.
        precision: of the stored embeddings: float32, float16 or int8, see `reidlab.gallery.store.encode`.
        shard_images: images of a file; what an interruption costs.
        processes: on this machine, or on the cluster.
        threads: of each, which the sums of a network depend on in their last bits.
        pattern: reads pid, camid and time from paths.
        about: more that embeddings depend on, to be compared with that of an earlier command.
        ray: address of a Ray cluster whose machines share the folders; `local` starts one here.
        gpus: that Ray gives each process.
    """
    source, folder = one_spelling(Path(source)), one_spelling(Path(folder))
    compiled = re.compile(pattern) if pattern else None
    with pace.fixed(threads):
        model = make_model()
        size = [*model.size]
        dim = model([np.zeros((*size, 3), np.uint8)]).shape[1]
        made_by = {"format": FORMAT, **about_model(model), "dim": dim, "pixels": PIXEL_RULE, "precision": precision,
                   "threads": threads, "shard_images": shard_images,
                   "pattern": compiled and compiled.pattern}  # fmt: skip
        root = _begin(source, folder, {**made_by, **(about or {})}, compiled)
        job = root, folder, make_model, threads
        helpers = min(processes, _missing(folder)) - 1
        if ray and helpers >= 0:
            _on_ray(ray, helpers + 1, threads, gpus, job)
        elif helpers >= 0:
            with _beside(helpers, job):
                _work(root, folder, model)
    return _finish(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of embeddings; InputError where some are still missing."""
    about = read_json(folder / MANIFEST, SCHEMA)
    if missing := _missing(folder):
        there = f"{about['shards'] - missing} of {about['shards']} files"
        raise InputError(f"{folder}: unfinished, {there}; give its `predict` command again")
    return about


def enroll_extracted(gallery: Gallery, folder: Path, keep_s: float = math.inf) -> int:
    """Enroll the embeddings of a folder whose identities are known, file by file; how many.

    InputError where another model made them. An image without a time counts as taken now.
    """
    about = read_manifest(folder)
    wrong = [f"{key} {about[key]}, not {own}" for key, own in about_model(gallery.model).items() if about[key] != own]
    if wrong:
        raise InputError(f"{folder}: embedded with {'; '.join(wrong)}; embed its source again by this model")
    enrolled = total = 0
    for number in range(about["shards"]):
        with _whole(_part(folder, number)) as file:
            table = pq.read_table(file)
        total += len(table)
        table = table.filter(pc.is_valid(table["pid"]))
        if not len(table):
            continue
        times = table["time"].fill_null(time.time()).to_numpy()
        texts = {name: table[name].to_pylist() for name in ("pid", "path", "camid")}
        paths = [f"{about['root']}/{path}" for path in texts["path"]]  # other images may have these paths elsewhere
        enrolled += gallery.enroll_embeddings(decoded(table), texts["pid"], paths=paths, camids=texts["camid"],
                                              times=times, keep_s=keep_s)  # fmt: skip
    if not enrolled:
        raise InputError(
            f"{folder}: no image has a pid; embed its source with predict.pattern, a table with pids, or sequences "
            "without det/det.txt, whose boxes are nobody's"
        )
    if enrolled < total:
        log.info(f"{folder}: {total - enrolled} of {total} images aren't enrolled: no pid, or a path that comes twice")
    return enrolled


def decoded(table: pa.Table) -> np.ndarray:
    """The embeddings of rows as they are compared, (N, D) float32."""
    codes = pc.list_flatten(table["embedding"]).to_numpy().reshape(len(table), -1)
    return codes.astype(np.float32) * table["scale"].to_numpy()[:, None]


def _begin(source: Path, folder: Path, made_by: Mapping[str, Any], pattern: re.Pattern[str] | None) -> Path:
    """Plan the shards of a source, or make sure that they are those that were planned; the source's folder."""
    _require_no_other_files(folder)
    with locked(folder / LOCK, "another process lists the images", wait_s=-1):
        sweep(folder)
        known = read_json(folder / MANIFEST)
        wrong = [f"{key} {known.get(key)}, not {own}" for key, own in made_by.items() if known.get(key) != own]
        if known and wrong:
            raise InputError(f"{folder}: holds embeddings by {'; '.join(wrong)}; choose another folder")
        root, entries = entries_of(source, pattern)
        if known:
            listed = _list(source, entries, made_by["shard_images"], None)
            if listed["source"] != known.get("source"):
                raise InputError(
                    f"{folder}: holds embeddings of other images or labels than {source} has now "
                    f"({known.get('images')} images or boxes then, {listed['images']} now); choose another folder"
                )
            return root
        with replacing(folder / PLAN) as file:
            listed = _list(source, entries, made_by["shard_images"], file)
        write_json(folder / MANIFEST, {**made_by, **listed, "root": str(root)})
    return root


def _require_no_other_files(folder: Path) -> None:
    """InputError where a folder without a manifest holds files that no extraction begins with; hidden ones may stay."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in names if name != PLAN and not is_hidden(name)]
    if others and not (folder / MANIFEST).exists():  # looked for last: another process may write it meanwhile
        raise InputError(f"{folder}: holds other files, such as {others[0]}; choose a folder for the embeddings alone")


def _list(source: Path, entries: Iterable[Entry], shard_images: int, file: BinaryIO | None) -> dict[str, Any]:
    """Write the entries, a row group for each shard; how many there are, and a digest of them."""
    digest, images, shards, first_refused = hashlib.sha256(), 0, 0, None
    entries, readable = iter(bar(entries, desc=f"list {source.name}", unit="image")), False
    with contextlib.ExitStack() as open_files:
        writer = open_files.enter_context(pq.ParquetWriter(file, PLANNED)) if file else None
        while rows := list(islice(entries, shard_images)):
            digest.update(repr([tuple(row) for row in rows]).encode())
            images, shards = images + len(rows), shards + 1
            readable |= any(row.refused is None for row in rows)
            first_refused = first_refused or next((row for row in rows if row.refused), None)
            if writer:
                writer.write_table(pa.Table.from_pylist([row._asdict() for row in rows], PLANNED), shard_images)
    if not readable:
        why = f"{first_refused.path}: {first_refused.refused}" if first_refused else "holds no image, archive or box"
        raise InputError(f"{source}: {why}")
    return {"source": digest.hexdigest()[:16], "images": images, "shards": shards}


def _work(root: Path, folder: Path, model: Embeds, shown: bool = True) -> None:
    """Embed one shard after the other that nobody else does; then wait for the others, and take up what they leave."""
    about = read_json(folder / MANIFEST, SCHEMA)
    reader, seen = Reader(root), len([*folder.glob(PARTS)])
    with _whole(folder / PLAN, f"delete {folder} and embed again") as file:
        plan = pq.ParquetFile(file)
    with plan, bar(total=about["shards"] - seen, desc="embed", unit="shard", shown=shown) as done:
        for wait in (False, True):
            for number in range(about["shards"]):
                part = _part(folder, number)
                if part.exists():
                    continue
                with claimed(folder / CLAIMS, number, wait) as mine:
                    if not mine or part.exists():
                        continue
                    rows = [Entry(**row) for row in plan.read_row_group(number).to_pylist()]
                    table = _embedded(rows, reader, model, about)
                    with replacing(part) as file:
                        pq.write_table(table, file)
                there = len([*folder.glob(PARTS)])
                done.update(there - seen)
                seen = there


def _embedded(rows: Iterable[Entry], reader: Reader, model: Embeds, about: Mapping[str, Any]) -> pa.Table:
    """The rows of a shard whose images can be read; the metadata of the table says which can't, and why."""
    refused: list[tuple[str, str]] = []
    kept, images, blocks = [], [], [np.zeros((0, about["dim"]), np.float32)]
    for row in rows:
        try:
            images.append(resize(reader(row), model.size))
        except InputError as error:
            refused.append((row.path, without_folders(str(error))))
            continue
        kept.append(row)
        if len(images) == AT_A_TIME:
            blocks.append(model(images))
            images.clear()
    embeddings = np.concatenate([*blocks, *([model(images)] if images else [])]).astype(np.float32, copy=False)
    finite = np.isfinite(embeddings).all(axis=1)
    refused += [(kept[position].path, "its embedding isn't finite") for position in np.flatnonzero(~finite)]
    kept, embeddings = [kept[position] for position in np.flatnonzero(finite)], embeddings[finite]
    codes, scale = embeddings, np.ones(len(embeddings), np.float32)
    if about["precision"] in PRECISIONS:
        codes, scale = encode(embeddings, about["precision"])
    columns = {name: pa.array([getattr(row, name) for row in kept], kind) for name, kind in ABOUT.items()}
    flat = pa.array(codes.ravel(), STORED[about["precision"]])
    columns |= {"scale": pa.array(scale), "embedding": pa.FixedSizeListArray.from_arrays(flat, about["dim"])}
    metadata = {"checkpoint": about["checkpoint"], "distance": about["distance"], "refused": json.dumps(refused)}
    return pa.table(columns).replace_schema_metadata(metadata)


def _finish(folder: Path) -> Extraction:
    """Gather the refusals of all shards into one table, and remove what killed processes left."""
    images = refused = 0
    shards = read_manifest(folder)["shards"]
    sweep(folder)
    with replacing(folder / REFUSED) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "reason"])
        for number in range(shards):
            with _whole(_part(folder, number)) as part:
                about = pq.read_metadata(part)
                found = json.loads(about.metadata[b"refused"])
            writer.writerows(found)
            images, refused = images + about.num_rows, refused + len(found)
        text.detach()
    return Extraction(folder, images, refused)


def _part(folder: Path, number: int) -> Path:
    return folder / PARTS.replace("*", f"{number:05d}")


def _missing(folder: Path) -> int:
    """How many shards have no file yet."""
    shards = read_json(folder / MANIFEST, SCHEMA)["shards"]
    return sum(not _part(folder, number).exists() for number in range(shards))


@contextlib.contextmanager
def _whole(file: Path, advice: str = "delete it, and give its `predict` command again") -> Iterator[Path]:
    """Turn what shows that a file of ours is damaged into an InputError."""
    try:
        yield file
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise InputError(f"{file}: damaged ({one_line(error)}); {advice}") from error


def _join(root: Path, folder: Path, make_model: Maker, threads: int) -> None:
    """Take part in the work on a folder."""
    with pace.fixed(threads):
        _work(root, folder, make_model(), shown=False)


@contextlib.contextmanager
def _beside(count: int, job: tuple[Path, Path, Maker, int]) -> Iterator[None]:
    """Let other processes of this machine take part meanwhile; what one that ends early leaves is done by others."""
    spawn = multiprocessing.get_context("spawn")
    helpers = [spawn.Process(target=_help, args=job, daemon=True) for _ in range(count)]
    try:
        for helper in helpers:
            helper.start()
        yield
        for helper in helpers:
            helper.join()
            if helper.exitcode:
                log.info(f"{job[1]}: one of the processes ended early ({helper.exitcode}); others did its part")
    finally:
        for helper in helpers:
            if helper.is_alive():
                helper.terminate()


def _help(*job: Any) -> None:
    """Take part until the process that asked for it ends; what goes wrong is one line."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _join(*job)
    except InputError as error:
        log.info(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _on_ray(address: str, processes: int, threads: int, gpus: float, job: tuple[Path, Path, Maker, int]) -> None:
    """Let processes of a Ray cluster do the work; Ray starts one again that its machine took down."""
    try:
        import ray
    except ImportError as error:
        raise InputError("predict.ray: needs Ray; pip install 'reidlab[ray]'") from error
    local = {"num_cpus": processes * threads, "object_store_memory": LOCAL_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(address, log_to_driver=False, **(local if address == "local" else {}))
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = f"no cluster there ({one_line(error)}); start one by `ray start`"
        raise InputError(f"predict.ray={address}: {reason}") from error
    try:
        work = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=3)(_join)
        ray.get([work.remote(*job) for _ in range(processes)])
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from error
        raise
    finally:
        ray.shutdown()
