"""Command `compare`: do two images show the same person? The run's network and its calibrated threshold answer."""

from pathlib import Path

from reidlab.console import log
from reidlab.export.model import Model, Verdict
from reidlab.run import Run


def run(run: Run, first: Path, second: Path) -> Verdict:
    """Compare two image files with the run's network; InputError where the run has no calibrated threshold."""
    verdict = Model.of(run).same(first, second)
    log.info(verdict)
    return verdict
