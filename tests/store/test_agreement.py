"""What is looked at while answers are bought: the figures against naive ones, and how often the rule is wrong."""

import itertools
import math

import pytest
import torch

from tuition.store import agreement
from tuition.store.agreement import FEWEST, judge


def test_the_score_is_that_of_all_orders_of_the_labels():
    """Mean and deviation of the trace over all 720 orders of the columns, counted one by one."""
    table = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = torch.tensor([sum(table[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(6))])
    expected = (table.diagonal().sum() - sums.mean()) / sums.std(correction=0)
    assert agreement.z(table) == pytest.approx(float(expected), rel=1e-9)
    assert agreement.z(torch.ones(4, 4)) == 0.0  # no order differs from another


def test_ranks_are_those_of_a_naive_count():
    logits = torch.tensor([[3.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 5.0, 2.0, 2.0]])
    expected = [[sum((a > b) + 0.5 * (a == b) for b in row) / 3 - 0.5 / 3 for a in row] for row in logits.tolist()]
    assert torch.allclose(agreement.ranks(logits), torch.tensor(expected, dtype=torch.float64))


def test_chance_is_the_agreement_of_shuffled_labels():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (40,), generator=generator) % 2  # two classes of three
    logits = torch.randn(40, 3, generator=generator)
    predicted = logits.argmax(1)
    expected = 100 * sum(float((predicted == k).double().mean() * (labels == k).double().mean()) for k in range(3))
    assert judge(logits, labels).chance == pytest.approx(expected)


def signal(classes, accuracy):
    """How far a label's logit must be raised above normal noise to be the highest that often."""
    noise = torch.randn(20_000, classes, generator=torch.Generator().manual_seed(1))
    low, high = 0.0, 12.0
    for _ in range(30):
        middle = (low + high) / 2
        right = float((noise[:, 0] + middle > noise[:, 1:].amax(1)).double().mean())
        low, high = (middle, high) if right < accuracy else (low, middle)
    return low


def answers(kind, classes, accuracy, generator, count=1000):
    """Labels, and the logits of a teacher of this kind."""
    labels = torch.randint(0, classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    if kind != "random":
        logits[torch.arange(count), labels] += signal(classes, accuracy)
    if kind == "permuted":  # no class in its place
        turn = 1 + int(torch.randint(0, classes - 1, (), generator=generator))
        logits = logits[:, torch.arange(classes).roll(turn)]
    if kind == "scaled":  # inputs 255 times too small: hardly more than the model's own offsets
        logits = logits / 255 + torch.randn(classes, generator=generator)
    return logits, labels


def bought(logits, labels, first):
    """The verdict, and the calls it took: looks at `first` answers, at twice as many, and so on."""
    seen = first
    while True:
        found = judge(logits[:seen], labels[:seen])
        if found.verdict != "unclear" or seen >= len(logits):
            return found.verdict, min(seen, len(logits))
        seen *= 2


HONEST = [(10, 0.90), (10, 0.64), (10, 0.30), (2, 0.95), (2, 0.70), (100, 0.64), (100, 0.15), (100, 0.05)]
WRONG = [("permuted", 10, 0.90), ("permuted", 10, 0.64), ("permuted", 2, 0.90), ("permuted", 2, 0.70)]
WRONG += [("permuted", 100, 0.90), ("scaled", 10, 0.90), ("scaled", 2, 0.90), ("scaled", 100, 0.90)]


@pytest.mark.parametrize("first", [16, 64])
@pytest.mark.parametrize(("classes", "accuracy"), HONEST)
def test_honest_teachers_pass(classes, accuracy, first):
    """Also weak ones; at 60 % of two classes, 0 to 1 % are stopped (300 asks), which the next test looks at."""
    generator = torch.Generator().manual_seed(0)
    found = [bought(*answers("honest", classes, accuracy, generator), first) for _ in range(25)]
    assert {verdict for verdict, _ in found} == {"good"}


def test_few_of_the_weakest_are_stopped():
    generator = torch.Generator().manual_seed(0)
    found = [bought(*answers("honest", 2, 0.6, generator), 64)[0] for _ in range(100)]
    assert found.count("bad") <= 6


@pytest.mark.parametrize(("kind", "classes", "accuracy"), WRONG)
def test_wrong_ones_are_stopped_soon(kind, classes, accuracy):
    generator = torch.Generator().manual_seed(0)
    found = [bought(*answers(kind, classes, accuracy, generator), 64) for _ in range(25)]
    assert [verdict for verdict, _ in found].count("bad") >= 23
    assert sum(calls for _, calls in found) <= 25 * 100


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_guesses_are_stopped_in_the_end(classes):
    generator = torch.Generator().manual_seed(0)
    found = [bought(*answers("random", classes, 0, generator), 64)[0] for _ in range(25)]
    assert found.count("bad") >= 22


def test_what_is_wrong_is_told_apart():
    generator = torch.Generator().manual_seed(0)
    logits, labels = answers("honest", 10, 0.9, generator, 64)
    other = judge(logits.roll(1, dims=1), labels)
    assert other.reason.startswith("in another order of classes 8")
    assert "order of its classes" in other.advice
    assert judge(torch.zeros(64, 10), labels).reason == "the answers to different inputs are all the same"
    assert judge(torch.ones(8, 5) * 0.3, None).verdict == "bad"
    assert judge(torch.ones(7, 5), None).verdict == "unclear"
    nearly = torch.ones(64, 10).index_add(1, torch.tensor([3]), torch.ones(64, 1))
    nearly[0, 5] = 9.0
    assert "98 % of the answers are one class" in judge(nearly, labels).reason


def test_two_classes_of_ten_in_each_others_place_are_seen():
    """A fifth of the answers is wrong, four fifths are right."""
    logits, labels = answers("honest", 10, 0.95, torch.Generator().manual_seed(0), 256)
    assert judge(logits, labels).verdict == "good"
    order = [1, 0, *range(2, 10)]
    assert "another order" in judge(logits[:, order], labels).reason


@pytest.mark.parametrize("share", [0.8, 0.95])
def test_honest_teachers_of_classes_of_unequal_size_pass(share):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        labels = (torch.rand(1000, generator=generator) > share).long()
        logits = torch.randn(1000, 2, generator=generator)
        logits[torch.arange(1000), labels] += 2.0
        assert bought(logits, labels, 64)[0] != "bad"


@pytest.mark.parametrize("rare", [0, 1])
def test_an_honest_teacher_that_never_answers_the_rare_class_passes(rare):
    """It ranks well: the 4 % of the inputs that have the rare class get a higher logit of it than most others do."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        labels = torch.full((1000,), 1 - rare)
        labels[torch.randperm(1000, generator=generator)[:40]] = rare
        logits = torch.randn(1000, 2, generator=generator)
        logits[labels == rare, rare] += 2.0
        logits[:, 1 - rare] += 9.0
        assert (logits.argmax(1) == 1 - rare).all()
        assert bought(logits, labels, 64)[0] == "good"


def test_nothing_is_said_of_few_or_of_one_label():
    logits, labels = answers("permuted", 10, 0.9, torch.Generator().manual_seed(0), 64)
    assert judge(logits[: FEWEST - 1], labels[: FEWEST - 1]).verdict == "unclear"
    one = judge(logits, torch.zeros(64, dtype=torch.long))
    assert (one.verdict, math.isnan(one.score)) == ("unclear", False)
