"""The contract of a run folder: its files, the rows of its results, and the words for its task."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

INITIAL = "initial"  # stands for the hash of weights that no file holds
UNRECORDED = "unrecorded"  # and for that of rows that a release without hashes wrote
UNFINISHED = "its training isn't finished, this is its best epoch so far"


class Task(StrEnum):
    """The task of a network."""

    REID = "reid"
    CLASSIFICATION = "classification"

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that say how good a network is, the main one first."""
        return ("mAP", "rank-1", "rank-5", "rank-10") if self is Task.REID else ("top-1", "top-5")

    @property
    def output(self) -> str:
        """The name of an exported network's output."""
        return "embedding" if self is Task.REID else "scores"


class File(StrEnum):
    """The files of a run folder that somebody other than their writer looks for; directories have no suffix."""

    CONFIG = "config.yaml"
    DATA = "data"
    DATA_SUMMARY = "data/summary.csv"
    DATA_SAMPLES = "data/samples.csv"
    DATA_FINDINGS = "data/findings.csv"
    BEST = "checkpoints/best.ckpt"
    LAST = "checkpoints/last.ckpt"
    LEARNED = "checkpoints/learned.csv"
    TRAINING = "train.json"
    HISTORY = "history.csv"
    CURVES = "curves.png"
    METRICS = "metrics.json"
    PROFILE = "profile.csv"
    COMMANDS = "commands.json"
    METRICS_LOCK = ".metrics.lock"
    VERIFICATION = "verification.json"
    EVALUATE = "evaluate"
    PREDICT = "predict"
    GALLERY = "gallery"
    TRACK = "track"
    TRACK_FIGURES = "track/figures.csv"
    REENTRY = "track/reentry.csv"
    REENTRY_ABOUT = "track/reentry.json"
    REENTRY_PAGE = "reentry.html"
    EXPORT = "export"
    ONNX = "export/model.onnx"
    ONNX_ABOUT = "export/model.json"
    KERAS = "export/model.keras"
    KERAS_ABOUT = "export/model_keras.json"
    ONNX_INT8 = "export/model_int8.onnx"
    TFLITE = "export/model.tflite"
    TFLITE_INT8 = "export/model_int8.tflite"
    QUANTIZE = "quantize"
    CALIBRATION = "quantize/calibration.csv"
    RANGES = "quantize/ranges.csv"
    SENSITIVITY = "quantize/sensitivity.csv"
    METHODS = "quantize/methods.csv"
    PARITY = "quantize/parity.csv"
    QUANTIZE_MADE_BY = "quantize/made_by.json"
    DEPLOY = "deploy"
    DEPLOY_C = "deploy/c"
    C_HEADER = "deploy/c/src/reid.h"
    C_SOURCE = "deploy/c/src/reid_model.c"
    C_MEMORY = "deploy/c/memory.csv"
    C_LIFETIMES = "deploy/c/lifetimes.csv"
    FIRMWARE = "deploy/c/firmware.json"
    DEPLOY_STM32 = "deploy/stm32"
    ESTIMATES = "deploy/stm32/estimates.csv"
    DEPLOY_NVIDIA = "deploy/nvidia"
    TRITON = "deploy/nvidia/triton"
    CHOICE = "deploy/choice.csv"
    EVALUATION_PAGE = "evaluation.html"
    CARD = "card.html"
    CARD_MARKDOWN = "card.md"
    CARD_PARTS = "card"
    SEARCH = "search.json"
    SEARCH_LOG = "search.log"
    SEARCH_LOCK = "search.lock"
    TRIALS = "trials.csv"
    TRIAL_RUNS = "trials"
    PARALLEL = "parallel.png"


COLUMNS: dict[str, tuple[str, ...]] = {  # of tables, those that are read again
    File.LEARNED: ("sha256", "class"),
    File.METHODS: ("method",),
    File.ESTIMATES: ("board", "by", "note"),
    File.C_LIFETIMES: ("first", "last", "offset", "bytes"),
}
HASHES = dict.fromkeys(("checkpoint", "against", "model_hash", "made_from", "sha256"), "str")  # columns of tables: text
OF_A_NETWORK = (  # what a training that begins anew removes: all that an earlier network left
    *("checkpoints", File.TRAINING, File.HISTORY, File.CURVES, File.METRICS, File.VERIFICATION, File.COMMANDS),
    *(File.EVALUATE, File.PREDICT, File.TRACK, File.REENTRY_PAGE),
    *(File.EXPORT, File.QUANTIZE, File.DEPLOY, File.EVALUATION_PAGE, File.CARD, File.CARD_MARKDOWN, File.CARD_PARTS),
)


_TEXT, _COUNT, _NUMBER = (None, str), (None, int), (None, int, float)
_MADE_BY = {
    **{name: _TEXT for name in ("python", "git_commit", "time", "checkpoint", "weights_hash", "data_hash")},
    "versions": (None, {str: str}),
    "machine": (None, {"cpu": _TEXT, "processor": _TEXT, "system": _TEXT, "cores": _COUNT}),
}
SCHEMAS: dict[str, Any] = {  # of JSON files, see `reidlab.untrusted.check_schema`
    File.TRAINING: {
        **_MADE_BY,
        **{name: _COUNT for name in ("epochs", "num_identities", "parameters")},
        **{f"best_val_{name}": _NUMBER for name in ("mAP", "top-1")},
        "finished": (None, bool),
        "precision": _TEXT,
        "classes": (None, [str]),
    },
    File.METRICS: {
        str: {
            "made_by": (
                None,
                {
                    **{name: _TEXT for name in ("checkpoint", "file", "data")},
                    "protocol": (None, {"size": (None, [int])}),
                },
            )
        }
    },
    File.VERIFICATION: {
        **{name: _NUMBER for name in ("threshold", "threshold_low", "threshold_high", "wanted_fpr")},
        **{name: _NUMBER for name in ("test_tpr", "test_fpr")},
        **{name: _TEXT for name in ("distance", "calibrated_on", "checkpoint")},
    },
    File.COMMANDS: {str: [str]},
    File.REENTRY_ABOUT: {"checkpoint": _TEXT, "threshold": _NUMBER, "sequences": (None, [str]), "boxes": _COUNT},
    File.ONNX_ABOUT: _MADE_BY,
    File.KERAS_ABOUT: _MADE_BY,
    File.FIRMWARE: _MADE_BY | {"model": _TEXT, "model_hash": _TEXT},
    File.QUANTIZE_MADE_BY: _MADE_BY | {"files": (None, [str])},
    File.SEARCH: {"axes": (None, {str: str}), "fixed": (None, [str])},
}


class Row(StrEnum):
    """A row of `metrics.json`: the network that its figures belong to.

    `checkpoint` is the run's own network under the run's protocol. Under another one its row is `checkpoint+NAME`, on
    another data set `checkpoint@NAME`; a core that runs the C has the row `emulated CORE`, and a network from elsewhere
    the name of its file.
    """

    CHECKPOINT = "checkpoint"
    UNTRAINED = "untrained"
    COLOR_HISTOGRAM = "color-histogram"
    ONNX = "onnx"
    ONNX_INT8 = "onnx int8"
    ONNX_INT8_OPENVINO = "onnx int8 openvino"
    TFLITE = "tflite"
    TFLITE_INT8 = "tflite int8"
    EMULATED = "emulated"

    def under(self, protocol: str) -> str:
        """The row of the same network under another protocol."""
        return f"{self}+{protocol}"

    def on(self, data: str) -> str:
        """The row of the same network on another data set."""
        return f"{self}@{data}"


MADE_BY_QUANTIZE: dict[str, File] = {  # by their rows; one checkpoint can have several of each
    Row.ONNX_INT8: File.ONNX_INT8,
    Row.ONNX_INT8_OPENVINO: File.ONNX_INT8,
    Row.TFLITE: File.TFLITE,
    Row.TFLITE_INT8: File.TFLITE_INT8,
}


def measured_file(row: str) -> File | None:
    """The file of `MADE_BY_QUANTIZE` whose figures a row holds; None for rows of others."""
    return MADE_BY_QUANTIZE.get(Row.TFLITE_INT8 if row.startswith(Row.EMULATED) else row)


class Kind(NamedTuple):
    """Words for the content of the crops of a data set."""

    one: str
    several: str


KINDS = {
    "person": Kind("person", "people"),
    "vehicle": Kind("vehicle", "vehicles"),
    "animal": Kind("animal", "animals"),
    "player": Kind("player", "players"),
    "class": Kind("class", "classes"),
    None: Kind("identity", "identities"),
}


@dataclass(frozen=True)
class Result:
    """A row of `metrics.json`: figures, with the hashes of checkpoint and file and the protocol that they belong to.

    `checkpoint` is None where the figures are of no checkpoint of this run, `protocol` empty, `file` and `data`, the
    name of the data set, None where none was recorded.
    """

    figures: dict[str, float]
    checkpoint: str | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    file: str | None = None
    data: str | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether the figures are of a file from elsewhere, which gives the row its name."""
        return self.checkpoint is None and self.file is not None
