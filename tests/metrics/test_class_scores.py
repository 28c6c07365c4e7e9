"""Class scores against slow loops written from the definitions."""

import math

import pytest
import torch
from torchmetrics.functional import classification as theirs

from reidlab.errors import InputError
from reidlab.metrics import ClassScores, share_interval
from reidlab.metrics.classification import as_confidences


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (200,), generator=generator)
    logits = torch.randn(200, 6, generator=generator) + 2 * torch.eye(6)[labels]
    return ClassScores(logits.softmax(1), labels)


def test_accuracy_and_confusion_by_hand(scores):
    confusion, hits = [[0] * 6 for _ in range(6)], {1: 0, 5: 0}
    for row, label in zip(scores.confidences.tolist(), scores.labels.tolist(), strict=True):
        order = sorted(range(6), key=lambda c: -row[c])
        confusion[label][order[0]] += 1
        for k in hits:
            hits[k] += label in order[:k]
    assert scores.confusion.tolist() == confusion
    assert [scores.accuracy(k) for k in hits] == [count / 200 for count in hits.values()]
    each = scores.per_class()
    for c in range(6):
        right, images, claimed = confusion[c][c], sum(confusion[c]), sum(row[c] for row in confusion)
        assert each["recall"][c] == pytest.approx(right / images)
        assert each["precision"][c] == pytest.approx(right / claimed)
        assert each["f1"][c] == pytest.approx(2 * right / (images + claimed))
        assert each["num_images"][c] == images


def test_calibration_error_by_hand(scores):
    gap = 0.0
    for low in range(15):
        inside = []
        for row, label in zip(scores.confidences.tolist(), scores.labels.tolist(), strict=True):
            if low / 15 < max(row) <= (low + 1) / 15:
                inside.append((max(row), row.index(max(row)) == label))
        if inside:
            gap += abs(sum(c for c, _ in inside) - sum(hit for _, hit in inside)) / 200
    assert scores.calibration_error == pytest.approx(gap, abs=1e-6)


def test_the_likelihood_is_that_of_cross_entropy(scores):
    expected = -torch.nn.functional.nll_loss(scores.confidences.log(), scores.labels)
    assert scores.log_likelihood == pytest.approx(float(expected), abs=1e-6)


def test_the_bins_of_the_diagram_are_those_of_the_error(scores):
    """With ties, and with confidences on the bins' edges, as int8 networks have them."""
    rounded = ClassScores((scores.confidences * 15).round() / 15, scores.labels)
    for each in (scores, rounded):
        count, sure, right = each.calibration()
        assert count.sum() == 200
        assert each.calibration_error == pytest.approx(float((count * (sure - right).abs()).sum() / 200), abs=1e-6)


def test_certain_and_always_right_is_calibrated():
    assert ClassScores(torch.eye(3), torch.arange(3)).calibration_error == 0
    assert ClassScores(torch.eye(3), torch.tensor([1, 2, 0])).calibration_error == 1


def test_of_equal_confidences_the_first_class_counts_in_all_figures():
    scores = ClassScores(torch.full((4, 4), 0.25), torch.arange(4))
    assert scores.ranks.tolist() == [1, 2, 3, 4]
    assert scores.predicted.tolist() == [0] * 4
    assert scores.accuracy() == 0.25 and scores.confusion.diagonal().sum() == 1


def test_a_class_without_images_is_no_part_of_the_mean():
    scores = ClassScores(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 0, 0]))
    assert scores.summary()["class_recall"] == pytest.approx(2 / 3)
    assert scores.summary()["macro_f1"] == pytest.approx(0.8)


def test_figures_are_those_of_torchmetrics(scores):
    """Class 5 of 7 has no images, class 6 neither images nor predictions."""
    confidences = torch.cat([scores.confidences, torch.zeros(200, 1)], 1)
    found = ClassScores(confidences, scores.labels % 5)
    given = found.confidences, found.labels, 7
    each = found.per_class()
    assert torch.equal(found.confusion, theirs.multiclass_confusion_matrix(*given))
    for name in ("recall", "precision", "f1_score"):
        expected = getattr(theirs, f"multiclass_{name}")(*given, average="none")
        torch.testing.assert_close(each[name.removesuffix("_score")], expected)
    error = theirs.multiclass_calibration_error(*given, n_bins=15)
    assert found.calibration_error == pytest.approx(float(error), abs=1e-6)


def test_wilsons_interval():
    """Its ends are the shares p whose normal test just doesn't reject the one found: |found - p| = z sd(p)."""
    for hits, count in ((0, 10), (326, 375), (5, 5)):
        for end in share_interval(hits, count):
            assert abs(hits / count - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-6)


def test_wrong_input_is_named():
    with pytest.raises(InputError, match=r"confidences \(2, 3\) and 3 labels don't match"):
        ClassScores(torch.zeros(2, 3), torch.zeros(3).long())
    with pytest.raises(InputError, match="no images to score"):
        ClassScores(torch.zeros(0, 3), torch.zeros(0).long())


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_what_is_a_distribution_stays_and_anything_else_becomes_one(classes):
    exact = torch.randn(300, classes, generator=torch.Generator().manual_seed(0)).softmax(1)
    coded = (exact * 256).round().clamp(max=255) / 256  # as int8 files have them
    for values in (exact, exact.half().float(), exact.bfloat16().float(), coded, coded[:1], exact[:0]):
        assert as_confidences(values) is values
    logits = torch.randn(300, classes, generator=torch.Generator().manual_seed(1))
    for values in (logits, torch.sigmoid(logits - 6), torch.rand(300, classes) * 0.008 + 1e-3):
        torch.testing.assert_close(as_confidences(values), values.softmax(1))
