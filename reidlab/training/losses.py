"""Losses beside those of pytorch-metric-learning, and the weighted sum of a recipe."""

from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Term(NamedTuple):
    """One term of a recipe: a loss, its weight, and the output of the network that it takes.

    `lr` is the learning rate of the loss's own parameters, if it has any; None for the optimizer's.
    """

    loss: nn.Module
    weight: float
    sees: Literal["embedding", "logits"]
    lr: float | None = None


class MinedLoss(nn.Module):
    """A pytorch-metric-learning loss on the pairs or triplets that its miner picks from the batch.

    Shape: embeddings (B, D), labels (B,) -> scalar.
    """

    def __init__(self, loss: nn.Module, miner: nn.Module):
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss over the mined pairs or triplets."""
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


class CenterLoss(nn.Module):
    """Squared distance of each embedding to the center of its class, which follows the class at the rate `lr`.

    Shape: embeddings (B, D), labels (B,) -> scalar, the mean over the batch. The centers have an update rule of their
    own and thus no gradient: after each training batch c -= lr * sum(c - x) / (1 + n) over the n embeddings x of their
    class. Source: Wen et al., ECCV 2016, section 3.2, equations 2 and 4.
    """

    centers: Tensor

    def __init__(self, num_classes: int, embedding_size: int, lr: float = 0.5):
        super().__init__()
        self.lr = lr
        self.register_buffer("centers", torch.zeros(num_classes, embedding_size))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss against the centers as they were before this batch."""
        offsets = self.centers[labels] - embeddings  # (B, D)
        if self.training:
            self._follow(offsets.detach(), labels)
        return offsets.pow(2).sum(1).mean()

    def _follow(self, offsets: Tensor, labels: Tensor) -> None:
        """Move the centers, by the embeddings of all processes."""
        shift = torch.zeros_like(self.centers).index_add_(0, labels, offsets)  # (C, D)
        count = torch.zeros_like(self.centers[:, 0]).index_add_(0, labels, torch.ones_like(offsets[:, 0]))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(shift)
            torch.distributed.all_reduce(count)
        self.centers -= self.lr * shift / (1 + count[:, None])


class WeightedLosses(nn.Module):
    """Named terms, each `weight * loss(outputs[sees], labels)`; the recipe's loss is their sum.

    A loss with a weight or a center for each class is a partial that takes `num_classes` and `embedding_size`.

    Shape: embedding (B, D), logits (B, C), labels (B,) -> {name: scalar}, weights applied.
    """

    def __init__(self, num_classes: int = 0, embedding_size: int = 0, **terms: Mapping | None):
        super().__init__()
        self.terms = {name: Term(**term) for name, term in terms.items() if term is not None}
        for name, term in self.terms.items():
            if isinstance(term.loss, partial):
                self.terms[name] = term._replace(loss=term.loss(num_classes=num_classes, embedding_size=embedding_size))
        self.losses = nn.ModuleDict({name: term.loss for name, term in self.terms.items()})

    def forward(self, embedding: Tensor, logits: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Every term, weighted."""
        outputs = {"embedding": embedding, "logits": logits}
        return {name: t.weight * t.loss(outputs[t.sees], labels) for name, t in self.terms.items()}

    def parameter_groups(self) -> list[dict]:
        """An optimizer's group for each term with parameters of its own."""
        groups = [
            {"params": list(term.loss.parameters()), **({} if term.lr is None else {"lr": term.lr})}
            for term in self.terms.values()
        ]
        return [group for group in groups if group["params"]]
