"""The figures of an evaluation, against code that goes row by row."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition import UserError
from tuition.training import evaluation
from tuition.training.evaluation import confusion, evaluate, per_class


def naive(logits, labels, bins=15):
    """Top-1, top-5 and expected calibration error in percent, one row at a time."""
    n = len(labels)
    top1 = top5 = 0
    boxes = [[] for _ in range(bins)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        exponentials = [math.exp(x - max(row)) for x in row]
        confidence = max(exponentials) / sum(exponentials)
        top1 += order[0] == label
        top5 += label in order[:5]
        for b in range(bins):
            if b / bins < confidence <= (b + 1) / bins:
                boxes[b].append((confidence, order[0] == label))
    ece = sum(
        len(box) / n * abs(np.mean([c for c, _ in box]) - np.mean([hit for _, hit in box])) for box in boxes if box
    )
    return 100 * top1 / n, 100 * top5 / n, 100 * ece


@given(n=st.integers(1, 60), k=st.integers(2, 12), scale=st.floats(0.1, 20), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_against_one_row_at_a_time(n, k, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, k, generator=generator)
    labels = torch.randint(k, (n,), generator=generator)
    found = evaluate(logits, labels)
    accuracy, top5, calibration = naive(logits, labels)
    assert (found.accuracy, found.calibration_error) == pytest.approx((accuracy, calibration), abs=1e-4)
    assert found.top5 == (None if k < 6 else pytest.approx(top5, abs=1e-4))
    assert found.count == n


def test_known_values():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    found = evaluate(logits, torch.tensor([0, 0, 0, 1]))
    assert found.accuracy == 75.0  # equal logits answer with the first class, as `predict` does
    assert found.top5 is None  # of two classes it says nothing
    assert found.calibration_error == pytest.approx(25.0)
    sure = evaluate(torch.tensor([[100.0, 0.0]]), torch.tensor([1]))
    assert (sure.accuracy, sure.calibration_error) == (0.0, pytest.approx(100.0))


def test_confusion_and_classes_against_one_row_at_a_time():
    generator = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(4, (50,), generator=generator), torch.randint(4, (50,), generator=generator)
    labels[labels == 2] = 1  # a class without inputs
    predicted[predicted == 3] = 0  # and one never predicted
    counts = confusion(predicted, labels, 4)
    rows = per_class(predicted, labels, 4)
    pairs = list(zip(labels.tolist(), predicted.tolist(), strict=True))
    for a in range(4):
        for b in range(4):
            assert counts[a, b] == pairs.count((a, b))
        of, called = [p for y, p in pairs if y == a], [y for y, p in pairs if p == a]
        assert rows[a].count == len(of)
        assert rows[a].recall == (pytest.approx(100 * of.count(a) / len(of)) if of else None)
        assert rows[a].precision == (pytest.approx(100 * called.count(a) / len(called)) if called else None)
    assert rows[2].recall is None
    assert rows[3].precision is None


def test_what_cannot_be_evaluated_is_refused():
    with pytest.raises(ValueError, match="3 rows of logits do not match 2 labels"):
        evaluate(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UserError, match="labels run to 5, but the model knows 3 classes, 0 to 2"):
        evaluate(torch.zeros(2, 3), torch.tensor([0, 5]))
    with pytest.raises(UserError, match="NaN or infinity"):
        evaluate(torch.tensor([[0.0, math.nan]]), torch.tensor([0]))


# -- embeddings, against loops over pairs ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(12, 3, 5), (30, 7, 2)])
def pair(request):
    """Embeddings of two widths, two rows equal."""
    n, d, e = request.param
    generator = torch.Generator().manual_seed(n)
    student, teacher = (torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (d, e))
    student[3] = student[5]
    return student, teacher


def test_similarity_agreement_is_the_correlation_over_pairs(pair):
    student, teacher = pair
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student)) if i != j]
    values = [
        [float(F.cosine_similarity(x[i] - x.mean(0), x[j] - x.mean(0), dim=0)) for i, j in pairs]
        for x in (student, teacher)
    ]
    correlation = 100 * np.corrcoef(values)[0, 1]
    assert evaluation.similarity_agreement(student, teacher) == pytest.approx(correlation, abs=1e-3)
    turned = 5 + 3 * student @ torch.linalg.qr(torch.randn(student.shape[1], student.shape[1], dtype=torch.float64))[0]
    assert evaluation.similarity_agreement(turned, student) == pytest.approx(100, abs=1e-3)
    assert evaluation.agreement(student, teacher, "embedding") == evaluation.similarity_agreement(student, teacher)
    assert evaluation.similarity_agreement(torch.ones(9, 4), torch.randn(9, 4)) == 0
    assert evaluation.similarity_agreement(torch.zeros(9, 4), torch.randn(9, 4)) == 0
