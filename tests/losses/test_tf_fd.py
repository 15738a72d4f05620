import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses import tf_fd


def naive_within(x: Tensor) -> Tensor:
    """Channel by channel: the mean over samples and positions of the map, scaled to norm 1 over positions."""
    strength = []
    for c in range(x.shape[1]):
        scaled = [x[n, c].detach() / x[n, c].detach().norm() for n in range(len(x))]
        strength.append(torch.stack(scaled).mean().item())
    ranked = sorted(range(x.shape[1]), key=lambda c: -strength[c])
    half = x.shape[1] // 2
    return sum(F.mse_loss(x[:, a], x[:, b]) for a, b in zip(ranked[:half], ranked[-half:], strict=True)) / half


def naive_across(shallow: Tensor, deep: Tensor, pool: int) -> Tensor:
    """The first channels of both, the shallow map averaged in squares of `pool` cells."""
    total, count = torch.zeros((), dtype=shallow.dtype), 0
    for n in range(len(shallow)):
        for c in range(min(shallow.shape[1], deep.shape[1])):
            for i in range(deep.shape[2]):
                for j in range(deep.shape[3]):
                    cell = shallow[n, c, pool * i : pool * (i + 1), pool * j : pool * (j + 1)].mean()
                    total, count = total + (cell - deep[n, c, i, j].detach()) ** 2, count + 1
    return total / count


@pytest.mark.parametrize("channels", [2, 5, 8])
def test_naive(channels: int) -> None:
    first, second = torch.randn(3, channels, 4, 4).double(), torch.randn(3, 6, 2, 2).double()
    third = torch.randn(3, 7, 1, 1).double()
    maps = [x.requires_grad_() for x in (first, second, third)]
    within = sum(map(naive_within, maps)) / 3
    across = (naive_across(first, second, 2) + naive_across(first, third, 4) + naive_across(second, third, 2)) / 3
    expected = 2 * within + 3 * across
    loss = tf_fd(maps, within=2, across=3)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for ours, theirs in zip(torch.autograd.grad(loss, maps), torch.autograd.grad(expected, maps), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_channels_are_ranked_by_sign_and_not_by_strength() -> None:
    """Scaled to norm 1, a constant channel c is sign(c) / sqrt(positions), whatever its size."""
    x = torch.tensor([-9.0, 1.0, 2.0, -1.0])[None, :, None, None].expand(2, 4, 2, 2)
    # 1 and 2 rank alike and first, in their order; -9 and -1 follow: (1 + 9)^2 and (2 + 1)^2.
    assert tf_fd([x], within=1).item() == pytest.approx((100 + 9) / 2)


def test_one_map_teaches_itself_and_weights_are_the_author_s() -> None:
    x = torch.randn(3, 4, 5, 5)
    assert tf_fd([x]).item() == pytest.approx(0.0008 * naive_within(x).item(), rel=1e-5)
    maps = [x, torch.randn(3, 4, 5, 5)]
    expected = 0.0008 * sum(map(naive_within, maps)) / 2 + 0.0005 * naive_across(*maps, 1)
    assert tf_fd(maps).item() == pytest.approx(expected.item(), rel=1e-5)


def test_silent_maps() -> None:
    x = torch.zeros(2, 4, 4, 4, requires_grad=True)
    tf_fd([x, torch.zeros(2, 4, 2, 2)]).backward()
    assert x.grad.norm() == 0


@pytest.mark.parametrize("maps", [[], [torch.zeros(2, 3)], [torch.zeros(2, 1, 4, 4)]])
def test_refusals(maps: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="at least 2 channels"):
        tf_fd(maps)
