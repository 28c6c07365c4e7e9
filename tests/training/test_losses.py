"""Losses of the recipes, held against slow loops written from their papers."""

import math

import pytest
import torch
import torch.nn.functional as F

from reidlab.config import choices, compose, instantiate
from reidlab.training.losses import CenterLoss


def batch_hard_triplet(embeddings, labels, margin):
    """Hermans et al. 2017, eq. 5, with the mean over anchors, on directions."""
    embeddings, terms = embeddings / embeddings.norm(dim=1, keepdim=True), []
    for a in range(len(labels)):
        distances = (embeddings - embeddings[a]).norm(dim=1)
        farthest = max(distances[i] for i in range(len(labels)) if labels[i] == labels[a])
        nearest = min(distances[i] for i in range(len(labels)) if labels[i] != labels[a])
        terms.append(max(torch.tensor(0.0), farthest - nearest + margin))
    return torch.stack(terms).mean()


def batch_all_triplet(embeddings, labels, margin):
    """Hermans et al. 2017, eq. 6, on directions: the mean over the triplets that cost something ("BA != 0")."""
    unit, terms = embeddings / embeddings.norm(dim=1, keepdim=True), []
    for a in range(len(labels)):
        for p in range(len(labels)):
            for n in range(len(labels)):
                if a != p and labels[a] == labels[p] != labels[n]:
                    cost = margin + (unit[a] - unit[p]).norm() - (unit[a] - unit[n]).norm()
                    terms += [cost] if cost > 0 else []
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


def recipe(*overrides):
    """The composed loss for 4 classes and embeddings of 8 numbers."""
    return instantiate(compose(overrides).loss, num_classes=4, embedding_size=8)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return torch.randn(16, 8), torch.randn(16, 4), torch.arange(4).repeat_interleave(4)


def test_default_recipe_is_smoothed_cross_entropy_plus_batch_all_triplet(batch):
    embeddings, logits, labels = batch
    terms = recipe()(embeddings, logits, labels)
    assert terms["softmax"].item() == pytest.approx(smoothed_cross_entropy(logits, labels, 0.1).item(), rel=1e-5)
    assert terms["triplet"].item() == pytest.approx(batch_all_triplet(embeddings, labels, 0.3).item(), rel=1e-5)


def test_batch_hard_triplet_is_the_papers(batch):
    embeddings, logits, labels = batch
    term = recipe("loss=softmax_triplet")(embeddings, logits, labels)["triplet"]
    assert term.item() == pytest.approx(batch_hard_triplet(embeddings, labels, 0.3).item(), rel=1e-5)


def test_weights_scale_terms_and_null_removes_one(batch):
    embeddings, logits, labels = batch
    whole = recipe()(embeddings, logits, labels)
    half = recipe("loss.triplet.weight=0.5", "loss.softmax=null")(embeddings, logits, labels)
    assert set(half) == {"triplet"}
    assert half["triplet"].item() == pytest.approx(whole["triplet"].item() / 2)


def test_triplet_pulls_positives_and_pushes_negatives(batch):
    embeddings, logits, labels = batch
    embeddings.requires_grad_()
    loss = recipe("loss.softmax=null")
    loss(embeddings, logits, labels)["triplet"].backward()
    stepped = (embeddings - 0.1 * embeddings.grad).detach()
    assert loss(stepped, logits, labels)["triplet"] < loss(embeddings, logits, labels)["triplet"]


def soft_margin_triplet(embeddings, labels):
    """Hermans et al. 2017, section 3, "soft margin"."""
    terms = []
    for a in range(len(labels)):
        distances = (embeddings - embeddings[a]).norm(dim=1)
        gap = max(distances[labels == labels[a]]) - min(distances[labels != labels[a]])
        terms.append(math.log1p(math.exp(gap)))
    return sum(terms) / len(terms)


def semihard_triplet(embeddings, labels, margin):
    """Schroff et al. 2015, section 3.2, on cosines: the mean over semi-hard triplets."""
    unit, terms = F.normalize(embeddings), []
    for a in range(len(labels)):
        for p in range(len(labels)):
            for n in range(len(labels)):
                if a != p and labels[a] == labels[p] != labels[n]:
                    gap = float(unit[a] @ unit[p] - unit[a] @ unit[n])
                    terms += [margin - gap] if 0 < gap < margin else []
    return sum(terms) / len(terms)


def circle(embeddings, labels, m=0.25, gamma=128):
    """Sun et al. 2020, equations 4 to 8."""
    unit, terms = F.normalize(embeddings), []
    for a in range(len(labels)):
        positive = negative = 0.0
        for other in range(len(labels)):
            similarity = float(unit[a] @ unit[other])
            if labels[other] != labels[a]:
                negative += math.exp(gamma * max(0, similarity + m) * (similarity - m))
            elif other != a:
                positive += math.exp(-gamma * max(0, 1 + m - similarity) * (similarity - (1 - m)))
        terms.append(math.log1p(negative * positive))
    return sum(terms) / len(terms)


def contrastive(embeddings, labels, margin=1.0):
    """Distances of positive pairs, and what negative pairs lack of the margin, over the pairs that lack something."""
    unit, attract, repel = F.normalize(embeddings), [], []
    for a in range(len(labels)):
        for other in range(len(labels)):
            distance = float((unit[a] - unit[other]).norm())
            if a != other and labels[a] == labels[other]:
                attract.append(distance)
            elif labels[a] != labels[other] and distance < margin:
                repel.append(margin - distance)
    return sum(attract) / len(attract) + sum(repel) / len(repel)


def margin_softmax(embeddings, class_weights, labels, target, scale):
    """Cross-entropy of scaled cosines, that of the own class changed by `target`."""
    terms = []
    for embedding, label in zip(F.normalize(embeddings), labels.tolist(), strict=True):
        cosines = (embedding @ F.normalize(class_weights, dim=0)).tolist()
        cosines[label] = target(cosines[label])
        terms.append(math.log(sum(math.exp(scale * c) for c in cosines)) - scale * cosines[label])
    return sum(terms) / len(terms)


PAIRWISE = {
    "softmax_softmargin": ("triplet", soft_margin_triplet),
    "softmax_semihard": ("triplet", lambda x, y: semihard_triplet(x, y, 0.3)),
    "softmax_circle": ("circle", circle),
    "softmax_contrastive": ("contrastive", contrastive),
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_term_on_pairs_or_triplets_is_its_papers(name, batch):
    embeddings, logits, labels = batch
    term, formula = PAIRWISE[name]
    found = recipe(f"loss={name}")(embeddings, logits, labels)[term]
    assert found.item() == pytest.approx(float(formula(embeddings, labels)), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "target"),
    [("arcface", lambda c: math.cos(math.acos(c) + math.radians(28.6))), ("cosface", lambda c: c - 0.35)],
)
def test_a_margin_softmax_is_its_papers_and_has_class_weights_to_learn(name, target, batch):
    embeddings, _, labels = batch
    loss = recipe(f"loss={name}", f"loss.{name}.lr=0.125")
    group = loss.parameter_groups()[0]
    assert group["lr"] == 0.125 and [p.shape for p in group["params"]] == [(8, 4)]
    near = embeddings + 3 * group["params"][0].detach().T[labels]  # where no angle plus margin passes 180 degrees
    expected = margin_softmax(near, group["params"][0], labels, target, scale=30)
    assert loss(near, None, labels)[name].item() == pytest.approx(expected, rel=1e-4)


def test_center_loss_and_its_centers_are_those_of_the_paper(batch):
    """Wen et al. 2016, equations 2 (as a mean of squares) and 4, over two batches."""
    embeddings, _, labels = batch
    loss, centers = CenterLoss(5, 8, lr=0.5), torch.zeros(5, 8)
    for x in (embeddings, embeddings + 1):
        expected = sum((x[i] - centers[labels[i]]).square().sum() for i in range(len(x))) / len(x)
        assert loss(x, labels).item() == pytest.approx(expected.item(), rel=1e-5)
        for label in range(5):
            own = [x[i] for i in range(len(x)) if labels[i] == label]
            centers[label] -= 0.5 * sum((centers[label] - one for one in own), torch.zeros(8)) / (1 + len(own))
        assert torch.allclose(loss.centers, centers, atol=1e-6)
    assert loss.centers[:4].abs().min() > 0 and not loss.centers[4].any()  # no image, no move
    loss.eval()(embeddings, labels)
    assert torch.allclose(loss.centers, centers, atol=1e-6)


@pytest.mark.parametrize("name", choices("loss"))
def test_every_recipe_gives_finite_terms_and_a_gradient(name, batch):
    embeddings, logits, labels = batch
    embeddings.requires_grad_(), logits.requires_grad_()
    terms = recipe(f"loss={name}")(embeddings, logits, labels)
    sum(terms.values()).backward()
    assert terms and all(term.isfinite() for term in terms.values())
    assert embeddings.grad is not None or logits.grad is not None
