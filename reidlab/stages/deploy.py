"""Stage `deploy`: the files of a target of `conf/deploy`, then one table of networks and targets to choose from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from reidlab import plots
from reidlab.config import choices, instantiate, resolve_path
from reidlab.console import log, print_table
from reidlab.deploy.choose import Candidate, choice, score_of
from reidlab.deploy.target import Deployable, DeployableFile, Figures, Target, no_network
from reidlab.errors import InputError
from reidlab.evaluation import RetrievalProtocol, protocol_of
from reidlab.export.foreign import assumed_order, file_distance, file_threshold, open_file
from reidlab.export.runtime import Embedder
from reidlab.files import file_hash, is_checkpoint, storage_errors, write_atomic
from reidlab.models import count_classes
from reidlab.plots.saving import save_figure
from reidlab.run import File, Row, Run

COMPARED = ("test", "exclude_same_camera")  # entries of the protocol that comparable accuracies share


@storage_errors()
def run(run: Run) -> Run:
    """Deploy the run's network to the target of its settings, then compare all networks on all targets.

    The target writes to `deploy/<its name>`; of a file in the network's place, `evaluate.file`, to
    `deploy/<the file's name>/<its name>`. The table has the runs beside this one that have an int8 .tflite and were
    evaluated on the same test split: `deploy/choice.csv`, with a picture. Raises InputError where a file that the
    target needs is absent or was made from another checkpoint.
    """
    run.keep_config()
    target = target_of(run)
    file = run["evaluate.file"] and resolve_path(run["evaluate.file"])
    given = deployable_file(run, file) if file else deployable(run)
    figures = target.deploy(given, folder(run) / target.name)
    if file:
        own = [_candidate(run, file, figures)] if file.suffix.lower() == ".tflite" else []
        _compare(run, [*own, *candidates(run)])
        return run
    run.require_unchanged(given.checkpoint)
    if figures:
        own = run["deploy.model"] == File.TFLITE_INT8
        files = dict.fromkeys(figures, given.file(File.TFLITE_INT8)) if own else {}
        run.record(figures, checkpoint=given.checkpoint, files=files)
    _compare(run, candidates(run))
    run.note_command(f"deploy deploy={target.name}")
    return run


def target_of(run: Run) -> Target:
    """The target of a run's settings; InputError where they name none."""
    target = instantiate(run.config.deploy)
    if not isinstance(target, Target):
        raise InputError(f"{run.name}: its settings name no target; add deploy=NAME, of {', '.join(choices('deploy'))}")
    return target


def folder(run: Run) -> Path:
    """Where the targets of a run's network, or of the file in its place, write their folders."""
    file = run["evaluate.file"]
    return run / File.DEPLOY / (Path(file).name if file else "")


def deployable_file(run: Run, file: Path) -> DeployableFile:
    """A .tflite or .onnx from elsewhere, as targets take it, on the data and by the settings of a run.

    Raises InputError where it is another file, or doesn't say how its images are normalized and nobody else does.
    """
    if is_checkpoint(file):
        raise InputError(f"{file}: a checkpoint; deploy it with model=NAME model.weights={file}")
    embedder = open_file(run, file)
    if not embedder.input.is_raw and embedder.metadata.get("mean") is None and run["evaluate.mean"] is None:
        raise InputError(
            f"{file}: doesn't say how its images are normalized; give model.mean=[...] and model.std=[...], of pixels "
            "in [0, 1]: [0,0,0] and [1,1,1] where it takes these"
        )
    datamodule, digest = run.datamodule(size=embedder.size_for(run["data.size"])), file_hash(file)
    classes = _file_classes(run, embedder, datamodule.size)
    distance = run["model.distance"] if classes else file_distance(run, embedder)
    protocol = None if classes else protocol_of(run, datamodule)
    threshold = None if classes else file_threshold(run, embedder, distance, as_network=False)
    return DeployableFile(
        name=file.name,
        architecture=str(embedder.metadata.get("model", file.stem)),
        network=no_network,
        checkpoint=digest,
        folder=run.folder,
        command=run.command,
        datamodule=datamodule,
        unseen=partial(run.unseen, datamodule, file),
        mean=run["model.mean"],
        std=run["model.std"],
        distance=distance,
        cosine_threshold=threshold if distance == "cosine" else None,
        threshold=threshold,
        protocol=replace(protocol, distance=distance) if isinstance(protocol, RetrievalProtocol) else None,
        classes=classes,
        embedder=embedder,
    )


def deployable(run: Run) -> Deployable:
    """A run's network, as targets take it."""
    datamodule = run.datamodule()
    protocol = protocol_of(run, datamodule)
    return Deployable(
        name=run.name,
        architecture=run["model.name"],
        network=lambda: run.network,
        checkpoint=run.checkpoint,
        folder=run.folder,
        command=run.command,
        datamodule=datamodule,
        unseen=partial(run.unseen, datamodule),
        mean=run["model.mean"],
        std=run["model.std"],
        distance=run["model.distance"],
        cosine_threshold=run.threshold("cosine"),
        threshold=run.threshold(run["model.distance"]),
        protocol=protocol if isinstance(protocol, RetrievalProtocol) else None,
        classes=_classes(run),
    )


def _classes(run: Run) -> Sequence[str]:
    """The names of a classifier's classes; their numbers where its training noted none."""
    if run.classes or not run.is_classifier or run.weights is None:
        return run.classes
    return _numbers(count_classes(run.weights))


def _file_classes(run: Run, embedder: Embedder, size: Sequence[int]) -> Sequence[str]:
    """The names of the classes of a file from elsewhere: its own, else the run's, else numbers."""
    if (names := embedder.metadata.get("classes")) or not run.is_classifier:
        return names or ()
    if run.classes:
        log.info(f"assumed: {assumed_order(run.classes, embedder.file)}")
        return run.classes
    return _numbers(embedder(np.zeros((1, *size, 3), np.uint8)).shape[1])


def _numbers(count: int) -> list[str]:
    return [*map(str, range(count))]


def candidates(run: Run) -> Iterator[Candidate]:
    """The run and those beside it that have an int8 .tflite, if they share its test split.

    A run that was evaluated before the split was recorded, or not at all, counts where the data set has the same name.
    """
    own = _compared(run)
    for other in (run, *_others(run)):
        if not other.has(File.TFLITE_INT8):
            continue
        theirs = _compared(other)
        known = bool(own and theirs)
        if theirs != own if known else other["data.name"] != run["data.name"]:
            continue
        note = "" if known or other is run else "test split not recorded"
        figures = {row: result.figures for row, result in other.results.items()}
        yield Candidate(other.name, other / File.TFLITE_INT8, figures, note)


def _others(run: Run) -> Iterator[Run]:
    """The readable runs beside this one."""
    for config in sorted(run.folder.parent.glob(f"[!.]*/{File.CONFIG}")):
        if config.parent != run.folder:
            try:
                yield Run(config.parent)
            except InputError:
                continue


def _compared(run: Run) -> dict:
    """The part of a run's protocol that comparable accuracies share; empty where it isn't recorded."""
    results = run.results
    for row in (Path(run["evaluate.file"] or "").name, Row.TFLITE_INT8, Row.CHECKPOINT):
        if row in results and "test" in (protocol := results[row].protocol):
            return {key: protocol[key] for key in COMPARED if key in protocol}
    return {}


def _candidate(run: Run, file: Path, figures: Figures) -> Candidate:
    """A file from elsewhere, with the accuracy that it was evaluated to have."""
    evaluated = run.all_results.get(file.name)
    if evaluated and evaluated.file == file_hash(file):
        figures = {**figures, Row.TFLITE_INT8: evaluated.figures}
    return Candidate(file.name, file, figures)


def _compare(run: Run, among: Iterable[Candidate]) -> None:
    """Write and draw the table of networks and targets; print it where there are several networks."""
    table = choice(list(among))
    if table.empty:
        return
    place = folder(run) / Path(File.CHOICE).name
    save_figure(plots.pareto(table, score_of(table)), place.with_suffix(".png"))
    write_atomic(place, table.to_csv(index=False))
    if table["model"].nunique() == 1:
        log.info(f"{place}: this network on each target")
        return
    shown = table.assign(fits=table["fits"].map({True: "yes", False: "no"}), front=table["front"].map({True: "*"}))
    print_table(shown.set_index("model"), "Networks on each target (*: no other is as fast and more accurate)")
