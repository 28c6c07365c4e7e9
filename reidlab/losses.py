"""Losses: what pytorch-metric-learning lacks, and the weighted sum that a recipe is made of."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import Tensor, nn


class Term(NamedTuple):
    """One part of a recipe's loss: what it is, how much it counts and which output of the network it sees."""

    loss: nn.Module
    weight: float
    sees: Literal["embedding", "logits"]


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


class WeightedLosses(nn.Module):
    """Named terms, each `weight * loss(outputs[sees], labels)`; the recipe's loss is their sum.

    Shape: embedding (B, D), logits (B, C), labels (B,) -> {name: scalar}, weights applied.
    """

    def __init__(self, **terms: Mapping):
        super().__init__()
        self.terms = {name: Term(**term) for name, term in terms.items() if term is not None}
        self.losses = nn.ModuleDict({name: term.loss for name, term in self.terms.items()})

    def forward(self, embedding: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every term, weighted."""
        outputs = {"embedding": embedding, "logits": logits}
        return {name: t.weight * t.loss(outputs[t.sees], labels) for name, t in self.terms.items()}
