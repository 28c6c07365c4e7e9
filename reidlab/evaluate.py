"""Stage `evaluate`: a run's network scored on the test split, with its uncertainty, its baselines and what it found."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from reidlab import plots
from reidlab.classification import Classification
from reidlab.config import compose, instantiate, keep_config, read_config, resolve_path, run_folder
from reidlab.data import ClassDataModule, Normalize, ReidDataModule
from reidlab.embedding import Embeddings, device_of, embed
from reidlab.errors import InputError
from reidlab.export.parity import embed_file
from reidlab.export.runtime import load
from reidlab.metrics import Ranking, confidence_intervals, paired_test
from reidlab.models import ColorHistogram
from reidlab.retrieval import TEST, VALIDATION, Retrieval
from reidlab.runs import read_json, record_metrics, write_atomic, write_json
from reidlab.show import print_table, save_figure
from reidlab.tasks import network_with, trained_network

MAIN_ROW = "checkpoint"
SHOWN_FIGURES = (
    *("mAP", "rank-1", "rank-5", "rank-10", "mINP", "num_query", "num_gallery"),
    *("top-1", "top-5", "macro_f1", "calibration_error", "num_images"),
)
WITH_INTERVAL = ("mAP", "rank-1", "top-1")


def run(cfg) -> Path:
    """Score the run's network, in every protocol that the config switches on, and the baselines; returns metrics.json.

    For every row, `evaluate/<row>/` gets `per_query.csv` and `intervals.json`; for the network's own also pictures and
    `verification.json`. Raises InputError where no query has a match in the gallery. A network that tells classes has
    one row, with `per_image.csv`, `per_class.csv`, `confusion.csv` and pictures.
    """
    folder, options = run_folder(cfg), cfg.evaluate
    keep_config(cfg)
    if options.file:
        return _score_file(cfg, resolve_path(options.file))
    datamodule = instantiate(cfg.data)
    network, weights = trained_network(cfg)
    if isinstance(datamodule, ClassDataModule):
        table = datamodule.samples.split(*datamodule.test_splits)
        confidences = embed(network, datamodule, table, device_of(cfg), MAIN_ROW)
        return _record_classes(cfg, MAIN_ROW, confidences, datamodule)
    if weights is None and any(True for _ in network.parameters()):
        print(f"{folder.name}: no trained checkpoint and no model.weights; scoring initial weights")
    found = _search(cfg, network, datamodule, MAIN_ROW)
    _record(folder, MAIN_ROW, found.ranking, found, options)
    _report_unmatched(found)
    _calibrate(cfg, network, datamodule, found, trained=weights is not None and folder in weights.parents)
    if options.pictured_queries:
        _draw(found, datamodule, options, folder / "evaluate" / MAIN_ROW)
    for row, ranking in _protocols(cfg, network, datamodule, found):
        _record(folder, f"{MAIN_ROW}+{row}", ranking, found, options)
    if options.single_gallery_shot.enabled:
        shots = found.single_shot(options.single_gallery_shot.repeats, cfg.seed)
        record_metrics(folder, {f"{MAIN_ROW}+single-gallery-shot": shots})
    for row, baseline, module in _baselines(cfg, datamodule):
        other = _search(cfg, baseline, module, row)
        _record(folder, row, other.ranking, other, options)
    for module in _other_test_sets(cfg):
        row = f"{MAIN_ROW}@{module.name}"
        other = _search(cfg, network, module, row)
        _record(folder, row, other.ranking, other, options)
    if options.against:
        _compare(folder, Path(cfg.run.root) / options.against, found, options)
    return folder / "metrics.json"


def _score_file(cfg, file: Path) -> Path:
    """Score a .tflite, .onnx or checkpoint of any origin, in a row that has the file's name."""
    options = cfg.evaluate
    if file.suffix in (".tflite", ".onnx"):
        embedder = load(file, options.mean, options.std, options.color_order)
        cfg.data.size = [own if own > 0 else set_ for own, set_ in zip(embedder.size, cfg.data.size, strict=True)]
        port, order = embedder.input, "B, 3, H, W" if embedder.channels_first else "B, H, W, 3"
        print(f"{file.name}: {port.dtype} ({order}), images of {tuple(cfg.data.size)}, run by {embedder.runtime}")
        for assumption in embedder.assumed:
            print(f"assumed: {assumption}; evaluate.mean, evaluate.std and evaluate.color_order say otherwise")
        datamodule = instantiate(cfg.data)
        table = datamodule.samples.split(*datamodule.test_splits)
        embeddings = embed_file(embedder, datamodule, table, file.name)
    else:
        datamodule, (network, report) = instantiate(cfg.data), network_with(cfg, file)
        print(report)
        table = datamodule.samples.split(*datamodule.test_splits)
        embeddings = embed(network, datamodule, table, device_of(cfg), file.name)
    if isinstance(datamodule, ClassDataModule):
        return _record_classes(cfg, file.name, embeddings, datamodule)
    found = Retrieval.of(embeddings, TEST, options.distance, options.exclude_same_camera)
    _record(run_folder(cfg), file.name, found.ranking, found, options)
    _report_unmatched(found)
    return run_folder(cfg) / "metrics.json"


def results_table(folder: Path) -> pd.DataFrame:
    """`metrics.json` as a table, mAP and rank-1 with their 95 % intervals."""
    metrics = read_json(folder / "metrics.json")
    rows = {}
    for row, figures in metrics.items():
        intervals = read_json(folder / "evaluate" / row / "intervals.json")
        rows[row] = {name: figures[name] for name in SHOWN_FIGURES if name in figures}
        for name in set(WITH_INTERVAL) & set(rows[row]):
            low, high = intervals.get(name, (None, None))
            rows[row][name] = f"{figures[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if name in intervals else "")
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("network").round(3)
    return table.astype({name: int for name in table if name.startswith("num_") and table[name].notna().all()})


def transfer_matrix(folders: Sequence[Path], figure: str = "mAP") -> pd.DataFrame:
    """What runs score on their own test set and on those of `evaluate.also`: a row a run, a column a test set."""
    cells = {}
    for folder in folders:
        metrics = read_json(folder / "metrics.json")
        if MAIN_ROW not in metrics:
            raise InputError(f"{folder}: not evaluated; run `reidlab evaluate run.name={folder.name}` first")
        home = read_config(folder / "config.yaml").data.name
        scores = {row.partition("@")[2] or home: figures[figure] for row, figures in metrics.items()
                  if row == MAIN_ROW or row.startswith(f"{MAIN_ROW}@")}  # fmt: skip
        cells[f"{folder.name} ({home})"] = scores
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("trained on")


def print_results(folder: Path) -> None:
    """The table of a run and where to look."""
    print_table(results_table(folder), f"{folder.name}: test split, with 95 % intervals over its identities")
    places = {
        "figures": "metrics.json",
        "rankings": f"evaluate/{MAIN_ROW}",
        "data": "data",
        "training": "curves.png",
        "network": "export/model.onnx",
    }
    for what, place in places.items():
        if (folder / place).exists():
            print(f"{what:>9}: {folder / place}")


def _search(cfg, network: nn.Module, datamodule: ReidDataModule, label: str, flip: bool = False) -> Retrieval:
    """Embed a test split and search its queries in its gallery."""
    table = datamodule.samples.split(*TEST)
    embeddings = embed(network, datamodule, table, device_of(cfg), label, flip)
    same_camera = cfg.evaluate.exclude_same_camera and datamodule.exclude_same_camera
    return Retrieval.of(embeddings, TEST, cfg.evaluate.distance, same_camera)


def _record(folder: Path, row: str, ranking: Ranking, found: Retrieval, options) -> None:
    """Put one row into metrics.json, with its per-query table and the intervals of its figures."""
    record_metrics(folder, {row: ranking.summary()})
    groups = found.query.column("pid")
    intervals = confidence_intervals(ranking, groups, resamples=options.resamples)
    write_json(folder / "evaluate" / row / "intervals.json", {name: list(ends) for name, ends in intervals.items()})
    write_atomic(folder / "evaluate" / row / "per_query.csv", found.per_query(ranking).to_csv(index=False))


def _record_classes(cfg, row: str, confidences: Embeddings, datamodule: ClassDataModule) -> Path:
    """Put a row of class confidences into metrics.json, with its tables, intervals and pictures."""
    folder, found = run_folder(cfg), Classification.of(confidences, datamodule)
    place = folder / "evaluate" / row
    write_json(place / "intervals.json", {name: list(ends) for name, ends in found.intervals().items()})
    write_atomic(place / "per_image.csv", found.per_image().to_csv(index=False))
    write_atomic(place / "per_class.csv", found.per_class().to_csv())
    write_atomic(place / "confusion.csv", found.confusion().to_csv())
    write_atomic(place / "mistakes.csv", found.mistakes().to_csv(index=False))
    for name, figure in found.pictures(datamodule.read, cfg.evaluate.pictured_mistakes).items():
        save_figure(figure, place / f"{name}.png")
    return record_metrics(folder, {row: found.scores.summary()})


def _protocols(cfg, network: nn.Module, datamodule: ReidDataModule, found: Retrieval) -> Iterator[tuple[str, Ranking]]:
    """The rows that are the same network's under another protocol."""
    options = cfg.evaluate
    if options.flip:
        yield "flip", _search(cfg, network, datamodule, "mirror images", flip=True).ranking
    if options.expansion.enabled:
        yield "expansion", found.expanded(options.expansion.k, options.expansion.alpha).ranking
    if options.rerank.enabled:
        yield "rerank", found.reranked(options.rerank.k1, options.rerank.k2, options.rerank.weight)
    if options.same_camera:
        yield "same-camera", replace(found, exclude_same_camera=False).ranking
    for part in options.galleries:
        name, pattern = _named(part, "evaluate.galleries", "pattern, e.g. near:bounding_box_test/*_c1*")
        yield f"gallery-{name}", found.within(pattern, f"evaluate.galleries: {name}").ranking


def _baselines(cfg, datamodule: ReidDataModule) -> Iterator[tuple[str, nn.Module, ReidDataModule]]:
    """Row name, network and the data module that prepares its images."""
    for baseline in cfg.evaluate.baselines:
        if baseline == "untrained":
            torch.manual_seed(cfg.seed)
            yield baseline, instantiate(cfg.model.network, num_classes=0), datamodule
        elif baseline == "colour-histogram":
            module = copy.copy(datamodule)
            module.normalize = Normalize([0.0] * 3, [1.0] * 3)
            yield baseline, ColorHistogram(), module
        else:
            raise InputError(f"evaluate.baselines: {baseline} is none; there are untrained and colour-histogram")


def _other_test_sets(cfg) -> Iterator[ReidDataModule]:
    """The data sets of `evaluate.also`, prepared as this network wants its images."""
    for place in cfg.evaluate.also:
        name, root = _named(place, "evaluate.also", "root, e.g. market1501:data/market1501")
        data = compose([f"data={name}", f"data.root={root}"]).data
        data.update({key: cfg.data[key] for key in ("size", "mean", "std", "num_workers")})
        yield instantiate(data)


def _named(entry: str, key: str, what: str) -> tuple[str, str]:
    """An entry `name:value` of a list in the config."""
    name, _, value = entry.partition(":")
    if not value:
        raise InputError(f"{key}: {entry}: write name:{what}")
    return name, value


def _calibrate(cfg, network: nn.Module, datamodule: ReidDataModule, test: Retrieval, trained: bool) -> None:
    """Set the threshold of "the same person?", on validation identities if the run left them out of its training."""
    folder, options = run_folder(cfg), cfg.evaluate
    verification = test.verify(options.wanted_fpr, options.resamples, cfg.seed)
    calibration, source = verification, "test"
    validation = datamodule.samples.split(*VALIDATION)
    if trained and len(validation):
        embeddings = embed(network, datamodule, validation, device_of(cfg), "validation")
        unseen = Retrieval.of(embeddings, VALIDATION, test.distance, test.exclude_same_camera)
        calibration, source = unseen.verify(options.wanted_fpr, options.resamples, cfg.seed), "validation"
    at = verification.thresholds.searchsorted(calibration.threshold, side="right") - 1
    low, high = calibration.intervals["threshold"]
    verdict = {
        "distance": test.distance,
        "threshold": calibration.threshold,
        "threshold_low": low,
        "threshold_high": high,
        "calibrated_on": source,
        "wanted_fpr": options.wanted_fpr,
        "test_tpr": float(verification.tpr[at]),
        "test_fpr": float(verification.fpr[at]),
        "test": verification.summary(),
    }
    place = write_json(folder / "verification.json", verdict).parent / "evaluate" / MAIN_ROW
    point = (verdict["test_fpr"], verdict["test_tpr"])
    save_figure(plots.roc_curve({"test": plots.Roc(verification.fpr, verification.tpr, point)}), place / "roc.png")
    positives, negatives = np.diff(verification.positives), np.diff(verification.negatives)
    histogram = plots.distance_histogram(verification.thresholds, positives, negatives, calibration.threshold)
    save_figure(histogram, place / "distances.png")


def _compare(folder: Path, other: Path, found: Retrieval, options) -> None:
    """A paired test against another run's queries, printed and kept."""
    file = other / "evaluate" / MAIN_ROW / "per_query.csv"
    if not file.exists():
        raise InputError(f"evaluate.against={other.name}: {file} is missing; evaluate that run first")
    theirs = pd.read_csv(file)
    if theirs["path"].tolist() != found.query.table["path"].tolist():
        raise InputError(f"evaluate.against={other.name}: its queries are others; compare runs on one test split")
    groups = found.query.column("pid")
    differences = paired_test(_ranking_of(theirs), found.ranking, groups, resamples=options.resamples)
    table = pd.DataFrame.from_dict({name: d._asdict() for name, d in differences.items()}, orient="index")
    write_atomic(folder / "evaluate" / MAIN_ROW / f"against_{other.name}.csv", table.to_csv())
    print_table(table, f"{folder.name} minus {other.name}: paired, 95 % intervals over {found.distance} rankings")


def _ranking_of(per_query: pd.DataFrame) -> Ranking:
    """The ranking that a per_query.csv tells of."""
    figures = [torch.tensor(per_query[name].to_numpy("float64")) for name in ("AP", "first_rank", "last_rank")]
    precision, first, last = figures
    return Ranking(precision, first.nan_to_num().long(), last.nan_to_num().long(),
                   torch.tensor(per_query["num_matches"].to_numpy("int64")), 0)  # fmt: skip


def _report_unmatched(found: Retrieval) -> None:
    if lonely := found.ranking.queries_without_match:
        paths = found.query.table["path"].iloc[lonely[:3]].tolist()
        more = f" and {len(lonely) - 3} more" if len(lonely) > 3 else ""
        print(f"left out, no match in the gallery: {', '.join(paths)}{more}")


def _draw(found: Retrieval, datamodule: ReidDataModule, options, place: Path) -> None:
    """Pictures of the worst, median and best rankings by average precision."""
    order = found.sorted_queries()
    count = min(options.pictured_queries, len(order))
    middle = (len(order) - count) // 2
    chosen = {"worst": order[:count], "median": order[middle : middle + count], "best": order[::-1][:count]}
    for name, queries in chosen.items():
        save_figure(found.picture(queries, options.pictured_matches, datamodule.read), place / f"{name}.png")
