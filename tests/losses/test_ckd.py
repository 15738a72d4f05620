import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tuition.losses import ckd, ckd_groups

shapes = st.tuples(st.integers(2, 9), st.integers(1, 6))
seeds = st.integers(0, 2**31)


def draw(shape: tuple[int, ...], seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loop(s: Tensor, t: Tensor) -> Tensor:
    pairs = itertools.permutations(range(len(s)), 2)
    return torch.stack([F.mse_loss(s[i] - s[j], t[i] - t[j]) for i, j in pairs]).mean()


def test_golden_all_pairs(golden) -> None:
    golden.check("ckd_allpairs/teacher", lambda s: ckd(s, golden["teacher_logits"]))
    golden.check("ckd_allpairs/label", lambda s: ckd(s, golden.one_hot))


@pytest.mark.parametrize(("p", "q"), [(1, 1), (2, 1), (2, 2)])
def test_golden_groups(golden, p: int, q: int) -> None:
    left, right = golden[f"ckd_p{p}n{q}/idx"].split([p, q], dim=1)
    golden.check(f"ckd_p{p}n{q}/teacher", lambda s: ckd_groups(s, golden["teacher_logits"], left, right))
    golden.check(f"ckd_p{p}n{q}/label", lambda s: ckd_groups(s, golden.one_hot, left, right))


@given(shapes, seeds)
def test_equals_the_loop_over_pairs(shape: tuple[int, int], seed: int) -> None:
    s, t = draw(shape, seed)
    assert ckd(s, t).item() == pytest.approx(loop(s, t).item(), rel=1e-9)


@given(shapes, seeds)
def test_without_anchor_a_constant_changes_nothing(shape: tuple[int, int], seed: int) -> None:
    s, t = draw(shape, seed)
    shift = draw(shape[1:], seed + 1)
    assert ckd(s + 10 * shift[0], t + 10 * shift[1]).item() == pytest.approx(ckd(s, t).item(), rel=1e-9)


@given(shapes, seeds, st.floats(0, 3))
def test_the_order_of_rows_changes_nothing(shape: tuple[int, int], seed: int, anchor: float) -> None:
    s, t = draw(shape, seed)
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(seed))
    assert ckd(s[order], t[order], anchor=anchor).item() == pytest.approx(ckd(s, t, anchor=anchor).item(), rel=1e-9)


@given(shapes, seeds)
def test_the_anchor_makes_it_regression(shape: tuple[int, int], seed: int) -> None:
    """With a = n / (n - 1) variance and mean add up to 2 n / (n - 1) times the mean squared error."""
    s, t = draw(shape, seed)
    a = len(s) / (len(s) - 1)
    assert ckd(s, t, anchor=a).item() == pytest.approx(2 * a * F.mse_loss(s, t).item(), rel=1e-9)


@given(st.integers(4, 6), st.integers(1, 2), st.integers(1, 2), seeds)
def test_all_groups_together_are_the_variance(n: int, p: int, q: int, seed: int) -> None:
    s, t = draw((n, 3), seed)
    chosen = torch.tensor(list(itertools.permutations(range(n), p + q)))
    groups = ckd_groups(s, t, chosen[:, :p], chosen[:, p:])
    assert groups.item() == pytest.approx((1 / p + 1 / q) * ckd(s, t).item() / 2, rel=1e-9)


def test_two_terms_are_one() -> None:
    s, z, y = draw((8, 5), 0, count=3)
    x = s.clone().requires_grad_()
    (apart,) = torch.autograd.grad(ckd(x, z) + ckd(x, y), x)
    (together,) = torch.autograd.grad(2 * ckd(x, (z + y) / 2), x)
    torch.testing.assert_close(apart, together)


def test_maps_are_flattened() -> None:
    s, t = draw((3, 2, 4, 5), 0)
    assert ckd(s, t, anchor=0.3).item() == pytest.approx(ckd(s.flatten(1), t.flatten(1), anchor=0.3).item(), rel=1e-12)


def test_many_columns_keep_their_digits() -> None:
    s, t = torch.randn(2, 32, 60_000, generator=torch.Generator().manual_seed(0)) + 3
    assert ckd(s, t, anchor=0.1).item() == pytest.approx(ckd(s.double(), t.double(), anchor=0.1).item(), rel=1e-6)


def test_a_large_constant_keeps_the_variance() -> None:
    s, t = torch.randn(2, 32, 100, generator=torch.Generator().manual_seed(0))
    assert ckd(s + 1000, t).item() == pytest.approx(ckd(s.double(), t.double()).item(), rel=1e-3)


@pytest.mark.parametrize("anchor", [0.0, 0.1, 1.0])
def test_equal_inputs_are_exactly_zero(anchor: float) -> None:
    x = torch.randn(64, 100)
    assert ckd(x, x, anchor=anchor).item() == 0.0


@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_makes_no_pair(rows: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 rows, but the batch has {rows}"):
        ckd(torch.zeros(rows, 5), torch.zeros(rows, 5))


def test_groups_must_match() -> None:
    x, index = torch.zeros(5, 2), torch.zeros(3, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="one m"):
        ckd_groups(x, x, index, index[:2])
    with pytest.raises(ValueError, match="one m"):
        ckd_groups(x, x, index[:, 0], index[:, 0])


@pytest.mark.parametrize("anchor", [0.0, 0.3])
def test_both_derivatives(anchor: float) -> None:
    s, t = draw((5, 3), 0)
    assert torch.autograd.gradcheck(lambda s: ckd(s, t, anchor=anchor), s.requires_grad_())
    assert torch.autograd.gradgradcheck(lambda s: ckd(s, t, anchor=anchor), s)


def test_a_single_column() -> None:
    s, t = draw((6,), 0)
    assert ckd(s, t).item() == pytest.approx(2 * (s - t).var().item(), rel=1e-12)
