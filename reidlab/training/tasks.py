"""Lightning modules: the steps of training and of validation."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from reidlab.errors import InputError
from reidlab.metrics.closeness import Distance
from reidlab.models import Output, ReIdNetwork
from reidlab.training.finetuning import Regime
from reidlab.training.losses import WeightedLosses
from reidlab.training.metrics import ClassMetric, ReidMetric

FINITE_CHECK_INTERVAL = 50  # batches
NEVER = 2**31


class Task(pl.LightningModule):
    """The common base of tasks: a network, a recipe, and the step of training.

    Batches are `{"image": (B, 3, H, W), "pid": (B,), "index": (B,), ...}`, pid being the class 0..C-1 in training.
    Each epoch reseeds torch from (seed, epoch, rank), so that a resumed run draws the same random numbers as an
    unbroken one. Losses are computed in float32 whatever the precision; InputError where one is no longer finite.

    Args:
        network: to train.
        loss: the weighted terms of the recipe.
        optimizer: takes groups of parameters; a partial with the learning rate `lr` among its keywords.
        schedule: takes the optimizer.
        regime: learning rates and freezing of the backbone.
        monitor: the validation figure that schedule and callbacks watch.
        distillation: further terms, by a teacher.
        seed: of the training.
    """

    def __init__(
        self,
        network: ReIdNetwork,
        loss: WeightedLosses,
        optimizer: partial[Optimizer],
        schedule: Callable[[Optimizer], Any],
        regime: Regime,
        monitor: str,
        distillation: nn.Module | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.network: ReIdNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self.distillation = distillation
        self.optimizer, self.schedule, self.regime, self.seed = optimizer, schedule, regime, seed
        self.monitor = monitor

    def forward(self, image: Tensor) -> Output:
        """Embeddings (B, D) and logits (B, C) of normalized images (B, 3, H, W)."""
        return self.network(image.to(self.dtype, memory_format=torch.channels_last))

    def setup(self, stage: str) -> None:
        """Freeze a backbone that is never trained, before anything wraps the network."""
        if not self.regime.backbone_lr_scale:
            self.regime.begin_epoch(self.network, 0)

    def on_fit_start(self) -> None:
        """Let no convolution go by that the processor computes wrongly."""
        if self.device.type == "cpu" and "bf16" in str(self.trainer.precision):
            for name, module in self.network.named_modules():
                if isinstance(module, nn.Conv2d):
                    module.register_forward_hook(partial(refuse_narrow_map, name))

    def on_train_epoch_start(self) -> None:
        """Reseed for this epoch, log its learning rate, freeze or unfreeze the backbone."""
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        torch.manual_seed((self.seed * 1_000_003 + self.current_epoch) * 1_009 + self.global_rank)
        self.regime.begin_epoch(self.network, self.current_epoch)
        self.first_failures: Tensor | None = None

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A training batch with its `target`, the classes of its images."""
        return batch | {"target": batch["pid"]}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The sum of the recipe's terms, each logged."""
        batch = self.prepare(batch)
        embedding, logits = self(batch["image"])
        with torch.autocast(self.device.type, enabled=False):
            embedding, logits = embedding.float(), None if logits is None else logits.float()
            terms = self.loss(embedding, logits, batch["target"])
            if self.distillation:
                terms |= self.distillation(batch, embedding, logits)
            total = torch.stack(list(terms.values())).sum()
        self._require_finite({name: term.detach() for name, term in terms.items()}, batch_idx)
        logged = {f"train/{name}": term.detach() for name, term in terms.items()} | {"train/loss": total.detach()}
        logged["similarity"] = mean_cosine(embedding.detach())
        self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(embedding))
        return total

    def chance_losses(self) -> dict[str, float]:
        """The value of each logged cross-entropy while all classes are equally likely: its weight times ln(classes)."""
        return {
            f"train/{name}": term.weight * math.log(cast(nn.Linear, self.network.classifier).out_features)
            for name, term in self.loss.terms.items()
            if isinstance(term.loss, nn.CrossEntropyLoss) and term.weight > 0
        }

    @property
    def compares_embeddings(self) -> bool:
        """Whether a term of the recipe is a loss of embeddings and counts."""
        return any(term.sees == "embedding" and term.weight > 0 for term in self.loss.terms.values())

    def _require_finite(self, terms: dict[str, Tensor], batch_idx: int) -> None:
        """Note on the device where each term first failed; check only now and then, since that waits for the device."""
        failed = ~torch.stack(list(terms.values())).isfinite()
        first = self.first_failures
        if first is None:
            first = torch.full(failed.shape, NEVER, device=failed.device)
        self.first_failures = first = torch.where(failed, first.clamp(max=batch_idx), first)
        look = batch_idx % FINITE_CHECK_INTERVAL == 0 or self.trainer.is_last_batch
        if look and (first < NEVER).any():
            batch, term = min(zip(first.tolist(), terms, strict=True))
            raise InputError(
                f"epoch {self.current_epoch}, batch {batch}: the loss term '{term}' is no longer finite; "
                "lower optimizer.lr, set trainer.gradient_clip_val=1, or use trainer.precision=32-true"
            )

    def configure_optimizers(self) -> Any:
        """Groups of parameters, each with its rate: head and backbone, and those of losses and distillation."""
        rate = self.optimizer.keywords["lr"]
        groups = [*self.regime.parameter_groups(self.network, rate), *self.loss.parameter_groups()]
        if self.distillation and (own := list(self.distillation.parameters())):
            groups.append({"params": own})
        # Lightning clips no gradients of mixed precision that a fused optimizer would unscale by itself
        unfused = {"fused": False} if self.trainer.gradient_clip_val and self.optimizer.keywords.get("fused") else {}
        try:
            optimizer = self.optimizer(groups, **unfused)
            schedule = {
                "scheduler": self.schedule(optimizer),
                "interval": "epoch",
                "monitor": self.monitor,
                "strict": False,
            }
        except (TypeError, ValueError) as error:
            raise InputError(f"optimizer.* or schedule.*: {error}; change that setting") from error
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def refuse_narrow_map(name: str, layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
    """InputError where oneDNN, as of torch 2.13, takes outputs or gradients in bf16 from memory that it never wrote.

    Of strided convolutions it does so in gradients of weights over maps narrower than the stride, and in outputs of one
    column and several rows, if they aren't plainly depthwise. On a processor with AMX no others of a grid of kernels,
    strides, paddings, channels and sizes were wrong.
    """
    width, stride, (height_out, width_out) = inputs[0].shape[-1], layer.stride[1], output.shape[-2:]
    depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    wrong = width < stride or (width_out == 1 < height_out and not depthwise)
    in_bf16 = torch.is_autocast_enabled("cpu") or inputs[0].dtype == torch.bfloat16
    if wrong and in_bf16 and layer.kernel_size[1] > 1 and stride > 1:
        raise InputError(
            f"trainer.precision: in bf16 the processor computes '{name}' wrongly, a convolution of stride {stride} "
            f"over a map {width} pixels wide; set a larger width in data.size, or trainer.precision=32-true"
        )


def mean_cosine(embeddings: Tensor) -> Tensor:
    """Mean cosine of all pairs of different embeddings (B, D), a scalar; 1 where a batch has one direction."""
    count = len(embeddings)
    total = F.normalize(embeddings, dim=1).sum(0).square().sum()  # of all B^2 pairs, B of them of an image and itself
    return (total - count) / max(count * (count - 1), 1)


class ReidTask(Task):
    """Trains embeddings for retrieval; validates by mAP on identities outside of training.

    Batches have `camid` (B,) and `is_query` (B,) besides.
    """

    def __init__(self, *args, distance: Distance = "euclidean", exclude_same_camera: bool = True, **kwargs):
        super().__init__(*args, **kwargs)
        self.metric = ReidMetric(distance=distance, exclude_same_camera=exclude_same_camera)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect embeddings."""
        embedding = self(batch["image"]).embedding.float()
        self.metric.update(embedding, batch["pid"], batch["camid"], batch["is_query"], batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Rank the validation gallery for all validation queries."""
        figures = self.metric.compute()
        self.metric.reset()
        kept = {f"val/{name}": float(figures[name]) for name in ("mAP", "rank-1", "mINP")}
        self.log_dict(kept, prog_bar=True, rank_zero_only=True)


class ClassificationTask(Task):
    """Trains a classifier; validates by accuracy on images outside of training.

    `mix` changes images and classes of a training batch, see `reidlab.data.Mix`.
    """

    def __init__(self, *args, mix: nn.Module | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if mix and any(term.sees == "embedding" for term in self.loss.terms.values()):
            raise InputError(
                "task.mix: mixed images have no one class, which losses of embeddings need; set task.mix=null"
            )
        self.mix = mix
        self.metric = ClassMetric()

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A training batch with its `target`, classes (B,), or their probabilities (B, C) where images are mixed.

        Of mixed images `share` (B, B) has the weights of the images that they were mixed from.
        """
        if not self.mix:
            return super().prepare(batch)
        image, share = self.mix(batch["image"])
        classes = F.one_hot(batch["pid"], cast(nn.Linear, self.network.classifier).out_features)
        return batch | {"image": image, "share": share, "target": share @ classes.to(share.dtype)}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect class scores."""
        self.metric.update(self(batch["image"]).logits, batch["pid"], batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Score all validation images."""
        figures = self.metric.compute()
        self.metric.reset()
        names = "top-1", "top-5", "calibration_error", "log_likelihood"
        kept = {f"val/{name}": float(figures[name]) for name in names if name in figures}
        self.log_dict(kept, prog_bar=True, rank_zero_only=True)
