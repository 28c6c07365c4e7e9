"""Checkpoints that no kill, full disk or power cut takes: written whole, read back, the one before kept meanwhile."""

import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from reidlab.console import log
from reidlab.errors import StorageError
from reidlab.files import replacing, unwritable

HERE = "{checkpoints}"  # stands in a checkpoint for the folder that it lies in


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints, written beside their place and not in the temporary folder, which may be another disk.

    A checkpoint takes its place once it was read back whole; the one that was there is kept as `previous` says. Its
    callbacks' paths are stored without the folder, so that they tell nothing of the machine and a run can be moved.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; StorageError where it can't be written, or comes back as something else."""
        content, place = io.BytesIO(), Path(path)
        torch.save(_moved(checkpoint, str(place.parent), HERE), content)
        with replacing(place) as file:
            file.write(content.getvalue())
            file.flush()
            if Path(file.name).read_bytes() != content.getvalue():
                raise StorageError(f"{place}: can't be read back after writing; check its disk")
            if place.exists():
                _keep(place)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, with the paths of the folder that it lies in now, without links, as Lightning has them."""
        return _moved(super().load_checkpoint(path, *args, **kwargs), HERE, os.path.realpath(Path(path).parent))


def _moved(checkpoint: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The checkpoint with another beginning of its callbacks' paths."""

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {moved(key): moved(value) for key, value in node.items()}
        return new + node.removeprefix(old) if isinstance(node, str) and node.startswith(old) else node

    return checkpoint | {"callbacks": moved(checkpoint["callbacks"])} if "callbacks" in checkpoint else checkpoint


def previous(place: Path) -> Path:
    """Where the predecessor of a checkpoint lies until the training has finished."""
    return place.with_name(f"previous-{place.name}")


def is_whole(file: Path) -> bool:
    """Whether a checkpoint is there and as it was written, by the checksums in it."""
    try:
        with zipfile.ZipFile(file) as content:
            return content.testzip() is None
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return False


def resume_point(best: Path, last: Path) -> Path | None:
    """The checkpoint that a training goes on from: the last whole one; None where it begins anew.

    Where the best one is damaged, its predecessor takes its place, and training repeats the epochs since.
    """
    if best.exists() and not is_whole(best):
        log.warning(f"{best}: can't be read; training goes back to the best epoch before it, or begins anew")
        best.unlink()
        if not is_whole(previous(best)):
            return None
        previous(best).replace(best)
        return best
    for file in (last, previous(last)):
        if is_whole(file):
            return file
        if file.exists():
            log.warning(f"{file}: can't be read; training goes back to the epoch before it, or begins anew")
    return None


def forget_predecessors(*places: Path) -> None:
    """Remove the predecessors of checkpoints."""
    for place in places:
        previous(place).unlink(missing_ok=True)


def _keep(place: Path) -> None:
    """Make a checkpoint its own predecessor, without a moment at which it isn't there itself."""
    kept = previous(place)
    try:
        kept.unlink(missing_ok=True)
        os.link(place, kept)
    except OSError:  # a file system without hard links
        try:
            shutil.copyfile(place, kept)
        except OSError as error:
            raise unwritable(kept, error) from error
