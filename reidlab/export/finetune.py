"""Quantisation-aware training: a network learns to be itself again under int8 codes."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor

from reidlab.export.simulate import Simulation
from reidlab.training.callbacks import EpochLines, interruptible, progress

SMALLEST_RMS = 1e-3


class CodesLikeFloat(pl.LightningModule):
    """Trains a simulation to give the embeddings that its float network gave; identities play no part.

    The loss is the squared distance to the float embedding in units of that embedding's variance, so that it is the
    share of what tells images apart that int8 loses. Adam trains the weights, at a rate in units of each tensor's own
    root mean square, and the ranges; both rates fall to zero in a half cosine.
    """

    def __init__(self, simulation: Simulation, teach: Callable[[Tensor], Tensor], lr: float, range_lr: float):
        super().__init__()
        self.simulation, self.lr, self.range_lr = simulation, lr, range_lr
        self.teach = (teach,)  # in a tuple: not trained

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch of images in [0, 1]."""
        with torch.no_grad():
            taught = self.teach[0](batch["image"])
        loss = relative_error(self.simulation(batch["image"]), taught)
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        """Adam on weights and on ranges."""
        groups = [
            {"params": [tensor], "lr": self.lr * max(float(tensor.detach().square().mean().sqrt()), SMALLEST_RMS)}
            for tensor in self.simulation.network.parameters()
        ]
        optimizer = torch.optim.Adam([*groups, {"params": [self.simulation.log_factors], "lr": self.range_lr}])
        batches = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def relative_error(embedding: Tensor, taught: Tensor) -> Tensor:
    """Mean squared distance of embeddings (B, D), over the mean squared distance of `taught` from its own mean."""
    return (embedding - taught).square().sum(1).mean() / (taught - taught.mean(0)).square().sum(1).mean().clamp(1e-12)


def finetune(
    simulation: Simulation,
    teach: Callable[[Tensor], Tensor],
    datamodule: pl.LightningDataModule,
    epochs: int,
    lr: float,
    range_lr: float,
    accelerator: str = "cpu",
) -> None:
    """Train a simulation in place on a data module whose images are pixels in [0, 1]."""
    shown = progress()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        logger=False,
        callbacks=[shown],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=not isinstance(shown, EpochLines),
        limit_val_batches=0,
    )
    simulation.train()
    with interruptible():
        trainer.fit(CodesLikeFloat(simulation, teach, lr, range_lr), datamodule=datamodule)
    simulation.cpu().eval()
