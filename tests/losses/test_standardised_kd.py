import pytest
import torch

from tuition.losses import kd, standardised_kd


def test_golden(golden) -> None:
    golden.check("standardised_kd_T2", lambda s: standardised_kd(s, golden["teacher_logits"]))


def test_shift_and_scale_of_each_row_change_nothing() -> None:
    s, t = torch.randn(2, 6, 9).double()
    moved = 7 * torch.rand(6, 1).double() * s + torch.randn(6, 1).double()
    assert standardised_kd(moved, t).item() == pytest.approx(standardised_kd(s, t).item(), rel=1e-9)
    assert standardised_kd(moved, s).item() == pytest.approx(0, abs=1e-12)


def test_standardised_logits_stay_as_they_are() -> None:
    s, t = torch.randn(2, 6, 9).double()
    s, t = ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in (s, t))
    assert standardised_kd(s, t, temperature=3).item() == pytest.approx(kd(s, t, temperature=3).item(), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.3, 12345.678])
def test_constant_student_logits_have_no_gradient(value: float) -> None:
    s = torch.full((64, 100), value, requires_grad=True)
    loss = standardised_kd(s, torch.randn(64, 100))
    loss.backward()
    assert loss.isfinite()
    assert s.grad.norm() == 0


def test_gradient() -> None:
    s, t = torch.randn(2, 5, 4).double()
    assert torch.autograd.gradcheck(lambda s: standardised_kd(s, t), s.requires_grad_())
