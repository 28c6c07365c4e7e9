"""Quantization-aware training: a network in simulated int8 learns to reproduce the embeddings of its float original."""

import copy
from collections.abc import Callable, Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from reidlab.data import ImageDataModule
from reidlab.export.simulate import QATOptions, Simulation, relative_error
from reidlab.threads import pace
from reidlab.training.callbacks import EpochLines, KeepsPace, interruptible, progress, quiet_lightning
from reidlab.training.images import LightningImages

SMALLEST_RMS = 1e-3


class QuantizationAwareTraining(pl.LightningModule):
    """Distills a float network into its simulated int8 form; labels aren't used.

    The loss is `relative_error` of the embeddings. Adam trains weights and ranges; both learning rates fall to zero in
    a half cosine.
    """

    def __init__(self, simulation: Simulation, teacher: Callable[[Tensor], Tensor], options: QATOptions) -> None:
        super().__init__()
        self.simulation, self.options = simulation, options
        self.teacher = (teacher,)  # in a tuple: no submodule, so that it isn't trained

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch of images in [0, 1]."""
        with torch.no_grad():
            target = self.teacher[0](batch["image"])
        loss = relative_error(self.simulation(batch["image"]), target)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam on weights and on ranges."""
        lr = self.options.lr
        groups = [
            {"params": [tensor], "lr": lr * max(float(tensor.detach().square().mean().sqrt()), SMALLEST_RMS)}
            for tensor in self.simulation.network.parameters()
        ]
        groups.append({"params": [self.simulation.log_factors], "lr": self.options.range_lr})
        optimizer = torch.optim.Adam(groups)
        batches = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class KeepBest(pl.Callback):
    """Keeps a simulation's best state, the one before training included, by `relative_error` on other images.

    Args:
        simulation: that is trained.
        teacher: gives the embeddings in float.
        images: batches of pixels (B, 3, H, W) in [0, 1].
    """

    def __init__(self, simulation: Simulation, teacher: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> None:
        self.simulation, self.teacher, self.images = simulation, teacher, images
        self.least, self.epoch = float("inf"), 0
        self.state: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the start."""
        self._measure(pl_module.device, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the epoch."""
        self._measure(pl_module.device, trainer.current_epoch + 1)

    @torch.no_grad()
    def _measure(self, device: torch.device, epoch: int) -> None:
        batches = [batch.to(device) for batch in self.images]
        found = torch.cat([self.simulation(batch) for batch in batches])
        error = float(relative_error(found, torch.cat([self.teacher(batch) for batch in batches])))
        if error < self.least:
            self.least, self.epoch = error, epoch
            self.state = copy.deepcopy(self.simulation.state_dict())


def finetune(
    simulation: Simulation,
    teacher: Callable[[Tensor], Tensor],
    images: ImageDataModule | DataLoader,
    options: QATOptions,
    validation: Sequence[Tensor] = (),
) -> int:
    """Train a simulation in place to reproduce the embeddings of a float network.

    Returns the epoch whose state it is left in: the best one on the validation images, 0 where that is the start.

    Args:
        simulation: of the network in int8.
        teacher: pixels (B, 3, H, W) in [0, 1] -> embeddings (B, D).
        images: batches {image (B, 3, H, W)} of pixels in [0, 1].
        options: the recipe.
        validation: batches (B, 3, H, W) of other images, in [0, 1]; without them the last state stays.
    """
    best = KeepBest(simulation, teacher, validation)
    shown = progress()
    torch.manual_seed(options.seed)
    simulation.train()
    with quiet_lightning(), interruptible(), pace.kept():
        trainer = pl.Trainer(
            max_epochs=options.epochs,
            accelerator=options.accelerator,
            devices=1,
            logger=False,
            callbacks=[KeepsPace(), shown, *([best] if validation else [])],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=not isinstance(shown, EpochLines),
            limit_val_batches=0,
        )
        batches = LightningImages(images) if isinstance(images, ImageDataModule) else images
        trainer.fit(QuantizationAwareTraining(simulation, teacher, options), batches)
    if best.state:
        simulation.load_state_dict(best.state)
    simulation.cpu().eval()
    return best.epoch if validation else options.epochs
