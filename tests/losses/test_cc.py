import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tuition.losses import cc


def test_golden(golden) -> None:
    golden.check("cc", lambda s: cc(s, golden["teacher_logits"]))


@given(n=st.integers(2, 7), d=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_naive(n: int, d: int, seed: int) -> None:
    s, t = torch.randn(2, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = sum(
        abs((s[i, k] - t[i, k]) * (s[i + 1, k] - t[i + 1, k])).item() for i in range(n - 1) for k in range(d)
    ) / (n - 1)
    assert cc(s, t).item() == pytest.approx(expected, rel=1e-9)


def test_one_row_has_no_neighbour() -> None:
    with pytest.raises(ValueError, match="at least 2 rows"):
        cc(torch.zeros(1, 3), torch.zeros(1, 3))
