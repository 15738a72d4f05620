"""DIST: distillation by correlation (Huang, You, Wang, Qian and Xu 2022)."""

import torch
from torch import Tensor

from tuition.losses._check import logits_pair


def dist(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """T^2 [beta (1 - mean over samples of corr(p_i., q_i.)) + gamma (1 - mean over classes of corr(p_.k, q_.k))].

    p and q are the softmax of student and teacher at temperature T; corr is Pearson's correlation, with 1e-8 added to
    the denominator as in the authors' code, so that classes nobody thinks of hardly count. Where a row or column is
    constant up to rounding its correlation is undefined and counts as 0 without gradient; the 1e-8 alone would leave a
    gradient of 1e7 there. T^2 is part of the loss, as in the authors' code; the paper's formulas leave it out.

    Args:
        student_logits: (n, k).
        teacher_logits: (n, k), a constant.
        temperature: T > 0.
        beta: weight of the relations between classes (within a sample).
        gamma: weight of the relations within a class (between samples).

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes differ or are not (n, k).

    Source: Knowledge Distillation from A Stronger Teacher, arXiv 2205.10536.
    """
    student, teacher = logits_pair(student_logits, teacher_logits)
    p, q = (student / temperature).softmax(dim=1), (teacher / temperature).softmax(dim=1)
    between = 1 - _correlation(p, q, dim=1).mean()
    within = 1 - _correlation(p, q, dim=0).mean()
    return temperature**2 * (beta * between + gamma * within)


def _correlation(p: Tensor, q: Tensor, dim: int) -> Tensor:
    (x, x_norm, x_varies), (y, y_norm, y_varies) = _centred(p, dim), _centred(q, dim)
    return (x_varies & y_varies) * (x * y).sum(dim) / (x_norm * y_norm + 1e-8)


def _centred(p: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations from the mean, their norm, and whether that is more than rounding."""
    mean = p.mean(dim, keepdim=True)
    x = p - mean
    norm = torch.linalg.vector_norm(x, dim=dim)
    rounding = 16 * torch.finfo(p.dtype).eps * p.shape[dim] ** 0.5
    return x, norm, norm > rounding * mean.detach().squeeze(dim)
