import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition.losses import dist


@pytest.mark.parametrize("temperature", [1, 4])
def test_golden(golden, temperature: int) -> None:
    golden.check(f"dist_tau{temperature}", lambda s: dist(s, golden["teacher_logits"], temperature=temperature))


def naive(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over rows of 1 - correlation, with the published 1e-8 in its denominator."""
    x, y = p - p.mean(1, keepdims=True), q - q.mean(1, keepdims=True)
    return np.mean([1 - a @ b / (np.sqrt(a @ a * (b @ b)) + 1e-8) for a, b in zip(x, y, strict=True)])


@given(st.integers(2, 7), st.integers(2, 7), st.floats(0, 2), st.floats(0, 2), st.integers(0, 2**31))
def test_naive(n: int, k: int, beta: float, gamma: float, seed: int) -> None:
    s, t = torch.randn(2, n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    p, q = (s / 2).softmax(1).numpy(), (t / 2).softmax(1).numpy()
    expected = 4 * (beta * naive(p, q) + gamma * naive(p.T, q.T))
    assert dist(s, t, temperature=2, beta=beta, gamma=gamma).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_is_numpys_correlation() -> None:
    s, t = torch.randn(2, 8, 6).double()
    p, q = s.softmax(1).numpy(), t.softmax(1).numpy()
    between = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    assert dist(s, t, temperature=1, gamma=0).item() == pytest.approx(between, rel=1e-5)


@pytest.mark.parametrize("k", [3, 10, 100, 1000])
@pytest.mark.parametrize("value", [0.0, 0.3, 12345.678])
def test_constant_student_logits(value: float, k: int) -> None:
    """No direction, so no gradient; the reference's has norm 9e6."""
    s = torch.full((64, k), value, requires_grad=True)
    loss = dist(s, torch.randn(64, k))
    loss.backward()
    assert loss.item() == pytest.approx(32)
    assert s.grad.norm() == 0


def test_constant_teacher_and_a_single_row() -> None:
    s = torch.randn(8, 5, requires_grad=True)
    dist(s, torch.zeros(8, 5)).backward()
    dist(s[:1], torch.randn(1, 5)).backward()
    assert s.grad.isfinite().all()


def test_only_relations_count() -> None:
    x = torch.randn(8, 5).double()
    assert dist(x, x).item() == pytest.approx(0, abs=1e-4)


def test_gradient() -> None:
    s, t = torch.randn(2, 5, 4).double()
    assert torch.autograd.gradcheck(lambda s: dist(s, t), s.requires_grad_())
