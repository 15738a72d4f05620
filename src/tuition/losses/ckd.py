"""Comparative knowledge distillation (Xu, Wilf, Liang, Obolenskiy, Fried and Morency, WACV 2025)."""

from torch import Tensor

from tuition.losses._check import pair


def ckd(student: Tensor, teacher: Tensor, *, anchor: float = 0.0) -> Tensor:
    """Mean over all ordered pairs i != j of MSE(s_i - s_j, t_i - t_j): exact, in O(n d).

    With r = s - t (n rows, d columns), mean rbar and V = sum_i |r_i - rbar|^2 / (n - 1), that mean is (2 / d) V: all
    pairs of the batch for one subtraction. The published loss (anchor 0) cannot see a constant added to all outputs,
    so class offsets are never taught; `anchor` a > 0 adds them back: (2 / d) (V + a |rbar|^2). a = 1 is nearly twice
    the plain MSE; the method named "ckd" uses 0.1.

    Args:
        student: (n, ...) logits, representations or feature maps; all but the first dimension count as columns.
        teacher: the same shape, a constant; one-hot labels are one.
        anchor: weight a >= 0 of the mean residual.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ, or there are fewer than 2 rows, which make no pair.

    Source: Comparative Knowledge Distillation, arXiv 2311.02253; the paper samples the pairs (see `ckd_groups`).
    """
    student, teacher = pair(student, teacher)
    if len(student) < 2:
        raise ValueError(f"ckd compares pairs and needs at least 2 rows, but the batch has {len(student)}")
    residual = (student - teacher).reshape(len(student), -1)
    mean = residual.mean(dim=0)
    # Row by row, because one float32 sum over all n d squares would lose digits.
    variance = (residual - mean).square().sum(dim=1).sum() / (len(residual) - 1)
    return (variance + anchor * mean.square().sum()) * (2 / residual.shape[1])


def ckd_groups(student: Tensor, teacher: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """CKD between the means of groups: mean over m comparisons and d columns of the squared difference between
    mean(s[left]) - mean(s[right]) and mean(t[left]) - mean(t[right]).

    p = q = 1 are the paper's sampled pairs, (2, 1) and (2, 2) its k-wise comparisons. For disjoint groups drawn
    without replacement the expectation is (1/p + 1/q) V / d with V as in `ckd`, of which this is a noisy estimate.

    Args:
        student: (n, ...); all but the first dimension count as columns.
        teacher: the same shape, a constant.
        left: (m, p) row indices, int64.
        right: (m, q) row indices, int64.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes of student and teacher, or the numbers of left and right groups, differ.

    Source: arXiv 2311.02253, the k-wise comparison.
    """
    student, teacher = pair(student, teacher)
    if left.ndim != 2 or right.ndim != 2 or len(left) != len(right):
        raise ValueError(
            f"left and right must be (m, p) and (m, q) row indices with one m, but they are {tuple(left.shape)} and "
            f"{tuple(right.shape)}"
        )
    residual = student - teacher
    return (residual[left].mean(dim=1) - residual[right].mean(dim=1)).square().mean()
