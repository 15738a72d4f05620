"""Comparative knowledge distillation (Xu, Wilf, Liang, Obolenskiy, Fried and Morency, WACV 2025)."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tuition.losses._check import pair


def ckd(student: Tensor, teacher: Tensor, *, anchor: float = 0.0, group: dist.ProcessGroup | None = None) -> Tensor:
    """Mean over all ordered pairs i != j of MSE(s_i - s_j, t_i - t_j): exact, in O(n d).

    With r = s - t (n rows, d columns), mean rbar and V = sum_i |r_i - rbar|^2 / (n - 1), that mean is (2 / d) V: all
    pairs of the batch for one subtraction. The published loss (anchor 0) cannot see a constant added to all outputs,
    so class offsets are never taught; `anchor` a > 0 adds them back: (2 / d) (V + a |rbar|^2). a = 1 is nearly twice
    the plain MSE; the method named "ckd" uses 0.1.

    Args:
        student: (n, ...) logits, representations or feature maps; all but the first dimension count as columns.
        teacher: the same shape, a constant; one-hot labels will do as well.
        anchor: weight a >= 0 of the mean residual.
        group: processes that each hold some rows of one batch, or none of them; the comparison is over all. They
            exchange numbers of rows, sums and variances, not rows. The gradient is to be averaged over the processes,
            as DistributedDataParallel does; there is no second derivative.

    Returns:
        Scalar, float32 or float64; of all rows, in every process of a group.

    Raises:
        ValueError: the shapes differ, or there are fewer than 2 rows in all, which make no pair.

    Source: Comparative Knowledge Distillation, arXiv 2311.02253; the paper samples the pairs (see `ckd_groups`).
    """
    student, teacher = pair(student, teacher)
    if len(student) < 2 and group is None:
        raise ValueError(f"ckd compares pairs and needs at least 2 rows, but the batch has {len(student)}")
    columns = math.prod(student.shape[1:])
    student, teacher = student.reshape(-1, columns), teacher.reshape(-1, columns)
    if group is not None:
        return _SharedResidualVariance.apply(student, teacher, anchor, group)
    return _ResidualVariance.apply(student, teacher, anchor)


def _centred_residual(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    residual = student - teacher
    mean = residual.mean(dim=0)
    return residual.sub_(mean), mean


class _ResidualVariance(torch.autograd.Function):
    """By hand, as autograd would pass through the centring again, although centred rows sum to zero."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, anchor: float) -> Tensor:
        n, d = student.shape
        residual, mean = _centred_residual(student, teacher)
        ctx.save_for_backward(student, teacher, residual, mean)
        ctx.anchor = anchor
        # Row by row: one float32 sum over all n d squares would lose digits.
        variance = torch.linalg.vector_norm(residual, dim=1).square().sum() / (n - 1)
        return (variance + anchor * mean.square().sum()) * (2 / d)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        student, teacher, residual, mean = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, so the residual must have a history
            residual, mean = _centred_residual(student, teacher)
        n, d = residual.shape
        out = residual * (grad * (4 / (d * (n - 1))))
        if ctx.anchor:
            out += mean * (grad * (4 * ctx.anchor / (d * n)))
        return out, None, None


class _SharedResidualVariance(torch.autograd.Function):
    """The same over the rows of several processes, by one exchange of a vector of d + 2 numbers."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, anchor: float, group: dist.ProcessGroup) -> Tensor:
        rows, d = student.shape
        residual = student - teacher
        own = residual.sum(dim=0) / max(1, rows)
        residual -= own
        squares = torch.linalg.vector_norm(residual, dim=1).square().sum()
        vector = torch.cat([squares.new_full((1,), rows), squares[None], own])
        every = vector.new_empty(dist.get_world_size(group), d + 2)
        dist.all_gather(list(every.unbind()), vector, group=group)
        counts, variances, means = every[:, :1], every[:, 1], every[:, 2:]
        n = counts.sum()
        if rows < 2 and n < 2:  # in this order, for reading a tensor waits for the device
            raise ValueError(f"ckd compares pairs and needs at least 2 rows, but the batch has {int(n)}")
        mean = (counts * means).sum(dim=0) / n
        # Variance within the processes, and between their means (Chan, Golub and LeVeque, 1979).
        variance = (variances.sum() + (counts * (means - mean).square()).sum()) / (n - 1)
        ctx.save_for_backward(residual.add_(own - mean), mean, n)
        ctx.anchor, ctx.processes = anchor, len(every)
        return (variance + anchor * mean.square().sum()) * (2 / d)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        residual, mean, n = ctx.saved_tensors
        scale = grad * (4 * ctx.processes / residual.shape[1])
        return residual * (scale / (n - 1)) + mean * (scale * ctx.anchor / n), None, None, None


def ckd_groups(student: Tensor, teacher: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """CKD between the means of given groups: mean over m comparisons and d columns of the squared difference between
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
