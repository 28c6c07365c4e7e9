"""Losses of the recipes, held against slow loops written from their papers."""

import pytest
import torch

from reidlab.config import compose, instantiate


def batch_hard_triplet(embeddings, labels, margin):
    """Hermans et al. 2017, eq. 5, with the mean over anchors."""
    terms = []
    for a in range(len(labels)):
        distances = (embeddings - embeddings[a]).norm(dim=1)
        farthest = max(distances[i] for i in range(len(labels)) if labels[i] == labels[a])
        nearest = min(distances[i] for i in range(len(labels)) if labels[i] != labels[a])
        terms.append(max(torch.tensor(0.0), farthest - nearest + margin))
    return torch.stack(terms).mean()


def smoothed_cross_entropy(logits, labels, smoothing):
    """Szegedy et al. 2016, section 7."""
    classes = logits.shape[1]
    terms = []
    for row, label in zip(logits, labels, strict=True):
        target = torch.full((classes,), smoothing / classes)
        target[label] += 1 - smoothing
        terms.append(-(target * (row - row.exp().sum().log())).sum())
    return torch.stack(terms).mean()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(16, 8), torch.randn(16, 4), torch.arange(4).repeat_interleave(4)


def test_default_recipe_is_smoothed_cross_entropy_plus_batch_hard_triplet(batch):
    embeddings, logits, labels = batch
    terms = instantiate(compose().loss)(embeddings, logits, labels)
    assert terms["softmax"].item() == pytest.approx(smoothed_cross_entropy(logits, labels, 0.1).item(), rel=1e-5)
    assert terms["triplet"].item() == pytest.approx(batch_hard_triplet(embeddings, labels, 0.3).item(), rel=1e-5)


def test_weights_scale_terms_and_null_removes_one(batch):
    embeddings, logits, labels = batch
    whole = instantiate(compose().loss)(embeddings, logits, labels)
    half = instantiate(compose(["loss.triplet.weight=0.5", "loss.softmax=null"]).loss)(embeddings, logits, labels)
    assert set(half) == {"triplet"}
    assert half["triplet"].item() == pytest.approx(whole["triplet"].item() / 2)


def test_triplet_pulls_positives_and_pushes_negatives(batch):
    embeddings, logits, labels = batch
    embeddings.requires_grad_()
    loss = instantiate(compose(["loss.softmax=null"]).loss)
    loss(embeddings, logits, labels)["triplet"].backward()
    stepped = (embeddings - 0.1 * embeddings.grad).detach()
    assert loss(stepped, logits, labels)["triplet"] < loss(embeddings, logits, labels)["triplet"]
