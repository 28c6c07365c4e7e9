"""Stage `deploy`: the files of a target of `conf/deploy`, then one table of networks and targets to choose from."""

from collections.abc import Iterator

from reidlab import plots
from reidlab.config import choices, instantiate
from reidlab.console import print_table
from reidlab.deploy.choose import Candidate, choice, score_of
from reidlab.deploy.target import Deployable, Target
from reidlab.errors import InputError
from reidlab.evaluation import RetrievalProtocol, protocol_of
from reidlab.files import storage_errors
from reidlab.plots.saving import save_figure
from reidlab.run import File, Row, Run

COMPARED = ("test", "exclude_same_camera")  # entries of the protocol that comparable accuracies share


@storage_errors()
def run(run: Run) -> Run:
    """Deploy the run's network to the target of its settings, then compare all networks on all targets.

    The target writes to `deploy/<its name>`. The table has the runs beside this one that have an int8 .tflite and were
    evaluated on the same test split: `deploy/choice.csv`, with a picture. Raises InputError where a file that the
    target needs is absent or was made from another checkpoint.
    """
    run.keep_config()
    target = instantiate(run.config.deploy)
    if not isinstance(target, Target):
        raise InputError(f"{run.name}: its settings name no target; add deploy=NAME, of {', '.join(choices('deploy'))}")
    given = deployable(run)
    figures = target.deploy(given, run / File.DEPLOY / target.name)
    run.require_unchanged(given.checkpoint)
    if figures:
        run.record(figures, checkpoint=given.checkpoint)
    _compare(run)
    return run


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
        mean=run["model.mean"],
        std=run["model.std"],
        distance=run["model.distance"],
        cosine_threshold=run.threshold("cosine"),
        protocol=protocol if isinstance(protocol, RetrievalProtocol) else None,
    )


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
    for row in (Row.TFLITE_INT8, Row.CHECKPOINT):
        if row in results and "test" in (protocol := results[row].protocol):
            return {key: protocol[key] for key in COMPARED if key in protocol}
    return {}


def _compare(run: Run) -> None:
    """Print, write and draw the table of networks and targets."""
    table = choice(list(candidates(run)))
    if table.empty:
        return
    shown = table.assign(fits=table["fits"].map({True: "yes", False: "no"}), front=table["front"].map({True: "*"}))
    print_table(shown.set_index("model"), "Networks on each target (*: no other is as fast and more accurate)")
    save_figure(plots.pareto(table, score_of(table)), (run / File.CHOICE).with_suffix(".png"))
    run.write(File.CHOICE, table.to_csv(index=False))
