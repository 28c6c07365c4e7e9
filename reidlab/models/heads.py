"""The head of a network: pooling, projection, BN neck and classifier on any backbone."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from reidlab.errors import InputError
from reidlab.models.mixstyle import MixStyle


class Output(NamedTuple):
    """Embeddings and class scores, as every network returns them."""

    embedding: Tensor  # (B, D)
    logits: Tensor | None  # (B, num_classes), None without a classifier


class ReIdNetwork(nn.Module):
    """Image -> embedding and class scores: the backbone of a subclass under a head that all share.

    A subclass registers the stages of its backbone as attributes, lists them in order in `stages`, and ends with
    `add_head`.
    """

    stages: tuple[str, ...] = ()

    def add_head(
        self,
        channels: int,
        num_classes: int = 0,
        feat_dim: int | None = 512,
        projection: str = "relu",
        neck: str | None = None,
        neck_feat: str = "after",
        dropout: float = 0.0,
        pooling: str = "avg",
        mixstyle: Collection[str] = (),
    ) -> None:
        """Put the head on the backbone and initialize the whole network.

        Args:
            channels: of the backbone's last feature maps.
            num_classes: 0 for no classifier.
            feat_dim: width of the embedding; None for the pooled feature itself.
            projection: "relu" for Linear + BN + ReLU (OSNet, arXiv 1905.00953), "linear" for Linear alone.
            neck: "bnneck" for BN without shift before a classifier without bias (arXiv 1903.07071, section 3.5).
            neck_feat: the feature that is compared in evaluation mode, "before" or "after" the neck.
            dropout: before the classifier.
            pooling: "avg", or "gem" with an exponent that is learned.
            mixstyle: the stages after which styles are mixed, in training.
        """
        one_of("projection", projection, ("relu", "linear"))
        one_of("neck", neck, ("bnneck", None))
        one_of("neck_feat", neck_feat, ("before", "after"))
        one_of("pooling", pooling, ("avg", "gem"))
        for stage in mixstyle:
            one_of("mixstyle", stage, self.stages)
        self.mixstyle, self.mixstyle_after = MixStyle(), frozenset(mixstyle)
        self.global_pool = GeM() if pooling == "gem" else nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential()
        if feat_dim is not None:
            self.fc.append(nn.Linear(channels, feat_dim))
            if projection == "relu":
                self.fc.extend([nn.BatchNorm1d(feat_dim), nn.ReLU(inplace=True)])
        self.feat_dim = feat_dim or channels
        self.bottleneck = nn.BatchNorm1d(self.feat_dim) if neck else nn.Identity()
        self.neck_feat = neck_feat
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.feat_dim, num_classes, bias=not neck) if num_classes else None
        self.apply(initialize)
        if neck:
            self.bottleneck.bias.requires_grad_(False)

    def featuremaps(self, image: Tensor) -> Tensor:
        """The backbone alone: (B, 3, H, W) -> (B, channels, h, w)."""
        maps = image
        for stage in self.stages:
            maps = getattr(self, stage)(maps)
            if stage in self.mixstyle_after:
                maps = self.mixstyle(maps)
        return maps

    def forward(self, image: Tensor) -> Output:
        """(B, 3, H, W) normalized -> embeddings, for the losses in training, for comparison in evaluation; logits."""
        feature = self.fc(self.global_pool(self.featuremaps(image)).flatten(1))  # (B, D)
        necked = self.bottleneck(feature)
        logits = None if self.classifier is None else self.classifier(self.dropout(necked))
        compared = necked if self.neck_feat == "after" and not self.training else feature
        return Output(compared, logits)


class Confidences(nn.Module):
    """A trained classifier as evaluation and export take it: class confidences (B, C) in the place of embeddings."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Output:
        """(B, 3, H, W) normalized -> a distribution over the classes for each image."""
        return Output(self.network(image).logits.softmax(1), None)


class GeM(nn.Module):
    """Generalized mean over positions: `p` = 1 is the average, infinity the maximum (arXiv 1711.02512, section 3.2)."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1); values below `eps` count as `eps`."""
        return maps.clamp(min=self.eps).pow(self.p).mean((2, 3), keepdim=True).pow(1 / self.p)


def initialize(module: nn.Module) -> None:
    """Standard random weights: He et al. (arXiv 1502.01852) for convolutions, N(0, 0.01) for linear layers."""
    if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.is_meta:
        return  # only shapes are asked for, and torch takes a second to fill an OSNet's with nothing
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def one_of(option: str, value: object, allowed: tuple) -> None:
    """Raise InputError unless the option of a network has one of the allowed values."""
    if value not in allowed:
        choices = ", ".join("null" if choice is None else str(choice) for choice in allowed)
        raise InputError(f"model.network.{option} is {value!r}: use one of {choices}")
