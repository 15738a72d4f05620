import itertools
import math

import pytest
import torch
from torch import Tensor

from tuition.losses import VID


def maps(n: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 4, 4).double(), torch.randn(n, 6, 2, 2).double()


def gaussian_nll(residual: Tensor, variance: Tensor) -> Tensor:
    """Of one difference (c, h, w), without the constant of the density."""
    return 0.5 * (residual**2 / variance + variance.log()).mean()


def residual_and_variance(vid: VID, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    pooled = torch.stack([s[..., i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)], dim=2)
    mean = vid.regressor(pooled.unflatten(2, (2, 2)))
    return mean - t, ((1 + vid.log_scale.exp()).log() + 1e-5)[:, None, None]


def test_golden(golden) -> None:
    prefix = "vid/param/"
    vid = VID(6, 10)
    vid.load_state_dict({k.removeprefix(prefix): golden[k] for k in golden.arrays if k.startswith(prefix)})
    golden.check("vid", lambda s: vid(s, golden["vid/teacher"]), student="vid/student")


def test_naive() -> None:
    vid, (s, t) = VID(3, 6, 4).double(), maps()
    torch.nn.init.normal_(vid.log_scale)
    residual, variance = residual_and_variance(vid, s, t)
    expected = torch.stack([gaussian_nll(r, variance) for r in residual]).mean()
    assert vid(s, t).item() == pytest.approx(expected.item(), rel=1e-9)
    assert vid.regressor[0].weight.shape == (4, 3, 1, 1)


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 1), (2, 2)])
def test_comparing_is_the_likelihood_of_differences(p: int, q: int) -> None:
    """Over all groups of p and q the loop over Gaussian likelihoods is the closed form, up to the known constant."""
    vid, (s, t) = VID(3, 6, compare=True).double(), maps()
    torch.nn.init.normal_(vid.log_scale)
    residual, variance = residual_and_variance(vid, s, t)
    groups = torch.tensor(list(itertools.permutations(range(len(s)), p + q)))
    left, right = groups[:, :p], groups[:, p:]
    differences = residual[left].mean(1) - residual[right].mean(1)
    loop = torch.stack([gaussian_nll(d, variance * (1 / p + 1 / q)) for d in differences]).mean().item()
    expected = loop - 0.5 * math.log(1 / p + 1 / q)
    assert vid(s, t).item() == pytest.approx(expected, rel=1e-9)


def test_comparing_needs_pairs() -> None:
    vid, (s, t) = VID(3, 6, compare=True).double(), maps(1)
    with pytest.raises(ValueError, match="at least 2 rows"):
        vid(s, t)


def test_the_variance_starts_at_five_and_finds_the_residuals() -> None:
    s, t = torch.zeros(8, 3, 4, 4), 2 * torch.randn(8, 6, 4, 4)
    vid = VID(3, 6)
    residual = t.square().mean(dim=(0, 2, 3))
    assert vid(s, t).item() == pytest.approx((0.5 * (residual / 5 + math.log(5)).mean()).item(), rel=1e-5)
    optimizer = torch.optim.Adam([vid.log_scale], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        vid(s, t).backward()
        optimizer.step()
    torch.testing.assert_close(torch.nn.functional.softplus(vid.log_scale), residual, rtol=1e-2, atol=0)


@pytest.mark.parametrize("scale", [-200.0, 100.0, 1e4])
def test_softplus_does_not_overflow(scale: float) -> None:
    vid, (s, t) = VID(3, 6), maps()
    torch.nn.init.constant_(vid.log_scale, scale)
    vid(s, t).backward()
    assert vid.log_scale.grad.isfinite().all()


def test_gradient() -> None:
    vid, (s, t) = VID(3, 6).double(), maps(3)
    for module in (vid, VID(3, 6, compare=True).double()):
        assert torch.autograd.gradcheck(lambda s, m=module: m(s, t), s.requires_grad_())


def test_vectors_are_no_maps() -> None:
    with pytest.raises(ValueError, match="maps are"):
        VID(3, 6)(torch.zeros(2, 3), torch.zeros(2, 6))
