"""The algebra of comparison losses, and the closed-form constant, against minimisation by brute force."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tuition import UserError, distill, losses, models
from tuition.training import Student, methods
from tuition.training.recentre import centre_of, recentre

WEIGHTS = [(1.0, 1.0), (3.0, 1.0), (0.5, 2.0), (1.0, 0.0), (0.0, 2.0)]


def pairs(student, target):
    """The mean over ordered pairs of the mean squared difference of differences, in a loop."""
    n, total = len(student), 0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += ((student[i] - student[j]) - (target[i] - target[j])).square().mean()
    return total / (n * (n - 1))


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    student, answers = (torch.randn(9, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = F.one_hot(torch.randint(4, (9,), generator=generator), 4).double()
    return student, 3 * answers + 1, labels


@pytest.mark.parametrize(("w", "v"), WEIGHTS[:3])
def test_two_comparisons_are_one_with_the_weighted_mean(rows, w, v):
    """DESIGN.md, 4: equal gradients, hence equal up to a constant."""
    student, answers, labels = rows
    student.requires_grad_()
    two = w * pairs(student, answers) + v * pairs(student, labels)
    one = (w + v) * losses.ckd(student, (w * answers + v * labels) / (w + v))
    for_two, for_one = (torch.autograd.grad(loss, student)[0] for loss in (two, one))
    torch.testing.assert_close(for_two, for_one)
    assert not torch.allclose(for_two, torch.autograd.grad((w + v) * losses.ckd(student, answers), student)[0])


@pytest.mark.parametrize(("w", "v"), WEIGHTS)
@pytest.mark.parametrize(("method", "options"), [("ckd", {"anchor": 0}), ("ckd_published", {})])
def test_recentring_is_what_an_anchored_objective_reaches_by_its_bias(transfer, method, options, w, v):
    """DESIGN.md, 3: the constant that minimises the anchored loss over the transfer set, found by gradient descent."""
    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    student = Student(model, models.Preprocess.fit(transfer.pool.inputs), input_shape=(1, 8, 8)).eval()
    task = methods.Task(transfer.labels, transfer.responses, 10, 0, model, student.preprocess(transfer.pool.inputs[:2]))
    objective = methods.create(method, task, options | {"recentre": True, "teacher_weight": w, "label_weight": v})
    outputs = student.outputs(transfer.pool).double()
    answers, labels = transfer.responses["logits"].double(), F.one_hot(transfer.labels, 10).double()
    shift = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([shift], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-15)

    def loss():
        optimizer.zero_grad()
        moved = outputs + shift
        total = sum(
            weight * (losses.ckd(moved, target) + 0.3 * 2 / 10 * (moved - target).mean(0).square().sum())
            for weight, target in ((w, answers), (v, labels))
        )
        total.backward()
        return total

    optimizer.step(loss)
    recentre(student, transfer, centre_of(transfer, 10, objective.recentre))
    found = student.outputs(transfer.pool).double() - outputs
    torch.testing.assert_close(found, shift.detach().expand_as(found), rtol=1e-4, atol=1e-4)


def test_the_shares_of_mixed_inputs_are_its_labels(transfer):
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(64, 10, generator=generator).softmax(dim=1)
    mixed = replace(transfer, responses=transfer.responses | {"targets": shares})
    expected = (3 * transfer.responses["logits"] + shares) / 4
    torch.testing.assert_close(centre_of(mixed, 10, (3.0, 1.0)), expected)


def test_without_labels_the_answers_alone_are_the_target(transfer):
    unlabelled = replace(transfer, pool=transfer.pool.without_labels)
    assert torch.equal(centre_of(unlabelled, 10, (1.0, 1.0)), transfer.responses["logits"])


def test_a_recentred_run_has_the_mean_of_its_weighted_targets(transfer):
    options = {"anchor": 0, "recentre": True, "teacher_weight": 3, "label_weight": 1}
    run = distill("cnn_4", transfer, "ckd", options=options, epochs=2)
    wanted = (3 * transfer.responses["logits"] + F.one_hot(transfer.labels, 10)) / 4
    torch.testing.assert_close(run.student.outputs(transfer.pool).mean(0), wanted.mean(0), rtol=1e-4, atol=1e-4)


def test_only_logits_are_recentred(transfer):
    both = replace(transfer, responses=transfer.responses | {"embedding": torch.ones(64, 10)})
    with pytest.raises(UserError, match="only logits can be recentred"):
        distill("cnn_4", both, "ckd", options={"recentre": True, "answer": "embedding"}, epochs=1)
    with pytest.raises(UserError, match="not through a projector"):
        distill("cnn_4", transfer, "ckd", options={"recentre": True, "reads": "classifier:input"}, epochs=1)
