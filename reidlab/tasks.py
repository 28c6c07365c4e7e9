"""The LightningModules: what one step of training and of validation is."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from reidlab.config import instantiate, run_folder
from reidlab.errors import InputError
from reidlab.losses import WeightedLosses
from reidlab.metrics import ReidMetric
from reidlab.models import load_weights

BEST_CHECKPOINT = "checkpoints/best.ckpt"
LAST_CHECKPOINT = "checkpoints/last.ckpt"


class ReidTask(pl.LightningModule):
    """Trains a network to put images of one identity close together; validates by mAP on identities it never saw.

    Batches are `{"image": (B, 3, H, W), "pid": (B,), "camid": (B,), "index": (B,), "is_query": (B,)}`.
    `optimizer` takes the parameters and `schedule` the optimizer (partials, from config). Each epoch reseeds torch from
    (seed, epoch, rank), so that a resumed run draws what an unbroken one would have drawn.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: WeightedLosses,
        optimizer,
        schedule,
        distance: str = "euclidean",
        exclude_same_camera: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        self.network, self.loss = network.to(memory_format=torch.channels_last), loss
        self.optimizer, self.schedule, self.seed = optimizer, schedule, seed
        self.metric = ReidMetric(distance=distance, exclude_same_camera=exclude_same_camera)

    def forward(self, image: Tensor) -> Tensor:
        """Embeddings (B, D) of normalised images (B, 3, H, W)."""
        return self.network(image.contiguous(memory_format=torch.channels_last)).embedding

    def on_train_epoch_start(self) -> None:
        """Reseed for this epoch and log its learning rate."""
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) * 1_009 + self.global_rank)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The sum of the recipe's terms, each logged."""
        embedding, logits = self.network(batch["image"].contiguous(memory_format=torch.channels_last))
        terms = self.loss(embedding, logits, batch["pid"])
        total = torch.stack(list(terms.values())).sum()
        logged = {f"train/{name}": term.detach() for name, term in terms.items()} | {"train/loss": total.detach()}
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(embedding))
        return total

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect embeddings."""
        self.metric.update(
            self(batch["image"]).float(), batch["pid"], batch["camid"], batch["is_query"], batch["index"]
        )

    def on_validation_epoch_end(self) -> None:
        """Rank all validation queries against the validation gallery."""
        figures = self.metric.compute()
        self.metric.reset()
        kept = {f"val/{name}": float(figures[name]) for name in ("mAP", "rank-1", "mINP")}
        self.log_dict(kept, prog_bar=True, rank_zero_only=True)

    def configure_optimizers(self):
        """All parameters that want a gradient, the losses' own among them."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        schedule = {"scheduler": self.schedule(optimizer), "interval": "epoch", "monitor": "val/mAP"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def build_network(model, num_classes: int = 0) -> nn.Module:
    """The network of a `model` config, with its `weights` where it names some; prints what they left open."""
    network = instantiate(model.network, num_classes=num_classes)
    if model.weights:
        print(load_weights(network, model.weights))
    return network


def trained_network(cfg) -> tuple[nn.Module, Path | None]:
    """The network that a run's later stages use, in evaluation mode, and the file that its weights come from.

    That is the run's best checkpoint, else `model.weights`, else (None) the initial weights.
    """
    best = run_folder(cfg) / BEST_CHECKPOINT
    file = best if best.exists() else cfg.model.weights and Path(cfg.model.weights)
    network = instantiate(cfg.model.network, num_classes=0)
    if file:
        report = load_weights(network, file)
        if not report.complete:
            raise InputError(f"{report}: its embedding would be partly random; match model.network to the file")
        if file != best:
            print(report)
    return network.eval(), file
