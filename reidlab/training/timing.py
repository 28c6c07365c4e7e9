"""The parts of a training step, for `reidlab run --profile`."""

from typing import Any

import pytorch_lightning as pl
import torch

from reidlab.timing import spent


class StepParts(pl.Callback):
    """Tells `spent` what each moment of a training goes to; on a GPU, waits for its work at every turn.

    `wait` is for batches, which worker processes decode meanwhile; their own seconds are in `decode_s`.
    """

    decode_s = 0.0

    def _turn(self, trainer: pl.Trainer, *part: str) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        spent.turn(self.depth, *part)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the training batches say how long they took to read."""
        trainer.datamodule.module.timed = True  # type: ignore[attr-defined]  # LightningImages

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Below the part that the training is."""
        self.depth = len(spent.path)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The first batch is asked for."""
        self._turn(trainer, "wait")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict, *_: Any) -> None:
        """A batch is there, on its device and augmented."""
        self.decode_s += float(batch.get("decode_s", 0))
        self._turn(trainer, "forward")

    def on_before_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        """The loss is there."""
        self._turn(trainer, "backward")

    def on_after_backward(self, trainer: pl.Trainer, *_: Any) -> None:
        """The gradients are there."""
        self._turn(trainer, "optimizer")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The next batch is asked for."""
        self._turn(trainer, "wait")

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """An epoch's batches are done."""
        self._turn(trainer, "validation")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Lightning writes checkpoints when the other callbacks are done."""
        self._turn(trainer, "checkpoints")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Likewise without validation."""
        self._turn(trainer, "checkpoints")

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The rest is the training stage's own."""
        self._turn(trainer)
