import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition.losses import ckd, orthonormal_projection, rkd_projected


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_columns_are_orthonormal_and_seeded(dim: int, d: int, seed: int) -> None:
    p = orthonormal_projection(dim, d, seed=seed)
    assert p.shape == (dim, min(d, dim))
    torch.testing.assert_close(p.T @ p, torch.eye(min(d, dim)))
    assert torch.equal(p, orthonormal_projection(dim, d, seed=seed))
    if d >= dim:
        assert torch.equal(p, torch.eye(dim))


def test_directions_are_uniform() -> None:
    first = torch.stack([orthonormal_projection(3, 2, seed=seed)[:, 0] for seed in range(500)])
    assert first.mean(dim=0).abs().max() < 0.1
    torch.testing.assert_close(first.T @ first / 500, torch.eye(3) / 3, atol=0.06, rtol=0)


def test_is_ckd_of_the_projections() -> None:
    s, t = torch.randn(2, 8, 20).double()
    p = orthonormal_projection(20, 5, seed=0).double()
    total = sum(((s[i] - s[j] - t[i] + t[j]) @ p).square().mean() for i in range(8) for j in range(8)) / 56
    assert rkd_projected(s, t, p).item() == pytest.approx(total.item(), rel=1e-12)
    assert rkd_projected(s, t, torch.eye(20)).item() == pytest.approx(ckd(s, t).item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(19, 5), (5, 20), (20,)])
def test_a_projection_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="projection"):
        rkd_projected(torch.zeros(4, 20), torch.zeros(4, 20), torch.zeros(shape))
