"""The metadata of an exported file: its input, its origin, and the meaning of its output."""

from typing import TYPE_CHECKING, Any

from reidlab.files import file_hash

if TYPE_CHECKING:
    from reidlab.run import Run

_NUMBER = (None, int, float)
SCHEMA: dict[str, Any] = {  # of the entries that are read again; mean and std are judged with the file's input
    **{key: (None, str) for key in ("color_order", "weights_hash", "model", "distance", "calibrated_on")},
    **{key: _NUMBER for key in ("threshold", "threshold_low", "threshold_high", "wanted_fpr", "test_tpr", "test_fpr")},
    "classes": (None, [str]),
    "protocol": (None, {}),
}
VERDICT = ("threshold", "threshold_low", "threshold_high", "wanted_fpr", "calibrated_on", "test_tpr", "test_fpr")


def about(run: "Run") -> dict:
    """The metadata of a run's files, with the protocol that their checkpoint was evaluated by, and a threshold.

    The threshold is left out where it is on another distance than the one that embeddings are compared by.
    """
    from reidlab.run import File, Row  # a process that measures a file knows no run

    verdict = run.verification
    verdict = verdict if verdict.get("distance") == run["model.distance"] else {}
    evaluated = run.results.get(Row.CHECKPOINT)
    return {
        "model": run["model.name"],
        "input_size": list(run["data.size"]),
        "color_order": "RGB",
        "scale": 1 / 255,
        "mean": list(run["model.mean"]),
        "std": list(run["model.std"]),
        "distance": run["model.distance"],
        "config_hash": file_hash(run / File.CONFIG),
        "weights_hash": run.checkpoint,
        **({"classes": run.classes} if run.classes else {}),
        **({"protocol": evaluated.protocol} if evaluated and evaluated.protocol else {}),
        **{key: verdict[key] for key in VERDICT if key in verdict},
    }
