"""Stage `evaluate`: a run's network scored on the test split, with its uncertainty, its baselines and its rankings."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import nn

from reidlab.bounds import FolderName
from reidlab.config import resolve_path
from reidlab.config.values import leaves
from reidlab.console import log, print_table
from reidlab.data import ClassDataModule, ImageDataModule, Normalize, ReidDataModule
from reidlab.data.samples import ONE_IDENTITY, spare_identities
from reidlab.errors import InputError
from reidlab.evaluation import (
    VALIDATION,
    Classification,
    Outputs,
    Retrieval,
    RetrievalProtocol,
    embed,
    evaluate,
    protocol_of,
)
from reidlab.evaluation.retrieval import fitting
from reidlab.evaluation.threshold import calibrate
from reidlab.export.foreign import assumed_order, file_distance, open_file, said_besides
from reidlab.export.parity import embed_file
from reidlab.files import EXPORTED, file_hash, storage_errors, write_atomic, write_json
from reidlab.metrics import Ranking, confidence_intervals, paired_test
from reidlab.models import ColorHistogram
from reidlab.plots.saving import save_figure
from reidlab.run import File, Row, Run, is_run
from reidlab.threads import with_its_threads

CONSTANT = "gives all images the same output, so that its figures are chance; check its weights and normalization"


@storage_errors()
@with_its_threads
def run(run: Run) -> Run:
    """Score the run's network, in every protocol that its settings switch on, and the baselines.

    For every row, `evaluate/<row>/` gets `per_query.csv` and `intervals.json`; for the network's own also pictures and
    `verification.json`. A classifier has one row, with `per_image.csv`, `per_class.csv`, `confusion.csv` and pictures.
    Raises InputError where no query has a match in the gallery.
    """
    other_run = _other_run(run)
    if run["evaluate.file"]:
        _score_file(run, resolve_path(run["evaluate.file"]))
        return run
    run.require_own()  # before its images are drawn, or read
    for difference in run.unlike_training:
        log.warning(f"{run.name}: trained and evaluated with different settings, {difference}")
    datamodule = run.datamodule()
    protocol = protocol_of(run, datamodule)
    protocol.require_test(datamodule)
    validation = datamodule.validation if run.is_trained else datamodule.validation[:0]
    run.require_unlearned(datamodule.samples, datamodule.test, validation)
    if run.weights:
        _require_own_classes(run.weights, _classes_noted(run.weights), datamodule)
    elsewhere: list[tuple[ReidDataModule, RetrievalProtocol]] = []
    if isinstance(protocol, RetrievalProtocol):
        _check_rows(run, datamodule)
        elsewhere += _other_test_sets(run, cast(ReidDataModule, datamodule), protocol)
    recorded, checkpoint, network = protocol.record(datamodule), run.checkpoint, run.network
    run.keep_config()
    found = evaluate(network, datamodule, protocol, run.device, Row.CHECKPOINT)
    run.note_command("evaluate")
    if run.is_classifier:
        run.require_unchanged(checkpoint)
        _record_classes(run, Row.CHECKPOINT, cast(Classification, found), datamodule)
        run.record({Row.CHECKPOINT: found.summary()}, recorded, checkpoint)
        _track(run)
        return run
    assert isinstance(datamodule, ReidDataModule)
    assert isinstance(protocol, RetrievalProtocol)
    assert isinstance(found, Retrieval)

    def record(row: str, ranking: Ranking, found: Retrieval, protocol: dict = recorded, mine: bool = True) -> None:
        if mine:
            run.require_unchanged(checkpoint)
        _write_row(run, row, ranking, found)
        run.record({row: ranking.summary()}, protocol, checkpoint if mine else None)

    record(Row.CHECKPOINT, found.ranking, found)
    _report_unmatched(found)

    def unseen() -> Retrieval:
        return protocol.evaluate(embed(run.network, datamodule, validation, run.device, "validation"), VALIDATION)

    place = run / File.EVALUATE / Row.CHECKPOINT
    _calibrate(run, found, unseen if len(validation) else None, run / File.VERIFICATION, place, checkpoint, recorded)
    if run["evaluate.pictured_queries"]:
        _draw(run, found, datamodule)
    for name, ranking, changed in _protocols(run, datamodule, found, protocol):
        record(Row.CHECKPOINT.under(name), ranking, found, recorded | changed)
    if run["evaluate.single_gallery_shot.enabled"]:
        shots = found.single_shot(run["evaluate.single_gallery_shot.repeats"], run["seed"])
        row = Row.CHECKPOINT.under("single-gallery-shot")
        run.record({row: shots}, recorded | {"gallery": "one random image an identity"}, checkpoint)
    for row, baseline, module in _baselines(run, datamodule):
        other = protocol.evaluate(embed(baseline, module, module.test, run.device, row))
        record(row, other.ranking, other, mine=False)
    for module, theirs in elsewhere:
        by = theirs.record(module)
        row = _row_of(run, module, by["test"])
        other = theirs.evaluate(embed(run.network, module, module.test, run.device, row))
        record(row, other.ranking, other, by)
    _track(run)
    if other_run:
        _compare(run, other_run, found, recorded)
    return run


def _track(run: Run) -> None:
    """Give what was found to the tracker of the training."""
    if not (run / "tensorboard").exists():
        return
    from reidlab.training import tracking  # with Lightning

    figures, pictures = run.results[Row.CHECKPOINT].figures, (run / File.EVALUATE / Row.CHECKPOINT).glob("*.png")
    tracking.log_test(run.folder, leaves(run.settings), figures, sorted(pictures))


def print_results(run: Run) -> None:
    """The table of a run and where to look."""
    over = "images" if run.is_classifier else "identities"
    table = run.table()
    table = table.dropna(how="all", subset=[name for name in run.figures if name in table])  # as of an emulated core
    counts = [name for name in table if name.startswith("num_") and table[name].notna().all()]
    print_table(
        table.astype(dict.fromkeys(counts, int)), f"{run.name}: test split, with 95 % intervals over its {over}"
    )
    for line in run.incomparable:
        log.warning(line)
    if stale := run.stale_results:
        log.warning(f"left out, of another checkpoint or file: {', '.join(stale)}; run their stages again")
    places = {
        "figures": File.METRICS,
        "rankings": f"{File.EVALUATE}/{Row.CHECKPOINT}",
        "data": File.DATA,
        "training": File.CURVES,
        "network": File.ONNX,
    }
    for what, place in places.items():
        if run.has(place):
            log.info(f"{what:>9}: {run / place}")


def _score_file(run: Run, file: Path) -> None:
    """Score a .tflite, .onnx or checkpoint of any origin, in a row that has the file's name."""
    is_exported = file.suffix.lower() in EXPORTED
    if is_exported:
        embedder = open_file(run, file, run.datamodule().num_classes if run.is_classifier else 0)
        datamodule = run.datamodule(size=embedder.size_for(run["data.size"]))
        _require_own_classes(file, embedder.metadata.get("classes"), datamodule)
    else:
        network, report = run.network_with(file)
        log.info(report)
        datamodule = run.datamodule()
        _require_own_classes(file, _classes_noted(file), datamodule)
        own = f"mean {run['model.mean']}, std {run['model.std']}, images of {datamodule.size}"
        log.info(f"assumed: {own} and the {run['evaluate.distance']} distance, as of model={run['model.name']}")
    protocol = protocol_of(run, datamodule)
    protocol.require_test(datamodule)
    run.require_unlearned(datamodule.samples, datamodule.test, file=file)
    if isinstance(protocol, RetrievalProtocol) and is_exported:
        protocol = replace(protocol, distance=file_distance(run, embedder))

    def embedded(table: pd.DataFrame) -> Outputs:
        if is_exported:
            return embed_file(embedder, datamodule, table, file.name)
        return embed(network, datamodule, table, run.device, file.name)

    found, digest = protocol.evaluate(embedded(datamodule.test)), file_hash(file)
    recorded = protocol.record(datamodule)
    run.keep_config()
    if isinstance(found, Classification):
        _record_classes(run, file.name, found, datamodule)
    else:
        _write_row(run, file.name, found.ranking, found)
        _report_unmatched(found)
        validation, place = run.unseen(datamodule, file), run / File.EVALUATE / file.name
        if len(validation) < (held_out := len(datamodule.validation)):
            seen = run.learned(datamodule.samples, datamodule.validation, file).sum()
            known = f"learned {seen} of the {held_out}" if seen else f"nobody noted whether it learned the {held_out}"
            log.warning(f"{file.name}: {known} validation images; left out")

        def unseen() -> Retrieval:
            return cast(Retrieval, protocol.evaluate(embedded(validation), VALIDATION))

        fed = digest + said_besides(run, embedder) if is_exported else digest
        _calibrate(run, found, unseen if len(validation) else None, place / File.VERIFICATION, place, fed, recorded)
    run.record({file.name: found.summary()}, recorded, files={file.name: file})


def _require_own_classes(file: Path, theirs: Sequence[str] | None, datamodule: ImageDataModule) -> None:
    """InputError where a file has other classes than the data, or in another order; what is assumed of it is logged."""
    if not isinstance(datamodule, ClassDataModule):
        return
    ours = datamodule.class_names
    if not theirs:
        log.info(f"assumed: {assumed_order(ours, file)}")
    elif theirs != ours:
        first, second = (", ".join(names[:8]) for names in (theirs, ours))
        raise InputError(
            f"{file}: its classes are {first}; those of data '{datamodule.name}' are {second}; give the data "
            "that it was trained on, with its names"
        )


def _classes_noted(checkpoint: Path) -> list[str]:
    """The names of a checkpoint's classes, as the training noted them in the run folder that it lies in."""
    folder = checkpoint.resolve().parent.parent
    return Run.stored(folder).training.get("classes") or [] if is_run(folder) else []


def _write_row(run: Run, row: str, ranking: Ranking, found: Retrieval) -> None:
    """The per-query table of a row and the intervals of its figures."""
    if found.gallery.table["pid"].nunique() == 1:
        log.warning(f"{row}: the gallery {ONE_IDENTITY}")
    if found.gallery.is_constant:
        log.warning(f"{row}: the network {CONSTANT}")
    place, groups = run / File.EVALUATE / row, found.query.column("pid")
    intervals = confidence_intervals(ranking, groups, resamples=run["evaluate.resamples"])
    write_json(place / "intervals.json", {name: list(ends) for name, ends in intervals.items()})
    write_atomic(place / "per_query.csv", found.per_query(ranking).to_csv(index=False))


def _record_classes(run: Run, row: str, found: Classification, datamodule: ImageDataModule) -> None:
    """The tables, intervals and pictures of class confidences."""
    place = run / File.EVALUATE / row
    if found.confidences.is_constant:
        log.warning(f"{row}: the network {CONSTANT}")
    write_json(place / "intervals.json", {name: list(ends) for name, ends in found.intervals().items()})
    write_atomic(place / "per_image.csv", found.per_image().to_csv(index=False))
    write_atomic(place / "per_class.csv", found.per_class().to_csv())
    write_atomic(place / "confusion.csv", found.confusion().to_csv())
    write_atomic(place / "mistakes.csv", found.mistakes().to_csv(index=False))
    for name, figure in found.pictures(datamodule.read, run["evaluate.pictured_mistakes"]).items():
        save_figure(figure, place / f"{name}.png")


def _check_rows(run: Run, datamodule: ImageDataModule) -> None:
    """InputError, before anything is embedded, for a baseline or part of the gallery that can't be scored.

    Says where more neighbors are asked for than the gallery has.
    """
    known = (Row.UNTRAINED, Row.COLOR_HISTOGRAM)
    for baseline in run["evaluate.baselines"]:
        if baseline not in known:
            raise InputError(f"evaluate.baselines: {baseline} is none; there are {' and '.join(known)}")
    gallery = datamodule.samples.split("gallery")
    for name, pattern in _galleries(run):
        fitting(gallery, pattern, f"evaluate.galleries: {name}")
    for key in ("expansion.k", "rerank.k1", "rerank.k2"):
        wanted = run[f"evaluate.{key}"]
        if run[f"evaluate.{key.partition('.')[0]}.enabled"] and wanted > len(gallery):
            log.warning(f"evaluate.{key}={wanted}: the gallery has {len(gallery)} images, which all count as neighbors")


def _protocols(
    run: Run, datamodule: ReidDataModule, found: Retrieval, protocol: RetrievalProtocol
) -> Iterator[tuple[str, Ranking, dict]]:
    """Name, ranking and what differs, of each protocol that is scored beside the run's own."""
    options = run.config.evaluate
    if options.flip:
        embeddings = embed(run.network, datamodule, datamodule.test, run.device, "mirror images", flip=True)
        yield "flip", protocol.evaluate(embeddings).ranking, {"flip": True}
    if options.expansion.enabled:
        k, alpha = options.expansion.k, options.expansion.alpha
        yield "expansion", found.expanded(k, alpha).ranking, {"expansion": [k, alpha], "distance": "cosine"}
    if options.rerank.enabled:
        k1, k2, weight = options.rerank.k1, options.rerank.k2, options.rerank.weight
        yield "rerank", found.reranked(k1, k2, weight), {"rerank": [k1, k2, weight]}
    if options.same_camera:
        yield "same-camera", replace(found, exclude_same_camera=False).ranking, {"exclude_same_camera": False}
    for name, pattern in _galleries(run):
        within = found.within(pattern, f"evaluate.galleries: {name}")
        yield f"gallery-{name}", within.ranking, {"gallery": pattern}


def _galleries(run: Run) -> list[tuple[str, str]]:
    """The names and patterns of `evaluate.galleries`."""
    what = "pattern, e.g. near:bounding_box_test/*_c1*"
    return [_named(part, "evaluate.galleries", what) for part in run["evaluate.galleries"]]


def _baselines(run: Run, datamodule: ReidDataModule) -> Iterator[tuple[str, nn.Module, ReidDataModule]]:
    """Row, network and the data module that prepares its images."""
    for baseline in run["evaluate.baselines"]:
        if baseline == Row.UNTRAINED:
            yield baseline, run.untrained_network(), datamodule
        else:
            module = copy.copy(datamodule)
            module.normalize = Normalize([0.0] * 3, [1.0] * 3)
            yield baseline, ColorHistogram(), module


def _other_test_sets(
    run: Run, home: ReidDataModule, protocol: RetrievalProtocol
) -> Iterator[tuple[ReidDataModule, RetrievalProtocol]]:
    """The data sets of `evaluate.also`, prepared as this network wants its images, and the protocol of each."""
    for place in run["evaluate.also"]:
        name, root = _named(place, "evaluate.also", "root, e.g. market1501:data/market1501")
        try:
            other = Run.compose([f"data={name}", f"data.root={root}"])
            module = other.datamodule(**{key: run[f"data.{key}"] for key in ("size", "mean", "std", "num_workers")})
            if not isinstance(module, ReidDataModule):
                raise InputError(f"{place}: a data set of classes; give one of identities")
            theirs = protocol.elsewhere(home, module)
            theirs.require_test(module)
            run.require_unlearned(module.samples, module.test)
        except InputError as error:
            raise InputError(f"evaluate.also: {error}") from error
        yield module, theirs


def _row_of(run: Run, module: ReidDataModule, digest: str) -> str:
    """The row of another test set; where there is a set of the same name already, with the digest behind its name."""
    row, results = Row.CHECKPOINT.on(module.name), run.results
    namesake = results.get(Row.CHECKPOINT if module.name == run["data.name"] else row)
    return f"{row} {digest[:8]}" if namesake and namesake.protocol.get("test", digest) != digest else row


def _other_run(run: Run) -> Run | None:
    """The run of `evaluate.against`; InputError where it can't be compared with this one, whatever the figures."""
    name = run["evaluate.against"]
    if not name:
        return None
    key, other = f"evaluate.against={name}", Run(Path(run["run.root"]) / name)
    if run["evaluate.file"]:
        raise InputError(f"{key}: it compares the networks of two runs; leave out evaluate.file")
    if other.foreign_file:
        raise InputError(f"{key}: it is about {other.subject}, a file, and two networks are compared; name another run")
    if run.is_classifier or other.is_classifier:
        raise InputError(f"{key}: it compares rankings, and a classifier has none; leave it out")
    theirs = other.results.get(Row.CHECKPOINT)
    if theirs is None or not other.has(f"{File.EVALUATE}/{Row.CHECKPOINT}/per_query.csv"):
        raise InputError(f"{key}: its present checkpoint isn't evaluated; run `{other.command('evaluate')}` first")
    if not theirs.protocol:
        raise InputError(f"{key}: the protocol of its figures isn't recorded; run `{other.command('evaluate')}` again")
    return other


def _named(entry: str, key: str, what: str) -> tuple[str, str]:
    """An entry `name:value` of a list in the settings."""
    name, _, value = entry.partition(":")
    if not value:
        raise InputError(f"{key}: {entry}: write name:{what}")
    if not (fit := FolderName()).holds(name):
        raise InputError(f"{key}: {entry}: '{name}' is to be {fit.words}")
    return name, value


def _calibrate(
    run: Run,
    test: Retrieval,
    unseen: Callable[[], Retrieval] | None,
    file: Path,
    pictures: Path,
    checkpoint: str,
    recorded: Mapping[str, Any],
) -> None:
    """Keep the threshold of "the same person?" with its pictures, and say what is to be known of it.

    Args:
        run: has the options.
        test: the test split's retrieval, with its distance.
        unseen: that of validation identities which the training left out; None where there are none.
        file: gets the threshold, with its rates and its interval.
        pictures: the folder for these.
        checkpoint: hash of the weights.
        recorded: by which pairs are compared, as rows of `metrics.json` carry it.
    """
    threshold = calibrate(test, unseen, run["evaluate.wanted_fpr"], run["evaluate.resamples"], run["seed"])
    if threshold is None:
        file.unlink(missing_ok=True)
        return
    write_json(file, threshold.record() | {"checkpoint": checkpoint, "protocol": recorded})
    samples, by_camera = test.query.samples, test.exclude_same_camera and bool(test.query.column("camid").any())
    spare = spare_identities(samples, test.exclude_same_camera) if samples else 0
    for line in threshold.warnings(by_camera, spare):
        log.warning(line)
    for name, figure in threshold.pictures().items():
        save_figure(figure, pictures / f"{name}.png")


def _compare(run: Run, other: Run, found: Retrieval, protocol: dict) -> None:
    """A paired test against another run's queries, printed and kept; InputError where the two aren't comparable."""
    key, file = f"evaluate.against={other.name}", other / File.EVALUATE / Row.CHECKPOINT / "per_query.csv"
    theirs = other.results[Row.CHECKPOINT].protocol
    if (size := theirs.get("size")) != protocol["size"]:
        log.warning(f"{key}: its images are of size {size or 'not recorded'}, here of {protocol['size']}")
    for name in ("test", *(name for name in {**theirs, **protocol} if name not in ("test", "size"))):
        there, here = theirs.get(name), protocol.get(name)
        if there != here:
            what = "test images are others" if name == "test" else f"{name} is {there}, here it is {here}"
            raise InputError(f"{key}: its {what}; compare runs on one test split by one protocol")
    queries = pd.read_csv(file)
    if queries["path"].tolist() != found.query.table["path"].tolist():
        raise InputError(f"{key}: its queries are others; compare runs on one test split")
    groups, resamples = found.query.column("pid"), run["evaluate.resamples"]
    differences = paired_test(_ranking_of(queries), found.ranking, groups, resamples=resamples)
    table = pd.DataFrame.from_dict({name: d._asdict() for name, d in differences.items()}, orient="index")
    compared = table.assign(checkpoint=run.checkpoint, against=other.checkpoint)
    write_atomic(run / File.EVALUATE / Row.CHECKPOINT / f"against_{other.name}.csv", compared.to_csv())
    print_table(table, f"{run.name} minus {other.name}: paired, 95 % intervals over {found.distance} rankings")


def _ranking_of(per_query: pd.DataFrame) -> Ranking:
    """The ranking that a `per_query.csv` was written from."""
    figures = [torch.tensor(per_query[name].to_numpy("float64")) for name in ("AP", "first_rank", "last_rank")]
    precision, first, last = figures
    return Ranking(precision, first.nan_to_num().long(), last.nan_to_num().long(),
                   torch.tensor(per_query["num_matches"].to_numpy("int64")), 0)  # fmt: skip


def _report_unmatched(found: Retrieval) -> None:
    if lonely := found.ranking.queries_without_match:
        paths = found.query.table["path"].iloc[lonely[:3]].tolist()
        more = f" and {len(lonely) - 3} more" if len(lonely) > 3 else ""
        log.info(f"left out, no match in the gallery: {', '.join(paths)}{more}")


def _draw(run: Run, found: Retrieval, datamodule: ReidDataModule) -> None:
    """Pictures of the worst, median and best rankings by average precision."""
    order, place = found.sorted_queries(), run / File.EVALUATE / Row.CHECKPOINT
    count = min(run["evaluate.pictured_queries"], len(order))
    middle = (len(order) - count) // 2
    chosen = {"worst": order[:count], "median": order[middle : middle + count], "best": order[::-1][:count]}
    for name, queries in chosen.items():
        save_figure(found.picture(queries, run["evaluate.pictured_matches"], datamodule.read), place / f"{name}.png")
