import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tuition.losses import consistency

shapes = st.tuples(st.integers(2, 7), st.integers(1, 5))
seeds = st.integers(0, 2**31)


def draw(shape, seed):
    return torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(shapes, seeds, st.floats(0, 2))
def test_equals_the_loop_over_pairs_and_the_mean(shape, seed, anchor):
    student, target = draw(shape, seed)
    pairs = list(itertools.permutations(range(len(student)), 2))
    between = sum(F.mse_loss(student[i] - student[j], target[i] - target[j]) for i, j in pairs) / len(pairs)
    mean = 2 * F.mse_loss(student.mean(0), target.mean(0))
    value = consistency(student, target, anchor=anchor)
    assert value.item() == pytest.approx(float(between + anchor * mean), rel=1e-9)


@given(shapes, seeds)
def test_what_agrees_costs_nothing_and_a_step_against_the_gradient_costs_less(shape, seed):
    student, target = draw(shape, seed)
    assert consistency(target, target).item() == 0
    student.requires_grad_()
    before = consistency(student, target)
    (gradient,) = torch.autograd.grad(before, student)
    assert consistency(student - 1e-3 * gradient, target) < before


def test_the_target_is_a_constant():
    student, target = draw((4, 3), 0)
    student.requires_grad_(), target.requires_grad_()
    consistency(student, target).backward()
    assert target.grad is None
    assert student.grad.abs().sum() > 0


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="equal shapes"):
        consistency(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 2 rows"):
        consistency(torch.zeros(1, 3), torch.zeros(1, 3))
