"""The images of a data module, as Lightning's trainer asks for them."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from reidlab.data import ImageDataModule
from reidlab.data.datamodule import Batch


class LightningImages(pl.LightningDataModule):
    """A data module for `trainer.fit(task, datamodule=LightningImages(module))`; augments while the trainer trains.

    Apart from the data module itself, since importing Lightning takes seconds that only a training has use for.
    """

    def __init__(self, module: ImageDataModule) -> None:
        super().__init__()
        self.module = module

    def prepare_data(self) -> None:
        """Read, and thereby perhaps generate, the data set in one process before the others look for it."""
        self.module.setup()

    def setup(self, stage: str) -> None:
        """Read the data set, whatever the stage."""
        self.module.setup()

    def train_dataloader(self) -> DataLoader:
        """Batches in an order that follows from the seed and the epoch, which Lightning sets."""
        return self.module.train_dataloader()

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """The validation samples; no loader if none were set aside."""
        return self.module.val_dataloader()

    def test_dataloader(self) -> DataLoader:
        """The test samples."""
        return self.module.test_dataloader()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The batch on its device as the network takes it."""
        trainer = self.trainer
        if trainer is None:
            return self.module.preprocess(batch)
        self.module.progress = trainer.current_epoch / trainer.max_epochs if trainer.max_epochs else 0.0
        return self.module.preprocess(batch, training=trainer.training)
