import pytest
import torch
from torch import Tensor

from tuition.losses import kd


@pytest.mark.parametrize("temperature", [1, 4])
def test_golden(golden, temperature: int) -> None:
    golden.check(f"kd_T{temperature}", lambda s: kd(s, golden["teacher_logits"], temperature=temperature))


def test_naive() -> None:
    s, t, T = torch.randn(5, 7).double(), torch.randn(5, 7).double(), 3.0
    total = 0.0
    for i in range(5):
        p, q = (t[i] / T).exp(), (s[i] / T).exp()
        p, q = p / p.sum(), q / q.sum()
        total += sum(p[k] * (p[k] / q[k]).log() for k in range(7))
    assert kd(s, t, temperature=T).item() == pytest.approx((total / 5 * T**2).item(), rel=1e-12)


def test_equal_inputs_are_exactly_zero() -> None:
    x = torch.randn(64, 100) * 10
    assert kd(x, x).item() == 0.0


def test_large_logits_in_half_precision() -> None:
    s = torch.tensor([[60000.0, 0.0, -60000.0]], dtype=torch.float16, requires_grad=True)
    loss = kd(s, torch.zeros(1, 3, dtype=torch.float16), temperature=1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(60000 - torch.tensor(3.0).log().item(), rel=1e-5)
    assert s.grad.isfinite().all()


def test_logits_are_matrices() -> None:
    with pytest.raises(ValueError, match="matrix"):
        kd(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))


def test_shift_of_each_row_changes_nothing() -> None:
    s, t = torch.randn(6, 9).double(), torch.randn(6, 9).double()

    def shifted(x: Tensor) -> Tensor:
        return x + torch.randn(6, 1).double()

    assert kd(shifted(s), shifted(t)).item() == pytest.approx(kd(s, t).item(), rel=1e-9)
