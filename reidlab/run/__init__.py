"""A run: the folder `runs/<name>`, the settings that it was made with, and all that is known of it."""

import difflib
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from reidlab.config import (
    SHIPPED,
    compose,
    compose_for,
    compose_to_begin,
    instantiate,
    is_begun,
    plain,
    read_config,
    resolve_path,
    run_folder,
    stored_config,
    training_differences,
    write_config,
)
from reidlab.config.earlier import RENAMED_VALUES
from reidlab.console import log
from reidlab.errors import InputError
from reidlab.files import file_hash, locked, read_json, read_yaml, sweep, without_folders, write_atomic, write_json
from reidlab.run.contract import (
    COLUMNS,
    HASHES,
    INITIAL,
    KINDS,
    OF_A_NETWORK,
    SCHEMAS,
    UNFINISHED,
    UNRECORDED,
    File,
    Kind,
    Result,
    Row,
    Task,
    measured_file,
)
from reidlab.run.provenance import provenance

if TYPE_CHECKING:  # a command that reads tables alone starts without torch
    from torch import nn

    from reidlab.data import ImageDataModule, Samples
    from reidlab.models import LoadReport

__all__ = ["INITIAL", "UNFINISHED", "File", "Kind", "Result", "Row", "Run", "Task", "is_run", "provenance"]

MADE_BY = "made_by"  # the key of a row of metrics.json that says what its figures belong to
WITH_INTERVAL = ("mAP", "rank-1", "top-1")
RULES = {  # of rows: what differs by them, and the rows that do so by their names
    "size": ("images of several sizes", ()),
    "distance": ("several distances", (Row.CHECKPOINT.under("expansion"),)),
    "exclude_same_camera": ("both same-camera rules", (Row.CHECKPOINT.under("same-camera"),)),
    "test": ("several sets of test images", ()),
}
INPUT_KEYS = ("data.size", "data.mean", "data.std", "model.mean", "model.std")


class Run:
    """A run folder and its settings.

    `Run("demo")`, or a path, opens a folder that exists. `Run.compose(["experiment=demo", "seed=1"])` takes its
    settings from overrides alone, `Run.resume([...])` those stored in the folder with overrides on top; neither writes
    anything.
    `run / File.METRICS` is a path, `run["optimizer.lr"]` a setting.
    """

    def __init__(self, name: str | Path):
        self._set(stored_config(_existing(name)))

    @classmethod
    def compose(cls, overrides: Iterable[str] = ()) -> "Run":
        """The run of overrides such as `experiment=demo` or `seed=1`; see `reidlab.config.compose` for errors."""
        return cls.of(compose(overrides))

    @classmethod
    def begin(cls, overrides: Iterable[str] = (), trains: bool = True) -> "Run":
        """The run that `data` and `train` begin or go on with: see `reidlab.config.compose_to_begin`."""
        return cls.of(compose_to_begin(overrides, trains))

    @classmethod
    def resume(cls, overrides: Iterable[str] = ()) -> "Run":
        """The run that these overrides name, with the settings in its folder; what the overrides change is changed."""
        overrides = [*overrides]
        run = cls.of(compose_for(overrides))
        run.given = [o for o in overrides if not o.startswith("run.")]
        return run

    @classmethod
    def stored(cls, folder: Path) -> "Run":
        """The run in a folder of any name, with its settings as they are stored: fast, since nothing is composed."""
        run = cls.__new__(cls)
        run.config, run.folder = read_config(folder / File.CONFIG), folder
        return run

    @classmethod
    def of(cls, config: DictConfig) -> "Run":
        """The run of a composed config."""
        run = cls.__new__(cls)
        run._set(config)
        return run

    given: Sequence[str] = ()  # overrides of the command
    _loaded: "tuple[str, nn.Module] | None" = None  # the hash of a checkpoint, and the network with it

    def _set(self, config: DictConfig) -> None:
        self.config, self.folder = config, run_folder(config)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __truediv__(self, path: str | Path) -> Path:
        return self.folder / path

    def __getitem__(self, key: str) -> Any:
        """A setting by its dotted key; lists and mappings as plain ones, None where there is no such key."""
        value = OmegaConf.select(self.config, key)
        return plain(value) if OmegaConf.is_config(value) else value

    @property
    def settings(self) -> dict[str, Any]:
        """All settings as nested plain values."""
        return plain(self.config)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def task(self) -> Task:
        """Whether images are compared or classified."""
        return Task(self.config.task.kind)

    @property
    def is_classifier(self) -> bool:
        """Whether the network classifies images."""
        return self.task is Task.CLASSIFICATION

    @property
    def kind(self) -> Kind:
        """Words for the content of the crops, by `data.about.kind`."""
        return KINDS.get(self["data.about.kind"], KINDS[None])

    # -- what the folder holds

    def has(self, path: str) -> bool:
        """Whether the folder holds a file."""
        return (self / path).exists()

    def there(self, *paths: str) -> list[str]:
        """The files, among these, that the folder holds."""
        return [path for path in paths if self.has(path)]

    def table_of(self, path: str) -> pd.DataFrame:
        """A CSV of the folder with the columns that `COLUMNS` says; empty where it is absent."""
        return _table_in(self.folder, path)

    def json_of(self, path: str) -> dict:
        """A JSON file of the folder, by its schema in `SCHEMAS`; empty where it is absent."""
        return read_json(self / path, SCHEMAS.get(path))

    @property
    def training(self) -> dict:
        """`train.json`: what training recorded when it ended."""
        return self.json_of(File.TRAINING)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the network's scores; none for re-identification."""
        return self.training.get("classes") or [] if self.is_classifier else []

    @property
    def figures(self) -> tuple[str, ...]:
        """The figures that say how good the network is, the main one first; no top-5 of five classes or fewer."""
        measured = self.all_results.get(self.subject)
        few = 0 < len(self.classes) <= 5 or (measured and "top-5" not in measured.figures)
        return tuple(name for name in self.task.figures if not (few and name == "top-5"))

    @property
    def weights(self) -> Path | None:
        """The file of the network's weights: the best checkpoint, else `model.weights`; None for initial weights."""
        if self.has(File.BEST):
            return self / File.BEST
        return Path(self.config.model.weights) if self.config.model.weights else None

    @property
    def foreign_file(self) -> Path | None:
        """The file from elsewhere that the run is about: `evaluate.file`, where it has neither weights nor training."""
        file = self["evaluate.file"]
        return resolve_path(file) if file and not self.weights and not self.has(File.LAST) else None

    @property
    def subject(self) -> str:
        """The row of results of what the run is about: its own network, or else `foreign_file`."""
        return self.foreign_file.name if self.foreign_file else Row.CHECKPOINT

    @property
    def subject_name(self) -> str:
        """Its name for readers: the model's, or the file's."""
        return self.foreign_file.name if self.foreign_file else self["model.name"]

    @property
    def is_trained(self) -> bool:
        """Whether the network was trained in this run."""
        return self.has(File.BEST)

    @property
    def as_trained(self) -> "Run | None":
        """The run with the settings that its network was trained with; None where its folder doesn't record them.

        That is where nothing was trained, and in a copy of a released network. A key that its release hadn't is None.
        """
        if not self.has(File.CONFIG) or not (is_begun(self.folder) or self.has(File.TRAINING)):
            return None
        stored = Run.stored(self.folder)
        return stored if stored["optimizer"] and stored["trainer"] else None

    @property
    def unlike_training(self) -> list[str]:
        """Lines `key: trained with -> present` of the settings of the network's input that differ since training."""
        if not (self.is_trained and self.has(File.CONFIG)):
            return []
        differences = training_differences(read_config(self / File.CONFIG), self.config)
        return [line for line in differences if line.startswith(INPUT_KEYS)]

    @property
    def is_unfinished(self) -> bool:
        """Whether a training began here that hasn't ended: it was stopped, or it goes on."""
        return not self.training.get("finished") and (self.has(File.LAST) or self.is_trained)

    @property
    def checkpoint(self) -> str:
        """The hash of the network's weights; `initial` where they come from no file."""
        return file_hash(self.weights) if self.weights else INITIAL

    @staticmethod
    def noted(file: Path) -> pd.DataFrame:
        """The `learned.csv` of a checkpoint or an exported file; empty where it isn't there."""
        return _table_in(file.resolve().parent.parent, File.LEARNED)

    def learned(self, samples: "Samples", table: pd.DataFrame, file: Path | None = None) -> np.ndarray:
        """Which images (N,) a network learned; none of them where nobody noted it, as of networks from elsewhere.

        Args:
            samples: the data set.
            table: rows of it (N).
            file: the network's checkpoint or exported file; None for `weights`.
        """
        noted = self.noted(file or self.weights or self / File.BEST)
        return np.zeros(len(table), bool) if noted.empty else np.isin(samples.digests(table), noted["sha256"])

    def unseen(self, datamodule: "ImageDataModule", file: Path | None = None) -> pd.DataFrame:
        """The validation images; none where a network may have learned one, as those from elsewhere of unknown origin.

        Args:
            datamodule: of the data set.
            file: as in `learned`.
        """
        validation = datamodule.validation
        known = (file is None and self.is_trained) or not self.noted(file or self.weights or self / File.BEST).empty
        if known and not self.learned(datamodule.samples, validation, file).any():
            return validation
        return validation[:0]

    def require_unlearned(self, samples: "Samples", *held_out: pd.DataFrame, file: Path | None = None) -> None:
        """InputError where images that are held out here were learned, as after another division of the data set.

        Args: those of `learned`.
        """
        table = pd.concat(held_out)
        if (seen := self.learned(samples, table, file)).any():
            raise InputError(
                f"{samples.root}: the network of {file or self.weights} learned {seen.sum()} of the {len(table)} "
                f"images that are held out here, such as {table['path'].iloc[int(seen.argmax())]}; give the images "
                "and the data.* and seed of its training, or a network that was trained on this division of them"
            )

    # -- what is known of the network

    @property
    def all_results(self) -> dict[str, Result]:
        """The rows of `metrics.json`, whichever checkpoint they belong to."""
        rows = {}
        for row, stored in self.json_of(File.METRICS).items():
            figures = {name: value for name, value in stored.items() if isinstance(value, int | float)}
            made_by = stored.get(MADE_BY) or {"checkpoint": UNRECORDED}
            protocol = dict(made_by.get("protocol") or {})
            file = protocol.pop("file", made_by.get("file"))  # it was part of the protocol once
            told = made_by.get("checkpoint"), protocol, file, made_by.get("data")
            rows[RENAMED_VALUES.get(row, row)] = Result(figures, *told)
        return rows

    @property
    def results(self) -> dict[str, Result]:
        """The rows that belong to the present checkpoint and its present files, or to none."""
        found = {row: result for row, result in self.all_results.items() if self._is_of_its_file(row, result)}
        if all(result.checkpoint in (None, UNRECORDED) for result in found.values()):
            return found
        present = (None, self.checkpoint)
        baselines = (Row.UNTRAINED, Row.COLOR_HISTOGRAM)
        return {row: result for row, result in found.items() if result.checkpoint in present or row in baselines}

    def _is_of_its_file(self, row: str, result: Result) -> bool:
        file = measured_file(row)
        return not (file and result.file and self.has(file)) or file_hash(self / file) == result.file

    def rules_of(self, row: str) -> dict[str, Any]:
        """Distance, same-camera rule and image size that a row was measured by, else those of the settings."""
        left_out = bool(self["evaluate.exclude_same_camera"] and self["data.exclude_same_camera"])
        settings = {"size": self["data.size"], "distance": self["evaluate.distance"], "exclude_same_camera": left_out}
        recorded = self.results[row].protocol if row in self.results else {}
        return {key: recorded.get(key, value) for key, value in settings.items()}

    @property
    def incomparable(self) -> list[str]:
        """Lines that name rows of several test sets, sizes, distances or same-camera rules, unless their names do."""
        lines = []
        for key, (what, telling) in RULES.items():
            rows = {
                row: _short(result.protocol[key])
                for row, result in self.results.items()
                if key in result.protocol and not row.startswith((Row.CHECKPOINT.on(""), *telling))
            }
            if len({*rows.values()}) > 1:
                listed = ", ".join(f"{row} {value}" for row, value in rows.items())
                lines.append(f"rows of {what}, which don't compare: {listed}")
        return lines

    @property
    def stale_results(self) -> list[str]:
        """The rows that another checkpoint or file gave, which is no longer there."""
        return [row for row in self.all_results if row not in self.results]

    @property
    def verification(self) -> dict:
        """`verification.json`, the threshold of the present checkpoint; empty where there is none, or another's."""
        found = self.json_of(File.VERIFICATION)
        return found if found.get("checkpoint", self.checkpoint) == self.checkpoint else {}

    @property
    def verdict(self) -> dict:
        """`verification`, where it says all that a reader is told of a threshold; else empty."""
        told = ("distance", "threshold", "calibrated_on", "wanted_fpr", "test_tpr", "test_fpr")
        found = self.verification
        return found if all(found.get(key) is not None for key in told) else {}

    @property
    def reentry_page(self) -> list[str]:
        """The page that `track` made about re-entry, if it is the present checkpoint's."""
        own = self.json_of(File.REENTRY_ABOUT).get("checkpoint") == self.checkpoint
        return self.there(File.REENTRY_PAGE) if own else []

    def threshold(self, distance: str) -> float | None:
        """The calibrated threshold on a distance; None where the present checkpoint has none on that distance."""
        verdict = self.verification
        return verdict.get("threshold") if verdict.get("distance") == distance else None

    def record(
        self,
        rows: Mapping[str, Mapping[str, float]],
        protocol: Mapping[str, Any] | None = None,
        checkpoint: str | None = None,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        """Put rows of figures into `metrics.json`; other rows stay as they are.

        Args:
            rows: figures by name, by row.
            protocol: what the figures were measured by, see `protocol_of`.
            checkpoint: hash of the weights; None for rows of networks that aren't this run's.
            files: those that were measured, by row.
        """
        self.require_own()
        made_by = {"checkpoint": checkpoint, "protocol": dict(protocol or {})}
        about = {row: {"file": file_hash(file)} for row, file in (files or {}).items()}
        for row in rows:
            if not row.startswith(Row.CHECKPOINT.on("")):  # which names its own
                about[row] = about.get(row, {}) | {"data": self["data.name"]}
        new = {row: {**figures, MADE_BY: made_by | about.get(row, {})} for row, figures in rows.items()}
        with locked(self / File.METRICS_LOCK, "another process has been recording its figures for a minute", wait_s=60):
            write_json(self / File.METRICS, {**self.json_of(File.METRICS), **new})

    def require_unchanged(self, checkpoint: str) -> None:
        """InputError where the weights have another hash by now, as a training that runs meanwhile gives them."""
        if checkpoint != self.checkpoint:
            raise InputError(
                f"{self.folder}: its checkpoint was replaced meanwhile, by a training that goes on there; wait for its "
                "end, and run the stage again"
            )

    def intervals(self, row: str) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of a row's figures, by name."""
        found = read_json(self / File.EVALUATE / row / "intervals.json", {str: [(int, float)]})
        return {name: (ends[0], ends[1]) for name, ends in found.items() if len(ends) == 2}

    def table(self) -> pd.DataFrame:
        """The results that have an accuracy, a row each; the main figures as text with their 95 % intervals."""
        shown = (
            *("mAP", "rank-1", "rank-5", "rank-10", "mINP", "num_query", "num_gallery"),
            *("top-1", "top-5", "macro_f1", "calibration_error", "num_images"),
        )
        few = {*self.task.figures} - {*self.figures}
        rows: dict[str, dict[str, Any]] = {}
        for row, result in self.results.items():
            intervals = self.intervals(row)
            rows[row] = {name: result.figures[name] for name in shown if name in result.figures and name not in few}
            for name in set(WITH_INTERVAL) & set(rows[row]):
                low, high = intervals.get(name, (None, None))
                text = f"{result.figures[name]:.3f}"
                rows[row][name] = text if low is None else f"{text} [{low:.3f}, {high:.3f}]"
        judged = {row: figures for row, figures in rows.items() if figures}
        table = pd.DataFrame.from_dict(judged, orient="index").rename_axis("network").round(3)
        return table.astype({name: int for name in table if name.startswith("num_") and table[name].notna().all()})

    # -- what is built from the settings

    @property
    def device(self) -> str:
        """Where evaluation runs: the accelerator that the trainer would take."""
        import torch

        wanted = self.config.trainer.accelerator in ("auto", "gpu", "cuda")
        return "cuda" if wanted and torch.cuda.is_available() else "cpu"

    def datamodule(self, **changes: Any) -> "ImageDataModule":
        """The data module of the settings, or with some of its arguments changed; InputError for another task's."""
        from reidlab.data import ClassDataModule

        made = instantiate(self.config.data, **changes)
        if isinstance(made, ClassDataModule) != self.is_classifier:
            has, choice = ("identities", "class_folders") if self.is_classifier else ("classes", "folders")
            raise InputError(f"task={self.task}: data={made.name} has {has}; leave task out, or choose data={choice}")
        made.blur_heads = bool(self["privacy.blur"])
        return made

    def picture(self, file: Path) -> np.ndarray:
        """An image (H, W, 3) uint8 RGB for pictures that are written, its head blurred where `privacy.blur` says so."""
        from reidlab.data import blur_head, read_image

        image = read_image(file)
        return blur_head(image) if self["privacy.blur"] else image

    def untrained_network(self, num_classes: int = 0) -> "nn.Module":
        """The network with initial weights, which follow from the seed; InputError where it can't read `data.size`."""
        import torch

        from reidlab.models import check_size

        torch.manual_seed(self.config.seed)
        network = instantiate(self.config.model.network, num_classes=num_classes)
        check_size(network, self["data.size"])
        return network

    @property
    def network(self) -> "nn.Module":
        """The network that the stages after training use, in evaluation mode, with the weights of `weights`.

        It returns embeddings, or class confidences in their place. Says so where it isn't trained to the end, and what
        was loaded where the weights aren't this run's own. InputError where a training has no checkpoint to use yet,
        and where the run is about a file.
        """
        self.require_network()
        if self._loaded and self._loaded[0] == self.checkpoint:
            return self._loaded[1]
        if self.is_unfinished:
            goes_on = f"run `{self.command_from_config('train')}` again to go on"
            if not self.is_trained:
                raise InputError(f"{self.folder}: its training stopped before an epoch was validated; {goes_on}")
            log.warning(f"{self.name}: {UNFINISHED}; {goes_on}")
        if self.weights is None and any(True for _ in self.untrained_network().parameters()):
            log.warning(f"{self.name}: no trained checkpoint and no model.weights; using initial weights")
        checkpoint = self.checkpoint
        network, report = self.network_with(self.weights)
        self.require_unchanged(checkpoint)
        if report and not self.is_trained:
            log.info(report)
        self._loaded = checkpoint, network
        return network

    def require_network(self) -> None:
        """InputError where the run is about a file, and has no network of its own."""
        if self.foreign_file:
            raise InputError(
                f"{self.folder}: is about {self.foreign_file}, which was evaluated, and has no trained network of its "
                "own; name the file (predict.model=, gallery.model=, evaluate.file=; of a checkpoint model.weights=), "
                "or train"
            )

    def network_with(self, file: Path | None) -> "tuple[nn.Module, LoadReport | None]":
        """The network with the weights of a file; InputError where it wouldn't embed as the file's network did."""
        from reidlab.models import Confidences, count_classes

        num_classes = 0
        if self.is_classifier:
            if file is None:
                raise InputError(f"{self.folder}: no trained classifier; train first, or set model.weights=FILE")
            num_classes = count_classes(file)
            if not num_classes:
                raise InputError(f"{file}: holds no classifier; give the checkpoint of a classification run")
        network, report = self.untrained_network(num_classes), None
        if file:
            report = self.load(network, file)
            if not report.complete:
                random = any(name in report.missing for name in report.unfit)
                what = "would be partly random" if random else "would differ from the file's"
                raise InputError(f"{report}: its embedding {what}; {report.advice}")
            self.warn_of_other_settings(file)
        return (Confidences(network) if self.is_classifier else network).eval(), report

    def load(self, network: "nn.Module", file: str | Path) -> "LoadReport":
        """Load a file into a network; warns where the file says that its images were normalized otherwise."""
        from reidlab.models import load_weights

        report = load_weights(network, file)
        for key, theirs in (("mean", report.mean), ("std", report.std)):
            if theirs is not None and not np.allclose(theirs, self[f"model.{key}"], atol=1e-3):
                mine, listed = self[f"model.{key}"], ",".join(f"{value:.3f}" for value in theirs)
                log.warning(f"{file}: trained with {key} [{listed}], here it is {mine}; set model.{key}=[{listed}]")
        return report

    def warn_of_other_settings(self, file: str | Path) -> None:
        """Say which settings of the network differ from those of the run that a checkpoint lies in."""
        folder = Path(file).resolve().parent.parent
        if folder == self.folder.resolve() or not is_run(folder):
            return
        theirs, mine = (_network_settings(run) for run in (Run.stored(folder), self))
        differing = [
            f"model.{key} {theirs[key]} there, {mine[key]} here"
            for key in mine
            if key in theirs and theirs[key] != mine[key]
        ]
        if differing:
            log.warning(f"{file}: of a run with other settings: {'; '.join(differing)}")

    # -- what is written, and how it is made again

    @property
    def is_released(self) -> bool:
        """Whether it is one of the trained networks that come with reidlab, which nothing is written to."""
        return self.folder.resolve().is_relative_to((SHIPPED / "data" / "models").resolve())

    def require_own(self) -> None:
        """Raise InputError where the folder is a released one."""
        if self.is_released:
            raise InputError(
                f"{self.folder}: comes with reidlab and stays as it is; copy it to runs/, or leave run.root out"
            )

    def keep_config(self) -> None:
        """Write `config.yaml`, unless the run was trained: then it has its own; remove what a killed stage left."""
        self.require_own()
        sweep(self.folder)
        if not is_begun(self.folder):
            write_config(self.config, self / File.CONFIG, self.given)

    def require_same_training(self) -> None:
        """Raise InputError where the folder holds a training of another config and `run.overwrite` isn't set."""
        self.require_own()
        stored = self / File.CONFIG
        if self.config.run.overwrite or not (self.has(File.LAST) or self.has(File.BEST)):
            return
        if stored.exists() and (differences := training_differences(read_config(stored), self.config)):
            more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise InputError(
                f"{self.folder}: holds a training of another config ({'; '.join(differences[:3])}{more}); "
                "choose another run.name, or run.overwrite=true to start again"
            )

    def claim(self) -> None:
        """Make the folder this training's: write its config, remove what an overwritten or a killed one left.

        Raises InputError as `require_same_training` does.
        """
        self.require_same_training()
        sweep(self.folder)
        stored = self / File.CONFIG
        if self.config.run.overwrite:
            for place in (self / name for name in OF_A_NETWORK):
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            if stored.exists() and Run.stored(self.folder)["data.source"] != self["data.source"]:
                shutil.rmtree(self / File.DATA, ignore_errors=True)
        write_config(self.config, stored)

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file of the folder, atomically."""
        self.require_own()
        return write_atomic(self / path, content)

    def command(self, stage: str, *more: str) -> str:
        """The command line of a stage of this run."""
        return shlex.join(["reidlab", *stage.split(), *more, f"run.name={self.name}"])

    def command_from_config(self, stage: str) -> str:
        """The command line with all overrides, for stages that read no stored config; folders are left open."""
        return self.command(stage, *map(_without_folder, self.config.run.get("overrides", [])))

    def note_command(self, stage: str) -> None:
        """Keep with which overrides a stage was run, beside the stored ones."""
        known = (*self.config.run.overrides, *stage.split())
        given = [_without_folder(override) for override in self.given if override not in known]
        write_json(self / File.COMMANDS, {**self.json_of(File.COMMANDS), stage: given})

    def noted_command(self, stage: str) -> str:
        """The command line by which a stage was run."""
        return self.command(stage, *self.json_of(File.COMMANDS).get(stage, []))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's; other tools write a `config.yaml` beside their checkpoints, too."""
    file = folder / File.CONFIG
    content = read_yaml(file) if file.is_file() else {}
    model = content.get("model")
    return isinstance(content.get("run"), Mapping) and isinstance(model, Mapping) and "network" in model


def _table_in(folder: Path, path: str) -> pd.DataFrame:
    """See `Run.table_of`."""
    file = folder / path
    if not file.exists():
        return pd.DataFrame()
    try:
        table = pd.read_csv(file, dtype=HASHES)
        if absent := [name for name in COLUMNS.get(path, ()) if name not in table]:
            raise ValueError(f"it has no column '{absent[0]}'")
    except (OSError, ValueError) as error:  # pandas' own are ValueErrors
        raise InputError(f"{file}: not readable as a table ({error}); delete it, run its stage again") from error
    return table


def _short(value: Any) -> str:
    """A value of a protocol in a few words: a size as 128 x 64, a hash by its beginning."""
    return (
        " x ".join(map(str, value))
        if isinstance(value, list)
        else re.sub(r"^([0-9a-f]{8})[0-9a-f]+$", r"\1", str(value))
    )


def _without_folder(override: str) -> str:
    key = override.partition("=")[0]
    return f"{key}=..." if key.endswith((".root", ".weights", ".cache")) else without_folders(override)


def _network_settings(run: Run) -> dict[str, Any]:
    """The settings that an embedding depends on, by their keys below `model`."""
    without_effect = ("_target_", "dropout", "mixstyle", "depthwise")  # in evaluation, or told by the tensors
    network = {f"network.{key}": value for key, value in (run["model.network"] or {}).items()}
    settings = network | {key: run[f"model.{key}"] for key in ("mean", "std")}
    return {key: value for key, value in settings.items() if key.rpartition(".")[2] not in without_effect}


def _existing(name: str | Path) -> Path:
    """The folder of a run that exists, by its path or its name; InputError with the nearest name."""
    path = resolve_path(name)
    root = resolve_path("runs")
    for folder in (root / name, path):
        if (folder / File.CONFIG).is_file():
            return folder
    place = path.parent if Path(name).name != str(name) and path.parent.is_dir() else root
    known = sorted(folder.parent.name for folder in place.glob(f"[!.]*/{File.CONFIG}"))
    close = difflib.get_close_matches(path.name, known, n=1)
    guess = f"did you mean {close[0]}?" if close else f"there are {', '.join(known[:8]) or 'none'} in {place}"
    raise InputError(f"{name}: no such run; {guess}")
