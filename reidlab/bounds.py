"""The values that settings may have: one table, held by `reidlab.config.compose` before anything is built of them."""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from reidlab.errors import InputError


class Bound(Protocol):
    """The values that a setting may have, and in words which those are."""

    @property
    def words(self) -> str:
        """The allowed values in words, such as `a number above 0`."""

    def holds(self, value: Any) -> bool:
        """Whether the setting may have this value."""


@dataclass(frozen=True)
class Number:
    """Numbers of an interval, which are finite."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    above: bool = False  # low itself is excluded
    below: bool = False  # high itself is excluded

    @property
    def words(self) -> str:
        """Such as `a whole number from 1 to 8`."""
        kind = "a whole number" if self.whole else "a number"
        low = "" if self.low == -math.inf else f" {'above' if self.above else 'from'} {self.low:g}"
        high = "" if self.high == math.inf else f" {'below' if self.below else 'to'} {self.high:.10g}"
        return kind + (low + (high or " up") if low else high)

    def holds(self, value: Any) -> bool:
        """Whether it is such a number; true and false are none."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        inside = self.low <= value <= self.high and abs(value) <= sys.float_info.max
        return inside and not (self.above and value == self.low) and not (self.below and value == self.high)


@dataclass(frozen=True)
class Choice:
    """One of some names."""

    names: tuple[str | int, ...]

    @property
    def words(self) -> str:
        """The names."""
        return f"one of {', '.join(map(str, self.names))}"

    def holds(self, value: Any) -> bool:
        """Whether it is one of the names."""
        return value in self.names


@dataclass(frozen=True)
class Truth:
    """True or false; no text of these, and no number."""

    words: str = "true or false, without quotes"

    def holds(self, value: Any) -> bool:
        """Whether it is one of the two."""
        return isinstance(value, bool)


@dataclass(frozen=True)
class Word:
    """Text that isn't empty."""

    words: str = "a name"

    def holds(self, value: Any) -> bool:
        """Whether it is such text."""
        return isinstance(value, str) and bool(value.strip())


@dataclass(frozen=True)
class FolderName:
    """Text that names a folder, and leads to no other."""

    words: str = "a folder's name, of letters, digits, -, + and _"

    def holds(self, value: Any) -> bool:
        """Whether it is such text."""
        return isinstance(value, str) and re.fullmatch(r"[\w+-][\w.+-]*", value) is not None


@dataclass(frozen=True)
class Many:
    """A list of values that all keep a bound; of a given length, or at least of a least one."""

    of: Bound
    count: int | None = None
    least: int = 0

    @property
    def words(self) -> str:
        """Such as `a list of 2, each a number above 0`."""
        length = f" of {self.count}" if self.count else f" of {self.least} or more" if self.least else ""
        return f"a list{length}, each {self.of.words}"

    def holds(self, value: Any) -> bool:
        """Whether it is such a list."""
        if not isinstance(value, list | tuple) or (self.count or len(value)) != len(value) or len(value) < self.least:
            return False
        return all(self.of.holds(item) for item in value)


@dataclass(frozen=True)
class Maybe:
    """Null, or what keeps another bound."""

    of: Bound

    @property
    def words(self) -> str:
        """The other's, and null."""
        return f"{self.of.words}, or null"

    def holds(self, value: Any) -> bool:
        """Whether it is null or kept by the other."""
        return value is None or self.of.holds(value)


@dataclass(frozen=True)
class Either:
    """A bound that is kept where one of several is."""

    bounds: tuple[Bound, ...]

    @property
    def words(self) -> str:
        """The allowed values of all bounds, in words."""
        return ", or ".join(bound.words for bound in self.bounds)

    def holds(self, value: Any) -> bool:
        """Whether one of them holds it."""
        return any(bound.holds(value) for bound in self.bounds)


def whole(low: int = 0, high: float = math.inf) -> Number:
    """Whole numbers of an interval with both its ends."""
    return Number(low, high, whole=True)


ANY, SHARE, WEIGHT, POSITIVE = Number(), Number(0, 1), Number(0), Number(0, above=True)
MANY = 1_000_000  # of what takes memory or time each
NAME, TRUTH = Word(), Truth()
SIZE = Many(whole(1, 4096), 2)
MEAN, STD = Many(Number(-2, 2), 3), Many(Number(0, 2, above=True), 3)  # of pixels in [0, 1]
DISTANCE = Choice(("euclidean", "cosine"))
PRECISION = Choice(("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "bf16", 16, 32, 64))

BOUNDS: dict[str, Bound] = {  # by dotted key, `*` for any part of one
    **dict.fromkeys(("privacy.*", "compile", "run.overwrite"), TRUTH),
    "seed": whole(0, 2**32 - 1),
    "threads": Maybe(whole(1, 1024)),
    # data
    "data.name": NAME,
    "data.size": SIZE,
    "data.val_fraction": Number(0, 1, below=True),
    "data.val_identities": Number(1, whole=True),
    "data.test_fraction": Number(0, 1, below=True),
    "data.seed": whole(0, 2**32 - 1),
    "data.split_seed": whole(0, 2**32 - 1),
    "data.batch_size": whole(2, MANY),
    "data.eval_batch_size": whole(1, MANY),
    "data.num_workers": Maybe(whole(0, 512)),
    "data.num_instances": Maybe(whole(1, MANY)),
    **dict.fromkeys((f"data.{name}" for name in ("reduced_decode", "exclude_same_camera")), TRUTH),
    **dict.fromkeys((f"data.{name}" for name in ("camera_balanced", "class_balanced")), TRUTH),
    "data.mean": MEAN,
    "data.std": STD,
    "data.enlarged": Number(0, 8, above=True),
    "data.crop.area": Many(Number(0, 1, above=True), 2),
    "data.crop.aspect": Many(POSITIVE, 2),
    "data.crop.flip": SHARE,
    "data.progressive": Many(Many(SHARE, 2)),
    "data.source.tested_on": Many(NAME),
    "data.source.splits.*": Maybe(Either((NAME, Many(NAME, least=1)))),
    "data.source.lists.*": Maybe(Either((NAME, Many(NAME, least=1)))),
    **dict.fromkeys((f"data.source.{name}" for name in ("distractors", "numbered_apart")), TRUTH),
    **dict.fromkeys((f"data.source.{name}" for name in ("whole_path", "one_in_gallery")), TRUTH),
    "data.source.size": SIZE,
    "data.source.seed": whole(0, 2**32 - 1),
    "data.source.test_fraction": SHARE,
    "data.source.num_identities": whole(4, MANY),
    "data.source.train_identities": whole(1, MANY),
    "data.source.num_cameras": whole(1, 1000),
    "data.source.images_per_camera": whole(1, 10_000),
    "data.source.images_per_class": whole(1, MANY),
    # network and training
    "model.mean": MEAN,
    "model.std": STD,
    "model.distance": DISTANCE,
    "model.network.feat_dim": Maybe(whole(1, 65_536)),
    "model.network.dropout": Number(0, 1, below=True),
    "model.network.mixstyle": Many(NAME),
    "model.network.last_stride": whole(1, 2),
    **dict.fromkeys(("model.network.stem_relu", "model.network.stem_ceil_mode"), TRUTH),
    "model.network.stripes": whole(1, 1000),
    "model.network.bins": Many(whole(1, 256), 3),
    "optimizer.lr": Number(0, MANY, above=True),
    "optimizer.weight_decay": WEIGHT,
    "optimizer.momentum": Number(0, 1, below=True),
    **dict.fromkeys(("optimizer.nesterov", "optimizer.amsgrad"), TRUTH),
    "optimizer.fused": Maybe(TRUTH),
    "schedule.epochs": whole(1, MANY),
    "schedule.warmup_epochs": whole(0, MANY),
    "schedule.hold_epochs": whole(0, MANY),
    "schedule.warmup_factor": SHARE,
    "schedule.final_factor": SHARE,
    "schedule.factor": SHARE,
    "schedule.gamma": POSITIVE,
    "schedule.milestones": Many(whole(1, MANY), least=1),
    "schedule.patience": whole(0, MANY),
    "schedule.min_lr": WEIGHT,
    "trainer.max_epochs": whole(1, MANY),
    "trainer.max_time": Maybe(Either((Number(0, MANY, above=True), Word("a time such as 00:01:30:00")))),
    "trainer.num_nodes": whole(1, MANY),
    "trainer.devices": Either((NAME, whole(-1, MANY), Many(whole(), least=1))),
    "trainer.accelerator": Choice(("auto", "cpu", "cuda", "gpu", "mps", "tpu")),
    "trainer.precision": PRECISION,
    "trainer.gradient_clip_val": Maybe(WEIGHT),
    "trainer.accumulate_grad_batches": whole(1, MANY),
    "trainer.check_val_every_n_epoch": whole(1, MANY),
    "trainer.limit_train_batches": Either((Number(0, 1, above=True), whole(1))),
    "trainer.log_every_n_steps": whole(1, MANY),
    **dict.fromkeys(("trainer.use_distributed_sampler", "trainer.enable_model_summary"), TRUTH),
    "trainer.num_sanity_val_steps": whole(-1),
    "callbacks.*.enable_version_counter": TRUTH,
    "callbacks.*.save_on_train_epoch_end": Maybe(TRUTH),
    "callbacks.early_stopping.patience": whole(1),
    "callbacks.ema.decay": Number(0, 1, above=True, below=True),
    **dict.fromkeys(("callbacks.small_first.scale", "callbacks.small_first.until"), Number(0, 1, above=True)),
    "regime.backbone_lr_scale": WEIGHT,
    "regime.head_epochs": whole(),
    "task.kind": Choice(("reid", "classification")),
    "task.exclude_same_camera": TRUTH,
    "task.mix.mixup": WEIGHT,
    "task.mix.cutmix": WEIGHT,
    "task.mix.p": SHARE,
    "augment.*.p": SHARE,
    "augment.crop.padding": Number(0, 4096),
    "augment.crop.scale": Number(1, 4),
    "augment.policy.strength": WEIGHT,
    "augment.erasing.area": Many(Number(0, 1, above=True), 2),
    "augment.erasing.aspect": Many(POSITIVE, 2),
    "augment.erasing.value": Maybe(Either((SHARE, Many(SHARE, 3)))),
    "augment.jitter.hue": Number(0, 0.5),
    **dict.fromkeys((f"augment.jitter.{name}" for name in ("brightness", "contrast", "saturation")), WEIGHT),
    "loss.*.weight": ANY,
    "loss.*.loss.scale": POSITIVE,
    "loss.*.loss.gamma": POSITIVE,
    "loss.*.loss.label_smoothing": Number(0, 1, below=True),
    "loss.*.loss.lr": POSITIVE,
    **dict.fromkeys(
        (f"loss.*.loss.{name}" for name in ("margin", "m", "pos_margin", "neg_margin", "loss.margin")), ANY
    ),
    "loss.*.loss.miner.margin": ANY,
    **dict.fromkeys((f"loss.*.loss.{part}smooth_loss" for part in ("", "loss.")), TRUTH),
    **dict.fromkeys((f"loss.*.loss.{part}distance.normalize_embeddings" for part in ("", "loss.", "miner.")), TRUTH),
    "distill.size": Maybe(SIZE),
    "distill.components": whole(1, MANY),
    "distill.temperature": POSITIVE,
    "distill.decay": WEIGHT,
    **dict.fromkeys((f"distill.{name}" for name in ("feature", "local", "distance", "angle", "logits")), WEIGHT),
    # what follows training
    "evaluate.distance": DISTANCE,
    **dict.fromkeys(
        (f"evaluate.{name}" for name in ("exclude_same_camera", "same_camera", "flip", "*.enabled")), TRUTH
    ),
    "evaluate.mean": Maybe(MEAN),
    "evaluate.std": Maybe(STD),
    "evaluate.color_order": Maybe(Choice(("RGB", "BGR"))),
    "evaluate.baselines": Many(NAME),
    "evaluate.galleries": Many(NAME),
    "evaluate.also": Many(NAME),
    "evaluate.expansion.k": whole(1, MANY),
    "evaluate.expansion.alpha": WEIGHT,
    "evaluate.rerank.k1": whole(1, MANY),
    "evaluate.rerank.k2": whole(1, MANY),
    "evaluate.rerank.weight": SHARE,
    "evaluate.single_gallery_shot.repeats": whole(1, MANY),
    "evaluate.wanted_fpr": Number(0, 1, above=True, below=True),
    "evaluate.resamples": whole(1, MANY),
    "evaluate.pictured_queries": whole(0, 1000),
    "evaluate.pictured_matches": whole(1, 1000),
    "evaluate.pictured_mistakes": whole(0, 1000),
    "predict.k": whole(1, MANY),
    "predict.precision": Choice(("float32", "float16", "int8")),
    "predict.shard_images": whole(1, 1_000_000),
    "predict.processes": whole(1, 1024),
    "predict.threads": whole(1, 1024),
    "predict.gpus": Number(0, 64),
    "gallery.precision": Maybe(Choice(("float16", "int8"))),
    "gallery.keep_days": Maybe(POSITIVE),
    "gallery.template": Choice(("best", "mean", "medoid")),
    "gallery.k": whole(1, MANY),
    "gallery.threshold": Maybe(WEIGHT),
    "service.max_images": whole(1, 10_000),
    "service.max_waiting": whole(1, 10_000),
    **dict.fromkeys((f"service.{name}" for name in ("max_request_mib", "max_waiting_mib", "timeout_s")), POSITIVE),
    "service.max_megapixels": Number(0, 89, above=True),
    "track.film.sequences": whole(1, 1000),
    "track.film.people": whole(1, 100),
    "track.film.frames": whole(2, 100_000),
    "track.film.cameras": whole(1, 100),
    "track.film.seed": whole(0, 2**31),
    "track.max_distance": Number(0, 2),
    "track.reentry_distance": Maybe(Number(0, 2)),
    "track.min_overlap": SHARE,
    "track.appearance": SHARE,
    "track.max_gap": whole(1, MANY),
    "track.memory": whole(1),
    "track.min_confidence": ANY,
    "track.momentum": Number(0, 1, below=True),
    "track.trial": Many(whole(1, MANY), 2),
    "track.gaps": Many(whole(1, MANY), least=1),
    "track.resamples": whole(1, MANY),
    "track.picture_every": whole(1, MANY),
    "track.picture_frames": whole(1, 10_000),
    "gallery.cameras": Maybe(Many(Either((NAME, whole())))),
    "export.formats": Many(Choice(("onnx", "keras")), least=1),
    "export.opset": whole(13, 23),
    "export.input_name": NAME,
    "export.output_name": Maybe(NAME),
    "export.tolerance": POSITIVE,
    "quantize.formats": Many(Choice(("tflite", "onnx")), least=1),
    "quantize.runtimes": Many(NAME, least=1),
    "quantize.method": Either((NAME, Many(NAME, least=1))),
    "quantize.images": whole(1, MANY),
    **dict.fromkeys((f"quantize.{name}" for name in ("per_channel", "symmetric_onnx", "strict", "sensitivity")), TRUTH),
    "quantize.percentile": Number(50, 100, above=True),
    "quantize.max_drop": ANY,
    "quantize.sensitivity_images": whole(1, MANY),
    "quantize.mixed_steps": whole(0, MANY),
    "quantize.qat.epochs": whole(1, 10_000),
    "quantize.qat.lr": Number(0, 1, above=True),
    "quantize.qat.range_lr": Number(0, 1),
    "quantize.threads": whole(1, 64),
    "deploy.name": FolderName(),
    "deploy.tao_names": TRUTH,
    "deploy.extra_macs": Number(0, 100),
    "deploy.cores": Many(NAME),
    "deploy.boards": Many(NAME),
    "deploy.app.max_object_detect": whole(1, 1000),
    "deploy.app.max_object_tracking": whole(1, 1000),
    "deploy.app.lost_time_in_ms": whole(0, 86_400_000),
    "deploy.app.start_tracking_conf_threshold": SHARE,
    "deploy.tools": Many(NAME),
    "deploy.images": whole(1, MANY),
    "deploy.timeout_s": POSITIVE,
    "deploy.threads": whole(1, 64),
    "deploy.input_name": NAME,
    "deploy.output_name": Maybe(NAME),
    "deploy.largest_batch": whole(1, 65_536),
    "deploy.tolerance": POSITIVE,
    "deploy.served": NAME,
    "deploy.instances": whole(1, 1024),
    "deploy.max_queue_size": whole(1, MANY),
    "deploy.max_queue_delay_us": whole(0, 60_000_000),
}


def bound_of(key: str) -> Bound | None:
    """The bound of a setting by its dotted key; None where it has none."""
    key = key.removeprefix("data.") if key.startswith("data.augment.") else key
    return BOUNDS.get(key) or next((bound for pattern, bound in _PATTERNS.items() if _fits(key, pattern)), None)


def check_bounds(settings: Mapping[str, Any]) -> None:
    """Raise InputError that names the first of some settings, by dotted key, whose value is out of its bound."""
    for key, value in settings.items():
        bound = bound_of(key)
        if bound and not bound.holds(value):
            raise InputError(f"{key}={value}: expected {bound.words}")


_PATTERNS = {key: bound for key, bound in BOUNDS.items() if "*" in key}


def _fits(key: str, pattern: str) -> bool:
    parts, wanted = key.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(w in ("*", part) for part, w in zip(parts, wanted, strict=True))
