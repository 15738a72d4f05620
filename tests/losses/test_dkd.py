import pytest
import torch

from tuition.losses import dkd, kd


def test_golden(golden) -> None:
    golden.check("dkd", lambda s: dkd(s, golden["teacher_logits"], golden["labels"]))


def test_its_parts_make_kd() -> None:
    """KD = TCKD + (1 - p) NCKD, p the teacher's probability of the label's class (equation 6)."""
    s, t = torch.randn(2, 1, 7).double()
    for label in range(7):
        p = (t / 3).softmax(1)[0, label].item()
        y = torch.tensor([label])
        tckd = dkd(s, t, y, alpha=1, beta=0, temperature=3).item()
        nckd = dkd(s, t, y, alpha=0, beta=1, temperature=3).item()
        assert tckd + (1 - p) * nckd == pytest.approx(kd(s, t, temperature=3).item(), rel=1e-10)


def test_equal_inputs_are_zero() -> None:
    x = 10 * torch.randn(64, 100)
    assert dkd(x, x, torch.arange(64)).item() == 0.0


def test_sure_logits_stay_finite() -> None:
    """The published form takes the logarithm of a probability that is 0."""
    s = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    for label in range(3):
        loss = dkd(s, torch.zeros(1, 3), torch.tensor([label]), temperature=1)
        assert loss.isfinite()
        assert torch.autograd.grad(loss, s)[0].isfinite().all()


def test_gradient() -> None:
    s, t = torch.randn(2, 5, 4).double()
    y = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda s: dkd(s, t, y), s.requires_grad_())


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="labels must be 3 class indices"):
        dkd(torch.zeros(3, 4), torch.zeros(3, 4), torch.zeros(3, 4))
