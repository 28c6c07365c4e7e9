"""Command `compare`: do two images show the same person? The run's network and its calibrated threshold answer."""

from pathlib import Path

from reidlab.console import log
from reidlab.errors import InputError
from reidlab.export.model import Model, Verdict
from reidlab.run import Run


def run(run: Run, first: Path, second: Path) -> Verdict:
    """Compare two image files with the run's network; InputError where the run has no calibrated threshold."""
    run.require_network()
    if not run.is_classifier:
        _require_threshold(run)
    verdict = Model.of(run).same(first, second)
    log.info(verdict)
    return verdict


def _require_threshold(run: Run) -> None:
    """InputError, with what to run, where there is no threshold on the distance that is asked for."""
    own, wanted, calibrated = run["model.distance"], run["evaluate.distance"], run.verification.get("distance")
    if wanted != own:
        raise InputError(
            f"evaluate.distance={wanted}: two images are compared by the network's own distance, {own}; give "
            f"model.distance={wanted} in its place, to `{run.command('evaluate')}` first"
        )
    if run.threshold(own) is None:
        other = f", but on the {calibrated} one: give model.distance={calibrated}, or" if calibrated else ";"
        raise InputError(
            f"{run.name}: no calibrated threshold on its {own} distance{other} run `{run.command('evaluate')}` first"
        )
