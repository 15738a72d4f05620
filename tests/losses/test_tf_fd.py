import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses import tf_fd


def naive_within(x: Tensor) -> Tensor:
    strength = [x[:, c].abs().mean().item() for c in range(x.shape[1])]
    ranked = sorted(range(x.shape[1]), key=lambda c: -strength[c])
    half = x.shape[1] // 2
    strong, weak = ranked[:half], ranked[-half:]
    return sum(F.mse_loss(x[:, w], x[:, s].detach()) for w, s in zip(weak, strong, strict=True)) / half


def naive_across(shallow: Tensor, deep: Tensor) -> Tensor:
    total = torch.zeros((), dtype=shallow.dtype)
    for a, b in zip(shallow, deep, strict=True):
        a, b = (a**2).mean(0), (b**2).mean(0).detach()
        a = torch.stack([a[i : i + 2, j : j + 2].mean() for i in range(0, 4, 2) for j in range(0, 4, 2)])
        total = total + F.mse_loss(a / a.norm(), b.flatten() / b.norm())
    return total / len(shallow)


@pytest.mark.parametrize("channels", [2, 5, 8])
def test_naive(channels: int) -> None:
    shallow, deep = torch.randn(3, channels, 4, 4).double(), torch.randn(3, 6, 2, 2).double()
    for x in (shallow, deep):
        x.requires_grad_()
    expected = 2 * (naive_within(shallow) + naive_within(deep)) / 2 + 3 * naive_across(shallow, deep)
    loss = tf_fd([shallow, deep], within=2, across=3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [shallow, deep]), torch.autograd.grad(expected, [shallow, deep]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_one_map_teaches_itself() -> None:
    x = torch.randn(3, 4, 5, 5)
    assert tf_fd([x]).item() == pytest.approx(naive_within(x).item(), rel=1e-5)


def test_silent_maps() -> None:
    x = torch.zeros(2, 4, 4, 4, requires_grad=True)
    tf_fd([x, torch.zeros(2, 4, 2, 2)]).backward()
    assert x.grad.norm() == 0


@pytest.mark.parametrize("maps", [[], [torch.zeros(2, 3)], [torch.zeros(2, 1, 4, 4)]])
def test_refusals(maps: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="at least 2 channels"):
        tf_fd(maps)
