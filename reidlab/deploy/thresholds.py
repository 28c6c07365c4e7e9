"""The thresholds of a deployed file: those of its checkpoint are others, since int8 moves embeddings."""

from dataclasses import replace
from pathlib import Path
from typing import cast

from reidlab.console import log
from reidlab.deploy.target import Deployable, DeployableFile
from reidlab.errors import InputError
from reidlab.evaluation import TEST, VALIDATION
from reidlab.export.parity import embed_file
from reidlab.metrics.closeness import Distance


def file_thresholds(file: Path, given: Deployable) -> dict[str, float]:
    """Thresholds by distance, calibrated on the file's own embeddings of validation identities, or of the test split.

    The latter where the network may have learned the former. A file from elsewhere may have one already. None for a
    classifier, and where there is no pair.
    """
    found = {given.distance: given.threshold} if isinstance(given, DeployableFile) and given.threshold else {}
    missing = {given.distance, "cosine"} - found.keys()
    if given.protocol is None or not missing:
        return found
    data = given.datamodule
    unseen = given.unseen()
    table, splits = (unseen, VALIDATION) if len(unseen) else (data.test, TEST)
    if table.empty:
        log.warning(
            f"{file.name}: no threshold is calibrated: data '{data.name}' has no test images, and no validation images "
            "that its network surely hasn't learned"
        )
        return found
    try:
        outputs = embed_file(given.opened(file), data, table, "pairs for the threshold")
        for distance in missing:
            retrieval = replace(given.protocol, distance=cast(Distance, distance)).evaluate(outputs, splits)
            found[distance] = retrieval.verify(given.protocol.wanted_fpr, resamples=0, seed=0).threshold
    except InputError as error:
        log.warning(f"{file.name}: no threshold is calibrated: {error}")
    return found
