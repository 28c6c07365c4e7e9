"""Option `--dry-run` of the stages: what they would do, by the same checks, without writing anything."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from reidlab.config import resolve_path
from reidlab.console import log
from reidlab.data import ImageDataModule
from reidlab.evaluation import protocol_of
from reidlab.export.foreign import open_file
from reidlab.files import EXPORTED, file_hash
from reidlab.run import File, Run
from reidlab.stages import deploy, quantize, train

WRITES: dict[str, tuple[str, ...]] = {  # files and folders of the run folder
    "data": (File.CONFIG, File.DATA),
    "train": (File.CONFIG, "checkpoints", File.HISTORY, File.TRAINING, File.CURVES),
    "evaluate": (File.CONFIG, File.COMMANDS, File.EVALUATE, File.METRICS, File.VERIFICATION),
    "export": (File.CONFIG, File.COMMANDS, File.EXPORT),
    "quantize": (File.CONFIG, File.COMMANDS, File.EXPORT, File.QUANTIZE, File.METRICS),
    "deploy": (File.CONFIG, File.COMMANDS, File.DEPLOY, File.METRICS),
    "report": (File.COMMANDS, File.CARD, File.CARD_MARKDOWN, File.CARD_PARTS, File.EVALUATION_PAGE, File.EVALUATE),
}


def run(run: Run, stages: Iterable[str]) -> dict[str, str]:
    """Say what stages would read, do and write; raises InputError where the first of them would refuse its input."""
    stages = [*stages]
    run.require_own()
    datamodule = run.datamodule()
    facts = {
        "folder": f"{run.folder}, {'which is there' if run.folder.is_dir() else 'new'}",
        "overrides": shlex.join(run["run.overrides"]) or "none",
        "data": _data(datamodule),
        "network": _network(run, stages),
    }
    if "train" in stages:
        facts["training"] = _training(run)
    elif stages[0] not in ("data", "report"):
        _check(stages[0], run, datamodule)
    trackers = [name for name, of in run["logger"].items() if of] if "train" in stages else []
    written = [*dict.fromkeys(path for stage in stages for path in WRITES[stage]), *trackers]
    facts["writes"] = " ".join(written)
    facts["there already"] = " ".join(run.there(*written)) or "none of these"
    for name, fact in facts.items():
        log.info(f"{name + ':':14} {fact}")
    return facts


def _data(datamodule: ImageDataModule) -> str:
    """The size of the training and the test split, unless the images are yet to be drawn."""
    sources = [datamodule.source, *getattr(datamodule.source, "sources", {}).values()]
    drawn = [place for source in sources if (place := getattr(source, "drawn_in", None)) and not place.is_dir()]
    if drawn:
        return f"{datamodule.name}, yet to be drawn in {drawn[0]}"
    train, test = len(datamodule.samples.split("train")), len(datamodule.test)
    return f"{datamodule.name} in {datamodule.samples.root}: {train:,} training and {test:,} test images"


def _network(run: Run, stages: Sequence[str]) -> str:
    if file := next(filter(None, (_file(run, stage) for stage in stages)), None):
        return f"that of {file}"
    weights = f"weights {file_hash(run.weights)[:12]} of {run.weights}" if run.weights else "initial weights"
    return f"{run['model.name']} at {'x'.join(map(str, run['data.size']))}, {weights}"


def _file(run: Run, stage: str) -> str | None:
    """The file from elsewhere that a stage takes in the network's place."""
    takes_it = stage in ("evaluate", "deploy") or (stage == "report" and run.foreign_file)
    return run["evaluate.file"] if takes_it else None


def _training(run: Run) -> str:
    run.require_same_training()
    train.check(run)
    if train.is_finished(run):
        return "nothing to do, it is finished; run.overwrite=true trains again"
    begun = 0 if run["run.overwrite"] else len(run.table_of(File.HISTORY))
    time, of_epochs = run["trainer.max_time"], f"{run['trainer.max_epochs']} epochs"
    length = of_epochs if not time else f"{time} minutes" if isinstance(time, int | float) else f"a time of {time}"
    return length + (f", {begun} epochs are done" if begun else "") + f", {run.device}"


def _check(stage: str, run: Run, datamodule: ImageDataModule) -> None:
    """Raise the InputError of a stage after training that can't begin."""
    if (file := _file(run, stage)) and Path(file).suffix.lower() not in EXPORTED:
        run.network_with(resolve_path(file))
    elif file:
        by_classes = stage == "evaluate" and run.is_classifier
        open_file(run, resolve_path(file), datamodule.num_classes if by_classes else 0)
    else:
        run.network  # noqa: B018 (raises where the weights don't fit)
    if stage == "quantize":
        quantize.check(run)
    if stage in ("evaluate", "quantize"):
        protocol_of(run, datamodule).require_test(datamodule)
    if stage == "deploy":
        target = deploy.target_of(run)
        if not file and (model := getattr(target, "model", None)):
            deploy.deployable(run).file(model)
